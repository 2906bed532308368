"""A real stream through real servers: ten months of an electricity market, judged as it would be in production.

A model is trained on the first rows, its reference built from them; the rest comes by Kafka with the model's answers
and, a day later, the true labels. What is known of the data: the Victorian columns stand still until the market is
coupled at row 17424. The rest drifts with season and market, which nobody labelled.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from pymongo import MongoClient
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monitor.__main__ import main
from tests.services.daemon import ROOT, Daemon
from tests.services.kafka import Kafka
from tests.services.mongo import Mongo
from tests.services.prometheus import Alertmanager, Prometheus
from tests.services.web import Receiver

DATA = ROOT.parent / "shared" / "data" / "elec2"
TRAINED = 4_000  # rows
COUPLED = 17_424  # row from which the Victorian columns move; truth.json says the same
LAST = 19_000  # rows sent: a month beyond the coupling
START = datetime(1996, 5, 7, tzinfo=UTC).timestamp()  # of the first row
STEP = 1_800.0  # seconds between rows
DAY = 86_400.0
INPUTS = ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
VICTORIAN = ("vicprice", "vicdemand", "transfer")
CLASSES = ("down", "up")
SEED_FIELDS = ("Name dataset", "Labeler", "Reviewer", "Labeling status", "Reviewing status", "date")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not DATA.is_dir(), reason="elec2 is not at ../shared/data/elec2"),
]


@dataclass(frozen=True)
class Row:
    """A row of the market with the model's answer."""

    number: int
    inputs: dict[str, float]
    scores: list[float]
    truth: str

    @property
    def id(self) -> str:
        return f"elec2-{self.number}"

    @property
    def time(self) -> float:
        return START + self.number * STEP

    @property
    def label(self) -> str:
        return CLASSES[self.scores.index(max(self.scores))]

    def event(self) -> dict[str, Any]:
        """In our own format."""
        return {
            "id": self.id,
            "time": self.time,
            "model": "elec2",
            "version": "1",
            "inputs": self.inputs,
            "outputs": {"label": self.label, "scores": self.scores},
            "latency": 0.0625,
        }


Record = tuple[str, dict[str, Any], list[tuple[str, str | bytes | None]]]  # key, body, headers


@pytest.fixture(scope="module")
def market() -> list[Row]:
    """The rows with the answers of a model that was trained on the first of them."""
    with gzip.open(DATA / "elec2.csv.gz", "rt") as file:
        raw = list(csv.DictReader(file))[:LAST]
    x = np.array([[float(row[name]) for name in INPUTS] for row in raw])
    y = np.array([int(row["class"]) for row in raw])
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:TRAINED], y[:TRAINED])
    scores = model.predict_proba(x)
    return [
        Row(i, dict(zip(INPUTS, x[i].tolist(), strict=True)), scores[i].tolist(), CLASSES[y[i]]) for i in range(len(x))
    ]


def own(row: Row) -> Iterator[Record]:
    """One record of our own JSON."""
    yield row.id, row.event(), []


def cloudevents(row: Row) -> Iterator[Record]:
    """Request and response of the Open Inference Protocol as KServe's logger sends them, in binary CloudEvents."""

    def headers(side: str, time: float) -> list[tuple[str, str | bytes | None]]:
        return [
            ("ce_specversion", "1.0"),
            ("ce_id", row.id),
            ("ce_type", f"org.kubeflow.serving.inference.{side}"),
            ("ce_source", "http://127.0.0.1:9081/"),
            ("ce_time", datetime.fromtimestamp(time, UTC).isoformat()),
            ("ce_inferenceservicename", "elec2"),
            ("ce_modelversion", "1"),
            ("content-type", "application/json"),
        ]

    tensors = [{"name": n, "shape": [1, 1], "datatype": "FP64", "data": [v]} for n, v in row.inputs.items()]
    yield row.id, {"id": row.id, "inputs": tensors}, headers("request", row.time)
    answers = [
        {"name": "label", "shape": [1], "datatype": "BYTES", "data": [row.label]},
        {"name": "scores", "shape": [1, 2], "datatype": "FP64", "data": row.scores},
    ]
    response = {"id": row.id, "model_name": "elec2", "model_version": "1", "outputs": answers}
    yield row.id, response, headers("response", row.time + 0.0625)


def late_label(row: Row) -> Record:
    return row.id, {"id": row.id, "model": "elec2", "label": row.truth}, []


