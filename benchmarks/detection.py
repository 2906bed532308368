"""What the shipped defaults find, and how often they cry wolf, on labelled streams of real data.

Every stream goes the daemon's way: its first rows become a reference (`build_from`, with the scorers that the columns
suggest), the rest comes in base windows to the e-detector of `DEFAULT_CHECKS`, whose promise alone is set: one false
alarm per 10,000 events. The streams and the scorer are those of the shared bench, read where they lie; suites of our
own on further labelled data stand in `labelled.py`. OUT/driftd.json and OUT/truth.json are in the form that the
bench's `score.py` reads.

    python -m benchmarks.detection --data DIR --out DIR [--suite NAME ...] [--streams FILE] [--by-kind] [--short]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import operator
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.labelled import SHORT, Case, bench_of, by_path, shortened, suites
from detectors.cause import explain, keep
from detectors.checks import DEFAULT_CHECKS
from detectors.checks.evidence import EDetector
from detectors.core import Batch, Column, from_columns
from detectors.profile import SAMPLE, Profile, Sample, rows_of
from detectors.reference import Reference, build_from, describe, scored
from detectors.registry import default_scorers

PROMISE = 10_000  # events to a false alarm
WORKERS = 2


class Outcome(NamedTuple):
    """What the detector made of a case."""

    case: str
    alarms: list[int]
    seconds: float  # of CPU, reference not counted
    ranking: tuple[str, ...]  # columns at the first true alarm, the likeliest cause first


# -- the daemon's way


def as_batch(key: str, columns: Mapping[str, Column], first: int) -> Batch:
    """Rows a second apart; the ids, on which the breaking of ties hangs, are the stream's own."""
    n = len(next(iter(columns.values())))
    numbers = range(first, first + n)
    return from_columns(columns, np.arange(first, first + n, dtype=np.float64), [f"{key}/{i}" for i in numbers])


def default_detector() -> EDetector:
    """The shipped default with its promise in events."""
    shipped = next(check.detector for check in DEFAULT_CHECKS if isinstance(check.detector, EDetector))
    return msgspec.structs.replace(shipped, events=PROMISE)


def prepare(case: Case) -> tuple[Reference, Batch]:
    """The reference as the daemon would learn it, and the stream's rows as it would score them."""
    calm = as_batch(case.key, case.reference, 0)
    scorers = default_scorers(describe(calm, {}))
    reference = build_from("bench", calm, scorers, roles={}, source=case.key, created=0.0)
    return reference, scored(as_batch(case.key, case.rows, len(calm)), scorers, reference.fitted)


def windows(rows: Batch, reference: Reference) -> Iterator[Profile]:
    """Base windows small enough to show all of their rows."""
    for first in range(0, len(rows), SAMPLE):
        window = Profile(reference.layout)
        window.update(rows.take(slice(first, first + SAMPLE)))
        yield window


def in_order(window: Profile) -> Sample:
    """The window's rows as they came."""
    return window.sample.take(np.argsort(window.sample.times))


def watch(case: Case) -> Outcome:
    """The whole of a stream, window by window. An alarm counts also where an incident of its column is open."""
    detector = default_detector()
    reference, rows = prepare(case)
    names = reference.layout.columns
    alarms: list[int] = []
    before = time.process_time()
    memory = detector.start(reference, names)
    for window in windows(rows, reference):
        after, _ = detector.step(memory, window, reference.profile, names)
        # an open incident keeps its first alarm's time, a further alarm shows in its evidence
        open_before = {name: incident.evidence for name, incident in memory.incidents.items()}
        if any(incident.evidence != open_before.get(name) for name, incident in after.incidents.items()):
            _, found = detector.step_rows(memory, in_order(window))  # once more, for which rows they were
            alarms += [int(window.first - rows.times[0]) + alarm.row for alarm in found]
        memory = after
    spent = time.process_time() - before
    right = [at for at in alarms if any(start <= at < end for start, end in case.changes)]
    cause = None
    if case.moved and right:
        recent = keep(None, rows_of(reference.layout, rows.take(slice(right[0] + 1))))
        cause = explain(recent, reference.rows, reference.layout, memory.model.joint)
    ranking = () if cause is None else cause.ranking
    # what a scorer derives from a column that moved moves too, and is no cause
    return Outcome(case.key, alarms, spent, tuple(name for name in ranking if name in case.rows))


# -- figures


class Goal(NamedTuple):
    """A figure of the scorer and what it should be."""

    suite: str
    kind: str
    figure: str
    relation: str
    limit: float


GOALS = (
    Goal("null_iid", "all", "fa10k", "<=", 1),
    Goal("inject", "all", "found", ">=", 0.99),
    Goal("inject", "all", "delay", "<=", 80),
    Goal("inject", "all", "cost", "<=", 200),
    Goal("inject", "shift0.5", "delay", "<=", 60),
    Goal("inject", "shift1", "delay", "<=", 25),
    Goal("inject", "scale1.5", "delay", "<=", 60),
    Goal("inject", "filled30", "delay", "<=", 80),
    Goal("perf", "all", "fa10k", "<=", 1),
    Goal("perf", "all", "found", ">=", 1),
    Goal("perf", "all", "cost", "<=", 250),
    Goal("multi", "all", "fa10k", "<=", 1),
    Goal("multi", "all", "found", ">=", 1),
    Goal("multi", "correlation", "found", ">=", 1),
    Goal("multi", "all", "cost", "<=", 60),
    Goal("null_real", "all", "fa10k", "<=", 2),
    Goal("null_real", "all", "bad", "<=", 0.35),
    Goal("metrics", "all", "found", ">=", 0.60),
    Goal("metrics", "all", "fa10k", "<=", 6),
    Goal("sensors", "all", "found", ">=", 1),
    Goal("sensors", "all", "delay", "<=", 25),
    Goal("sensors", "all", "fa10k", "<=", 20),
    Goal("cause", "one", "first", ">=", 0.95),
    Goal("cause", "five", "precision", ">=", 0.80),
)
WORDS = {
    "fa10k": "false alarms per 10,000", "bad": "streams with a false alarm", "found": "found",
    "delay": "median delay", "cost": "mean delay, a miss = the whole", "first": "moved column first",
    "precision": "precision at k",
}  # fmt: skip
HOLDS = {"<=": operator.le, ">=": operator.ge}

