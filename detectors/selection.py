"""What an event deserves of the labelers: strategies, and the candidates that a part of a stream has for them.

A strategy says how much each row is wanted, 1 on average over the reference. From that come sizes for a draw with
known probabilities (`detectors.draw`). A strategy that is `certain` of a share of the labels gives that share to the
rows wanted most, whatever chance says; such labels stand for themselves alone, so a strategy that takes all of them
(`top_k`) teaches and does not measure. No want hangs on the rows beside it, so that draws of partitions can be merged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from detectors.core import Batch, Column, Floats, Kind, Role
from detectors.draw import Draw, Keys, mixed
from detectors.profile import NUMERIC, Profile
from detectors.reference import Reference

PART = 1 << 20  # of a want; a million rows of the greatest want there is stay exact in float64
LEAST = 0.1  # mean want under which it makes no difference: the floor is most of the sizes
ALIKE = 1e-3  # pairs of alike rows in the reference; where more are alike, content tells no row from another
FAR = 10.0  # deviations at which a place is cut, and the want of a column that has no end
_AT_ONCE = 100  # rows held against all others at once: 1,000 would take 16 MB for a moment
_SAMPLED = 1_000  # rows of the reference whose neighbours are looked for: 20 ms
_ROUNDS = 10  # of Lloyd's: the cells need not be the best, only the same on every replica

Measure = Literal["margin", "entropy", "least_confidence", "ratio"]


class Strategy(Protocol):
    """How much rows are wanted. Parameters are frozen; what is fitted on the reference is plain data."""

    @property
    def certain(self) -> float:
        """Share of the labels for the rows wanted most, for certain; what is left is then drawn evenly."""

    def fit(self, reference: Reference) -> Any:
        """Once a reference. None where it lacks what is looked at: then no row is wanted more than another."""

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        """(n,) from 0 on, 1 on average over the reference, NaN = not known. Called with scored rows and what `fit`
        gave, on the ingest thread; never raises on data."""


class Entropy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="entropy"):
    """By the square of the scores' entropy, which sees doubt among all classes (Shannon 1948)."""

    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        return _mean_square(reference, "entropy")

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return _squared(rows, "entropy", fitted)


class LeastConfidence(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="least_confidence"
):
    """By the square of what the largest chance lacks to 1 (Lewis and Gale 1994)."""

    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        return _mean_square(reference, "least_confidence")

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return _squared(rows, "least_confidence", fitted)


class Margin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="margin"):
    """By a power of 1 less the largest chance's lead over the second (Scheffer, Decomain, Wrobel 2001). Blind to a
    model that is sure and wrong, as all doubt is."""

    power: Annotated[
        float,
        Meta(
            description="The higher, the nearer to asking for the most doubtful alone: labels teach more and measure "
            "less sharply.",
            ge=1,
            le=8,
        ),
    ] = 3.0

    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        i = _number(reference, "margin")
        if i is None:
            return None
        margins = reference.profile.sample.numbers[:, i]
        return float(np.mean(self._doubt(margins[np.isfinite(margins)]))) or None

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return np.asarray(self._doubt(_values(rows, "margin")) / fitted)

    def _doubt(self, margins: Floats) -> Floats:
        return np.asarray((1.0 - np.clip(margins, 0.0, 1.0)) ** self.power)


class Ratio(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ratio"):
    """By the square of the second largest chance over the largest."""

    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        return _mean_square(reference, "ratio")

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return _squared(rows, "ratio", fitted)


class Disagreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="disagreement"):
    """By the entropy of a committee's votes, squared (Seung, Opper, Sompolinsky 1992). Needs column `vote_entropy`."""

    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        return _mean_square(reference, "vote_entropy")

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return _squared(rows, "vote_entropy", fitted)