def send(kafka: Kafka, topic: str, rows: Sequence[Row], format_: Callable[[Row], Iterator[Record]]) -> int:
    """Each row's records in order of time, and its label a day later; how many labels went out."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "linger.ms": 20})
    late = round(DAY / STEP)
    for i, row in enumerate(rows):
        records = list(format_(row))
        if i >= late:
            records.append(late_label(rows[i - late]))
        for key, body, headers in records:
            # All in one partition: halves must meet, and the order of days is what is asserted below.
            producer.produce(topic, json.dumps(body), key, partition=0, headers=headers)
        producer.poll(0)
    assert producer.flush(60) == 0
    return len(rows) - late


def build_reference(rows: Sequence[Row], directory: Path) -> Path:
    """With the command that a user has."""
    data, out = directory / "training.jsonl", directory / "elec2.reference"
    data.write_text("".join(json.dumps({**row.event(), "extra": {"truth": row.truth}}) + "\n" for row in rows))
    assert main(["reference", "build", str(data), "-o", str(out), "--model", "elec2"]) == 0
    return out


def _subject(alert: dict[str, Any]) -> tuple[str, str]:
    """Check and column of an alert as Alertmanager holds it: an empty label, of the whole model, is none there."""
    return alert["labels"]["check"], alert["labels"].get("column", "")


@pytest.mark.parametrize("form", [own, cloudevents])
def test_a_market_that_changes_is_told_by_alerts_metrics_and_label_tasks(
    form: Callable[[Row], Iterator[Record]],
    market: list[Row],
    tmp_path: Path,
    kafka: Kafka,
    mongo: Mongo,
    alertmanager: Alertmanager,
    receiver: Receiver,
    prometheus: Callable[..., Prometheus],
) -> None:
    live = market[TRAINED:]
    topic = kafka.fresh_topic()
    daemon = Daemon(
        tmp_path / "driftd",
        ROOT / "config" / "kafka.yaml",
        {
            "KAFKA_BROKERS": kafka.bootstrap,
            "KAFKA_TOPICS": topic,
            "KAFKA_GROUP": topic,
            "KAFKA_START": "earliest",
            "MODEL": "elec2",
            "REFERENCE": str(build_reference(market[:TRAINED], tmp_path)),
            "WINDOW": "1d",
            "LABELS_PER_HOUR": "0.05",
            "ALERTMANAGER_URLS": alertmanager.url,
            "MONGO_URL": mongo.url,
            "MONGO_DATABASE": topic,
        },
    )
    labels = send(kafka, topic, live, form)
    with daemon:
        scraper = prometheus([daemon.address])
        # 33 s on a core of its own; the last day stays open until the source is silent
        model = daemon.judged(len(live) - 100, seconds=180)
        model = daemon.judged(len(live))
        assert model["late"] == 0

        # What was found, and when: the Victorian columns stood still until the day of the coupling.
        since = {alert["column"]: alert["since"] for alert in model["alerts"] if alert["check"] == "range"}
        coupled = START + COUPLED * STEP + DAY  # end of the first window in which they move
        assert {name: since.get(name) for name in VICTORIAN} == dict.fromkeys(VICTORIAN, coupled)

        # Alertmanager is told by who leads them, since when, and was never told of them before.
        shown = {alert["key"]: alert for alert in model["alerts"]}
        columns_of = {name: shown[f"elec2/range/{name}"] for name in VICTORIAN}
        leaders = [shown[key] for key in {alert["leader"] or alert["key"] for alert in columns_of.values()}]
        daemon.wait(
            lambda: (
                {(led["check"], led["column"]) for led in leaders}
                <= {_subject(alert) for alert in alertmanager.alerts()}
            ),
            30,
            "Alertmanager to know who leads the Victorian columns",
        )
        held = {_subject(alert): alert for alert in alertmanager.alerts()}
        for led in leaders:
            alert = held[led["check"], led["column"]]
            assert alert["labels"]["model"] == "elec2"
            assert alert["status"]["state"] == "active"
            assert datetime.fromisoformat(alert["startsAt"]).timestamp() == led["since"]
        told = [alert for call in receiver.calls for alert in call.json()["alerts"]]
        since_when = [datetime.fromisoformat(a["startsAt"]).timestamp() for a in told if _subject(a)[1] in VICTORIAN]
        assert all(time >= coupled for time in since_when)

        # Every label has met its prediction, and says how often the model is wrong.
        daemon.wait(lambda: daemon.outcomes().get("events") == labels, 30, "the labels to be joined")
        outcomes = daemon.outcomes()
        assert outcomes["model"] == "elec2.labels"
        columns = {column["name"]: column for column in outcomes["columns"]}
        assert columns["lag"]["quantiles"]["0.5"] == pytest.approx(DAY, abs=STEP)
        assert 0 <= columns["error"]["mean"] <= 1
        accuracy = next(e for e in model["estimates"] if e["measure"] == "accuracy")
        wrong = np.mean([row.label != row.truth for row in market[:TRAINED]])
        assert accuracy["reference"] == pytest.approx(1 - wrong)
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]

        # A real Prometheus reads it.
        assert scraper.wait(f"driftd_events_total == {len(live)}")
        beyond = scraper.wait('driftd_drift_score{model="elec2",check="range"} > 0.5')
        assert {labels["column"] for labels, _ in beyond} >= {*VICTORIAN}
        assert scraper.wait('driftd_findings_total{check="evidence"} > 0'), "season and prices drift too"
        assert [value for _, value in scraper.wait("sum(driftd_consumer_lag_records)")] == [0]
        assert [value for _, value in scraper.wait("driftd_consumer_lag_seconds")] == [0]

        # Label tasks, each with the fields of the seed script and the chance it had.
        with MongoClient[dict[str, Any]](mongo.url) as client:
            queue = client[topic]["label_tasks"]
            daemon.wait(
                lambda: queue.count_documents({}) >= model["label_tasks"], 30, "the label tasks to be delivered"
            )
            tasks = list(queue.find())
        assert len(tasks) == model["label_tasks"] > 100
        assert all(set(SEED_FIELDS) <= set(task) for task in tasks)
        assert {task["Name dataset"] for task in tasks} == {"elec2"}
        # what waits in reserve has no probability until it is asked for
        chances = [task["select"]["pi"] for task in tasks if task["Labeling status"] != "In reserve"]
        assert chances
        assert all(0 < chance <= 1 for chance in chances)
        assert len({task["event"]["id"] for task in tasks}) == len(tasks)

        assert daemon.letters() == []
        assert daemon.total("driftd_bad_records_total") == daemon.total("driftd_orphans_total") == 0
        assert daemon.total("driftd_late_labels_total") == labels
        assert daemon.stop(patience=15) == 0
