"""Labelled streams of real data: those of the shared bench, and suites of our own.

The bench's are made by its own `streams.py`, read where it lies. Ours use the truths that came with the data and that
no suite of the bench uses: borders of batches, the date two markets were coupled, annotated change points, classes,
texts, people entering a room.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.core import Column, Floats, Kind, number, text, vector

SHORT = 3  # streams of each suite in the short form
SHORT_ROWS = 3_000  # of a stream without a change, in the short form
SHORT_CHANGE = 1_000  # rows of a change there
NEAR_BENCH = "bench/detection/streams.py"

Span = tuple[int, int]
Columns = dict[str, Column]


class Case(NamedTuple):
    """A stream: columns known to be calm, columns to watch, and what is true of them."""

    suite: str
    name: str
    kind: str
    reference: Columns
    rows: Columns
    quiet: Sequence[Span]  # where every alarm is false
    changes: Sequence[Span]  # where the first alarm is a detection
    moved: Sequence[int] = ()  # numbers of the columns that truly moved

    @property
    def key(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def size(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def truth(self) -> dict[str, Any]:
        return {
            "suite": self.suite, "kind": self.kind, "n": self.size, "quiet": [list(span) for span in self.quiet],
            "changes": [list(span) for span in self.changes], "moved": list(self.moved),
        }  # fmt: skip


# -- streams of the shared bench


def by_path(path: Path) -> Any:
    """A module of the bench, from where it lies."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def bench_of(data: Path) -> Path:
    """Where the bench's streams are, told by nobody: beside this checkout, or beside the data."""
    for place in (Path(__file__).parents[2] / "shared" / NEAR_BENCH, data.resolve().parent / NEAR_BENCH):
        if place.exists():
            return place
    raise SystemExit(f"no {NEAR_BENCH} beside this checkout or beside {data}: name it with --streams")


def given(bench: Any, suite: str, data: Path) -> Iterator[Case]:
    """A suite of the bench. An error stream has the name and kind that the daemon gives errors of joined labels."""
    for stream in bench.SUITES[suite](data):
        if suite == "perf":
            reference, rows = ({"error": number(values, kind=Kind.FLAG)} for values in (stream.ref, stream.x))
        else:
            reference, rows = tables(stream.ref), tables(stream.x)
        yield Case(suite, stream.name, stream.kind, reference, rows, stream.quiet, stream.changes, stream.moved)


def tables(values: Floats) -> Columns:
    """A column `x`, or `x00` and so on."""
    if values.ndim == 1:
        return {"x": number(values)}
    return {f"x{i:02d}": number(np.ascontiguousarray(column)) for i, column in enumerate(values.T)}


# -- suites of our own: truths that came with the data and no suite of the bench uses


def gas(bench: Any, data: Path) -> Iterator[Case]:
    """Ageing sensors: the border between two batches of measurements. Within a batch the order means nothing."""
    table = bench.load(data, "gas_sensor", "gas.csv.gz")
    sensors = table[[name for name in table.columns if name.endswith("_dR")]].to_numpy(np.float64)
    for name, said in bench.truth(data, "gas_sensor").items():
        starts = [0, *said["batch_starts"], said["n"]]
        for before, border, after in zip(starts, starts[1:], starts[2:], strict=False):
            known = (border - before) // 2
            if known < 100:
                continue  # less is no reference for sixteen columns
            for copy in range(3):
                rng = bench.rng_of("gas", name, border, copy)
                rows = np.concatenate(
                    [before + rng.permutation(border - before), border + rng.permutation(after - border)]
                )
                calm = border - before - known
                yield Case(
                    "gas", f"{name}.{border}#{copy}", "border", tables(sensors[rows[:known]]),
                    tables(sensors[rows[known:]]), [(0, calm)], [(calm, calm + after - border)],
                )  # fmt: skip


