"""How far the estimates from labels are off, and whether their intervals hold: ours beside those of the labeling bench.

    python -m benchmarks.estimates --streams DIR --data DIR

The bench lies beside this repository, in ../shared/bench/active. Its loop is followed: a model is trained on an early
part, then window by window events are chosen, labelled, estimated from, and trained on. Events are chosen by the
shipped selection; `--data` adds streams made of other data sets. A row is a stream at a budget: the median over seeds
of its mean bias, error and width, and the share of all windows that the 90 % interval covers. `lost` is ours where the
last 60 % of each draw's ranks never come back.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import importlib
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.selection import BENCH, Pick, select
from detectors.core import Floats
from detectors.estimate import Estimate, Labelled, Track, Tuning, estimate

BACK = 0.4  # of the labels, where the others are lost
ESTIMATORS = ("bench", "bench tracked", "labels", "tracked", "lost", "cbpe")


class Set(NamedTuple):
    """A data set as a stream: rows in the order of time, the first ones to train on."""

    file: str
    label: str
    without: tuple[str, ...] = ()
    early: int = 3000
    windows: int = 10
    every: int = 1


SETS = {
    "bank": Set("bank_marketing/bank.csv.gz", "y"),
    "credit": Set("credit_default/credit.csv.gz", "DID_DEFAULT_PAYMENT"),
    "employment": Set(
        "employment/employment.csv.gz", "employed", ("year", "prediction", "predicted_probability"), windows=8
    ),
    "occupancy": Set("occupancy/datatraining.csv.gz", "Occupancy", ("date",), 2500, 8),
    "sea": Set("concept/sea_0123_abrupto_noise_0.2.csv.gz", "class", (), 2000, 12, 2),
    "rt": Set("concept/rt_2563789698568873_abrupto.csv.gz", "class", (), 2000, 12, 2),
    "sine": Set("concept/sine_0123_gradual.csv.gz", "class", (), 2000, 12, 2),
}


def stream(bench: Any, data: Path, name: str, rng: np.random.Generator, _: str) -> Any:
    """The data set as the bench has streams."""
    found = SETS[name]
    with gzip.open(data / found.file, "rt") as lines:
        rows = list(csv.DictReader(lines))
    columns = [
        _coded([row[column] for row in rows]) for column in rows[0] if column not in (found.label, *found.without)
    ]
    x, y = np.stack(columns, axis=1), _coded([row[found.label] for row in rows]).astype(int)
    first = np.sort(rng.choice(found.early, int(0.8 * found.early), replace=False))
    later = slice(found.early, None, found.every)
    windows = list(zip(np.array_split(x[later], found.windows), np.array_split(y[later], found.windows), strict=True))
    return bench.Stream(name, x[first], y[first], windows, budgets=(0.02, 0.05))


def _coded(values: list[str]) -> Floats:
    """Numbers as they are, words by their place in the alphabet."""
    try:
        return np.nan_to_num(np.array(values, np.float64))
    except ValueError:
        return np.asarray(np.unique(values, return_inverse=True)[1], np.float64)


class Ours:
    """As the daemon follows a model, a window being a span."""

    def __init__(self) -> None:
        self.tuning, self.track = Tuning(), Track()

    def step(self, batch: Labelled) -> tuple[Estimate, Estimate]:
        alone = estimate(batch, self.tuning)
        self.track = self.track.after(batch, self.tuning)
        tracked = self.track.estimate(batch.expected / batch.rows, self.tuning)
        self.tuning = self.tuning.after(batch)
        return alone, tracked


class Theirs:
    """The bench's own."""

    def __init__(self, module: Any) -> None:
        self._module, self._offset = module, module.Offset()
        self._before: list[tuple[Floats, Floats, Floats]] = []

    def step(self, right: Floats, pick: Pick, expected: Floats) -> tuple[Estimate, Estimate]:
        i = pick.idx
        slope, centre = self._module.tune(self._before)
        value, (low, high) = self._module.aipw(right[i], i, pick.pi, expected, slope, centre)
        tracked, (least, most) = self._offset.step(right[i], i, pick.pi, expected)
        self._before.append((right[i], expected[i], 1 / pick.pi[i]))
        return Estimate(float(np.clip(value, 0, 1)), 0.0, low, high), Estimate(tracked, 0.0, least, most)