class Novelty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="novelty"):
    """By how far column `novelty` lies above its mean in the reference, in deviations, squared. Blind to doubt: it
    asks for what is strange, also where the model is sure and right."""

    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        i = _number(reference, "novelty")
        if i is None:
            return None
        profile = reference.profile
        mean, deviation = float(profile.mean[i]), float(np.sqrt(profile.squares[i] / profile.counts[i]))
        known = reference.profile.sample.numbers[:, i]
        usual = float(np.nanmean(_above(known, mean, deviation))) if deviation > 0 else 0.0
        return {"mean": mean, "deviation": deviation, "usual": usual} if usual > 0 else None

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        above = _above(_values(rows, "novelty"), fitted["mean"], fitted["deviation"])
        return np.asarray(above / fitted["usual"])


class Clusters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="clusters"):
    """Exploration: as many labels from each of `cells` parts of the input space, however many events a part has.

    The cells are those of k-means (Lloyd 1957) on 1,000 rows of the reference, by its number columns or the
    projections of its embedding. Blind to doubt and to answers.
    """

    cells: Annotated[int, Meta(description="Parts of the input space.", ge=2, le=100)] = 20
    certain = 0.0

    def fit(self, reference: Reference) -> Any:
        places = places_of(reference)
        if places is None:
            return None
        rows = places.of(reference.profile.sample.numbers[:_SAMPLED, places.columns])
        centers, cell = _lloyd(rows, self.cells)
        share = np.bincount(cell, minlength=len(centers)) / len(rows)
        wants = 1.0 / np.maximum(share * len(centers), 1.0 / len(rows))
        return {"places": places._asdict(), "centers": centers, "wants": wants}

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        standard = Places(**fitted["places"]).rows(rows)
        return np.asarray(fitted["wants"][_nearest(standard, fitted["centers"])])


class PMix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="p_mix"):
    """A share `p` of the labels for the greatest doubt for certain, the others at random. The random ones measure."""

    p: Annotated[float, Meta(description="Share of the labels that exploits; the rest explores.", ge=0, lt=1)] = 0.8
    by: Annotated[Measure, Meta(description="The measure of doubt.")] = "entropy"

    @property
    def certain(self) -> float:
        return self.p

    def fit(self, reference: Reference) -> Any:
        return _mean_square(reference, self.by)

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return _squared(rows, self.by, fitted)


class TopK(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="top_k"):
    """The rows of greatest doubt and no others.

    The best teacher and the worst witness: accuracy read off such labels is tens of points too low, so they are not
    used for monitoring.
    """

    by: Annotated[Measure, Meta(description="The measure of doubt.")] = "margin"
    certain = 1.0

    def fit(self, reference: Reference) -> Any:
        return _mean_square(reference, self.by)

    def wants(self, rows: Batch, fitted: Any) -> Floats:
        return _squared(rows, self.by, fitted)


def sizes(wants: Floats, floor: float) -> Floats:
    """Sizes (n,) for a draw: wants (n,) mixed with a uniform floor; 1 where nothing is known.

    >>> sizes(np.array([0.0, 1.0, 4.0, np.nan]), floor=0.2).tolist()
    [0.2, 1.0, 3.4000000000000004, 1.0]
    """
    return np.where(np.isfinite(wants), (1.0 - floor) * wants + floor, 1.0)


def balance(label: Column | None, shares: Mapping[str, float]) -> Floats | float:
    """Factor of the sizes by what was answered (n,); `shares` gives the factor of a class, 1 for any other.

    >>> from detectors.core import category
    >>> balance(category(["a", "b", None]), {"b": 2.0}).tolist()
    [1.0, 2.0, 1.0]
    """
    if label is None or label.kind is not Kind.CATEGORY or not shares:
        return 1.0
    return np.asarray(np.array([*(shares.get(word, 1.0) for word in label.words), 1.0])[label.values])


def answered(reference: Reference) -> dict[str, float]:
    """Share of each class among the reference's answers, half a row more for each so that none is 0; {} without any."""
    layout = reference.layout
    if "label" not in layout.categories:
        return {}
    words = layout.words[layout.categories.index("label")]
    counts = reference.profile.word_counts("label") + 0.5
    return dict(zip(words, (counts / counts.sum()).tolist(), strict=True))


