"""Columns that show a change of dependence which no single column shows: how surprising each value is, given the rest.

Every column is predicted from the columns it is most tied to; what the row's own value says beyond its marginal is a
number per row, and an e-detector over it needs to know nothing of joint laws. For ties that are yet to come, products
of columns cover the pairs thinly. All are functions of the row alone, fixed by rows that are not counted afterwards,
so ranks among the other rows of the reference stay exact. Blind to a new tie of three and more columns that leaves
every pair as it was.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats
from detectors.evidence import normal
from detectors.evidence.normal import NormalScores
from detectors.profile import MISSING

WORDS = 64  # of a category that are told apart; the rest lie where unknown words do, in the middle
NEIGHBOURS = 16  # features that a column is predicted from: 0.25 KB a column, and no more to learn from 250 rows
LOOSE = 0.9  # of its variance that the others leave open of a column which they do not foretell
RIDGE = 0.3  # of a feature's variance; of 0.05 to 0.6 the best over four tables fitted on 250 rows


class Joint(msgspec.Struct, frozen=True):
    """What `fit` learned; plain data. Columns are the numbers and then the categories, F together."""

    scores: NormalScores
    places: NDArray[np.float64]  # (categories, WORDS) of each word on the line that says most of the other columns
    neighbours: NDArray[np.int32]  # (F, up to NEIGHBOURS) features: i = column i, F + i = its distance from the middle
    slopes: NDArray[np.float64]  # the same shape
    middle: NDArray[np.float64]  # (2F,) mean of each feature
    noise: NDArray[np.float64]  # (F,) variance of what the neighbours leave unexplained; 0 = a constant column
    partners: NDArray[np.int32]  # (F,) the column it is multiplied with; each is partner once

    @property
    def worth(self) -> Floats:
        """What each of the extra columns (2F + 1,) is worth watching, relative to the others; 0 = can show nothing."""
        # one of a column: how surprising it is where the others foretell it, else a product, for ties yet to come
        alive = self.noise > 0
        foretold = alive & (self.noise < LOOSE)
        product = 0.5 * (alive & alive[self.partners] & ~foretold)
        # the total is what sees many small breaks at once: with a quarter of the budget half a table's columns torn
        # from the others were found after 32 rows instead of 96, and a single torn one 4 % later
        return np.concatenate([foretold, product, [alive.sum() / 3]])

    def standard(self, numbers: Floats, codes: NDArray[np.integer]) -> Floats:
        """All columns (n, F) on one scale, mean 0 and variance 1: normal scores, and words by their places."""
        return np.concatenate([self.scores.of(numbers), _placed(self.places, codes)], axis=1)

    def columns(self, numbers: Floats, codes: NDArray[np.integer]) -> Floats:
        """Extra columns (n, 2F + 1): F surprises, F products with a partner, the row's total surprise.

        Surprise is twice the log of how much less likely a value is beside its neighbours than alone, for normal scores
        under a normal law: e^2 / noise - z^2. Negative where the row is as the ties foretell; when a tie breaks it
        rises by about 1 / noise. NaN where the value is missing; a missing neighbour counts as its mean. `numbers`
        (n, numbers), NaN = missing; `codes` (n, categories): a word, MISSING, or OTHER, in the middle of its line.
        """
        scores = self.standard(numbers, codes)
        known = np.nan_to_num(scores)
        features = np.concatenate([known, _folded(known)], axis=1) - self.middle
        expected = _foretold(features, self.neighbours, self.slopes)
        surprise = (scores - expected) ** 2 / np.where(self.noise > 0, self.noise, np.inf) - scores**2
        surprise = np.where(self.noise > 0, surprise, np.nan)
        seen = ~np.isnan(surprise)
        total = np.where(seen.any(axis=1), np.nansum(surprise, axis=1), np.nan)
        return np.column_stack([surprise, scores * scores[:, self.partners], total])


def _placed(places: Floats, codes: NDArray[np.integer]) -> Floats:
    """Categories (n, categories) as numbers: where each row's word lies, 0 for an unknown one, NaN for none."""
    out = np.zeros(codes.shape)
    for c in range(codes.shape[1]):
        known = (codes[:, c] >= 0) & (codes[:, c] < WORDS)
        out[known, c] = places[c, codes[known, c]]
    out[codes == MISSING] = np.nan
    return out


def _folded(scores: Floats) -> Floats:
    """Distance from the middle, about standard: shows a dependence that goes up on both sides, or of spread."""
    return np.asarray((np.minimum(scores**2, 4.0) - 1) / 1.3)


def _foretold(features: Floats, neighbours: NDArray[np.int32], slopes: Floats) -> Floats:
    """Each column (n, F) as its neighbours foretell it."""
    of = np.ascontiguousarray(features.T)  # whole columns are copied three times faster than picked from every row
    out = np.zeros((len(neighbours), len(features)))
    for k in range(neighbours.shape[1]):  # neighbour by neighbour: 16 passes instead of an array of 16 times the size
        part = of[neighbours[:, k]]
        part *= slopes[:, k, None]
        out += part
    return out.T