Figures = Mapping[tuple[str, str], Mapping[str, float | None]]


def named_first(cases: Mapping[str, Mapping[str, Any]], outcomes: Iterable[Outcome]) -> Figures:
    """Of the alarms that were right, how often the ranking puts moved columns before all others.

    `first` of one moved column, `precision` of five: the share of moved ones among the first five.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        case = cases[outcome.case]
        if case["suite"] == "cause" and outcome.ranking:
            moved = {f"x{i:02d}" for i in case["moved"]}
            ahead = moved & set(outcome.ranking[: len(moved)])
            found["one" if len(moved) == 1 else "five"].append(len(ahead) / len(moved))
    names = {"one": "first", "five": "precision"}
    return {("cause", kind): {names[kind]: float(np.mean(shares))} for kind, shares in found.items()}


def verdicts(figures: Figures) -> Iterator[str]:
    """A line for every goal of which there is a figure."""
    for goal in GOALS:
        value = figures.get((goal.suite, goal.kind), {}).get(goal.figure)
        if value is not None:
            told = "reached" if HOLDS[goal.relation](round(value, 4), goal.limit) else "MISSED"
            where = f"{goal.suite} {goal.kind}".removesuffix(" all")
            yield f"{told:8} {where:20} {WORDS[goal.figure]:32} {value:8.2f}  goal {goal.relation} {goal.limit:g}"


def table(figures: Figures, us: Mapping[str, float]) -> Iterator[str]:
    heads = ("streams", "fa10k", "inc10k", "bad", "changes", "found", "delay", "p90", "cost")
    yield f"{'suite':12} {'kind':14}" + "".join(f"{head:>9}" for head in (*heads, "us/event"))
    for (suite, kind), row in sorted(figures.items()):
        values = [row.get(head) for head in heads] + [us.get(suite)]
        told = ["-" if value is None else f"{value:.4g}" for value in values]
        yield f"{suite:12} {kind:14}" + "".join(f"{value:>9}" for value in told)


# -- the run


def run(cases: Iterable[Case], workers: int) -> tuple[dict[str, dict[str, Any]], list[Outcome]]:
    """The truth of all cases, and their outcomes; in this process where `workers` is 0."""
    truth: dict[str, dict[str, Any]] = {}

    def noted() -> Iterator[Case]:
        for case in cases:
            truth[case.key] = case.truth
            yield case

    if not workers:
        return truth, [watch(case) for case in noted()]
    outcomes = []
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for outcome in pool.imap_unordered(watch, noted()):
            outcomes.append(outcome)
            if len(outcomes) % 20 == 0:
                print(f"  {len(outcomes)} streams, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return truth, outcomes


def report(truth: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The alarm file as the bench's scorer reads it."""
    seconds: dict[str, float] = defaultdict(float)
    events: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        case = truth[outcome.case]
        seconds[case["suite"]] += outcome.seconds
        events[case["suite"]] += case["n"]
    return {
        "detector": "driftd",
        "alarms": {outcome.case: outcome.alarms for outcome in sorted(outcomes)},
        "us_per_event": {suite: round(1e6 * spent / events[suite], 2) for suite, spent in seconds.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder laid out like the shared data")
    parser.add_argument("--out", type=Path, required=True, help="where driftd.json and truth.json are written")
    parser.add_argument("--suite", nargs="+", help="only these")
    parser.add_argument("--streams", type=Path, help="the bench's streams.py; score.py lies beside it")
    parser.add_argument("--by-kind", action="store_true", help="figures for each kind of change")
    parser.add_argument("--short", action="store_true", help=f"{SHORT} streams a suite")
    asked = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the bench's own reading
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the bench trains models; beside busy workers threads only wait
    place = asked.streams or bench_of(asked.data)
    bench, score = by_path(place), by_path(place.with_name("score.py"))
    every = suites(bench, asked.data)
    unknown = set(asked.suite or ()) - set(every)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    cases = (
        case for name in asked.suite or every for case in (shortened(every[name]()) if asked.short else every[name]())
    )
    truth, outcomes = run(cases, WORKERS)
    found = report(truth, outcomes)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "truth.json").write_text(json.dumps(truth))
    (asked.out / "driftd.json").write_text(json.dumps(found))
    overall = score.figures(truth, found["alarms"])
    by_kind = score.figures(truth, found["alarms"], by_kind=True)
    print("\n".join(table(by_kind if asked.by_kind else overall, found["us_per_event"])))
    print("\n".join(verdicts(by_kind | overall | named_first(truth, outcomes))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