def factors(shares: Mapping[str, float], targets: Mapping[str, float] | None = None) -> dict[str, float]:
    """Factor of each class's sizes towards its target share of the labels: (target / share) ** 0.5, from 1/4 to 4.

    Without `targets` all classes have the same. The root goes half of the way: the whole would ask of a class that is
    answered once in a thousand for the same few events again and again. A class that was never answered counts as
    the rarest.

    >>> factors({"a": 0.64, "b": 0.36}, {"b": 0.72})
    {'b': 1.4142135623730951}
    """
    rarest = min(shares.values(), default=1.0)
    targets = dict.fromkeys(shares, 1.0 / len(shares)) if targets is None and shares else targets or {}
    return {word: min(max((want / shares.get(word, rarest)) ** 0.5, 0.25), 4.0) for word, want in targets.items()}


def resized(draw: Draw, wants: Floats, before: float, floor: float, mean: float) -> Draw:
    """The draw with another floor than `before`, and with wants (k,) of its rows over their mean in all that was seen.

    Drift that puts every answer in doubt must not do away with the floor, nor a model that is hardly ever in doubt with
    all but the floor. Exact, though only the draw's own rows are at hand; where the floor rises or wants fell far, the
    draw is shorter.
    """
    mean = max(mean, LEAST)
    # both sizes are straight lines in the want, so their ratio is greatest at an end; where it is unknown they agree
    most = max(floor / before, (1.0 - floor) / (1.0 - before) / mean if before < 1.0 else 1.0, 1.0)
    return draw.resized(draw.sizes * sizes(wants / mean, floor) / sizes(wants, before), most)


class Pools(msgspec.Struct):
    """The candidates of a part of a stream: the draw, and by reason those that may be taken for certain. Plain data,
    merged in any order."""

    draw: Draw
    asked: dict[str, Draw] = {}
    wanted: int = 0  # sum of the wants, in parts of `PART`: whole numbers have one sum in any order
    known: int = 0  # rows whose want is known
    rules: str = ""  # digest of those that it was made by

    @property
    def mean(self) -> float:
        """Of the wants; 1 where none is known, as over the reference."""
        return self.wanted / PART / self.known if self.known else 1.0

    def count(self, wants: Floats) -> None:
        """Adds rows' wants to the mean."""
        known = wants[np.isfinite(wants)]
        self.wanted += int(np.round(known * PART).sum())
        self.known += known.size

    def pool(self, reason: str, empty: Draw) -> Draw:
        """The pool of a reason, begun as `empty`."""
        return self.asked.setdefault(reason, empty)

    def keep(self, reasons: Collection[str]) -> None:
        """Drops the pools of all other reasons."""
        self.asked = {reason: pool for reason, pool in self.asked.items() if reason in reasons}

    def merge(self, other: Pools) -> None:
        """Adds another part's. ValueError where it was made by other rules."""
        self.draw.merge(other.draw)
        self.wanted += other.wanted
        self.known += other.known
        for reason, draw in other.asked.items():
            if reason in self.asked:
                self.asked[reason].merge(draw)
            else:
                self.asked[reason] = draw


class Contents(msgspec.Struct, frozen=True):
    """By which columns rows are one and the same; none where content does not tell rows apart."""

    columns: tuple[str, ...] = ()

    def ids(self, rows: Batch) -> Keys:
        """Equal for rows of equal content (n,), else different; the rows' own keys where content says nothing."""
        if not self.columns:
            return rows.keys
        found = np.zeros(len(rows), np.uint64)
        for name in self.columns:
            found = mixed(found + np.uint64(0x9E3779B97F4A7C15) ^ _bits(rows.get(name), len(rows)))
        return found