def fit(numbers: Floats, codes: NDArray[np.integer]) -> Joint:
    """The ties among reference rows: `numbers` (m, numbers), NaN = missing, `codes` (m, categories), under 0 = missing.

    For exact ranks give it the rows that also cut the cells (the first quarter) and rank among the others. From 100
    rows on; with fewer it finds little and promises nothing wrong.

    >>> rng = np.random.default_rng(0); x = rng.normal(size=500); y = x + 0.2 * rng.normal(size=500)
    >>> joint = fit(np.column_stack([x, y]), np.zeros((500, 0), np.int32)); joint.noise.round(2).tolist()
    [0.09, 0.09]
    >>> joint.columns(np.array([[1.0, 1.0], [1.0, -1.0]]), np.zeros((2, 0), np.int32)).round().tolist()
    [[-0.0, -0.0, 1.0, 1.0, -1.0], [31.0, 31.0, -1.0, -1.0, 62.0]]
    """
    scores = normal.fit(numbers)
    z = np.nan_to_num(scores.of(numbers))
    places = _places(z, codes)
    z = np.concatenate([z, np.nan_to_num(_placed(places, codes))], axis=1)
    features = np.concatenate([z, _folded(z)], axis=1)
    middle = features.mean(axis=0)
    features -= middle
    neighbours, slopes = _ties(features)
    left = (features[:, : z.shape[1]] - _foretold(features, neighbours, slopes)) ** 2
    noise = left.mean(axis=0) * (z.std(axis=0) > 0)
    return Joint(scores, places, neighbours, slopes, middle, noise, _partners(z.shape[1]))


def _places(z: Floats, codes: NDArray[np.integer]) -> Floats:
    """Where each word lies (categories, WORDS): the first axis of a correspondence analysis with all other columns.

    Words are apart as far as the means of the other columns differ between them (Benzecri 1973); standardised.
    """
    rows, width = codes.shape
    coded = [np.where((codes[:, c] >= 0) & (codes[:, c] < WORDS), codes[:, c], WORDS) for c in range(width)]
    counts = [np.bincount(code, minlength=WORDS + 1)[:WORDS].astype(np.float64) for code in coded]
    centered = z - z.mean(axis=0)
    places = np.zeros((width, WORDS))
    for c, (code, count) in enumerate(zip(coded, counts, strict=True)):
        sums = np.zeros((WORDS + 1, z.shape[1]))
        np.add.at(sums, code, centered)
        # Of the other words by counts alone: a table of all words by all rows would be 30 MB of a small daemon.
        tied = [_standard(_together(code, coded[d]), count, counts[d], rows) for d in range(width) if d != c]
        share = count / max(count.sum(), 1)
        # five rows of nothing: a word seen once says little of where it lies
        means = np.concatenate([sums[:WORDS], *tied], axis=1) / (count + 5)[:, None]
        axis = np.linalg.svd(np.sqrt(share)[:, None] * means, full_matrices=False)[0][:, :1]
        place = axis[:, 0] / np.sqrt(np.maximum(share, 1e-12)) * (count > 0) if axis.size else np.zeros(WORDS)
        place = (place - share @ place) * (count > 0)
        spread = np.sqrt(share @ place**2)
        places[c] = place / spread if spread > 1e-9 else 0.0
    return places


def _together(a: NDArray[np.integer], b: NDArray[np.integer]) -> Floats:
    """In how many rows each two words come (WORDS, WORDS)."""
    both = np.bincount(a * (WORDS + 1) + b, minlength=(WORDS + 1) ** 2).reshape(WORDS + 1, WORDS + 1)
    return both[:WORDS, :WORDS].astype(np.float64)


def _standard(together: Floats, count: Floats, other: Floats, rows: int) -> Floats:
    """Of each word, the sum of another column's standardised words over its rows (WORDS, words that vary)."""
    share = other / rows
    varies = (share > 0) & (share < 1)
    spread = np.sqrt(share * (1.0 - share))[varies]
    return np.asarray((together - count[:, None] * share)[:, varies] / spread)


def _ties(features: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Of each column the features most correlated with it (F, k), its own left out, and their slopes by ridge."""
    both = features.shape[1]
    columns = both // 2
    moments = features.T @ features / len(features)
    spread = np.sqrt(np.diag(moments))
    close = np.abs(moments[:columns]) / np.maximum(spread[:columns, None] * spread, 1e-12)
    own = np.arange(columns)
    close[own, own] = close[own, own + columns] = -1.0
    k = max(min(NEIGHBOURS, both - 2), 0)
    neighbours = np.argsort(-close, axis=1, kind="stable")[:, :k].astype(np.int32)
    among = moments[neighbours[:, :, None], neighbours[:, None, :]] + RIDGE * np.eye(k)
    slopes = np.linalg.solve(among, moments[neighbours, own[:, None]][:, :, None])[:, :, 0]
    return neighbours, np.asarray(slopes)


def _partners(columns: int) -> NDArray[np.int32]:
    """A round in an order that has nothing to do with how columns are named: everyone's partner is the next."""
    order = np.random.default_rng(0).permutation(columns).astype(np.int32)
    partners = np.empty(columns, np.int32)
    partners[order] = np.roll(order, -1)
    return partners
