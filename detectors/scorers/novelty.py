"""How unlike the reference a row is, under a Gaussian mixture fitted on its rows, and when it is too far to count."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from detectors.core import Batch, Column, Floats, Kind, number
from detectors.scorers.matrix import Columns, chosen, matrix, scales, standardised

DIMENSIONS = 16  # principal directions kept of more columns than that
FITTED = 5_000  # rows the mixture is fitted on: 5 Gaussians on 17 dimensions have 854 numbers
STEPS = 50  # of EM; 20 ms each at most
STARTS = 5  # of EM; with one, two in six mixtures of three clear clusters end with two clusters in one Gaussian
FEWEST = 20  # rows under which there is nothing worth fitting
FLOOR = 1e-3  # added to the variances of every Gaussian, where the first direction has 1


class _Mixture(NamedTuple):
    """Gaussians on principal directions of centred, scaled columns. Plain data."""

    columns: list[str]
    center: Floats  # (columns,)
    inverse: Floats  # (columns,) 1 / deviation, 0 for a constant column, which so says nothing
    axes: Floats  # (directions, columns), orthogonal, the first of variance 1
    left: float  # mean length that rows have outside the axes; NaN: the axes show all there is
    weights: Floats  # (components,)
    means: Floats  # (components, dimensions): the directions, and the length outside them if there is one
    factors: Floats  # (components, dimensions, dimensions): of the precisions, lower triangular
    farthest: float  # novelty of a row that is still representative; inf where the reference has too few rows to say


class Novelty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="novelty"):
    """How unlike the reference each row is, by a mixture of up to 5 Gaussians (EM, Dempster, Laird, Rubin 1977).

    `novelty`: negative log-likelihood in nats, up to a constant; only differences mean something. `cluster_distance`:
    to the nearest Gaussian in its own deviations (Mahalanobis 1936), so a small cluster counts as much as a large one.
    `non_representative`: 1 where the novelty is above that of all but a share `flagged` of reference rows that the
    mixture was not fitted on. By their rank among those (split conformal, Vovk, Gammerman, Shafer 2005) a fresh row of
    the reference's kind is flagged with a chance of at most `flagged`, whatever the mixture is worth. It takes
    5 / `flagged` rows, 500 by default; a smaller reference flags nothing.

    Number columns are standardised by the reference, an embedding is scaled as a whole; values are cut at 10
    deviations, and a missing one stands at the mean. Of more than 16 columns the 16 principal directions are kept, and
    how far a row lies outside them counts as one more. There are as many Gaussians as lower the BIC (Schwarz 1978). A
    row is missing when all its values are, or when an embedding has another length than the reference's; there is no
    column when nothing could be fitted (under 20 rows, or all columns constant).

    Blind to a new value in a column that was constant, and to known values in a combination that the kept directions do
    not show. A flag does not tell a lone outlier from a new group: the rate of flags does, since lone ones keep to
    theirs. On 200 rows and less the mixture knows its own rows better than fresh ones. 2 us an event with 60 columns
    in batches of 250, 10 us with an embedding of 384. Of scikit-learn's digits, one held out scores above a fresh one
    of the other nine with a chance of 0.93, where an isolation forest has 0.76.
    """

    columns: Columns = ()
    components: Annotated[int, msgspec.Meta(description="Most Gaussians in the mixture.", ge=1, le=20)] = 5
    flagged: Annotated[
        float, msgspec.Meta(description="Share of the reference's own kind that is flagged at most.", gt=0, le=0.5)
    ] = 0.01
    seed: Annotated[int, msgspec.Meta(description="Of the fit's random starts.", ge=0)] = 0

    def fit(self, rows: Batch) -> Any:
        order = np.argsort(rows.keys, kind="stable")
        held = max(len(rows) - FITTED, len(rows) // 5)
        last = math.ceil((held + 1) * (1 - self.flagged))  # the rank that a representative row may have among the held
        if last > held:
            held = max(len(rows) - FITTED, 0)
        mixture = self._mixture(rows.take(np.sort(order[: len(rows) - held])))
        if mixture is not None and last <= held:
            novelty, _ = _measured(rows.take(order[len(rows) - held :]), mixture)
            known = np.sort(novelty[~np.isnan(novelty)])
            last = math.ceil((known.size + 1) * (1 - self.flagged))
            mixture = mixture._replace(farthest=float(known[last - 1]) if last <= known.size else math.inf)
        return None if mixture is None else mixture._asdict()

    def _mixture(self, rows: Batch) -> _Mixture | None:
        columns = chosen(rows, self.columns)
        values, is_vector = matrix(rows, columns)
        center, inverse = scales(values, is_vector)
        standard, missing = standardised(values, center, inverse)
        standard = np.ascontiguousarray(standard[:, ~missing])
        if standard.shape[1] < FEWEST or not inverse.any():
            return None
        rng = np.random.default_rng(self.seed)
        axes = _principal(standard, DIMENSIONS, rng)
        left = _left(standard, _along(standard, axes), axes)
        shown = left.std() < 1e-6 * np.sqrt(len(standard))  # 16 columns and less leave nothing but rounding
        nothing = np.zeros(0)
        bare = _Mixture(
            columns,
            center,
            inverse,
            axes,
            math.nan if shown else float(left.mean()),
            nothing,
            nothing,
            nothing,
            math.inf,
        )
        return _best(bare, _points(standard, bare), self.components, rng)

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        if fitted is None:
            return {}
        mixture = _Mixture(**fitted)
        if not any(name in rows.columns for name in mixture.columns):
            return {}
        novelty, distance = _measured(rows, mixture)
        far = np.where(np.isnan(novelty), np.nan, novelty > mixture.farthest)
        return {
            "novelty": number(novelty),
            "cluster_distance": number(distance),
            "non_representative": number(far, kind=Kind.FLAG),
        }


def _measured(rows: Batch, mixture: _Mixture) -> tuple[Floats, Floats]:
    """Novelty and distance to the nearest Gaussian of each row (n,), NaN where missing."""
    values, _ = matrix(rows, mixture.columns)
    n = len(rows)
    if len(values) != len(mixture.center) or not n:
        return np.full(n, np.nan), np.full(n, np.nan)
    if n == 1:
        # numpy drops an axis of length 1 and then adds up in another order, so a lone row comes twice
        values = np.repeat(values, 2, axis=1)
    standard, missing = standardised(values, mixture.center, mixture.inverse)
    apart = _apart(_points(standard, mixture), mixture)
    novelty = np.where(missing, np.nan, -_likelihood(_log_densities(apart, mixture)))
    return novelty[:n], np.where(missing, np.nan, np.sqrt(apart.min(axis=0)))[:n]


# Below, rows are the last axis: sums over columns then run along whole batches, and in the same order in any batch.


def _principal(standard: Floats, most: int, rng: np.random.Generator) -> Floats:
    """Principal directions (at most `most`, columns), scaled so that rows have variance 1 along the first.

    Randomised subspace iteration (Halko, Martinsson, Tropp 2011), so a long embedding needs no square matrix.
    """
    d, n = standard.shape
    basis = rng.normal(size=(d, min(d, n, most + 8)))
    for _ in range(6):
        basis = np.linalg.qr(standard @ (standard.T @ basis))[0]
    turned, deviations, _ = np.linalg.svd(basis.T @ standard, full_matrices=False)
    kept = deviations[:most] > 1e-3 * deviations[0]  # less is a column said twice, and its rounding
    return np.ascontiguousarray((basis @ turned[:, :most][:, kept]).T / (deviations[0] / np.sqrt(n)))


def _along(standard: Floats, axes: Floats) -> Floats:
    # einsum, not matmul: BLAS may add up a row in another order when the batch has another length, and a stream cut
    # into other batches after a crash must give the same numbers to the last bit
    return np.asarray(np.einsum("jn,kj->kn", standard, axes))


def _left(standard: Floats, along: Floats, axes: Floats) -> Floats:
    """Length (n,) of what the axes do not show, on their scale."""
    square = np.einsum("j,j->", axes[0], axes[0])
    shown = np.einsum("kn,kn->n", along, along)
    return np.asarray(np.sqrt(np.maximum(np.einsum("jn,jn->n", standard, standard) * square - shown, 0.0)))


def _points(standard: Floats, mixture: _Mixture) -> Floats:
    """Rows (columns, n) as points (dimensions, n) that the mixture is of."""
    along = _along(standard, mixture.axes)
    if np.isnan(mixture.left):
        return along
    return np.concatenate([along, [_left(standard, along, mixture.axes) - mixture.left]])


def _apart(points: Floats, mixture: _Mixture) -> Floats:
    """Squared distance to each Gaussian in its own deviations (components, n)."""
    k, d, _ = mixture.factors.shape
    offsets = np.einsum("kij,kj->ki", mixture.factors, mixture.means)
    apart = np.einsum("jn,kj->kn", points, mixture.factors.reshape(k * d, d)) - offsets.reshape(k * d, 1)
    return np.asarray(np.einsum("kdn,kdn->kn", *[apart.reshape(k, d, -1)] * 2))


def _log_densities(apart: Floats, mixture: _Mixture) -> Floats:
    """Log of weight times density (components, n), less the constant of the normal law."""
    fixed = np.log(mixture.weights) + np.log(np.einsum("kii->ki", mixture.factors)).sum(axis=1)
    return np.asarray(fixed[:, None] - 0.5 * apart)


def _likelihood(densities: Floats) -> Floats:
    """Log of the sum (n,) over components of what the logs (components, n) are of."""
    top = densities.max(axis=0)
    return np.asarray(top + np.log(np.exp(densities - top).sum(axis=0)))


def _best(bare: _Mixture, points: Floats, components: int, rng: np.random.Generator) -> _Mixture:
    """The mixture of as many Gaussians, at most `components`, as each lowered the BIC."""
    d, n = points.shape
    best, lowest = bare, np.inf
    for k in range(1, min(components, n // FEWEST) + 1):
        fits = [_fitted(bare, points, _spread_out(points, k, rng)) for _ in range(STARTS if k > 1 else 1)]
        mixture, likelihood = max(fits, key=lambda fit: fit[1])
        numbers = k * (d + d * (d + 1) / 2) + k - 1
        bic = numbers * np.log(n) - 2.0 * n * likelihood
        if bic >= lowest:
            break
        best, lowest = mixture, bic
    return best


def _spread_out(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Shares (k, n), 0 or 1, of groups around points far from each other (k-means++, Arthur and Vassilvitskii 2007)."""
    n = points.shape[1]
    apart = np.empty((k, n))
    chosen = int(rng.integers(n))
    for i in range(k):
        apart[i] = ((points - points[:, [chosen]]) ** 2).sum(axis=0)
        nearest = apart[: i + 1].min(axis=0)
        total = nearest.sum()
        chosen = int(rng.choice(n, p=nearest / total)) if total > 0 else 0
    return np.asarray(np.arange(k)[:, None] == apart.argmin(axis=0), np.float64)


def _fitted(bare: _Mixture, points: Floats, shares: Floats) -> tuple[_Mixture, float]:
    """Expectation and maximisation from the given shares (components, n): the mixture, and its mean log-likelihood."""
    d = len(points)
    mixture, mean = bare, -np.inf
    for _ in range(STEPS):
        mass = shares.sum(axis=1) + 1e-9  # a Gaussian that lost all its rows keeps a trace of weight, and harms nothing
        means = shares @ points.T / mass[:, None]
        factors = np.empty((len(mass), d, d))
        for i, share in enumerate(shares):
            apart = points - means[i][:, None]
            spread = (share * apart) @ apart.T / mass[i] + FLOOR * np.eye(d)
            factors[i] = np.tril(np.linalg.inv(np.linalg.cholesky(spread)))
        mixture = bare._replace(weights=mass / mass.sum(), means=means, factors=factors)
        densities = _log_densities(_apart(points, mixture), mixture)
        likelihood = _likelihood(densities)
        shares = np.exp(densities - likelihood)
        before, mean = mean, float(likelihood.mean())
        if mean - before < 1e-3:  # nats a row
            break
    return mixture, mean
