"""Which column is named first when an alarm comes, and how many of five weakly moved ones are among the first five.

Real tables, redrawn: 1,000 rows as reference, 300 quiet ones, then columns move on their own values: a shift or a
stretch of normal scores, a fill with the lowest value, a column torn from the others or turned over. The shipped
default detector runs at one false alarm per 10,000 events; its first alarm after the change is explained at once and
64 rows later. `evidence` ranks by the alarm's own evidence, `cause` by `detectors.cause`.

    python -m benchmarks.root_cause --data DIR [--copies N]
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from benchmarks.detection import as_batch, default_detector
from benchmarks.labelled import tables
from detectors import cause
from detectors.core import Floats
from detectors.evidence import normal
from detectors.profile import rows_of
from detectors.reference import build_from

TABLES = (
    "credit_default/credit.csv.gz", "bank_marketing/bank.csv.gz", "employment/employment.csv.gz",
    "car_loan/reference.csv.gz", "gas_sensor/gas.csv.gz", "digits/digits.csv.gz",
)  # fmt: skip
KINDS = (
    "one shift 0.25", "one shift 0.5", "one shift 1", "one stretch 1.5", "one fill 30 %", "torn", "turned",
    "five shift 0.25",
)  # fmt: skip
KNOWN, QUIET, AFTER, LATER = 1_000, 300, 900, 64
WIDTH = 20  # columns
LEVELS = 5  # a column with no more distinct values has no shift by parts of a deviation


class Stream(NamedTuple):
    table: str
    kind: str
    reference: Floats
    rows: Floats
    moved: frozenset[int]


def read(path: Path) -> Floats:
    """The number columns (rows, columns) of a table, those with few values and those that name rows left out."""
    with gzip.open(path, "rt") as file:
        head, *rows = csv.reader(file)
    columns = []
    for name, texts in zip(head, zip(*rows, strict=True), strict=True):
        try:
            values = np.array([float(text) if text else np.nan for text in texts])
        except ValueError:
            continue
        if name not in ("id", "row", "timestamp", "year", "batch") and np.unique(values).size > LEVELS:
            columns.append(values)
    return np.stack(columns, axis=1)


def streams(data: Path, copies: int) -> Iterator[Stream]:
    for path in TABLES:
        if (data / path).exists():
            whole = read(data / path)
            for kind in KINDS:
                for copy in range(copies):
                    yield drawn(path.split("/")[0], whole, kind, copy)


def drawn(table: str, whole: Floats, kind: str, copy: int) -> Stream:
    rng = np.random.default_rng(crc32(f"{table}/{kind}/{copy}".encode()))
    whole = whole[:, rng.permutation(whole.shape[1])[:WIDTH]]
    rows = whole[rng.integers(0, len(whole), KNOWN + QUIET + AFTER)]
    changed = rows[KNOWN + QUIET :]
    many = 5 if kind.startswith("five") else 1
    # of five to move there are twice as many, or any order would do
    moved = rng.permutation(rows.shape[1])[: min(many, rows.shape[1] // 2)]
    if kind in ("torn", "turned"):  # among the third that is tied most: a free column cannot be torn
        ties = np.abs(np.corrcoef(normal.fit(whole).of(np.nan_to_num(whole)).T)) - 2 * np.eye(whole.shape[1])
        moved = rng.choice(np.argsort(-ties.max(axis=0))[: max(len(ties) // 3, 2)], 1)
    up = rng.choice([-1, 1])
    for j in moved.tolist():
        changed[:, j] = warped(changed[:, j], whole[:, j], kind, up, rng)
    return Stream(table, kind, rows[:KNOWN], rows[KNOWN:], frozenset(moved.tolist()))


def warped(values: Floats, of: Floats, kind: str, up: int, rng: np.random.Generator) -> Floats:
    """The changed column, made of the values that the column has."""
    if kind == "torn":
        return rng.permutation(values)
    if "fill" in kind:
        return np.where(rng.random(values.size) < 0.3, np.nanmin(of), values)
    ordered = np.sort(of[~np.isnan(of)])
    low, high = ordered.searchsorted(values, "left"), ordered.searchsorted(values, "right")
    grid = np.sort(rng.normal(size=ordered.size))  # rank -> normal score and back, ties broken at random
    score = grid[np.minimum(rng.uniform(low, np.maximum(high, low + 1)).astype(np.int64), grid.size - 1)]
    size = float(kind.rsplit(maxsplit=1)[-1]) if kind != "turned" else -1.0
    score = score + up * size if "shift" in kind else score * size
    out = ordered[np.minimum(grid.searchsorted(score), ordered.size - 1)]
    return np.where(np.isnan(values), np.nan, out)


def ranked(stream: Stream) -> dict[str, list[str]] | None:
    """Columns by rank at the first alarm after the change, by each way; None where none came."""
    calm = as_batch("root", tables(stream.reference), 0)
    reference = build_from("bench", calm, {}, roles={}, source="bench", created=0.0)
    rows = rows_of(reference.layout, as_batch("root", tables(stream.rows), KNOWN))
    detector = default_detector()
    memory = detector.start(reference, reference.layout.columns)
    for first in range(0, len(rows.times), 50):
        memory, alarms = detector.step_rows(memory, rows.take(slice(first, first + 50)))
        for alarm in alarms:
            at = first + alarm.row
            if at >= QUIET:
                raised = [name for name in alarm.columns if name in reference.layout.index]
                found = {"evidence": raised + [name for name in reference.layout.columns if name not in raised]}
                for way, end in (("cause", at + 1), (f"cause, {LATER} rows on", at + 1 + LATER)):
                    recent = cause.keep(None, rows.take(slice(end)))
                    told = cause.explain(recent, reference.rows, reference.layout, memory.model.joint)
                    found[way] = [] if told is None else list(told.ranking)
                return found
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=5)
    options = parser.parse_args()
    precision: dict[tuple[str, str], list[float]] = defaultdict(list)
    missed = 0
    for stream in streams(options.data, options.copies):
        found = ranked(stream)
        missed += found is None
        for way, names in (found or {}).items():
            first = {int(name[1:]) for name in names[: len(stream.moved)]}
            precision[way, stream.kind].append(len(first & stream.moved) / len(stream.moved))
    ways = list(dict.fromkeys(way for way, _ in precision))
    print(f"{'':16}" + "".join(f"{way:>22}" for way in ways) + f"{'alarms':>10}")
    for kind in KINDS:
        shares = [np.mean(precision[way, kind]) for way in ways]
        print(f"{kind:16}" + "".join(f"{share:22.2f}" for share in shares) + f"{len(precision[ways[0], kind]):10}")
    print(f"changes without an alarm: {missed}")


if __name__ == "__main__":
    main()
