"""Is a change of unit named, and nothing else? Real columns, every conversion, three window sizes, and other changes.

From every folder of DIR, number columns with at least 500 values of which 20 differ; rows are drawn with replacement:
2,000 for the reference, then a window. Beside the conversions stand changes that are none: populations that shift,
widen, tilt or lose a part of their values to a default, and stretches by factors that are no unit's. A straight line
told with its slope is counted apart: it is right of a stretch, and only a description of a shift.

    python -m benchmarks.units --data DIR [--columns 3]
"""

from __future__ import annotations

import argparse
import gzip
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from detectors.checks.naming import CONVERSIONS, name_change
from detectors.core import from_columns, number
from detectors.profile import Layout, Profile, lay_out

Values = NDArray[np.float64]
Table = dict[str, Counter[str]]
Change = Callable[[Values, Values, np.random.Generator], Values]

REFERENCE = 2_000
SAMPLE = 256  # rows kept of a window, as the service keeps
WINDOWS = (200, 1_000, 10_000)
LAW = NormalDist()


def columns(data: Path, most: int) -> Iterator[tuple[str, Values]]:
    """Named values of the first `most` fitting columns of each folder."""
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        found = 0
        for path in sorted(folder.glob("*.csv.gz")):
            with gzip.open(path) as file:
                table = arrow_csv.read_csv(file)
            for name in table.column_names:
                if found < most and (values := _values(table.column(name))) is not None:
                    found += 1
                    yield f"{folder.name}.{name}", values


def _values(column: pa.ChunkedArray) -> Values | None:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    values: Values = column.drop_null().to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    # a running number is no measurement
    counts = values.size > 1 and bool((np.diff(values) == 1).all())
    return values if values.size >= 500 and np.unique(values).size >= 20 and not counts else None


def _by_rank(move: float, stretch: float) -> Change:
    """A population moved and stretched on its normal scores, back on the column's own values."""

    def change(values: Values, draw: Values, rng: np.random.Generator) -> Values:
        ordered = np.sort(values)
        low, high = np.searchsorted(ordered, draw, "left"), np.searchsorted(ordered, draw, "right")
        rank = np.clip((low + rng.random(draw.size) * (high - low)) / ordered.size, 1e-9, 1 - 1e-9)
        moved = np.array([LAW.cdf(LAW.inv_cdf(u) * stretch + move) for u in rank])
        return np.asarray(ordered[np.minimum((moved * ordered.size).astype(int), ordered.size - 1)])

    return change


def _stretched(factor: float) -> Change:
    def change(_values: Values, draw: Values, _rng: np.random.Generator) -> Values:
        return draw * factor

    return change


def _offset(values: Values, draw: Values, _rng: np.random.Generator) -> Values:
    return np.asarray(draw + 0.5 * values.std())


def _filled(values: Values, draw: Values, rng: np.random.Generator) -> Values:
    return np.where(rng.random(draw.size) < 0.3, np.median(values), draw)


def _tilted(values: Values, draw: Values, rng: np.random.Generator) -> Values:
    weight = np.exp(0.8 * np.argsort(np.argsort(values, kind="stable"), kind="stable") / values.size)
    return rng.choice(values, draw.size, p=weight / weight.sum())


def _swapped(values: Values, draw: Values, rng: np.random.Generator) -> Values:
    low, high = np.quantile(values, [0.3, 0.6])
    picked = rng.random(draw.size) < 0.2
    return np.where(picked & (draw <= low), high, np.where(picked & (draw >= high), low, draw))


def _upper_half(values: Values, draw: Values, rng: np.random.Generator) -> Values:
    ordered = np.sort(values)
    return rng.choice(ordered[ordered.size // 2 :], draw.size)


NO_UNIT: Mapping[str, Change] = {
    **{f"x{factor}": _stretched(factor) for factor in (0.45, 0.7, 1.3, 1.7, 2.0, 3.0, 7.0)},
    "offset": _offset,
    **{f"shift {move}": _by_rank(move, 1.0) for move in (0.25, -0.5, 1.0)},
    "wider": _by_rank(0.0, 1.5),
    "narrower": _by_rank(0.0, 0.6),
    "filled": _filled,
    "tilted": _tilted,
    "swapped": _swapped,
    "upper half": _upper_half,
    "same": _stretched(1.0),
}


def profile(layout: Layout, values: Values, size: int) -> Profile:
    """As the service keeps it."""
    found = Profile(layout, size)
    found.update(from_columns({"x": number(values)}))
    return found


def verdict(answer: str, truth: str) -> str:
    """Of a conversion: a line is a true description of one that is a line."""
    if answer == truth:
        return "right"
    if answer == "line" and any(c.name == truth and np.isfinite(c.slope) for c in CONVERSIONS):
        return "line"
    return "wrong" if answer else "refused"


def measure(name: str, values: Values, n: int, right: Table, wrong: Table) -> Iterator[str]:
    """Adds what was told of one column at one size of window to the tables; yields what was told wrongly."""
    rng = np.random.default_rng(zlib.crc32(f"{name}/{n}".encode()))
    rows = rng.choice(values, REFERENCE)
    layout = lay_out(from_columns({"x": number(rows)}))
    reference = profile(layout, rows, REFERENCE)

    def told(now: Values) -> str:
        naming = name_change(profile(layout, now, SAMPLE), reference, "x")
        return naming.name if naming is not None else ""

    for conversion in CONVERSIONS:
        with np.errstate(all="ignore"):
            now = conversion.forth(rng.choice(values, n))
        # a logarithm of nought or an exponential of thousands is no mistake that survives its first row
        if not np.isfinite(now).all() or not now.std() > 0 or np.abs(now).max() > 1e15:
            continue
        answer = told(now)
        kind = verdict(answer, conversion.name)
        for group in (f"{n:,} rows", conversion.name, name, "all"):
            right[group][kind] += 1
        if kind == "wrong":
            yield f"{name}, {n} rows: {conversion.name} named {answer}"
    draw = rng.choice(values, n)
    right["30 % Fahrenheit"][
        verdict(told(np.where(rng.random(n) < 0.3, draw * 1.8 + 32, draw)), "Celsius to Fahrenheit")
    ] += 1
    for change, change_of in NO_UNIT.items():
        answer = told(change_of(values, rng.choice(values, n), rng))
        kind = answer if answer in ("line", "") else "wrong"
        for group in (f"{n:,} rows", change, "all"):
            wrong[group][kind or "silent"] += 1
        if kind == "wrong":
            yield f"{name}, {n} rows: {change} named {answer}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=3, help="of each folder")
    options = parser.parse_args()
    right: Table = defaultdict(Counter)
    wrong: Table = defaultdict(Counter)
    for name, values in columns(options.data, options.columns):
        for n in WINDOWS:
            for line in measure(name, values, n, right, wrong):
                print(line)
    _show("conversions", right, ("right", "line", "refused", "wrong"))
    _show("no conversions", wrong, ("silent", "line", "wrong"))


def _show(title: str, table: Mapping[str, Counter[str]], kinds: tuple[str, ...]) -> None:
    print(f"\n{title:32}" + "".join(f"{kind:>10}" for kind in kinds) + f"{'of':>8}")
    for group, counts in table.items():
        total = counts.total()
        print(f"{group:32}" + "".join(f"{counts[kind] / total:10.3f}" for kind in kinds) + f"{total:8}")


if __name__ == "__main__":
    main()
