from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from alerting.alert import Alert, Ruling, Severity, Verdict
from alerting.labeling.task import Draw as TaskDraw
from alerting.labeling.task import LabelingStatus, Labels, LabelTask, Part, Returned
from alerting.lifecycle import AlertOptions
from detectors.core import Batch, Floats, Role, category, concat, from_columns, number, text, vector
from detectors.encode import decode, encode
from detectors.failing import Search
from detectors.profile import Profile
from detectors.reference import Reference, build_from, describe
from detectors.registry import default_scorers
from detectors.selection import Novelty, Pools, TopK
from monitor.budget import BudgetOptions, Purse
from monitor.config import parse
from monitor.decode import Own
from monitor.decode.columns import infer, to_batch
from monitor.event import Event, Partition, Record
from monitor.exchange import Partial, Told, from_bytes
from monitor.ingest import Ingest
from monitor.judge import Effects, Judge
from monitor.log import MemoryLog
from monitor.metrics import Meters
from monitor.plan import plans
from monitor.sampling import Offer, SamplingOptions
from monitor.tasks import Lift, Sampler, Sampling

WINDOW = 10.0
ORIGIN = Partition("t", 0)
ROLES = {
    "scores": Role.OUTPUT, "label": Role.OUTPUT, "path": Role.CONTEXT, "uri": Role.CONTEXT, "feedback": Role.CONTEXT,
}  # fmt: skip


def rows(n: int, seed: int, shift: float = 0.0, **changed: Any) -> Batch:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet((2.0, 1.0, 0.3), n)
    columns = {
        "x": number(rng.normal(shift, 1.0, n)),
        "y": number(rng.normal(size=n)),
        "path": category(rng.choice(["a>b", "a"], n).tolist()),
        "uri": text([f"s3://shelf/{seed}-{i}.jpg" for i in range(n)]),
        "feedback": number(np.zeros(n)),
        "scores": vector(scores),
        "label": category([("can", "jar", "box")[i] for i in scores.argmax(axis=1)]),
    }
    return from_columns({**columns, **changed}, ids=[f"{seed}-{i}" for i in range(n)])


@cache
def reference() -> Reference:
    learned = rows(2_000, 10**6)
    scorers = default_scorers(describe(learned, ROLES))
    return build_from("shelf", learned, scorers, roles=ROLES, source="test", created=0.0)


def scored(batch: Batch) -> Batch:
    return reference().scored(batch, default_scorers(reference().schema))


class Offered(NamedTuple):
    """What the lanes made of a window."""

    profile: Profile
    partials: list[Partial]


def offered(batch: Batch | None, options: SamplingOptions, lanes: int = 1) -> Offered:
    """Of events that came by so many lanes, in blocks of 50."""
    profile, partials, offer = Profile(reference().layout), [], Offer(options, reference())
    if batch is not None:
        whole = scored(batch)
        profile.update(whole)
        for lane in range(lanes):
            part, pools = whole.take(slice(lane, None, lanes)), offer.start()
            for start in range(0, len(part), 50):
                offer.take(pools, part.take(slice(start, start + 50)), Partition("t", lane))
            partials.append(Partial(0, len(part), draw=decode(encode(pools), Pools)))
    return Offered(profile, partials)


