"""What the labels of a draw say of all the rows it was drawn from: without bias, however unequal the chances were.

The expectations of all rows are added up, and the labelled rows say by how much they are off (difference estimator,
Cassel, Sarndal, Wretman 1976; as prediction-powered inference Angelopoulos et al. 2023). What a reader would get wrong:
a mean of the labels themselves is off by 31 points where doubtful rows are drawn first; and nothing may be tuned on the
labels it is used on, so `Tuning` knows earlier batches only.
"""

from __future__ import annotations

from math import hypot, inf, sqrt

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from detectors.core import Floats, Mask

Z = 1.6448536269514722  # of a 90 % interval
HALF = 8.0  # batches in which what was tuned forgets half
SHRINK = 5.0  # labels' worth of belief that expectations are as calibrated as they are said to be
BELIEF = 60.0  # labels' worth of belief in the variance that expectations imply: no luck closes an interval
MEMORY = 100.0  # labels' worth of variance remembered: more would not follow a change
ALIKE = 0.1  # of a row's variance is that of any row: a change makes sure answers wrong, too
SUREST = 0.02  # no answer is surer than that
STEPS = np.array([0.01, 0.03, 0.1, 0.3])  # standard deviations by which the offset may move from batch to batch
STAY = 0.8  # chance that it goes on moving as it did
FIRST = 0.03  # standard deviation by which calibrated expectations are off at first
RENEWED = 0.1  # and after another version, or other expectations, came
TAILS = 6.0  # degrees of freedom of a batch's surprise: one wild batch does not teach that all are
UNLIKE = 2.6  # standard errors: labels that come back at random look more picked than that once in 100 times


class Labelled(msgspec.Struct, frozen=True):
    """Labelled rows of one or more draws, and the totals of the rows that they were drawn from. Plain data."""

    rows: int  # drawn from, copies counted each
    expected: float  # sum of what was expected of them all
    outcome: NDArray[np.float64]  # (n,) of labelled rows: 1 right, 0 wrong; or a loss
    expectation: NDArray[np.float64]  # (n,) of the same rows, from anything but their own labels
    inclusion: NDArray[np.float64]  # (n,) chance to be drawn and labelled, above 0; 1 = taken for certain
    copies: NDArray[np.float64]  # (n,) equal rows that one stands for, itself among them
    unknown: int = 0  # rows taken for certain that have no label: they are counted as expected, and widen the interval

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def weight(self) -> Floats:
        """Rows that each labelled row speaks for (n,)."""
        return self.copies / self.inclusion

    @property
    def stakes(self) -> Floats:
        """What the square of each row's residual adds to the variance of the weighted sum (n,), 0 where certain.

        Without bias for order samples, whose rows are uncorrelated given the threshold (Duffield, Lund, Thorup 2007);
        for other draws of fixed size it errs to the safe side.
        """
        return (1.0 - self.inclusion) * self.weight**2

    @property
    def least_stakes(self) -> float:
        """What `stakes` add up to at least, were the residuals of all rows alike.

        The sum over all rows of (1 - pi) / pi is no less than the square of that of 1 - pi over that of pi (1 - pi), by
        Cauchy and Schwarz. The labelled rows may say much less: with six labels all of which went to rows that were
        nearly certain to be drawn, an interval was 0.1 points wide.
        """
        rest = max(self.rows - float(self.copies.sum()) - self.unknown, 0.0)
        return rest**2 / max(float((1.0 - self.inclusion).sum()), 1.0)

    @property
    def effective(self) -> float:
        """Labels that would say as much if all weighed alike (Kish 1965)."""
        return _effective(self.weight)

    def merged(self, other: Labelled) -> Labelled:
        """Both together. Draws are independent of each other, so what holds of one holds of both."""
        return Labelled(
            self.rows + other.rows,
            self.expected + other.expected,
            np.concatenate([self.outcome, other.outcome]),
            np.concatenate([self.expectation, other.expectation]),
            np.concatenate([self.inclusion, other.inclusion]),
            np.concatenate([self.copies, other.copies]),
            self.unknown + other.unknown,
        )


class Estimate(msgspec.Struct, frozen=True):
    """A mean over all rows, with its standard error and its 90 % interval; inf where nothing bounds it."""

    value: float
    error: float
    low: float
    high: float
    labels: int = 0
    effective: float = 0.0  # labels of equal weight that would say as much


