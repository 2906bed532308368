"""How well the novelty scorers tell new rows from fresh known ones, beside scikit-learn's isolation forest.

Two sources of known kind: digits (one class held out; pictures turned, blurred, made noisy) and gas sensors (one gas
held out; the sensors years later). A half of the known rows is the reference, the other half is what new rows are told
from. AUC = chance that a new row scores above a known one; the ratio is that to the forest's.

    python -m benchmarks.novelty --data DIR
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from detectors.core import Batch, Floats, from_columns, number, vector
from detectors.registry import SCORERS

SCORES = (("novelty", "novelty"), ("novelty", "cluster_distance"), ("half_space_trees", "rarity"))


class Case(NamedTuple):
    name: str
    reference: Batch
    known: Batch
    new: Batch


def read(path: Path) -> tuple[list[str], Floats]:
    with gzip.open(path, "rt") as lines:
        rows = csv.reader(lines)
        names = next(rows)
        return names, np.array([[float(value) for value in row] for row in rows])


def batch(matrix: Floats, *, as_vector: bool) -> Batch:
    ids = [f"row {i}" for i in range(len(matrix))]
    if as_vector:
        return from_columns({"embedding": vector(matrix)}, ids=ids)
    return from_columns({f"s{i:02d}": number(column) for i, column in enumerate(matrix.T)}, ids=ids)


def cases(name: str, known: Floats, new: Floats, *, as_vector: bool) -> Case:
    order = np.random.default_rng(0).permutation(len(known))
    half = len(known) // 2
    parts = (known[order[:half]], known[order[half:]], new)
    return Case(name, *(batch(part, as_vector=as_vector) for part in parts))


def digits(data: Path) -> Iterator[Case]:
    _, rows = read(data / "digits" / "digits.csv.gz")
    pictures, labels = rows[:, :-1], rows[:, -1]
    for held in range(10):
        yield cases(f"digit {held} held out", pictures[labels != held], pictures[labels == held], as_vector=True)
    rng = np.random.default_rng(1)
    square = pictures.reshape(-1, 8, 8)
    damaged: dict[str, Callable[[Floats], Floats]] = {
        "turned by 90 degrees": lambda p: np.rot90(p, axes=(1, 2)),
        "blurred": lambda p: (p + np.roll(p, 1, 1) + np.roll(p, 1, 2) + np.roll(p, (1, 1), (1, 2))) / 4,
        "noise of a quarter": lambda p: p + rng.normal(0, 4, p.shape),
        "half as bright": lambda p: p / 2,
    }
    half = len(pictures) // 2
    for name, change in damaged.items():
        new = change(square[half:]).reshape(-1, 64)
        yield cases(f"digits {name}", pictures[:half], new, as_vector=True)


def gases(data: Path) -> Iterator[Case]:
    _, rows = read(data / "gas_sensor" / "gas.csv.gz")
    months, gas, sensors = rows[:, 0], rows[:, 1], rows[:, 2:]
    early = months <= 3
    for held in np.unique(gas[early]).tolist():
        known, new = sensors[early & (gas != held)], sensors[early & (gas == held)]
        yield cases(f"gas {held:.0f} held out", known, new, as_vector=False)
    for late in np.unique(months[months > 3]).tolist():
        yield cases(f"sensors in batch {late:.0f}", sensors[early], sensors[months == late], as_vector=False)


def matrix(rows: Batch) -> Floats:
    held = rows.get("embedding")
    return np.column_stack([column.values for column in rows.columns.values()]) if held is None else held.values


def measured(case: Case) -> dict[str, tuple[float, float, float]]:
    """Per score: AUC, CPU microseconds an event, and the flagged share of known rows (NaN where nothing is flagged)."""
    truth = np.repeat([0, 1], [len(case.known), len(case.new)])
    found: dict[str, tuple[float, float, float]] = {}
    for kind, column in SCORES:
        scorer: Any = SCORERS[kind]()
        fitted = scorer.fit(case.reference)
        start = time.process_time()
        known, new = (scorer.score(rows, fitted) for rows in (case.known, case.new))
        spent = (time.process_time() - start) / len(truth) * 1e6
        auc = roc_auc_score(truth, np.concatenate([known[column].values, new[column].values]))
        flags = float(known["non_representative"].values.mean()) if column == "novelty" else float("nan")
        found[column] = (float(auc), spent, flags)
    forest = IsolationForest(random_state=0).fit(matrix(case.reference))
    start = time.process_time()
    told = -forest.score_samples(np.concatenate([matrix(case.known), matrix(case.new)]))
    found["isolation forest"] = (
        float(roc_auc_score(truth, told)), (time.process_time() - start) / len(truth) * 1e6, float("nan")
    )  # fmt: skip
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, required=True, help="a folder laid out like the shared data")
    data: Path = options.parse_args().data
    names = [*(column for _, column in SCORES), "isolation forest"]
    print(f"{'AUC':28}" + "".join(f"{name:>18}" for name in names) + f"{'ratio':>8}")
    for source in (digits, gases):
        rows = []
        for case in source(data):
            found = measured(case)
            rows.append([found[name] for name in names])
            ratio = found["novelty"][0] / found["isolation forest"][0]
            print(f"{case.name:28}" + "".join(f"{found[name][0]:18.3f}" for name in names) + f"{ratio:8.2f}")
        mean = np.array(rows).mean(axis=0)
        print(f"{source.__name__ + ', mean':28}" + "".join(f"{v:18.3f}" for v in mean[:, 0])
              + f"{mean[0, 0] / mean[-1, 0]:8.2f}")  # fmt: skip
        print(f"{'  us an event':28}" + "".join(f"{v:18.1f}" for v in mean[:, 1]))
        print(f"  known rows flagged: {100 * mean[0, 2]:.2f} %, promised 1 %", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