def replay(run: Any, theirs: Any, source: Any, budget: float, seed: int) -> Iterator[tuple[str, float, Estimate]]:
    """Estimator, truth and estimate, window by window."""
    rng = np.random.default_rng(seed * 1000 + 17)
    classes, kept = source.classes, np.searchsorted(source.classes, source.y0)
    x, y, born = np.empty((0, source.X0.shape[1])), np.empty(0, int), np.empty(0, int)
    model = run.Model(source.X0, kept, None, classes, seed)
    ours, lost, bench, state = Ours(), Ours(), Theirs(theirs), dict[str, Any]()
    for number, (rows, truths) in enumerate(source.windows):
        truth = np.searchsorted(classes, truths)
        chances = model.proba(rows)
        right = (chances.argmax(axis=1) == truth).astype(np.float64)
        expected = model.free.right(chances.max(axis=1))
        asked = max(6, round(budget * len(rows)))
        again, held = copy.deepcopy(rng), copy.deepcopy(state)
        pick = select(SimpleNamespace(P=chances, budget=asked, rng=rng, state=state))
        # the first ranks of a draw are the draw of a smaller budget
        some = select(SimpleNamespace(P=chances, budget=max(4, round(BACK * asked)), rng=again, state=held))
        right_now = float(right.mean())
        named = dict(zip(ESTIMATORS[:2], bench.step(right, pick, expected), strict=True))
        named |= dict(zip(ESTIMATORS[2:4], ours.step(_labelled(right, pick, expected)), strict=True))
        named["lost"] = lost.step(_labelled(right, some, expected))[0]
        named["cbpe"] = Estimate(float(expected.mean()), np.nan, np.nan, np.nan)
        for name, found in named.items():
            yield name, right_now, found
        x, y = np.vstack([x, rows[pick.idx]]), np.concatenate([y, truth[pick.idx]])
        born = np.concatenate([born, np.full(len(pick.idx), number)])
        weights = run.recipe_weights("half", len(source.X0), number - born)
        model = run.Model(np.vstack([source.X0, x]), np.concatenate([kept, y]), weights, classes, seed)


def _labelled(right: Floats, pick: Pick, expected: Floats) -> Labelled:
    i = pick.idx
    return Labelled(len(right), float(expected.sum()), right[i], expected[i], pick.pi[i], np.ones(len(i)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--streams", default="", help="folder with the bench's files, such as elec.csv")
    parser.add_argument("--data", type=Path, help="folder of data sets that make further streams")
    parser.add_argument("--only", default="", help="names of streams, by commas")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if not BENCH.is_dir():
        print(f"no bench in {BENCH}")
        return 1
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(BENCH))
    run, streams, theirs = (importlib.import_module(name) for name in ("run", "streams", "estimators"))
    known: dict[str, Callable[[Any, str], Any]] = dict(streams.STREAMS)
    if options.data:
        known |= {name: partial(stream, streams, options.data, name) for name in SETS}
    print(f"{'stream':<18}" + "".join(f"{name:>26}" for name in ESTIMATORS) + "   bias, error, covered, width; points")
    every: dict[str, list[Floats]] = defaultdict(list)
    for name in options.only.split(",") if options.only else known:
        by_budget: dict[float, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))
        for seed in range(options.seeds):
            source = known[name](np.random.default_rng(seed), options.streams)
            for budget in () if source is None else source.budgets:
                seen: dict[str, list[tuple[float, ...]]] = defaultdict(list)
                for estimator, truth, e in replay(run, theirs, source, budget, seed):
                    off = e.value - truth
                    width = float(np.minimum(e.high, 1.0) - np.maximum(e.low, 0.0))
                    covered = np.nan if np.isnan(width) else float(e.low <= truth <= e.high)
                    seen[estimator].append((off, abs(off), covered, width))
                for estimator, windows in seen.items():
                    by_budget[budget][estimator].append(100 * np.mean(windows, axis=0))
        for budget, found in by_budget.items():
            medians = {estimator: np.median(several, axis=0) for estimator, several in found.items()}
            for estimator, several in found.items():
                medians[estimator][2] = np.mean(several, axis=0)[2]
            print(f"{name:<12}{budget:>5.0%} " + "".join(map(_told, (medians[e] for e in ESTIMATORS))), flush=True)
            for estimator, row in medians.items():
                every[estimator].append(np.abs(row))
    print(f"{'mean':<18}" + "".join(_told(np.mean(every[e], axis=0)) for e in ESTIMATORS))
    return 0


def _told(row: Floats) -> str:
    return "  " + " ".join("     -" if np.isnan(x) else f"{x:>5.1f}" for x in row).rjust(24)


if __name__ == "__main__":
    raise SystemExit(main())
