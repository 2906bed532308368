"""A window of 10,000 rows x 60 columns held against a reference of 100,000: what it costs and what it finds.

The data are those that other tools were measured on: 50 numbers (normal, exponential, rounded gamma, beta in turn) and
10 categories of 3 to 17 levels. The moved window shifts eight numbers, two each by 0.05, 0.1, 0.2 and 0.5 standard
deviations, and makes the commonest level of two categories a quarter more likely. Beside it the floor: the same
comparison in bare numpy. `--calm` counts findings on windows that did not move, `--power` those on windows that did.

    python -m benchmarks.window_check [--calm WINDOWS] [--power WINDOWS]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.checks import DEFAULT_CHECKS
from detectors.checks.level import Level
from detectors.checks.shift import ChiSquare, JensenShannon, Ks, Psi, Wasserstein
from detectors.core import Batch, Column, Detector, Kind, Scores, Sequential, from_columns, number
from detectors.profile import Layout, Profile
from detectors.reference import Reference, build_from
from detectors.registry import DETECTORS

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]

NUMBERS = tuple(f"n{i:02d}" for i in range(50))
CATEGORIES = tuple(f"c{i:02d}" for i in range(10))
COLUMNS = NUMBERS + CATEGORIES
LEVELS = tuple(f"level_{i:02d}" for i in range(20))
MOVED = frozenset(NUMBERS[:8] + CATEGORIES[:2])
SIZES = (0.05, 0.1, 0.2, 0.5)
SPREADS = (1.0, 2.0, 17.32, 0.16)  # standard deviations of the four laws
SEEDS = {"reference": 1, "calm": 2, "moved": 3}


def draw(rng: np.random.Generator, rows: int, sizes: Sequence[float] = (), heavier: int = 0) -> tuple[Numbers, Codes]:
    """Rows of the four laws (rows, 50) and of the categories (rows, 10); the i-th number moved by `sizes[i]`."""
    laws: tuple[Callable[[], Numbers], ...] = (
        lambda: rng.standard_normal(rows),
        lambda: rng.exponential(2.0, rows),
        lambda: np.round(rng.gamma(3.0, 10.0, rows)),
        lambda: rng.beta(2.0, 5.0, rows),
    )
    numbers = np.empty((rows, len(NUMBERS)))
    for i in range(len(NUMBERS)):
        numbers[:, i] = laws[i % 4]()
        if i < len(sizes):
            numbers[:, i] += SPREADS[i % 4] * sizes[i]
    codes = np.empty((rows, len(CATEGORIES)), np.int64)
    for i in range(len(CATEGORIES)):
        weights = 1.0 / np.arange(1, 4 + 2 * (i % 8))
        if i < heavier:
            weights[0] *= 1.25
        codes[:, i] = rng.choice(weights.size, size=rows, p=weights / weights.sum())
    return numbers, codes


def window(which: str, rows: int) -> tuple[Numbers, Codes]:
    """The rows that the other tools got, number for number."""
    moved = which == "moved"
    sizes = [SIZES[(i // 2) % 4] for i in range(8)] if moved else ()
    return draw(np.random.default_rng([SEEDS[which], 0]), rows, sizes, 2 if moved else 0)


def batch(numbers: Numbers, codes: Codes) -> Batch:
    """As columns, each lying in one piece as a decoder leaves it."""
    columns = {name: number(np.ascontiguousarray(numbers[:, i])) for i, name in enumerate(NUMBERS)}
    for i, name in enumerate(CATEGORIES):
        columns[name] = Column(Kind.CATEGORY, codes[:, i].astype(np.int32), LEVELS)
    return from_columns(columns)


def reference_of(numbers: Numbers, codes: Codes) -> Reference:
    """As `reference build` makes it."""
    return build_from("window", batch(numbers, codes), {}, roles={}, source="the four laws", created=0.0)


def profile_of(layout: Layout, rows: Batch) -> Profile:
    profile = Profile(layout)
    for start in range(0, len(rows), 2_000):  # as they come from a poll
        profile.update(rows.take(slice(start, start + 2_000)))
    return profile


def cpu(work: Callable[[], object], times: int) -> float:
    """Milliseconds of CPU, median."""
    taken = []
    for _ in range(times):
        before = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - before))
    return statistics.median(taken)


def floor(numbers: Numbers, codes: Codes, before: tuple[Numbers, Codes]) -> Callable[[], list[float]]:
    """Bare numpy: 100 quantile cells a number, a count a level, the largest gap and the chi-square distance."""
    rows = len(before[0])
    edges = [np.unique(np.quantile(column, np.linspace(0.01, 0.99, 99))) for column in before[0].T]
    cells = [
        np.bincount(np.searchsorted(e, x), minlength=e.size + 1) / rows for e, x in zip(edges, before[0].T, strict=True)
    ]
    levels = [np.bincount(column, minlength=20) / rows for column in before[1].T]

    def work() -> list[float]:
        found = []
        for column, e, was in zip(numbers.T, edges, cells, strict=True):
            now = np.bincount(np.searchsorted(e, column), minlength=was.size) / len(column)
            found.append(float(np.abs(np.cumsum(now - was)).max()))
        for column, was in zip(codes.T, levels, strict=True):
            now = np.bincount(column, minlength=20) / len(column)
            found.append(float(((now - was)[was > 0] ** 2 / was[was > 0]).sum()))
        return found

    return work


class Look:
    """A check of either kind with its memory, asked window by window."""

    def __init__(self, detector: Detector | Sequential, reference: Reference, patterns: Sequence[str] = ("*",)) -> None:
        self.detector = detector
        self.reference = reference.profile
        self.columns = tuple(name for name in COLUMNS if any(fnmatchcase(name, p) for p in patterns))
        self.memory: Any = detector.start(reference, self.columns) if isinstance(detector, Sequential) else None

    def __call__(self, current: Profile) -> Scores:
        if isinstance(self.detector, Sequential):
            self.memory, scores = self.detector.step(self.memory, current, self.reference, self.columns)
            return scores
        return self.detector.check(current, self.reference, self.columns)


def cost() -> None:
    before = window("reference", 100_000)
    reference = reference_of(*before)
    numbers, codes = window("moved", 10_000)
    moved, calm = batch(numbers, codes), batch(*window("calm", 10_000))
    profiles = {"moved": profile_of(reference.layout, moved), "calm": profile_of(reference.layout, calm)}

    print("found of 10 moved columns, and of 50 and 60 unmoved ones, by ks and chi_square")
    for title, ks, chi in (
        (
            "any size, bh 0.05",
            Ks(limit=0, alpha=0.05, correction="bh"),
            ChiSquare(limit=0, alpha=0.05, correction="bh"),
        ),
        ("any size, holm 0.05", Ks(limit=0, alpha=0.05), ChiSquare(limit=0, alpha=0.05)),
        ("as by default", Ks(), ChiSquare()),
    ):
        found = {
            which: {f.column for d in (ks, chi) for f in d.check(profile, reference.profile, COLUMNS).findings}
            for which, profile in profiles.items()
        }
        print(f"  {title:20s} {len(found['moved'] & MOVED)} {len(found['moved'] - MOVED)} {len(found['calm'])}")

    bare = cpu(floor(numbers, codes, before), 9)
    build = cpu(lambda: profile_of(reference.layout, moved), 9)
    looks = [Look(c.detector, reference, c.columns) for c in DEFAULT_CHECKS]

    def judge(profile: Profile) -> None:
        for look in looks:
            look(profile)

    judged = {which: cpu(partial(judge, profile), 25) for which, profile in profiles.items()}
    whole = build + judged["moved"]
    print(
        f"10,000 x 60, ms CPU: profile {build:.1f}, default checks {judged['calm']:.2f} (moved {judged['moved']:.2f})"
    )
    print(f"together {whole:.1f} of 50; bare numpy {bare:.1f}; ratio {whole / bare:.2f}")
    print("one check of 60 columns, us CPU, calm window")
    for kind, part in DETECTORS.items():
        look = Look(part(), reference)
        for _ in range(350 if look.memory is not None else 1):
            look(profiles["calm"])
        print(f"  {kind:15s} {1000 * cpu(partial(look, profiles['calm']), 25):.0f}")


def calm(windows: int, rows: int = 1_000) -> None:
    """False findings of every check, on base windows alone; 0 or 1 in 1,000 windows is the goal."""
    for size in (100_000, 2_000):
        rng = np.random.default_rng(size)
        reference = reference_of(*draw(rng, size))
        looks = {kind: Look(part(), reference) for kind, part in DETECTORS.items()}
        found: Counter[str] = Counter()
        for _ in range(windows):
            current = profile_of(reference.layout, batch(*draw(rng, rows)))
            for kind, look in looks.items():
                found[kind] += len(look(current).findings)
        print(f"findings in {windows} calm windows of {rows:,} x 60, reference of {size:,}: {dict(found)}")


def power(windows: int) -> None:
    """Share of moved columns found, 48 numbers of 50 moved alike: at any size, and with the default limit."""
    rng = np.random.default_rng(7)
    reference = reference_of(*draw(rng, 100_000))
    parts = (Ks, Wasserstein, Psi, JensenShannon, Level)
    for rows in (1_000, 10_000):
        for size in (0.1, 0.2, 0.5):
            found: Counter[str] = Counter()
            for _ in range(windows):
                current = profile_of(reference.layout, batch(*draw(rng, rows, [size] * 48)))
                for part in parts:
                    for title, detector in ((part.__name__, part()), (f"{part.__name__} at any size", part(limit=0))):
                        found[title] += len(detector.check(current, reference.profile, NUMBERS[:48]).findings)
            shares = ", ".join(f"{name} {n / windows / 48:.2f}" for name, n in found.items())
            print(f"moved by {size} sd, {rows:,} rows: {shares}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--calm", type=int, default=0, metavar="WINDOWS", help="count false findings over so many windows"
    )
    options.add_argument("--power", type=int, default=0, metavar="WINDOWS", help="measure the share found over so many")
    given = options.parse_args()
    cost()
    if given.calm:
        calm(given.calm)
    if given.power:
        power(given.power)


if __name__ == "__main__":
    main()
