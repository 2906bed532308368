"""The whole loop on real servers, with the daemon killed at each turn of it.

New products come to a shelf: an alert, a verdict, labels of two people and of a bucket, a request to retrain, a trainer
who answers it, a new version. Event time goes on only when the test says so, and waits for the labels of what has been:
how fast the machine is decides nothing. What the daemon is told and tells comes and goes over the wire alone.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pytest
from pymongo import MongoClient

from alerting.labeling.task import task_id
from monitor.__main__ import main
from monitor.demo.api import Api, Refused
from monitor.demo.trainer import signed
from tests.faults.shelf import source
from tests.services.daemon import Daemon
from tests.services.kafka import Kafka
from tests.services.ledger import Sent, produce
from tests.services.mongo import Mongo
from tests.services.prometheus import Alertmanager
from tests.services.s3 import S3
from tests.services.web import Answer, Call, Receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PARTITIONS = 2
START = 1_767_225_600.0  # 2026-01-01, UTC seconds
RATE = 10.0  # events a second of event time
WINDOW = 10.0  # seconds of event time
SPAN = 30.0  # of estimates and looks at retraining
TRAINED = 2_000  # events that the first reference is built of
LEARNED = 300  # events that a new reference is built of
TOKENS = {name: f"{name}-of-the-shelf-loop" for name in ("ann", "bob", "on-call", "trainer")}
RIGHTS = {"on-call": ["verdict"], "ann": ["label"], "bob": ["label"], "trainer": ["retrain"]}
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()


class Shelf:
    """The world and its model: what is on the shelf, and what the model in service answers."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka, self.topic = kafka, kafka.fresh_topic(PARTITIONS)
        self.truths: dict[str, str] = {}  # by label task, for those who look at the shelf
        self.new_products = False
        self.version = "1"
        self._sent = 0

    @property
    def lived(self) -> int:
        """Events since those that the reference is built of."""
        return self._sent - TRAINED

    def reference(self, directory: Path) -> Path:
        """Of a stretch of events, by the command that users have."""
        rows, out = directory / "training.jsonl", directory / "shelf.reference"
        rows.write_bytes(b"".join(sent.value + b"\n" for sent in self._events(TRAINED)))
        assert main(["reference", "build", str(rows), "-o", str(out), "--model", "shelf"]) == 0
        return out

    def go_on(self, seconds: float) -> None:
        """So much event time passes, with its events in Kafka."""
        produce(self.kafka.bootstrap, self.topic, self._events(round(seconds * RATE)), partitions=PARTITIONS)

    def _events(self, count: int) -> Iterator[Sent]:
        for _ in range(count):
            rng = random.Random(self._sent)
            truth = "jar" if self.new_products and rng.random() < 0.4 else rng.choice(["can", "box"])
            known = ["can", "box"] if self.version == "1" else ["can", "box", "jar"]
            right = truth in known and rng.random() < 0.95
            answer = truth if right else rng.choice([name for name in known if name != truth])
            chance = rng.uniform(0.6, 1.0) if right else rng.uniform(0.5, 0.8)
            scores = [chance if name == answer else (1 - chance) / (len(known) - 1) for name in known]
            event: dict[str, Any] = {
                "id": f"picture-{self._sent}", "time": START + self._sent / RATE,
                "model": "shelf", "version": self.version,
                "inputs": {"weight": rng.gauss(4 if self.new_products else 0, 1), "width": rng.gauss(0, 1)},
                "outputs": {"label": answer, "scores": scores},
            }  # fmt: skip
            self.truths[task_id("shelf", "shelf", event["id"])] = truth
            self._sent += 1
            yield Sent(event["id"].encode(), json.dumps(event).encode(), event)