def contents_of(reference: Reference) -> Contents:
    """What tells the model's events apart: inputs, or else the embedding, with the answer and who gave it.

    Where over one pair in 1,000 of the reference is alike (few columns, or few values), one label would be made to
    stand for events whose truths differ; there each event is its own.
    """
    inputs = [spec for spec in reference.schema if spec.role is Role.INPUT]
    inputs = inputs or [spec for spec in reference.schema if spec.name == "embedding"]
    if not inputs:
        return Contents()
    names = [spec.name for spec in inputs]
    sample, layout = reference.profile.sample, reference.layout
    numbers = sample.numbers[:, [i for i, name in enumerate(layout.numbers) if name in names]]
    codes = sample.codes[:, [i for i, name in enumerate(layout.categories) if name in names]]
    if all(spec.kind not in (Kind.TEXT, Kind.VECTOR) for spec in inputs):
        rows = np.concatenate([np.nan_to_num(numbers, nan=np.inf), codes], axis=1)
        _, copies = np.unique(rows, axis=0, return_counts=True)
        if (copies * (copies - 1)).sum() > ALIKE * len(rows) * max(len(rows) - 1, 1):
            return Contents()
    answers = [spec.name for spec in reference.schema if spec.name in ("label", "version")]
    return Contents((*names, *answers))


def _bits(column: Column | None, n: int) -> Keys:
    """A value's bits (n,): equal for equal values, whatever the batch."""
    if column is None:
        return np.zeros(n, np.uint64)
    if column.kind in NUMERIC:
        return np.where(np.isnan(column.values), 0.0, column.values + 0.0).view(np.uint64) + column.missing()
    if column.kind is Kind.CATEGORY:
        return np.asarray(np.array([*map(_hashed, column.words), 0], np.uint64)[column.values])
    if column.kind is Kind.TEXT:
        return np.fromiter((0 if v is None else _hashed(v) for v in column.values), np.uint64, n)
    return np.fromiter((xxh3_64_intdigest(row.tobytes()) for row in column.values), np.uint64, n)


def _hashed(word: str) -> int:
    return xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


class Places(NamedTuple):
    """Where rows lie: number columns on one scale, those of the projections where there is an embedding."""

    names: tuple[str, ...]
    columns: list[int]  # of them in the layout's numbers
    center: Floats
    inverse: Floats

    def of(self, values: Floats) -> Floats:
        """Places (n, columns) of values (n, columns); a missing one stands at the mean."""
        return _standardised(values, self.center, self.inverse)

    def rows(self, rows: Batch) -> Floats:
        """Places (n, columns) of a batch's rows."""
        return self.of(np.column_stack([_values(rows, name) for name in self.names]))


def places_of(reference: Reference) -> Places | None:
    """The scale of the reference; None where it has no number to tell places by."""
    layout, sample = reference.layout, reference.profile.sample
    names = [name for name in layout.numbers if re.fullmatch(r"projection_\d+", name)]
    names = names or [name for name in layout.numbers if reference.role(name) is Role.INPUT]
    columns = [layout.numbers.index(name) for name in names]
    profile = reference.profile
    deviation = np.sqrt(profile.squares[columns] / np.maximum(profile.counts[columns], 1))
    usable = np.isfinite(deviation) & (deviation > 0)
    if not usable.any() or not len(sample.keys):
        return None
    kept = [column for column, use in zip(columns, usable.tolist(), strict=True) if use]
    return Places(tuple(layout.numbers[column] for column in kept), kept, profile.mean[kept], 1.0 / deviation[usable])


def nearness(reference: Reference, places: Places) -> float:
    """Distance within which two rows are nearly one: the 1st percentile of the distances of the reference's rows to
    their nearest neighbours, of 1,000 rows."""
    rows = places.of(reference.profile.sample.numbers[:_SAMPLED, places.columns])
    if len(rows) < 2:
        return 0.0
    nearest = np.empty(len(rows))
    for first in range(0, len(rows), _AT_ONCE):
        part = rows[first : first + _AT_ONCE]
        squares = _distances(part, rows)
        own = np.arange(len(part))
        squares[own, first + own] = np.inf
        nearest[first : first + len(part)] = squares.min(axis=1)
    return float(np.sqrt(np.quantile(nearest, 0.01)))


