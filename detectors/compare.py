"""Two live versions of a model held against each other: tests that may be looked at after every label.

What a reader would get wrong: nothing here has a sample size, and nothing is lost by looking often. Every bound
holds at all times at once, so a decision may be taken the moment it is there.

Versions that answer the same events (a shadow) differ only where their answers do, so only disagreements are labelled:
`Paired`. Versions that share the traffic (canary, blue-green) have each their own labels: `Split`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints

FEW = 20  # labels of each version under which the asymptotic bound of split traffic is not believed
_FOCUS = 200  # labels at which that bound is at its tightest
_HALVINGS = 60  # of a bisection: to the last bit of a float64 in 0..1


class Outcome(StrEnum):
    """What a comparison comes to. A finding: driftd never moves traffic itself."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll back"


def log_evidence(wins: int, n: int) -> float:
    """Log of the e-value against "both win equally often", of `wins` out of `n` decided disagreements.

    E = 2^n Beta(wins + 1/2, n - wins + 1/2) / Beta(1/2, 1/2) starts at 1 and exceeds 1/alpha at any time at all with a
    chance of at most alpha (Ville 1939; the mixture is that of Krichevsky and Trofimov 1981). Blind to how much worse
    the loser is.

    >>> round(math.exp(log_evidence(9, 10)), 1), round(math.exp(log_evidence(5, 10)), 2)
    (9.5, 0.25)
    """
    return _log_mixture(wins, n) + n * math.log(2.0)


def _log_mixture(k: int, n: int) -> float:
    return math.lgamma(k + 0.5) + math.lgamma(n - k + 0.5) - math.lgamma(n + 1.0) - math.log(math.pi)


def share_bounds(k: int, n: int, alpha: float) -> tuple[float, float]:
    """Bounds of a share of which `k` of `n` were seen, right at all times at once with a chance of 1 - alpha.

    Those shares that the mixture of `log_evidence` does not refute; (0, 1) of nothing seen.

    >>> [round(bound, 3) for bound in share_bounds(30, 100, 0.05)]
    [0.166, 0.463]
    """
    if not n:
        return 0.0, 1.0
    most = math.log(1.0 / alpha)
    mixture = _log_mixture(k, n)

    def refuted(p: float) -> bool:
        likelihood = (k * math.log(p) if k else 0.0) + ((n - k) * math.log1p(-p) if k < n else 0.0)
        return mixture - likelihood >= most

    def edge(outside: float, inside: float) -> float:
        for _ in range(_HALVINGS):
            middle = (outside + inside) / 2.0
            if refuted(middle):
                outside = middle
            else:
                inside = middle
        return outside

    seen = k / n
    return (edge(0.0, seen) if k else 0.0), (edge(1.0, seen) if k < n else 1.0)


class Gap(msgspec.Struct, frozen=True):
    """Accuracy of the candidate less that of the stable version, with bounds that hold at every look."""

    value: float  # NaN while nothing is labelled
    low: float
    high: float
    decided: int = 0  # 1 the candidate is better, -1 it is worse, 0 not known yet

    def no_worse(self, margin: float) -> bool:
        """Whether the candidate is known to be better, or to lose less than `margin`.

        Several parts of the rows of which *each* must pass need no correction for their number: who lets the candidate
        pass wrongly lets the one part that loses pass, and that happens with a chance of alpha (intersection-union
        test, Berger 1982).

        >>> Gap(-0.004, -0.015, 0.01).no_worse(0.02), Gap(math.nan, -1.0, 1.0).no_worse(0.02)
        (True, False)
        """
        return self.decided > 0 or self.low > -margin


class Paired(msgspec.Struct, frozen=True):
    """Counts of events that both versions answered, and of labels of their disagreements. Counts of parts add up.

    Labels must be of disagreements drawn without looking at more than the event's id.
    """

    compared: int = 0
    disagreed: int = 0
    wins: int = 0  # labels by which the candidate alone was right
    losses: int = 0  # the stable version alone
    neither: int = 0

    def __add__(self, other: Paired) -> Paired:
        return Paired(
            self.compared + other.compared,
            self.disagreed + other.disagreed,
            self.wins + other.wins,
            self.losses + other.losses,
            self.neither + other.neither,
        )

    @property
    def labels(self) -> int:
        return self.wins + self.losses + self.neither

    @property
    def negative_flips(self) -> float:
        """Estimated share of events that the stable version answers rightly and the candidate wrongly; NaN unknown."""
        if not self.labels or not self.compared:
            return math.nan
        return self.disagreed / self.compared * self.losses / self.labels

    def gap(self, alpha: float = 0.05) -> Gap:
        """Share of disagreements x share of them that tells x how much oftener the candidate wins.

        Who is better is decided by `log_evidence` alone; the bounds share alpha among the three shares, so they are
        wider and may still hold 0 then. Without a label they are as far apart as the disagreements allow.

        >>> Paired(compared=1000, disagreed=100, wins=20, losses=2, neither=3).gap().decided
        1
        """
        told = self.wins + self.losses
        apart = share_bounds(self.disagreed, self.compared, alpha / 3)
        tells = share_bounds(told, self.labels, alpha / 3)
        better = share_bounds(self.wins, told, alpha / 3)
        low, high = (2.0 * p - 1.0 for p in better)
        most, least = apart[1] * tells[1], apart[0] * tells[0]
        value = math.nan
        if self.labels and self.compared:
            value = self.disagreed / self.compared * (self.wins - self.losses) / self.labels
        decided = 0
        if log_evidence(self.wins, told) >= math.log(1.0 / alpha):
            decided = 1 if self.wins > self.losses else -1
        return Gap(value, low * (least if low > 0 else most), high * (most if high > 0 else least), decided)