class Loop:
    """The judge, as far as sampling goes."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self.sampler = Sampler("shelf", options, "shelf")
        self.window = 0

    def run(
        self, events: Batch | Offered | None, lanes: int = 1, alerts: Sequence[Alert] = (), lift: Lift | None = None
    ) -> TaskDraw | None:
        """One window."""
        profile, partials = events if isinstance(events, Offered) else offered(events, self.options, lanes)
        found = self.sampler.take(self.window, WINDOW, partials, profile, reference(), alerts, lift)
        self.window += 1
        return found

    def until_drawn(self, alerts: Sequence[Alert] = (), **changed: Any) -> TaskDraw:
        for _ in range(100):
            found = self.run(rows(100, self.window, **changed), alerts=alerts)
            if found is not None:
                return found
        raise AssertionError("nothing was drawn")


def alert(column: str = "x", ruling: Ruling | None = None, started: float = 0.0) -> Alert:
    said = None if ruling is None else Verdict(id="v", key="k", ruling=ruling, by="ada", at=0.0)
    return Alert(
        f"shelf/psi/{column}", "shelf", "psi", column, Severity.CRITICAL, started, 0.0, "moved", 1.0, 0.1, verdict=said
    )


def parts(draw: TaskDraw, part: Part) -> list[LabelTask]:
    return [task for task in draw.tasks if task.select.part == part]


def asked(draw: TaskDraw | None) -> int:
    tasks = () if draw is None else draw.tasks
    return sum(task.labeling_status is LabelingStatus.IN_QUEUE for task in tasks)


# -- the same events give the same draws

BUSY = SamplingOptions(per_hour=3600, quotas={"jar": 2}, most=12)


@given(cuts=st.lists(st.integers(0, 300), max_size=4), lanes=st.integers(1, 3), seed=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_the_same_events_in_other_blocks_and_lanes_are_the_same_candidates(
    cuts: list[int], lanes: int, seed: int
) -> None:
    words = category(["new"] * 20 + ["a"] * 280)
    twice = scored(concat([rows(300, seed, path=words), rows(40, seed)]))  # the first 40 are sent again
    offer = Offer(BUSY, reference())
    whole = offer.start()
    offer.take(whole, twice, ORIGIN)
    merged = offer.start()
    for lane in range(lanes):
        pools, part = offer.start(), twice.take(slice(lane, None, lanes))
        for a, b in pairwise([0, *sorted(min(cut, len(part)) for cut in cuts), len(part)]):
            offer.take(pools, part.take(slice(a, b)), ORIGIN)
        merged.merge(decode(encode(pools), Pools))
    assert encode(merged.draw) == encode(whole.draw)
    assert (merged.wanted, merged.known) == (whole.wanted, whole.known)
    assert {k: encode(v) for k, v in merged.asked.items()} == {k: encode(v) for k, v in whole.asked.items()}


def drawn_by_run(kills: set[int], lanes: int) -> list[list[Any]]:
    loop, found = Loop(BUSY), []
    for i in range(24):
        if i in kills:
            state, window = decode(encode(loop.sampler.state), Sampling), loop.window
            loop = Loop(BUSY)
            loop.sampler.state, loop.window = state, window
        draw = loop.run(rows(40, i, shift=2.0 * (i > 12)), lanes, [alert()] if i > 16 else [])
        if draw is not None:
            found.append([(t.id, t.select, t.reason, t.stands_for) for t in draw.tasks])
    return found


@pytest.mark.parametrize(("kills", "lanes"), [({3, 9, 18}, 1), (set(range(24)), 2), (set(), 3)])
def test_a_run_with_restarts_and_other_lanes_draws_the_same_with_the_same_probabilities(
    kills: set[int], lanes: int
) -> None:
    calm = drawn_by_run(set(), 1)
    assert len(calm) > 3
    assert any(part[1].part == Part.TAKE_ALL for draw in calm for part in draw)
    assert drawn_by_run(kills, lanes) == calm


# -- what is drawn measures


def test_labels_of_both_parts_estimate_accuracy_without_bias() -> None:
    """Horvitz and Thompson over what was asked for in any case and what was drawn, with another floor and mean."""
    batch = rows(400, 5, shift=1.5, path=category(["new"] * 25 + ["a"] * 375))
    rng = np.random.default_rng(1)
    sure = batch["scores"].values.max(axis=1)
    wrong = {
        str(name): bool(miss or name.endswith("7"))
        for name, miss in zip(batch.ids, rng.random(400) > sure, strict=True)
    }
    estimates = []
    for seed in range(120):
        loop = Loop(SamplingOptions(per_hour=14_400, most=30, seed=seed, at_least=1, at_most=1))
        draw = loop.run(batch, alerts=[alert()])
        assert draw is not None
        assert draw.batch.N == 400
        assert parts(draw, Part.TAKE_ALL)
        chosen = [task for task in draw.tasks if task.select.pi is not None]
        estimates.append(sum(t.stands_for * wrong[t.event.id] / (t.select.pi or 1.0) for t in chosen) / draw.batch.N)
    truth = sum(wrong.values()) / 400
    assert abs(np.mean(estimates) - truth) < 3 * np.std(estimates) / math.sqrt(len(estimates))


@cache
def failing() -> Search:
    """By labels of before, a model that errs four times as often where `x` is high."""
    rng = np.random.default_rng(2)
    seen: list[dict[str, Any]] = [{"x": float(x), "y": float(y)} for x, y in rng.normal(size=(3_000, 2))]
    wrong = np.array([rng.random() < (0.8 if row["x"] > 0.43 else 0.1) for row in seen], float)
    return Search().after(seen, wrong, np.ones(3_000))


def lifted(inputs: Sequence[Sequence[tuple[str, Any]]], most: float) -> tuple[Floats, float]:
    return failing().lift([dict(row) for row in inputs], most)


def test_a_slice_that_fails_is_drawn_more_and_what_is_drawn_still_measures() -> None:
    batch = rows(400, 5)
    inside = {str(name): x > 0.43 for name, x in zip(batch.ids, batch["x"].values.tolist(), strict=True)}
    rng = np.random.default_rng(1)
    wrong = {name: bool(rng.random() < (0.6 if high else 0.1)) for name, high in inside.items()}

    def drawn(lift: Lift | None) -> tuple[float, list[float], list[int]]:
        share, estimates, counts = [], [], []
        for seed in range(120):
            loop = Loop(SamplingOptions(per_hour=7_200, most=20, seed=seed, at_least=1, at_most=1))
            draw = loop.run(batch, lift=lift)
            assert draw is not None
            chosen = [task for task in draw.tasks if task.select.pi is not None]
            share += [inside[task.event.id] for task in chosen]
            estimates.append(sum(wrong[t.event.id] / (t.select.pi or 1.0) for t in chosen) / draw.batch.N)
            counts.append(len(chosen))
        return float(np.mean(share)), estimates, counts

    plain, _, asked_for = drawn(None)
    more, estimates, counts = drawn(lifted)
    assert more > 1.25 * plain
    assert counts == asked_for
    truth = sum(wrong.values()) / 400
    assert abs(np.mean(estimates) - truth) < 3 * np.std(estimates) / math.sqrt(len(estimates))


def test_slices_that_fail_count_for_nothing_under_an_alert_or_where_the_option_says_so() -> None:
    for changed, alerts in (({}, [alert()]), ({"failing": 1.0}, []), ({"strategy": TopK()}, [])):
        options = SamplingOptions(per_hour=7_200, most=20, at_least=1, at_most=1, **changed)
        found, without = (Loop(options).run(rows(400, 5), alerts=alerts, lift=lift) for lift in (lifted, None))
        assert found is not None
        assert found == without


def test_a_released_reserve_has_the_probabilities_that_its_keys_give() -> None:
    draw = Loop(BUSY).until_drawn()
    held = parts(draw, Part.PROBABILITY)
    n = draw.batch.n
    assert [task.select.rank for task in held] == list(range(n + draw.batch.reserve))
    assert draw.batch.reserve == 2 * n
    assert draw.batch.tau == held[n].select.key
    for task in held[:n]:
        assert task.select.pi == pytest.approx(min(1.0, (task.select.size or 0) * (draw.batch.tau or 0)))
    assert all(t.labeling_status is LabelingStatus.IN_RESERVE and t.select.pi is None for t in held[n:])


def test_events_of_equal_content_are_one_that_stands_for_all() -> None:
    one, loop = rows(1, 3), Loop(BUSY)
    same = one.take(np.zeros(40, np.int64))
    same = Batch(rows(40, 9).keys, same.times, rows(40, 9).ids, same.offsets, same.columns)
    draw = None
    while draw is None:
        draw = loop.run(concat([same, rows(100, 100 + loop.window)]) if loop.window == 0 else rows(100, loop.window))
    assert draw.batch.N - loop.window * 100 == 40
    found = Offer(BUSY, reference())
    pools = found.start()
    found.take(pools, scored(same), ORIGIN)
    assert pools.draw.copies.tolist() == [40]


def test_drift_that_puts_everything_in_doubt_keeps_the_floor() -> None:
    loop = Loop(replace(BUSY, take_all=0.0, balance=False))
    flat = np.full((100, 3), 1 / 3) + np.random.default_rng(0).normal(0, 1e-3, (100, 3))
    draw = loop.until_drawn(scores=vector(flat))
    assert max(task.select.size or 0 for task in draw.tasks) == pytest.approx(1.0, abs=0.05)


def test_an_open_alert_raises_the_floor() -> None:
    def least(alerts: Sequence[Alert]) -> float:
        draws = [Loop(replace(BUSY, balance=False, seed=seed)).until_drawn(alerts) for seed in range(8)]
        return min(task.select.size or 9.0 for draw in draws for task in parts(draw, Part.PROBABILITY))

    assert least([]) < 0.35
    assert least([alert()]) >= 0.5


# -- what is asked for in any case


def test_nothing_is_asked_for_in_any_case_where_nothing_speaks_for_it() -> None:
    draw = Loop(SamplingOptions(per_hour=3600)).until_drawn()
    assert {task.select.part for task in draw.tasks} == {Part.PROBABILITY}


def test_rows_in_the_region_of_an_alert_are_asked_for_and_name_it() -> None:
    draw = Loop(SamplingOptions(per_hour=3600, most=12)).until_drawn([alert()], shift=4.0)
    found = parts(draw, Part.TAKE_ALL)
    assert found
    for task in found:
        assert task.causes == ("shelf/psi/x",)
        assert task.priority == 80.0
        assert task.select.pi == 1.0
        assert {value.name: value.value for value in task.inputs}["x"] > 1.0  # type: ignore[operator]


def test_feedback_that_contradicts_words_never_seen_and_quotas_ask_within_their_share() -> None:
    options = SamplingOptions(per_hour=36_000, most=40, quotas={"box": 2}, at_least=100)
    draw = Loop(options).until_drawn(
        feedback=number([1.0] * 30 + [0.0] * 70), path=category(["a"] * 30 + ["a>z"] * 30 + ["a"] * 40)
    )
    sure = [task for task in draw.tasks if task.select.part != Part.PROBABILITY]
    assert len(sure) <= 0.3 * 40
    said = {reason: sum(task.reason == reason for task in sure) for reason in (task.reason for task in sure)}
    assert said["asked for: the user objects"] <= 6
    assert said["asked for: path 'a>z'"] <= 6
    assert said["class box"] == 2
    assert {task.select.part for task in sure} == {Part.TAKE_ALL, Part.FEEDBACK}


def test_what_is_nearly_the_same_is_not_asked_for_again_but_drawn_it_may_be() -> None:
    crowd: dict[str, Any] = {"x": number(np.full(100, 1.0) + np.arange(100) * 1e-9), "y": number(np.full(100, 1.0))}
    loop = Loop(SamplingOptions(per_hour=36_000, most=40, at_least=100))
    draw = loop.until_drawn(path=category(["a>z"] * 100), **crowd)
    assert len(parts(draw, Part.TAKE_ALL)) == 1
    assert len(parts(draw, Part.PROBABILITY)) > 10


def test_a_new_word_is_asked_for_only_so_often() -> None:
    loop = Loop(SamplingOptions(per_hour=36_000, most=40, at_least=100))
    found = sum(len(parts(loop.until_drawn(path=category(["a>z"] * 100)), Part.TAKE_ALL)) for _ in range(12))
    assert found == 20


# -- budgets


@given(
    per_hour=st.floats(1, 2_000),
    per_day=st.floats(1, 5_000),
    spend=st.floats(1, 500),
    steps=st.lists(st.tuples(st.sampled_from([10.0, 200.0, 5_000.0]), st.booleans()), min_size=20, max_size=60),
)
@settings(deadline=None)
def test_no_span_asks_for_more_than_its_budget_and_one_period_kept(
    per_hour: float, per_day: float, spend: float, steps: list[tuple[float, bool]]
) -> None:
    options = BudgetOptions(per_day=per_day, price=0.5, spend_per_month=spend)
    purse, at, spent = Purse(), [0.0], [0]
    for seconds, alarmed in steps:
        purse.earn(seconds, per_hour, options, alarmed=alarmed)
        spent.append(purse.labels)
        purse.spend(spent[-1])
        at.append(at[-1] + seconds)
    total = np.cumsum(spent)
    bounds = ((2 * per_hour, per_hour, 3_600.0), (per_day, per_day, 86_400.0), (2 * spend, 2 * spend, 30 * 86_400.0))
    for most, kept, period in bounds:
        for i in range(len(at)):
            for j in range(i, len(at)):
                assert total[j] - total[i] <= most * (at[j] - at[i]) / period + max(kept, 1.0) + 1e-6


def test_over_a_day_as_many_are_asked_for_as_the_budget_says() -> None:
    options = SamplingOptions(per_hour=50.0)
    loop, busy, still = Loop(options), offered(rows(40, 1), options), offered(None, options)
    total = sum(asked(loop.run(busy if i % 4 == 0 else still)) for i in range(8_640))
    assert 0.98 * 1_200 <= total <= 1_200


def test_a_burst_is_paid_back() -> None:
    def total(stormy: range, windows: int) -> int:
        budget = BudgetOptions(burst_for=600.0)
        options = SamplingOptions(per_hour=360.0, budget=budget, most=50, within=10.0, at_least=1)
        loop, some = Loop(options), offered(rows(20, 1), options)
        return sum(asked(loop.run(some, alerts=[alert()] if i in stormy else [])) for i in range(windows))

    assert total(range(60, 120), 120) == pytest.approx(180, abs=8)  # ten minutes at 6 a minute, ten at 12
    assert total(range(60, 120), 300) == pytest.approx(300, abs=8)  # as without


@pytest.mark.parametrize("ruling", [Ruling.UNINTENDED, Ruling.FALSE_ALARM])
def test_a_verdict_that_something_broke_or_nothing_happened_ends_the_burst(ruling: Ruling) -> None:
    def earned(alerts: list[Alert]) -> float:
        loop = Loop(SamplingOptions(per_hour=360.0))
        loop.run(None, alerts=alerts)
        return loop.sampler.state.purse.tokens["hour"]

    assert earned([alert(ruling=Ruling.INTENDED)]) == earned([alert()]) == 2 * earned([])
    assert earned([alert(ruling=ruling)]) == earned([])


def test_a_bound_on_money_needs_a_price() -> None:
    with pytest.raises(ValueError, match="price"):
        BudgetOptions(spend_per_day=10.0)


# -- other ways


@pytest.mark.parametrize("lift", [None, lifted])
def test_events_are_drawn_for_themselves_by_what_came_before_them(lift: Lift | None) -> None:
    options = SamplingOptions(per_hour=720.0, mode="event", most=50)
    loop, total, draws = Loop(options), 0, 0
    for i in range(200):
        draw = loop.run(rows(50, i), lift=lift)
        if draw is not None:
            draws += 1
            total += asked(draw)
            assert draw.batch.start == (loop.window - 1) * WINDOW  # of this window alone
            assert all(t.select.pi == pytest.approx(min(1, (t.select.size or 0) * (draw.batch.tau or 0)))
                       for t in draw.tasks)  # fmt: skip
    assert draws > 100
    assert 0.9 * 400 <= total <= 400


def test_labels_of_a_plain_top_k_are_flagged_and_told_of_at_start(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(replace(BUSY, strategy=TopK()))
    assert "not usable for monitoring" in caplog.text
    draw = loop.until_drawn()
    assert {task.select.part for task in draw.tasks} == {Part.TAKE_ALL}
    assert not any(task.select.monitoring for task in draw.tasks)
    margins = [task.prediction.margin or 0.0 for task in draw.tasks]
    assert margins == sorted(margins)
    assert max(margins) < 0.1


def test_other_strategies_and_their_batches_say_by_what_they_drew() -> None:
    draw = Loop(replace(BUSY, strategy=Novelty(), take_all=0.0)).until_drawn()
    assert {task.select.strategy for task in draw.tasks} == {"novelty"}
    assert sum(count.value or 0 for count in draw.batch.classes) == draw.batch.N == draw.batch.sums["n"]
    assert draw.batch.budget["spent"] == asked(draw)


def test_a_task_shows_what_the_model_was_given_and_where_it_lies() -> None:
    draw = Loop(SamplingOptions(per_hour=3600)).until_drawn(path=category(["a"] * 99 + ["b" * 5_000]))
    for task in draw.tasks:
        assert [value.name for value in task.inputs] == ["x", "y"]
        assert task.uri.startswith("s3://shelf/")
        assert task.select.expected is not None
        assert len(task.event.input_hash) == 16


def test_a_buffer_that_waits_for_tokens_stays_as_small_as_a_draw() -> None:
    loop = Loop(SamplingOptions(per_hour=0.001))
    sizes = []
    for i in range(60):
        loop.run(rows(50, i), alerts=[alert(f"c{i}")])
        sizes.append(len(encode(loop.sampler.state)))
    assert max(sizes[20:]) < 1.3 * sizes[19]


# -- through both stages

BOTH = json.dumps(
    {
        "models": [
            {
                "name": "shelf", "labels": None, "checks": [{"detector": "missing"}], "retraining": None,
                "sampling": {"per_hour": 7200, "within": "10s", "at_least": 20, "most": 20},
                "accuracy": {"span": "1m", "patience": "1m"},
            }
        ],
        "window": {"size": "10s", "lateness": "1s"},
    }
)  # fmt: skip


def test_once_labels_show_that_a_slice_fails_its_events_are_drawn_more() -> None:
    """A model without scores: every event is wanted alike, but for the aisle in which it errs."""
    models, meters, exchange, rng = plans(parse(BOTH)), Meters(), MemoryLog(), random.Random(1)
    said = [
        Event(id=f"{aisle}{i}", time=i / 10, inputs={"aisle": aisle}, label=rng.choice(["can", "jar"]))
        for i, aisle in enumerate(rng.choices("abcd", k=9_000))
    ]
    schema = infer(said[:500])
    learned = build_from(
        "shelf", to_batch(said[:500], schema), {}, roles={s.name: s.role for s in schema}, source="test", created=0.0
    )
    judge = Judge(
        models, window=WINDOW, alerts=AlertOptions(), references=lambda _: learned, learned=lambda _: None,
        clock=lambda: 0.0, meters=meters,
    )  # fmt: skip
    ingest = Ingest(
        "test", decoder=Own().open(), models=models, options=parse(BOTH).window, references=lambda _: learned,
        send=exchange.append, save=lambda *_: None, load=lambda _: None, set_aside=lambda *_: None, meters=meters,
    )  # fmt: skip
    ingest.gain(ORIGIN)
    sizes: list[dict[str, float]] = []  # by aisle, of each draw
    for at in range(0, len(said), 100):
        ingest.take(ORIGIN, [
            Record(
                json.dumps({"id": e.id, "time": e.time, "model": "shelf", "inputs": e.inputs,
                            "outputs": {"label": e.label}}).encode(),
                offset=at + i, timestamp=int(e.time * 1000),
            )
            for i, e in enumerate(said[at : at + 100])
        ])  # fmt: skip
        effects = Effects()
        for offset, data in exchange.read(exchange.start, max_bytes=1 << 40):
            judge.take(from_bytes(data), effects)
            exchange.trim(offset + 1)
        drawn = [(t, draw.batch.id) for draw in effects.draws for t in draw.tasks if t.select.pi is not None]
        labels = tuple(
            Returned(
                task=t.id, event=t.event.id, time=t.event.time, model="shelf", version="", part=t.select.part,
                strategy="", batch=batch, pi=t.select.pi, rank=t.select.rank or 0, answer=t.prediction.label,
                confidence=None, at=t.event.time or 0.0, inputs=t.inputs, rev=1, size=t.select.size,
                label="box" if t.event.id.startswith("c") and rng.random() < 0.7 else t.prediction.label,
            )
            for t, batch in drawn
        )  # fmt: skip
        judge.take(Told(f"told-{at}", "shelf", Labels(labels)), effects)
        sizes.append({t.event.id[0]: t.select.size or 0.0 for t, _ in drawn})
    first, last = sizes[1], sizes[-2]
    assert set(first.values()) == {1.0}
    assert last["c"] > 1.3
    assert max(size for aisle, size in last.items() if aisle != "c") < 1.0
