"""The ledger tells the truth: what it says against other arithmetic, what it sends against the real broker."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.services.kafka import Kafka
from tests.services.ledger import Ledger, Sent, produce, tally

FAULTY = Ledger(seed=3, models=("shelf", "till"), disorder=4, missing=0.1, poison=0.05)


def test_the_same_settings_give_the_same_bytes_and_another_seed_others() -> None:
    again = Ledger(seed=3, models=("shelf", "till"), disorder=4, missing=0.1, poison=0.05)
    assert list(FAULTY.records(500)) == list(again.records(500))
    assert list(Ledger(seed=4).records(5)) != list(Ledger(seed=5).records(5))


def test_events_arrive_at_most_the_disorder_late_and_none_is_lost() -> None:
    events = [sent.event for sent in FAULTY.records(2000) if sent.event is not None]
    times = [event["time"] for event in events]
    late = np.maximum.accumulate(times) - np.array(times)
    assert 1 < late.max() <= 4
    assert {event["id"] for event in events} == {f"3-{n}" for n in range(2000)}


def test_what_is_said_to_be_poison_is_and_what_is_not_decodes_to_its_event() -> None:
    poison = 0
    for sent in FAULTY.records(2000):
        try:
            body = json.loads(sent.value)
        except (ValueError, RecursionError):
            body = None
        if sent.event is None:
            poison += 1
            assert not isinstance(body, dict)
        else:
            assert body == sent.event
    assert 60 < poison < 150  # 105 expected


def test_the_truth_agrees_with_numpy_exactly_and_in_any_order() -> None:
    records = list(FAULTY.records(3000))
    edges = {"n2": (0.0, 1.5, 2.0, 4.0)}
    truth = tally(records, edges=edges)["till"]
    events = [sent.event for sent in records if sent.event is not None and sent.event["model"] == "till"]
    values = np.array([event["inputs"].get("n2", math.nan) for event in events])
    known = values[~np.isnan(values)]
    column = truth.numbers["n2"]
    assert (column.count, column.lowest, column.highest) == (known.size, known.min(), known.max())
    assert column.sum == np.sort(known).sum()
    assert column.squares == (np.sort(known) ** 2).sum()
    assert column.cells == np.bincount((known[:, None] > edges["n2"]).sum(axis=1), minlength=5).tolist()
    assert truth.missing("n2") == int(np.isnan(values).sum()) > 0
    assert truth.words["label"] == Counter(event["outputs"]["label"] for event in events)
    assert truth.windows == Counter(math.floor(event["time"] / 10) * 10.0 for event in events)
    assert tally(reversed(records), edges=edges)["till"] == truth


def test_the_truth_of_two_parts_is_not_that_of_one() -> None:
    records = list(FAULTY.records(300))
    assert tally(records[:-1]) != tally(records)


@pytest.mark.services
def test_all_that_is_sent_reaches_the_broker_once_over_its_death(kafka: Kafka) -> None:
    topic = kafka.fresh_topic(partitions=3)
    records = list(FAULTY.records(3000))

    def killing() -> Iterator[Sent]:
        for number, sent in enumerate(records):
            if number == 1500:
                kafka.kill()
                kafka.start()
            yield sent

    assert produce(kafka.bootstrap, topic, killing(), partitions=3) == len(records)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
    got = consumer.consume(len(records), timeout=30)
    high = sum(consumer.get_watermark_offsets(TopicPartition(topic, partition))[1] for partition in range(3))
    consumer.close()
    assert Counter(message.value() for message in got) == Counter(sent.value for sent in records)
    assert high == len(records)