class Tuning(msgspec.Struct, frozen=True):
    """What earlier batches taught of expectations: how to correct them, and how far residuals spread. Plain data.

    An expectation f is corrected to centre + slope f, fitted by the labels' own weights and drawn towards f itself by
    `SHRINK` labels, so few labels tune little (Mani et al. 2026: a slope from n labels pays
    only where the correlation is above 1 / sqrt(n - 2)).
    """

    shares: bool = True  # outcomes are 0 and 1, whose variance expectations imply; else a loss of any unit
    moments: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)  # of weight, f, f^2, residual, f * it
    squares: float = 0.0  # of weights
    spread: float = 1.0  # observed variance over the implied one; of a loss the variance itself
    seen: float = BELIEF  # labels' worth that `spread` rests on; 0 for a loss, as nothing implies it

    @property
    def correction(self) -> tuple[float, float]:
        """Centre and slope.

        >>> Tuning().correction
        (0.0, 1.0)
        """
        weight, f, ff, r, fr = self.moments
        if weight <= 0:
            return 0.0, 1.0
        labels = weight**2 / self.squares
        trust, mean, off = labels / (labels + SHRINK), f / weight, r / weight
        variance = ff / weight - mean**2
        slope = trust * (fr / weight - mean * off) / variance if variance > 1e-6 * (ff / weight) else 0.0
        return trust * off - slope * mean, 1.0 + slope

    def after(self, batch: Labelled) -> Tuning:
        """With the labels of one more batch."""
        if not len(batch):
            return self
        weight, f = batch.weight, batch.expectation
        total = float(weight.sum())
        scale = batch.effective / total  # a batch counts by its labels, not by how many rows they speak for
        off = batch.outcome - f
        new = scale * np.array([total, weight @ f, weight @ f**2, weight @ off, weight @ (f * off)])
        fade = 0.5 ** (1.0 / HALF)
        moments = tuple((fade * np.array(self.moments) + new).tolist())
        squares = fade**2 * self.squares + scale**2 * float(weight @ weight)
        _, spread, seen = self.variance(batch)
        return replace(self, moments=moments, squares=squares, spread=spread, seen=min(seen, MEMORY))

    def variance(self, batch: Labelled) -> tuple[float, float, float]:
        """Of the weighted sum of the batch's residuals; the spread it comes by, and labels' worth this rests on.

        The spread is that of earlier batches and of this one together: residuals of few labels alone would be at their
        smallest just where the estimate is too high, as no sure answer was seen wrong. Of a share it is 0 only where
        every row has its label.
        """
        centre, slope = self.correction
        corrected = centre + slope * batch.expectation
        stakes = batch.stakes
        implied, least = np.ones(len(batch)), 0.0
        if self.shares:
            alike = ALIKE * float(_binary(np.array([_mean(batch, self)]))[0])
            implied = (1.0 - ALIKE) * _binary(corrected) + alike
            least = batch.least_stakes * alike
        total = float(stakes @ implied)
        if total <= 0:
            return self.spread * least, self.spread, self.seen
        labels = _effective(stakes * implied)
        observed = float(stakes @ (batch.outcome - corrected) ** 2) / total
        spread = (self.spread * self.seen + observed * labels) / (self.seen + labels)
        return spread * max(total, least), spread, self.seen + labels


def estimate(batch: Labelled, tuning: Tuning) -> Estimate:
    """The mean outcome of all rows the batch was drawn from, those without label included.

    (1 / N) (sum of g + sum of weight (z - g)) over all and over the labelled, g the corrected expectation. Unbiased
    over draws whatever g is, as long as no label of this batch made it; the better g, the narrower. Holds of these
    rows, not of those to come. With fewer than two labels of a loss nothing is known of its spread: the interval is
    endless.

    >>> rng = np.random.default_rng(1); f = rng.uniform(0.5, 1, 2000); right = rng.random(2000) < f - 0.1
    >>> key = rng.random(2000) / (1.1 - f); drawn = np.argsort(key)[:100]
    >>> pi = np.minimum(1, (1.1 - f) * np.sort(key)[100])[drawn]
    >>> batch = Labelled(2000, f.sum(), right[drawn].astype(float), f[drawn], pi, np.ones(100))
    >>> found = estimate(batch, Tuning())
    >>> [round(float(x), 2) for x in (right.mean(), right[drawn].mean(), found.low, found.value, found.high)]
    [0.65, 0.58, 0.61, 0.67, 0.73]
    """
    variance, _, seen = tuning.variance(batch)
    error = sqrt(variance) / batch.rows
    value = _mean(batch, tuning)
    half = _student(seen - (not tuning.shares)) * error + batch.unknown / batch.rows
    if not tuning.shares and len(batch) < 2:
        error = half = inf
    if tuning.shares:
        return _of_share(value, error, half, len(batch), batch.effective)
    return Estimate(value, error, value - half, value + half, len(batch), batch.effective)


