"""One event explained over HTTP: from its label task, from the last windows, or brought along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerting.alert import Alert, Severity
from alerting.deliver import Backoff
from alerting.labeling import SqliteQueue
from alerting.labeling.queue import LabelQueue
from alerting.labeling.task import Known, ModelRef, Named, Prediction
from alerting.secret import Secret
from detectors.core import Batch, Role, category, from_columns, number
from detectors.profile import Profile, rows_of
from detectors.reference import Reference, build_from
from monitor.api.acts import Acts
from monitor.examples import Ids
from monitor.explain import RECENT, TASK, UNKNOWN, Held
from monitor.handover import HandOver
from monitor.metrics import Meters
from monitor.people import Person, Right
from monitor.recent import EXAMPLES, WINDOWS, Recent
from monitor.scopes import Scopes, Slice
from tests.alerting.labels import BATCH, PLAIN, claim, task
from tests.monitor.serving import Client, Standing, serving

ROLES = {"label": Role.OUTPUT, "path": Role.CONTEXT, "rule": Role.CONTEXT}
TOKENS = {right: f"token of who may {right}" for right in Right}
PEOPLE = [Person(f"the {right}er", Secret(token), (right,)) for right, token in TOKENS.items()]
TIME = 1_700_000_000.0


def rows(n: int, seed: int = 0, prefix: str = "r", weight: float = 0.0, camera: str = "") -> Batch:
    rng = np.random.default_rng(seed)
    weights = rng.normal(weight, size=n)
    cameras = [camera or ("north" if north else "south") for north in rng.random(n) < 0.5]
    return from_columns(
        {
            "weight": number(weights),
            "camera": category(cameras),
            "label": category(["can" if w > 0 else "jar" for w in weights]),
            "path": category(["crop>read"] * n),
            "rule": category([None] * n),
        },
        times=np.full(n, TIME),
        ids=[f"{prefix}{i}" for i in range(n)],
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build_from("shelf", rows(1200), {}, roles=ROLES, source="test", created=0.0)


def window(reference: Reference, batch: Batch) -> tuple[Profile, Ids]:
    profile = Profile(reference.layout.valued)
    profile.update(batch)
    return profile, dict(zip(batch.keys.tolist(), batch.ids.tolist(), strict=True))


class Service:
    def __init__(self, client: Client, queue: LabelQueue, recent: Recent) -> None:
        self.client, self.queue, self.recent = client, queue, recent

    def explain(self, event: str, right: Right = Right.VERDICT) -> tuple[int, Any]:
        return self.client.said("GET", f"/v1/explain/{event}", token=TOKENS[right])

    def bring(self, record: bytes, query: str = "") -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {TOKENS[Right.VERDICT]}"}
        status, _, body = self.client.ask("POST", f"/v1/explain{query}", record, **headers)
        return status, json.loads(body)


@pytest.fixture
def service(tmp_path: Path, reference: Reference) -> Iterator[Service]:
    options = SqliteQueue(path=str(tmp_path / "labels.sqlite"), rules=PLAIN)
    daemon, recent = Standing(), Recent()
    scopes = Scopes({"heavy": Slice("weight", at_least=2.0)})
    daemon.models = {"shelf": Held(reference, reference.schema, {}, scopes, "demo", recent, 60.0)}
    opened = Alert("shelf/psi/weight", "shelf", "psi", "weight", Severity.WARNING, TIME + 30, TIME, "moved", 0.4, 0.2)
    later = Alert("shelf/psi/camera", "shelf", "psi", "camera", Severity.WARNING, TIME + 999, TIME, "moved", 0.4, 0.2)
    daemon.open = [opened, later]
    tools = HandOver((), options.open, backoff=Backoff(), meters=Meters())
    acts = Acts(options, daemon, tools, Meters(), intake=True)
    queue = options.open()
    with serving(daemon=daemon, people=PEOPLE, acts=lambda _: acts.endpoints()) as client:
        yield Service(client, queue, recent)
    acts.close()
    queue.close()


def asked(weight: float, camera: str) -> Any:
    inputs = (Named("weight", weight), Named("camera", camera))
    return task(1, inputs=inputs, prediction=Prediction("can"))


def test_a_label_task_tells_its_event_its_labels_and_why_it_was_drawn(service: Service) -> None:
    service.queue.put([asked(5.0, "west")], BATCH, TIME)
    name, token = claim(service.queue, "ann")
    service.queue.submit(name, token, "jar", "ann", TIME)
    status, found = service.explain("event%201")
    assert status == 200
    assert (found["event"], found["model"], found["known_from"]) == ("event 1", "shelf", [TASK])
    assert (found["answer"], found["final"], found["why_drawn"]) == ("can", "jar", "doubt")
    assert [(label["value"], label["by"]) for label in found["labels"]] == [("jar", "ann")]
    features = {feature["column"]: feature for feature in found["explained"]["features"]}
    assert features["weight"]["rank"] == 1.0
    assert (features["camera"]["value"], features["camera"]["share"]) == ("west", 0.0)
    assert found["explained"]["surrogate"]["fidelity"] > 0.9
    assert features["weight"]["attribution"] is not None
    assert found["slices"] == ["heavy"]
    assert "path" not in features, "a task says nothing of it"


def test_a_sampled_row_of_a_recent_window_is_found_with_its_path_and_the_alerts_then(
    service: Service, reference: Reference
) -> None:
    profile, ids = window(reference, rows(50, 3, prefix="shelf/a b/", weight=4.0, camera="west"))
    service.recent.take(profile.layout, profile.sample, ids, ())
    status, found = service.explain("shelf/a%20b/7")
    assert status == 200
    assert (found["known_from"], found["path"], found["rule"]) == ([RECENT], "crop>read", "")
    assert [alert["key"] for alert in found["alerts"]] == ["shelf/psi/weight"], "the first window's end is 30 s later"
    features = {feature["column"]: feature for feature in found["explained"]["features"]}
    assert features["camera"]["value"] == UNKNOWN


def test_of_task_and_row_each_says_what_only_it_knows(service: Service, reference: Reference) -> None:
    profile, ids = window(reference, rows(5, 4, prefix="event ", weight=4.0, camera="west"))
    service.recent.take(profile.layout, profile.sample, ids, ())
    service.queue.put([asked(5.0, "west")], BATCH, TIME)
    found = service.explain("event%201")[1]
    assert (found["known_from"], found["path"]) == ([TASK, RECENT], "crop>read")
    features = {feature["column"]: feature for feature in found["explained"]["features"]}
    assert features["camera"]["value"] == "west"


def test_an_event_is_brought_in_any_format_and_explained_alike(service: Service) -> None:
    own = {
        "id": "b1", "model": "shelf", "time": TIME, "path": ["crop", "read"],
        "inputs": {"weight": 5.0, "camera": "north"}, "outputs": {"label": "can"},
    }  # fmt: skip
    status, found = service.bring(json.dumps(own).encode())
    assert status == 200
    assert (found["event"], found["answer"], found["path"]) == ("b1", "can", "crop>read")
    wrapped = {"specversion": "1.0", "type": "inference", "source": "/shelf", "id": "b1", "data": own}
    assert service.bring(json.dumps(wrapped).encode())[1]["explained"] == found["explained"]


@pytest.mark.parametrize(
    ("record", "query", "why"),
    [
        (b"{", "", "cannot be used"),
        (b'{"id": "e1", "label": "can"}', "", "0 events"),
        (b'{"id": "e1", "inputs": {"weight": 1}}', "?model=gone", "no model 'gone'"),
    ],
)
def test_what_is_no_event_of_a_model_is_refused(service: Service, record: bytes, query: str, why: str) -> None:
    status, problem = service.bring(record, query)
    assert status == 422
    assert why in problem["detail"]


def test_an_unknown_event_is_told_as_such_and_a_canary_gives_nothing_away(service: Service) -> None:
    assert service.explain("nobody's")[0] == 404
    item = Known(dataset="demo", event="k1", truth="jar", model=ModelRef("shelf"), inputs=(Named("weight", 1.0),))
    assert service.queue.plant([item], TIME) == 1
    assert service.explain("k1")[0] == 404


@pytest.mark.parametrize("right", [Right.LABEL, Right.REVIEW, Right.RETRAIN])
def test_who_labels_is_not_led_by_what_the_model_answered(service: Service, right: Right) -> None:
    assert service.explain("event%201", right)[0] == 403


def test_examples_outlast_their_window_and_all_is_bounded(reference: Reference) -> None:
    recent = Recent()
    for i in range(WINDOWS + EXAMPLES + 1):
        profile, ids = window(reference, rows(4, i, prefix=f"w{i}-"))
        recent.take(profile.layout, profile.sample, ids, [f"w{i}-1"])
    last = WINDOWS + EXAMPLES
    assert recent.find(f"w{last}-0") is not None
    assert recent.find(f"w{last - WINDOWS}-0") is None, "its window has gone"
    held = recent.find(f"w{last - WINDOWS}-1")
    assert held is not None
    expected = rows(4, last - WINDOWS, prefix=f"w{last - WINDOWS}-").take(slice(1, 2))
    assert held["weight"].values[0] == expected["weight"].values[0]
    assert rows_of(reference.layout.valued, held).codes.tolist() == rows_of(reference.layout, expected).codes.tolist()
    assert recent.find(f"w{last - EXAMPLES}-1") is None, "the oldest examples have gone"