class Worker:
    """Does what there is to do on a thread of its own while entered, whether or not the daemon lives."""

    def __init__(self, work: Callable[[], bool]) -> None:
        """`work` does one piece, and says whether there was any."""
        self._work = work
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                worked = self._work()
            except (OSError, Refused):  # the daemon is dead, or on its way
                worked = False
            if not worked:
                self._ending.wait(0.1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


class Labeler:
    """Answers what the queue asks over HTTP. What was said while the daemon died is said again, as it was."""

    def __init__(self, api: Api, truths: dict[str, str]) -> None:
        self._api, self._truths = api, truths
        self._said: tuple[str, dict[str, str]] | None = None
        self.outcomes: dict[str, str] = {}  # of answers, by the token of the lease

    def work(self) -> bool:
        if self._said is None:
            body = self._api.ask("POST", "/v1/labels/next", {})
            if not body:
                return False
            leased = json.loads(body)
            self._said = leased["task"], {"token": leased["token"], "label": self._truths[leased["task"]]}
        task, answer = self._said
        settled = json.loads(self._api.ask("POST", f"/v1/labels/{task}/submit", answer))
        self.outcomes[answer["token"]] = settled["outcome"]
        self._said = None
        return True


class Vendor:
    """Labels what it finds in the bucket, and lays each of its files there twice."""

    def __init__(self, s3: S3, bucket: str, truths: dict[str, str]) -> None:
        self._client, self._bucket, self._truths = s3.client(), bucket, truths
        self._client.create_bucket(Bucket=bucket)
        self.done: set[str] = set()

    def work(self) -> bool:
        there = self._client.list_objects_v2(Bucket=self._bucket).get("Contents", [])
        items = {PurePosixPath(one["Key"]).stem for one in there if one["Key"].endswith(".json")}
        new = sorted(items - self.done)
        if not new:
            return False
        said = "".join(json.dumps({"driftd_id": task, "label": self._truths[task]}) + "\n" for task in new)
        for copy in ("first", "again"):
            self._client.put_object(Bucket=self._bucket, Key=f"labels/{new[0]}-{copy}.jsonl", Body=said.encode())
        self.done.update(new)
        return True


class Judged:
    """What the daemon says of the shelf."""

    def __init__(self, daemon: Daemon, shelf: Shelf) -> None:
        self._daemon, self._shelf = daemon, shelf

    def up_to_now(self) -> dict[str, Any]:
        """The model once every window is judged but the last, which is open."""
        return self._daemon.judged(self._shelf.lived - round(WINDOW * RATE))

    def labels(self) -> int:
        """How many labels it counted, once they are as many as it asked for."""

        def counted() -> bool:
            model = self._daemon.model()
            return bool(model["labelled"]["returned"] == model["label_tasks"])

        self.up_to_now()
        self._daemon.wait(counted, 60, "all labels to be counted")
        return int(self._daemon.model()["label_tasks"])

    def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The model once something holds of it; event time goes on meanwhile, a span at a time."""
        for _ in range(6):
            self._shelf.go_on(SPAN)
            model = self.up_to_now()
            if holds(model):
                return model
            self.labels()
        raise AssertionError(f"{what}: not by {self._shelf.lived} events, {self._daemon.model()['renewal']}")


def config(
    shelf: Shelf, reference: Path, mongo: Mongo, alertmanager: Alertmanager, s3: S3, told: Receiver, trainer: Receiver
) -> dict[str, Any]:
    model = {
        "name": "shelf",
        "labels": None,
        "reference": {"path": str(reference), "learn": LEARNED},
        "checks": [{"detector": {"kind": "level", "side": "both"}, "columns": ["weight"]}],
        # Nothing in reserve and no bursts: every task is asked for, at one pace, so the story can wait for its label.
        "sampling": {
            "per_hour": 3600,
            "mode": "event",
            "most": 20,
            "floor": 0.8,
            "floor_alarmed": 0.8,
            "budget": {"burst": 1},
        },
        "accuracy": {"span": f"{SPAN:g}s", "patience": "1d"},
        "retraining": {"mode": "automatic", "every": f"{SPAN:g}s", "gates": {"cool_down": "1m"}},
    }
    bucket = {"endpoint": s3.url, "region": s3.region, "path_style": True, "key": s3.key, "secret": s3.secret}
    # A lease that died with the daemon is known to nobody: soon its task is somebody else's.
    rules = {"recheck": False, "lease": "10s"}
    return {
        "sources": [source(shelf.kafka.bootstrap, shelf.topic)],
        "window": {"size": f"{WINDOW:g}s", "lateness": "2s", "grace": "1h"},
        "models": [model],
        "alerts": {
            "clear_after": "20s",
            "backoff": {"first": "100ms", "longest": "500ms"},
            "sinks": [{"kind": "webhook", "url": told.url}, {"kind": "alertmanager", "urls": [alertmanager.url]}],
        },
        "labeling": {"kind": "mongo", "url": mongo.url, "database": shelf.topic, "rules": rules},
        "labeling_tools": [{"kind": "s3", "bucket": shelf.topic, "every": "2s", "most": 10, "server": bucket}],
        "retraining_targets": [{"kind": "webhook", "url": trainer.url, "secrets": [SECRET]}],
        "state": {"checkpoint_every": "500ms"},
        "web": {"people": [{"name": name, "token": TOKENS[name], "may": RIGHTS[name]} for name in TOKENS]},
    }


def each_once(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """What was told, in order, by what receivers know repeats by; a repeat says the same."""
    said: dict[str, dict[str, Any]] = {}
    for call in calls:
        name = call.headers["idempotency-key"]
        assert said.setdefault(name, call.json()) == call.json()
    return list(said.values())


def test_new_products_are_told_ruled_on_labelled_and_learned_though_the_daemon_dies_at_each_turn(
    kafka: Kafka, mongo: Mongo, alertmanager: Alertmanager, s3: S3, receiver: Receiver, tmp_path: Path
) -> None:
    shelf = Shelf(kafka)
    with ExitStack() as stack:
        told, trainer = stack.enter_context(Receiver()), stack.enter_context(Receiver())
        reference = shelf.reference(tmp_path)
        daemon = stack.enter_context(Daemon(tmp_path, config(shelf, reference, mongo, alertmanager, s3, told, trainer)))
        judged = Judged(daemon, shelf)
        api = {name: Api(daemon.address, token) for name, token in TOKENS.items()}
        labelers = [Labeler(api[name], shelf.truths) for name in ("ann", "bob")]
        vendor = Vendor(s3, shelf.topic, shelf.truths)
        for work in (*(labeler.work for labeler in labelers), vendor.work):
            stack.enter_context(Worker(work))

        def die() -> None:
            daemon.kill()
            daemon.start()

        shelf.go_on(SPAN)
        judged.labels()
        assert judged.up_to_now()["alerts"] == []

        # New products: an alert is told, and the daemon dies before it knows that it was.
        shelf.new_products = True
        shelf.go_on(SPAN)
        told.wait(1)
        die()
        [alert] = judged.up_to_now()["alerts"]

        # A verdict is taken, and the daemon dies before it comes to it. It takes a second word.
        path = f"/v1/alerts/{alert['key']}/verdict"
        said = {"ruling": "intended", "why": "New products."}
        first = json.loads(api["on-call"].ask("POST", path, said))["id"]
        die()
        daemon.wait(lambda: bool(daemon.model()["verdicts"]), 30, "the verdict to be taken")
        second = json.loads(api["on-call"].ask("POST", path, said | {"confirms": first}))["id"]

        # Labels go out and come back; the daemon dies in the midst of it.
        given = len(labelers[0].outcomes)
        shelf.go_on(2 * SPAN)
        daemon.wait(lambda: len(labelers[0].outcomes) > given + 5, 60, "labelers to be at work")
        die()
        labels = judged.labels()

        # Retraining is asked for, and the daemon dies before it is answered: it asks again.
        trainer.answers.append(Answer(delay=5))
        model = judged.until(lambda model: bool(model["renewal"]["requests"]), "a request")
        trainer.wait(1)
        die()
        assert "intended" in model["reference_source"]
        asked = trainer.wait(2)[-1].json()
        assert asked["reason"]["cause"] == "new class"
        assert asked["data"]["by_class"]["jar"] >= 10
        assert sum(asked["data"]["by_class"].values()) >= labels

        # The trainer learns what was labelled until then, and a new version answers.
        train = asked["data"]["train"]
        word = f"/v1/retraining/{asked['request_id']}"
        api["trainer"].ask("POST", word, {"step": "started", "run": "run-7"})
        learned = [json.loads(line) for line in api["trainer"].ask("GET", train["uri"]).splitlines()]
        assert {line["task"]: line["label"] for line in learned} == {
            line["task"]: shelf.truths[line["task"]] for line in learned
        }
        assert len({line["task"] for line in learned}) == len(learned) >= train["labels"]  # late ones come along
        api["trainer"].ask("POST", word, {"step": "finished", "version": "2", "run": "run-7"})
        shelf.version = "2"
        shelf.go_on(6 * SPAN)
        judged.labels()
        judged.until(lambda model: model["renewal"]["requests"][0]["status"] == "closed", "the request's end")
        judged.until(lambda model: "version 2" in model["reference_source"], "a reference of the new version's own")
        labels = judged.labels()

        # One alert, held by Alertmanager as one, with a verdict and its second word; all is calm again.
        daemon.wait(lambda: not alertmanager.alerts(), 30, "Alertmanager to know that it is over")
        model = daemon.model()
        assert model["alerts"] == []
        assert [(notice["key"], notice["transition"]) for notice in each_once(told.calls)] == [
            (alert["key"], transition) for transition in ("opened", "verdict", "verdict", "resolved")
        ]
        held = [alert for call in receiver.calls for alert in call.json()["alerts"]]
        assert [(one["labels"]["column"], one["status"]) for one in held] == [
            ("weight", "firing"),
            ("weight", "resolved"),
        ]
        verdicts = json.loads(api["on-call"].ask("GET", "/v1/verdicts"))["verdicts"]
        assert [(one["id"], one["confirmed"]) for one in verdicts] == [(second, ""), (first, second)]

        # One request, closed by what labels say of the new version.
        for call in trainer.wait(3):
            assert signed(SECRET, call.body, call.headers, time.time())
        made, closed = each_once(trainer.calls)
        assert (made, closed["request_id"]) == (asked, asked["request_id"])
        assert (closed["status"], closed["new_version"]) == ("closed", "2")
        assert closed["metrics_before"]["accuracy"]["value"] < 0.75
        assert closed["metrics_after"]["accuracy"]["value"] > 0.85

        # Every label that was asked for is in the queue once, is the one that was given, and was counted once.
        with MongoClient[dict[str, Any]](mongo.url) as client:
            tasks = {task["_id"]: task for task in client[shelf.topic]["label_tasks"].find()}
        assert len(tasks) == labels
        assert {name: task["final"]["value"] for name, task in tasks.items()} == {
            name: shelf.truths[name] for name in tasks
        }
        counted = model["labelled"]
        assert (counted["returned"], counted["unknown"], counted["late"]) == (labels, 0, 0)
        votes = Counter((name, answer["by"]) for name, task in tasks.items() for answer in task["labels"])
        assert set(votes.values()) == {1}
        kept = {
            answer["token"]: "late" if answer["late"] else "accepted"
            for task in tasks.values()
            for answer in task["labels"]
        }
        for labeler in labelers:
            assert labeler.outcomes.items() <= kept.items()
        assert {name for name, by in votes if by not in ("ann", "bob")} == vendor.done
        assert all(
            (train["id"] in task["used"]["train"]) == (name in {line["task"] for line in learned})
            for name, task in tasks.items()
        )
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()