class Track(msgspec.Struct, frozen=True):
    """How far expectations are off, followed from batch to batch: the labels of many batches speak for the newest.

    A Kalman filter on the mean outcome less the mean expectation whose own pace is unknown: each of `STEPS` is held
    against what every batch came to, so the offset stands still in calm and follows a break within a batch or two
    (Blom, Bar-Shalom 1988, collapsed after each step; heavy-tailed surprises). Unlike a single batch it is not
    unbiased: it trusts that the offset moves as it did. `unit` is that of the outcomes: 1 for shares, of a loss about
    its standard deviation.
    """

    unit: float = 1.0
    offset: float = 0.0
    variance: float = FIRST**2  # of the offset, in units
    chances: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)  # of each pace
    batches: int = 0

    def renewed(self, *, halved: bool = False) -> Track:
        """Another version answers from now on, or something else says what is expected: the pace is not known any more.

        `halved`: what the offset was due to is as likely gone as still there, so half of it is expected, give or take
        that half. Right where expectations are meant to be true; not where they are a constant that the offset is from.
        """
        even = (1.0 / len(STEPS),) * len(STEPS)
        half = self.offset / 2.0 if halved else 0.0
        wider = self.variance + RENEWED**2 + (half / self.unit) ** 2
        return replace(self, offset=self.offset - half, variance=wider, chances=even)

    def after(self, batch: Labelled, tuning: Tuning) -> Track:
        """One batch later."""
        if not len(batch):
            return self.idle()
        variance = tuning.variance(batch)[0] / (batch.rows * self.unit) ** 2 + (batch.unknown / batch.rows) ** 2
        seen = (_mean(batch, tuning) - batch.expected / batch.rows) / self.unit
        chances = self._chances
        before = self.variance + STEPS**2
        spread = before + variance + 1e-9
        surprise = seen - self.offset / self.unit
        likely = chances * spread**-0.5 * (1.0 + surprise**2 / (TAILS * spread)) ** (-(TAILS + 1.0) / 2.0)
        chances = likely / likely.sum()
        gain = before / spread
        offsets = self.offset / self.unit + gain * surprise
        offset = float(chances @ offsets)
        left = float(chances @ (before * (1.0 - gain) + (offsets - offset) ** 2))
        return Track(self.unit, offset * self.unit, left, tuple(chances.tolist()), self.batches + 1)

    def idle(self) -> Track:
        """A batch later of which no label came: less is known."""
        chances = self._chances
        wider = min(self.variance + float(chances @ STEPS**2), 1.0)
        return replace(self, variance=wider, chances=tuple(chances.tolist()))

    def estimate(self, mean: float, tuning: Tuning) -> Estimate:
        """The mean outcome of rows of which `mean` is expected on average; before any batch, that itself.

        Where both add up to no share, as after expectations have changed, they are off by what is beyond at least.

        >>> found = Track(offset=0.4, variance=0.0001).estimate(0.95, Tuning())
        >>> [round(float(x), 2) for x in (found.low, found.value, found.high)]
        [0.42, 1.0, 1.0]
        """
        value, error = mean + self.offset, self.unit * sqrt(self.variance)
        freedom = _student(tuning.seen)
        if tuning.shares:
            error = hypot(error, value - min(max(value, 0.0), 1.0))
            return _of_share(value, error, freedom * error)
        half = freedom * error
        return Estimate(value, error, value - half, value + half)

    @property
    def _chances(self) -> Floats:
        return STAY * np.array(self.chances) + (1.0 - STAY) / len(STEPS)


