"""How unlike the reference a row is: its unlikelihood under a Gaussian mixture fitted on the reference's rows."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from detectors.core import Batch, Column, Floats, Kind, Mask, number
from detectors.scorers.uncertainty import MEASURES

DIMENSIONS = 16  # principal directions kept of more columns than that
FITTED = 5_000  # rows the mixture is fitted on: 5 components on 17 dimensions have 174 numbers, 29 rows each
FEWEST = 20  # rows under which there is nothing worth fitting
FAR = 10.0  # deviations at which a value is cut, so that one wild value cannot own a window's mean
FLOOR = 1e-3  # least variance of a component along a direction whose variance is 1

# What a batch may hold beside the inputs: answers, software measures, and what other scorers derive.
_NO_INPUTS = frozenset({
    "value", "latency", "status", "vote_entropy", "disagreement", "members_disagree", "novelty", *MEASURES,
})  # fmt: skip


class _Mixture(NamedTuple):
    """Diagonal Gaussians on whitened directions of standardised columns. Plain data."""

    columns: list[str]
    center: Floats  # (columns,)
    inverse: Floats  # (columns,) 1 / deviation, 0 for a constant column, which so says nothing
    axes: Floats  # (directions, columns), rows already divided by their deviation
    rest: tuple[float, float]  # mean and deviation of the length left outside the axes; deviation 0: none is
    weights: Floats  # (components,)
    means: Floats  # (components, dimensions): the directions, and the length outside them if there is one
    variances: Floats  # (components, dimensions)


class Novelty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="novelty"):
    """Column `novelty`: negative log-likelihood of the row in nats, up to a constant; only differences mean something.

    Columns are standardised by the reference, cut at 10 deviations, and a missing value stands at the mean; of more
    than 16 the 16 principal directions are kept, and how far a row lies outside them counts as one more. The mixture is
    of up to 5 diagonal Gaussians (EM, Dempster, Laird, Rubin 1977), their number by BIC (Schwarz 1978). A row is
    missing when all its values are, or when an embedding has another length than the reference's; there is no column
    when nothing could be fitted (under 20 rows, or all columns constant).

    Blind to a new value in a column that was constant, and to known values in a combination that the kept directions do
    not show. On 200 rows and less the mixture knows its own rows better than fresh ones, by about 0.2 nats. 0.8 us an
    event with 60 columns in batches of 250.
    """

    columns: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Number columns to look at together, or one vector column. Empty: `embedding` if there is one, "
            "else every number column that no other scorer made and that is neither answer nor latency."
        ),
    ] = ()
    components: Annotated[int, msgspec.Meta(description="Most Gaussians in the mixture.", ge=1, le=20)] = 5
    seed: Annotated[int, msgspec.Meta(description="Of the fit's random starts.", ge=0)] = 0

    def fit(self, rows: Batch) -> Any:
        if len(rows) > FITTED:
            rows = rows.take(np.sort(np.argpartition(rows.keys, FITTED)[:FITTED]))
        columns = self._present(rows)
        values = _matrix(rows, columns)
        center, inverse = _standard(values)
        standard, missing = _standardised(values, center, inverse)
        standard = standard[~missing]
        if len(standard) < FEWEST or not inverse.any():
            return None
        rng = np.random.default_rng(self.seed)
        axes = _principal(standard, DIMENSIONS, rng)
        blank = np.zeros((1, 0))
        bare = _Mixture(columns, center, inverse, axes, (0.0, 0.0), blank[0], blank, blank)
        left = _left(standard, _along(standard, axes), axes)
        if left.std() > 1e-6 * standard.shape[1]:  # 16 columns and less leave nothing but rounding
            bare = bare._replace(rest=(float(left.mean()), float(left.std())))
        mixture = _best(bare, _points(standard, bare), self.components, rng)
        return mixture._asdict()

    def score(self, rows: Batch, fitted: Any) -> dict[str, Column]:
        if fitted is None:
            return {}
        mixture = _Mixture(**fitted)
        if not any(name in rows.columns for name in mixture.columns):
            return {}
        values = _matrix(rows, mixture.columns)
        if values.shape[1] != len(mixture.center):
            return {"novelty": number(np.full(len(rows), np.nan))}
        standard, missing = _standardised(values, mixture.center, mixture.inverse)
        likelihood = _log_likelihood(_points(standard, mixture), mixture)
        return {"novelty": number(np.where(missing, np.nan, -likelihood))}

    def _present(self, rows: Batch) -> list[str]:
        if self.columns:
            return list(self.columns)
        embedding = rows.get("embedding")
        if embedding is not None and embedding.kind is Kind.VECTOR:
            return ["embedding"]
        return sorted(n for n, c in rows.columns.items() if c.kind is Kind.NUMBER and n not in _NO_INPUTS)


def _matrix(rows: Batch, columns: list[str]) -> Floats:
    """Values (n, columns), NaN where missing; a column of another kind is missing."""
    first = rows.get(columns[0]) if len(columns) == 1 else None
    if first is not None and first.kind is Kind.VECTOR:
        return np.asarray(first.values, np.float64)
    values = np.full((len(columns), len(rows)), np.nan)
    for i, name in enumerate(columns):
        column = rows.get(name)
        if column is not None and column.kind in (Kind.NUMBER, Kind.FLAG):
            values[i] = column.values
    return np.ascontiguousarray(values.T)


def _standard(values: Floats) -> tuple[Floats, Floats]:
    """Mean and inverse deviation of each column (columns,); an inverse of 0 where a column is constant or empty."""
    known = np.isfinite(values)
    counts = np.maximum(known.sum(axis=0), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        center = np.where(known, values, 0.0).sum(axis=0) / counts
        scale = np.sqrt((np.where(known, values - center, 0.0) ** 2).sum(axis=0) / counts)
    usable = np.isfinite(center) & np.isfinite(scale) & (scale > 1e-9 * np.abs(center)) & (scale > 1e-150)
    return np.where(usable, center, 0.0), np.where(usable, 1.0 / np.where(usable, scale, 1.0), 0.0)


def _standardised(values: Floats, center: Floats, inverse: Floats) -> tuple[Floats, Mask]:
    """Standardised values (n, columns), cut at FAR and 0 where missing, and the rows of which all is missing (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = (values - center) * inverse
        whole = np.isfinite(out.sum())  # one pass tells whether any value is NaN or inf
    missing: Mask = np.zeros(len(out), np.bool_)
    if not whole:
        unknown = ~np.isfinite(values)
        out[unknown | np.isnan(out)] = 0.0
        missing = np.asarray(unknown.all(axis=1))
    return np.clip(out, -FAR, FAR, out=out), missing


def _principal(standard: Floats, most: int, rng: np.random.Generator) -> Floats:
    """Whitening directions (at most `most`, columns): on them the rows have variance 1 and no correlation.

    Randomised subspace iteration (Halko, Martinsson, Tropp 2011), so a long embedding needs no square matrix.
    """
    n, d = standard.shape
    basis = rng.normal(size=(d, min(d, n, most + 8)))
    for _ in range(6):
        basis = np.linalg.qr(standard.T @ (standard @ basis))[0]
    _, deviations, turned = np.linalg.svd(standard @ basis, full_matrices=False)
    deviations /= np.sqrt(n)
    kept = deviations[:most] > 1e-3 * deviations[0]  # less is a column said twice, and its rounding
    axes = (basis @ turned[:most][kept].T).T
    return np.ascontiguousarray(axes / deviations[:most][kept][:, None])


def _along(standard: Floats, axes: Floats) -> Floats:
    # einsum, not matmul: BLAS adds up a row in another order when the batch has another length, and a stream cut into
    # other batches after a crash must give the same numbers to the last bit
    return np.asarray(np.einsum("ij,kj->ik", standard, axes))


def _left(standard: Floats, along: Floats, axes: Floats) -> Floats:
    """Length (n,) of what the axes do not show."""
    lengths = np.einsum("kj,kj->k", axes, axes)
    squares = np.einsum("ij,ij->i", standard, standard) - np.einsum("ik,ik,k->i", along, along, 1.0 / lengths)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _points(standard: Floats, mixture: _Mixture) -> Floats:
    """Rows (n, columns) as points (n, dimensions) that the mixture is of."""
    along = _along(standard, mixture.axes)
    mean, deviation = mixture.rest
    if not deviation:
        return along
    left = (_left(standard, along, mixture.axes) - mean) / deviation
    return np.concatenate([along, left[:, None]], axis=1)


def _log_densities(points: Floats, mixture: _Mixture) -> Floats:
    """Log of weight times density (n, components), less the constant of the normal law."""
    precise = 1.0 / mixture.variances
    scaled = mixture.means * precise
    fixed = np.log(mixture.weights) - 0.5 * (np.log(mixture.variances) + mixture.means * scaled).sum(axis=1)
    return np.asarray(
        fixed - 0.5 * np.einsum("ij,kj->ik", points * points, precise) + np.einsum("ij,kj->ik", points, scaled)
    )


def _log_likelihood(points: Floats, mixture: _Mixture) -> Floats:
    each = _log_densities(points, mixture)
    top = each.max(axis=1)
    return np.asarray(top + np.log(np.exp(each - top[:, None]).sum(axis=1)))


def _best(bare: _Mixture, points: Floats, components: int, rng: np.random.Generator) -> _Mixture:
    """The mixture of 1 to `components` Gaussians of lowest BIC."""
    n, d = points.shape
    best, lowest = bare, np.inf
    for k in range(1, min(components, n // FEWEST) + 1):
        mixture = _expectation_maximisation(bare, points, _spread_out(points, k, rng))
        numbers = k * 2 * d + k - 1
        bic = numbers * np.log(n) - 2.0 * float(_log_likelihood(points, mixture).sum())
        if bic < lowest:
            best, lowest = mixture, bic
    return best


def _spread_out(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Starting means (k, dimensions), each far from those before (k-means++, Arthur and Vassilvitskii 2007)."""
    chosen = [points[rng.integers(len(points))]]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < k:
        nearest = np.minimum(nearest, ((points - chosen[-1]) ** 2).sum(axis=1))
        total = nearest.sum()
        chosen.append(points[rng.choice(len(points), p=nearest / total) if total > 0 else 0])
    return np.array(chosen)


def _expectation_maximisation(bare: _Mixture, points: Floats, means: Floats) -> _Mixture:
    k, d = means.shape
    mixture = bare._replace(weights=np.full(k, 1.0 / k), means=means, variances=np.ones((k, d)))
    before = -np.inf
    for _ in range(100):
        each = _log_densities(points, mixture)
        likelihood = _log_likelihood(points, mixture)
        share = np.exp(each - likelihood[:, None])
        mass = share.sum(axis=0) + 1e-9  # a Gaussian that lost all its rows keeps a trace of weight, and harms nothing
        means = share.T @ points / mass[:, None]
        variances = np.maximum(share.T @ points**2 / mass[:, None] - means**2, FLOOR)
        mixture = bare._replace(weights=mass / mass.sum(), means=means, variances=variances)
        mean = float(likelihood.mean())
        if mean - before < 1e-4:
            break
        before = mean
    return mixture