class Weighed(msgspec.Struct, frozen=True):
    """Sums over the labels of one version, each with weight w = 1 / its inclusion probability. Sums of parts add up."""

    n: int = 0
    weight: float = 0.0
    squares: float = 0.0  # of w
    right: float = 0.0  # of w, over right answers
    right_squares: float = 0.0  # of w squared, over right answers

    def add(self, weight: float, *, right: bool) -> Weighed:
        """With one more label."""
        square = weight * weight
        return Weighed(
            self.n + 1,
            self.weight + weight,
            self.squares + square,
            self.right + weight * right,
            self.right_squares + square * right,
        )

    @property
    def mean(self) -> float:
        """Accuracy (Hajek's ratio); NaN of no label."""
        return self.right / self.weight if self.weight else math.nan

    @property
    def variance(self) -> float:
        """Of `mean`; never under that of one more label that is half right, or no error yet would mean certainty."""
        mean = self.mean
        seen = (self.right_squares * (1.0 - 2.0 * mean) + self.squares * mean * mean) / self.weight**2
        effective = self.weight**2 / self.squares
        shrunk = (effective * mean + 0.5) / (effective + 1.0)
        return max(seen, shrunk * (1.0 - shrunk) / effective)


class Split(msgspec.Struct, frozen=True):
    """Labels of two versions that each answered a part of the traffic, events given to them at random."""

    stable: Weighed = Weighed()
    candidate: Weighed = Weighed()

    def gap(self, alpha: float = 0.05) -> Gap:
        """Difference of the two means with an asymptotic confidence sequence (Waudby-Smith et al. 2024).

        Needs many more labels than `Paired`: the events differ as well as the versions. Without `FEW` labels of each,
        nothing is known.
        """
        labels = self.stable.n + self.candidate.n
        if min(self.stable.n, self.candidate.n) < FEW:
            return Gap(math.nan, -1.0, 1.0)
        value = self.candidate.mean - self.stable.mean
        variance = labels * (self.candidate.variance + self.stable.variance)
        half = math.sqrt(variance) * asymptotic_half_width(labels, alpha)
        return Gap(value, value - half, value + half, int(value > half) - int(value < -half))


def asymptotic_half_width(n: int, alpha: float) -> float:
    """Of a confidence sequence of a mean after `n` draws of variance 1: at best 1.55 times
    that of an interval that is looked at once (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024), at 200 draws.

    >>> [round(asymptotic_half_width(n, 0.05), 3) for n in (20, 200, 2000)]
    [0.862, 0.215, 0.072]
    """
    twice = -2.0 * math.log(alpha)
    rho = (twice + math.log(twice + 1.0)) / _FOCUS  # squared
    spread = n * rho + 1.0
    return math.sqrt(2.0 * spread / (n * n * rho) * math.log(math.sqrt(spread) / alpha))


def quantile_bounds(counts: Ints, edges: Floats, q: float, alpha: float) -> tuple[float, float]:
    """Bounds of the quantile `q` of values counted in cells, right at all times at once with a chance of 1 - alpha.

    `counts` (cells,), `edges` (cells - 1,) the cells' upper ends, ascending, the last cell open, as in a profile. The
    distribution function lies within 0.85 sqrt((log log(e n) + 0.8 log(1612 / alpha)) / n) of the counted one at all
    times (Howard and Ramdas 2022, the sequential form of Dvoretzky, Kiefer and Wolfowitz). (-inf, inf) while too few
    were seen; as coarse as the cells.

    >>> quantile_bounds(np.full(11, 1_000), np.arange(10.0), 0.5, 0.05)
    (4.0, 5.0)
    """
    n = int(counts.sum())
    if not n:
        return -math.inf, math.inf
    within = 0.85 * math.sqrt((math.log(1.0 + math.log(n)) + 0.8 * math.log(1612.0 / alpha)) / n)
    below = np.cumsum(counts)[:-1] / n
    under, over = np.flatnonzero(below + within < q), np.flatnonzero(below - within >= q)
    low = float(edges[under[-1]]) if under.size else -math.inf
    return low, float(edges[over[0]]) if over.size else math.inf


def kappa(table: Mapping[tuple[str, str], int] | Mapping[tuple[int, int], int]) -> float:
    """Cohen's agreement of two answers beyond chance, from counts by pair of classes; NaN of nothing counted.

    1 where both always gave one and the same class: they agree, though chance would, too.

    >>> round(kappa({("cat", "cat"): 45, ("dog", "dog"): 45, ("cat", "dog"): 10}), 3)
    0.802
    """
    n = sum(table.values())
    if not n:
        return math.nan
    first: dict[str | int, int] = {}
    second: dict[str | int, int] = {}
    same = 0
    for (a, b), count in table.items():
        first[a] = first.get(a, 0) + count
        second[b] = second.get(b, 0) + count
        same += count * (a == b)
    chance = sum(count * second.get(name, 0) for name, count in first.items()) / n**2
    return 1.0 if chance == 1.0 else (same / n - chance) / (1.0 - chance)


def agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """`kappa` of two answers (n,) to the same rows, as class numbers."""
    pairs, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    return kappa({(int(a), int(b)): int(n) for a, b, n in zip(*pairs, counts, strict=True)})