def elec2(bench: Any, data: Path) -> Iterator[Case]:
    """Two electricity markets are coupled: three columns, constant until then, begin to move. Eight quiet weeks."""
    week = 7 * 48
    table = bench.load(data, "elec2", "elec2.csv.gz")
    columns = [name for name in table.columns if name not in ("period", "class")]
    for name, said in bench.truth(data, "elec2").items():
        start = said["coupling_starts"]
        first, calm = start - 12 * week, 8 * week
        rows = table[columns].to_numpy(np.float64)[first : start + 2 * week]
        known = len(rows) - calm - 2 * week
        yield Case(
            "elec2",
            name,
            "coupling",
            tables(rows[:known]),
            tables(rows[known:]),
            [(0, calm)],
            [(calm, calm + 2 * week)],
        )


def tcpd(bench: Any, data: Path) -> Iterator[Case]:
    """Short series with the change points that at least half of their annotators set, to within five points."""
    for name, said in bench.truth(data, "tcpd").items():
        values = bench.load(data, "tcpd", f"{name}.csv.gz").to_numpy(np.float64)
        marks = list(said["annotators"].values())
        agreed: list[int] = []
        for point in sorted({point for own in marks for point in own}):
            votes = sum(any(abs(point - other) <= 5 for other in own) for own in marks)
            if 2 * votes >= len(marks) and (not agreed or point - agreed[-1] > 10):
                agreed.append(point)
        known = min([len(values) // 3, *agreed])
        if known < 30:
            continue
        points = [point - known for point in agreed if point > known]
        ends = [*points[1:], len(values) - known]
        changes = [(start, end) for start, end in zip(points, ends, strict=False) if points]
        calm = [(0, points[0] if points else len(values) - known)]
        rows = values[:, 0] if values.shape[1] == 1 else values
        yield Case("tcpd", name, "annotated", tables(rows[:known]), tables(rows[known:]), calm, changes)


def digits(bench: Any, data: Path) -> Iterator[Case]:
    """Embeddings: one class takes half of the stream, or the pictures are turned, blurred or noisy."""
    table = bench.load(data, "digits", "digits.csv.gz")
    classes, pixels = table["digit"].to_numpy(), table.drop(columns="digit").to_numpy(np.float64)
    known, calm, after = 600, 1_500, 1_500

    def turned(images: Floats, _: np.random.Generator) -> Floats:
        return np.rot90(images.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)

    def blurred(images: Floats, _: np.random.Generator) -> Floats:
        grid = images.reshape(-1, 8, 8)
        around = [np.roll(grid, (x, y), axis=(1, 2)) for x in (-1, 0, 1) for y in (-1, 0, 1)]
        return np.asarray(np.mean(around, axis=0)).reshape(-1, 64)

    def noisy(images: Floats, rng: np.random.Generator) -> Floats:
        return np.clip(images + rng.normal(0, 4, images.shape), 0, 16)

    def favoured(images: Floats, rng: np.random.Generator) -> Floats:
        mine = pixels[classes == rng.integers(10)]
        chosen = rng.random(len(images)) < 0.5
        return np.where(chosen[:, None], mine[rng.integers(0, len(mine), len(images))], images)

    kinds: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
        "share": favoured, "turned": turned, "blurred": blurred, "noisy": noisy
    }  # fmt: skip
    for kind, change in kinds.items():
        for copy in range(3):
            rng = bench.rng_of("digits", kind, copy)
            images = pixels[rng.integers(0, len(pixels), known + calm + after)]
            images[known + calm :] = change(images[known + calm :], rng)
            yield Case(
                "digits", f"{kind}#{copy}", kind, {"embedding": vector(images[:known])},
                {"embedding": vector(images[known:])}, [(0, calm)], [(calm, calm + after)],
            )  # fmt: skip


def sms(bench: Any, data: Path) -> Iterator[Case]:
    """Messages: spam goes from an eighth to four tenths, texts are cut short, or a tenth is in unknown words."""
    table = bench.load(data, "sms_spam", "sms.csv.gz")
    texts, spam = table["text"].astype(str).to_numpy(object), (table["label"] == "spam").to_numpy()
    known, calm, after = 1_000, 2_000, 2_000

    def spammed(rows: NDArray[np.object_], rng: np.random.Generator) -> NDArray[np.object_]:
        chosen = rng.random(len(rows)) < 0.3
        return np.where(chosen, rng.choice(texts[spam], len(rows)), rows)

    def cut(rows: NDArray[np.object_], _: np.random.Generator) -> NDArray[np.object_]:
        return np.array([row[:60] for row in rows], object)

    def foreign(rows: NDArray[np.object_], rng: np.random.Generator) -> NDArray[np.object_]:
        chosen = rng.random(len(rows)) < 0.1
        return np.array([row[::-1] if odd else row for row, odd in zip(rows, chosen, strict=True)], object)

    for kind, change in {"spam": spammed, "short": cut, "foreign": foreign}.items():
        for copy in range(3):
            rng = bench.rng_of("sms", kind, copy)
            rows = rng.choice(texts, known + calm + after)
            rows[known + calm :] = change(rows[known + calm :], rng)
            yield Case(
                "sms", f"{kind}#{copy}", kind, {"text": text(rows[:known])}, {"text": text(rows[known:])},
                [(0, calm)], [(calm, calm + after)],
            )  # fmt: skip


def occupancy(bench: Any, data: Path) -> Iterator[Case]:
    """A room's sensors by the minute: the empty hours are quiet, people coming for more than an hour is the change."""
    known, shortest, gap = 400, 60, 60
    for name, said in bench.truth(data, "occupancy").items():
        table = bench.load(data, "occupancy", f"{name}.csv.gz")
        rows = table[["Temperature", "Humidity", "Light", "CO2"]].to_numpy(np.float64)
        stays: list[Span] = []
        for start, end in said["occupied"]:
            if stays and start - stays[-1][1] < gap:
                stays[-1] = (stays[-1][0], end)
            else:
                stays.append((start, end))
        for (_, left), (came, gone) in pairwise(stays):
            if came - left >= known + 100 and gone - came >= shortest:
                calm = came - left - known
                yield Case(
                    "occupancy", f"{name}.{came}", "people", tables(rows[left : left + known]),
                    tables(rows[left + known : gone]), [(0, calm)], [(calm, calm + gone - came)],
                )  # fmt: skip


def cause(bench: Any, data: Path) -> Iterator[Case]:
    """Twenty columns of which one or five move: which are named first. More draws of the bench's own recipe."""
    for stream in bench.multi(data, copies=8):
        if stream.kind.startswith(("one", "five")):
            yield Case(
                "cause", stream.name, stream.kind, tables(stream.ref), tables(stream.x), stream.quiet, stream.changes,
                stream.moved,
            )  # fmt: skip


OWN = (cause, gas, elec2, tcpd, digits, sms, occupancy)


def suites(bench: Any, data: Path) -> dict[str, Callable[[], Iterator[Case]]]:
    """Every suite by its name."""
    found: dict[str, Callable[[], Iterator[Case]]] = {
        name: functools.partial(given, bench, name, data) for name in bench.SUITES
    }
    return found | {suite.__name__: functools.partial(suite, bench, data) for suite in OWN}


def shortened(cases: Iterable[Case]) -> Iterator[Case]:
    """A few cases spread over the suite: of each the first rows, or those up to a while after its first change."""
    held = list(cases)
    for case in held[:: math.ceil(len(held) / SHORT)][:SHORT]:
        end = min(case.size, SHORT_ROWS if not case.changes else case.changes[0][0] + SHORT_CHANGE)
        yield case._replace(
            rows={name: column.take(slice(end)) for name, column in case.rows.items()},
            quiet=[(first, min(last, end)) for first, last in case.quiet if first < end],
            changes=[(first, min(last, end)) for first, last in case.changes if first < end],
        )