def share(batch: Labelled, of: Mask, hits: Mask) -> Estimate:
    """Share of the rows `of` (n,) that are `hits` (n,): a precision, a recall, a slice's accuracy.

    NaN where there are none of them. A ratio of weighted sums (Hajek 1971), off by about 1 / (effective labels); the
    interval is Wilson's for that number, so it is open at both ends. F1 is 2 s / (1 + s) of the share of rows rightly
    answered a class among those that were answered it or are it.

    >>> even = Labelled(1000, 0.0, np.ones(10), np.ones(10), np.full(10, 0.01), np.ones(10))
    >>> found = share(even, np.arange(10) < 8, np.arange(10) < 6)
    >>> found.value, round(found.low, 2), round(found.high, 2), found.effective
    (0.75, 0.43, 0.92, 8.0)
    """
    weight = batch.weight * of
    total = float(weight.sum())
    if total <= 0:
        return Estimate(np.nan, inf, 0.0, 1.0)
    n, value = _effective(weight), min(float(weight @ hits) / total, 1.0)
    z = _student(n)
    middle = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * sqrt(value * (1 - value) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    error = sqrt(max(value * (1 - value), 0.25 / n) / n)
    return Estimate(value, error, max(middle - half, 0.0), min(middle + half, 1.0), int(np.count_nonzero(of)), n)


def inclusion(sizes: Floats, keys: Floats, threshold: float, back: Mask) -> Floats:
    """Chance of each row that has its label (back.sum(),) to be drawn and labelled, of an order sample in key order.

    `sizes` and `keys` (n,) of the rows drawn, `threshold` the key of the first row that was not, `back` (n,) which of
    them have their label by now. Served by rank, those labelled are the lowest keys: a draw of its own, whose threshold
    is the first key still to come. What is missing in between is taken to be missing at random; see `picked`.

    >>> inclusion(np.ones(4), np.array([0.1, 0.2, 0.3, 0.4]), 0.5, np.array([True, True, False, False])).tolist()
    [0.3, 0.3]
    """
    if not back.any():
        return np.zeros(0)
    served = int(np.flatnonzero(back)[-1]) + 1
    edge = float(keys[served]) if served < len(keys) else threshold
    return np.asarray(np.minimum(1.0, sizes[back] * edge) * (np.count_nonzero(back) / served))


def picked(draws: list[tuple[Floats, Mask]]) -> bool:
    """Whether labels look picked by size among those drawn, each draw (sizes, back) in key order: no estimate holds.

    Within the ranks that were reached, sizes of rows with and without label are compared by Wilcoxon's rank sum, added
    up over draws (van Elteren 1960). A true order by rank is called picked once in 100 times at most; a pick that has
    nothing to do with size goes unseen.
    """
    excess = variance = 0.0
    for sizes, back in draws:
        served = int(np.flatnonzero(back)[-1]) + 1 if back.any() else 0
        n, m = served, int(np.count_nonzero(back))
        if not 0 < m < n:
            continue
        values, place, count = np.unique(sizes[:served], return_inverse=True, return_counts=True)
        ranks = (np.cumsum(count) - (count - 1) / 2.0)[place]
        excess += (float(ranks[back[:served]].sum()) - m * (n + 1) / 2.0) / (n + 1)
        tied = float((count.astype(np.float64) ** 3 - count).sum()) / (n * (n - 1.0)) if values.size > 1 else n + 1.0
        variance += m * (n - m) / 12.0 * (n + 1.0 - tied) / (n + 1) ** 2
    return variance > 0 and abs(excess) > UNLIKE * sqrt(variance)


def _mean(batch: Labelled, tuning: Tuning) -> float:
    centre, slope = tuning.correction
    residual = batch.outcome - centre - slope * batch.expectation
    return centre + (slope * batch.expected + float(batch.weight @ residual)) / batch.rows


def _of_share(value: float, error: float, half: float, labels: int = 0, effective: float = 0.0) -> Estimate:
    """A share with `half` an interval to each side, as far as that is a share.

    What is estimated beyond 0..1 is moved there before the interval is laid around it: that brings it nearer to the
    truth, wherever in 0..1 it is, so as many truths are held or more. Were only the ends cut off, the interval of
    1.03 +- 0.02 would have no width.
    """
    held = min(max(value, 0.0), 1.0)
    return Estimate(held, error, max(held - half, 0.0), min(held + half, 1.0), labels, effective)


def _binary(chance: Floats) -> Floats:
    """Variance of a 0 or 1 by its chance."""
    held = np.clip(chance, SUREST, 1.0 - SUREST)
    return held * (1.0 - held)


def _effective(weights: Floats) -> float:
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _student(freedom: float) -> float:
    """95 % quantile of Student's t, by its expansion around the normal one; under 3 degrees that of 3.

    >>> round(_student(5), 2), round(_student(60), 2)
    (2.01, 1.67)
    """
    v = max(freedom, 3.0)
    return Z + (Z**3 + Z) / (4 * v) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * v**2)
