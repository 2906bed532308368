"""Accuracy without labels on real models with late truths: how far off the estimate is, and whether its interval holds.

Two data sets with a model's scores and the true outcome: employment (2015 labelled, then three years of slow real
drift) and car_loan (labelled reference, a known fall of accuracy half way through the analysis). Everything goes the
shipped way: the `outcome` scorer fitted on the reference, window profiles, the `performance` check. The error is told
as a multiple of what sampling alone makes of the truth's own accuracy, sqrt(2 a (1 - a) / pi n). In the order of time
a file holds 10 to 50 windows that share no row, too few to tell 95 % from 99; so reference rows are also drawn anew, a
part to learn from and windows of the rest. Then labels come, as they are and with one in ten turned from half way on
(concept drift no score shows): when `calibration` says so.

    python -m benchmarks.performance --data DIR
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detectors.checks.performance import Calibration, Performance
from detectors.core import Batch, Floats, Ints, Role, category, from_columns, number, vector
from detectors.performance import Estimate
from detectors.profile import Profile
from detectors.reference import Reference, build_from
from detectors.scorers.outcome import Outcome

WORDS = ("0", "1")
SIZES = (500, 2_000)
SCORERS = {"outcome": Outcome()}


class Rows(NamedTuple):
    """Answers, chances of class 1, truths."""

    answers: Ints
    chances: Floats
    truths: Ints

    def take(self, rows: slice | Ints) -> Rows:
        return Rows(self.answers[rows], self.chances[rows], self.truths[rows])

    def batch(self) -> Batch:
        columns = {
            "label": category([WORDS[a] for a in self.answers]),
            "scores": vector(np.stack([1 - self.chances, self.chances], axis=1)),
            "truth": category([WORDS[t] for t in self.truths]),
        }
        return from_columns(columns)


class Case(NamedTuple):
    name: str
    reference: Rows
    analysis: Rows
    change: int | None  # row of the analysis at which accuracy is known to fall


def _read(file: Path, answer: str, chance: str, truth: str) -> tuple[Rows, list[dict[str, str]]]:
    with gzip.open(file, "rt") as lines:
        raw = list(csv.DictReader(lines))
    columns = (np.array([float(row[name]) for row in raw]) for name in (answer, chance, truth))
    answers, chances, truths = columns
    return Rows(answers.astype(np.int64), chances, truths.astype(np.int64)), raw


def cases(data: Path) -> Iterator[Case]:
    rows, raw = _read(data / "employment" / "employment.csv.gz", "prediction", "predicted_probability", "employed")
    first = next(i for i, row in enumerate(raw) if row["year"] != "2015")
    yield Case("employment", rows.take(slice(first)), rows.take(slice(first, None)), None)
    names = ("y_pred", "y_pred_proba", "repaid")
    reference, analysis = (_read(data / "car_loan" / f"{part}.csv.gz", *names)[0] for part in ("reference", "analysis"))
    yield Case("car_loan", reference, analysis, len(analysis.truths) // 2)


def learn(rows: Rows) -> Reference:
    return build_from("model", rows.batch(), SCORERS, roles={"truth": Role.TRUTH}, source="the benchmark", created=0.0)


def windows(
    case: Case, reference: Reference, size: int, every: int
) -> Iterator[tuple[int, list[Estimate], Rows, bool]]:
    """First row, estimates, the rows themselves, and whether the check found a fall; a window every so many rows."""
    check = Performance()
    memory = check.start(reference, ("expected_correct",))
    for first in range(0, len(case.analysis.truths) - size + 1, every):
        rows = case.analysis.take(slice(first, first + size))
        profile = Profile(reference.layout)
        profile.update(reference.scored(rows.batch(), SCORERS))
        memory, scores = check.step(memory, profile, reference.profile, ("expected_correct",))
        with_interval = [e for e in scores.estimates if not np.isnan(e.low)]
        yield first, with_interval, rows, bool(scores.findings)


def measured(estimate: Estimate, rows: Rows) -> float:
    """What the labels say of the rows."""
    if estimate.measure == "accuracy":
        return float((rows.answers == rows.truths).mean())
    if estimate.measure == "roc_auc":
        values, place, count = np.unique(rows.chances, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(count) - (count - 1) / 2)[place]
        ones = int(rows.truths.sum())
        return float((ranks[rows.truths == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(values[place]) - ones)))
    c = WORDS.index(estimate.of)
    answered, truly = rows.answers == c, rows.truths == c
    if estimate.measure == "share_bbse":
        return float(truly.mean())
    good = int((answered & truly).sum())
    over = {"precision": answered.sum(), "recall": truly.sum(), "f1": (answered.sum() + truly.sum()) / 2}
    return float(good / over[estimate.measure])


def estimate(case: Case, reference: Reference, size: int) -> None:
    told: dict[str, list[tuple[float, float, bool]]] = {}
    sampling, found, followed = [], [], None
    for first, estimates, rows, fell in windows(case, reference, size, size // 4):
        for e in estimates:
            right = measured(e, rows)
            told.setdefault(f"{e.measure} {e.of}".strip(), []).append((e.value, right, e.low <= right <= e.high))
            if e.measure == "accuracy":
                sampling.append(np.sqrt(2 * right * (1 - right) / np.pi / size))
        found += [first] * fell
        if first == case.change:
            followed = (told["accuracy"][-1], fell)
    values = {name: np.array(three, np.float64) for name, three in told.items()}
    error = np.abs(values["accuracy"][:, 0] - values["accuracy"][:, 1]).mean()
    print(f"{case.name}, windows of {size:,}: {len(sampling)}")
    print(f"  accuracy: mean error {error:.4f}, {error / np.mean(sampling):.2f} x sampling alone")
    print("  95 % interval holds: " + ", ".join(f"{name} {v[:, 2].mean():.3f}" for name, v in values.items()))
    if case.change is None:
        print(f"  falls found: {len(found)}")
    elif followed is not None:
        (value, right, _), fell = followed
        before = sum(first + size <= case.change for first in found)
        print(f"  first changed window: estimated {value:.3f}, true {right:.3f}, found {fell}; found before: {before}")


def redraw(case: Case, size: int) -> None:
    """Share of intervals that hold where nothing moved: 5 windows each of 60 partitions of the reference."""
    held: dict[str, list[bool]] = {}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(case.reference.truths))
        known, rest = np.split(order, [2 * len(order) // 3])
        reference = learn(case.reference.take(known))
        drawn = np.concatenate([rng.choice(rest, size, replace=False) for _ in range(5)])
        for _, estimates, rows, _ in windows(case._replace(analysis=case.reference.take(drawn)), reference, size, size):
            for e in estimates:
                held.setdefault(f"{e.measure} {e.of}".strip(), []).append(e.low <= measured(e, rows) <= e.high)
    print(f"{case.name}, windows of {size:,} drawn anew from the reference: {len(held['accuracy'])}")
    print("  95 % interval holds: " + ", ".join(f"{name} {np.mean(told):.3f}" for name, told in held.items()))


def calibrate(case: Case, reference: Reference, turned: float) -> None:
    """Labels in windows of 200, a share of them turned from half way on: the row of each first finding."""
    rows = case.analysis
    half = len(rows.truths) // 2
    flip = (np.random.default_rng(1).random(len(rows.truths)) < turned) & (np.arange(len(rows.truths)) >= half)
    truths = np.where(flip, 1 - rows.truths, rows.truths)
    expected = reference.scored(rows.batch(), SCORERS)["expected_correct"].values
    surprise = (rows.answers == truths) - expected
    columns = {"surprise": number(surprise), "tilt": number(np.where(rows.answers == 1, surprise, -surprise))}
    joined = from_columns(columns, times=np.arange(len(truths)))
    learned = build_from("labels", joined.take(slice(0, 1000)), {}, roles={}, source="the benchmark", created=0.0)
    check, memory, alarms = Calibration(), Any, []
    memory = check.start(learned, tuple(columns))
    for first in range(0, len(truths), 200):
        profile = Profile(learned.layout, 256)
        profile.update(joined.take(slice(first, first + 200)))
        memory, scores = check.step(memory, profile, learned.profile, tuple(columns))
        alarms += [first + 200] * bool(scores.findings)
    before = [at for at in alarms if at <= half]
    after = [at - half for at in alarms if at > half]
    told = f"after {after[0]} labels" if after else "never"
    print(f"{case.name}, {turned:.0%} of the labels turned: 'not valid' {told}; in {len(before)} windows before")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the labelled data sets")
    for case in cases(options.parse_args().data):
        reference = learn(case.reference)
        for size in SIZES:
            estimate(case, reference, size)
            redraw(case, size)
        for turned in (0.0, 0.05, 0.1):
            calibrate(case, reference, turned)


if __name__ == "__main__":
    main()