def region(profile: Profile, reference: Profile, column: str) -> Floats:
    """How much oftener than in the reference the rows of a profile's sample come, by their value in one column (k,).

    The share of the value's cell, or word, now over then; a missing value as one more word. 1 where nothing is known
    of the column. Blind to what moved within a cell.
    """
    layout, sample = profile.layout, profile.sample
    if column in layout.numbers:
        i = layout.numbers.index(column)
        at = np.searchsorted(layout.edges[i], sample.numbers[:, i])
        at = np.where(np.isnan(sample.numbers[:, i]), profile.cells.shape[1], at)
        now, then = (np.append(p.cells[i], p.missing[i]).astype(np.float64) for p in (profile, reference))
    elif column in layout.categories:
        i = layout.categories.index(column)
        known = len(layout.words[i])
        at = np.where(sample.codes[:, i] >= 0, sample.codes[:, i], known - 1 - sample.codes[:, i])
        now, then = (
            np.concatenate([p.word_counts(column), [p.missing[layout.index[column]], p.unseen[i]]]).astype(np.float64)
            for p in (profile, reference)
        )
    else:
        return np.ones(len(sample.keys))
    # half a row more, so that a cell which the reference lacks is rare and not impossible
    return np.asarray(((now + 0.5) / (now.sum() + 1.0) / ((then + 0.5) / (then.sum() + 1.0)))[at])


def _number(reference: Reference, column: str) -> int | None:
    """Of a number column with values, where it stands in the layout."""
    numbers = reference.layout.numbers
    found = numbers.index(column) if column in numbers else None
    return found if found is not None and reference.profile.counts[found] else None


def _mean_square(reference: Reference, column: str) -> float | None:
    """Of doubt over the reference's rows; None where it has no such column, or is never in doubt."""
    i = _number(reference, column)
    if i is None:
        return None
    mean = float(reference.profile.mean[i])
    mean = 1.0 - mean if column == "margin" else mean
    return mean**2 + float(reference.profile.squares[i] / reference.profile.counts[i]) or None


def _values(rows: Batch, name: str) -> Floats:
    column = rows.get(name)
    return np.full(len(rows), np.nan) if column is None or column.kind not in NUMERIC else column.values


def _squared(rows: Batch, column: str, mean_square: float) -> Floats:
    """A measure of doubt, from 0 to 1 and rising, squared, over its mean square in the reference."""
    values = np.clip(_values(rows, column), 0.0, 1.0)
    return np.asarray((1.0 - values if column == "margin" else values) ** 2 / mean_square)


def _above(values: Floats, mean: float, deviation: float) -> Floats:
    return np.asarray(np.clip((values - mean) / deviation, 0.0, FAR) ** 2)


def _standardised(values: Floats, center: Floats, inverse: Floats) -> Floats:
    return np.nan_to_num(np.clip((values - center) * inverse, -FAR, FAR), nan=0.0)


def _distances(a: Floats, b: Floats) -> Floats:
    """Squared, (n, m)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _nearest(rows: Floats, centers: Floats) -> NDArray[np.intp]:
    return np.asarray(_distances(rows, centers).argmin(axis=1))


def _lloyd(rows: Floats, cells: int) -> tuple[Floats, NDArray[np.intp]]:
    """Centers (at most `cells`, columns) and each row's, from starts as far apart as there are."""
    distance = _distances(rows, rows[:1])[:, 0]
    starts: Sequence[int] = [0]
    while len(starts) < cells and distance.max() > 0:
        starts = [*starts, int(distance.argmax())]
        distance = np.minimum(distance, _distances(rows, rows[starts[-1:]])[:, 0])
    centers = rows[starts].copy()
    cell = _nearest(rows, centers)
    for _ in range(_ROUNDS):
        for i in range(len(centers)):
            if (cell == i).any():
                centers[i] = rows[cell == i].mean(axis=0)
        cell = _nearest(rows, centers)
    return centers, cell
