"""Evidence on columns with memory: how long one would wait, in calm, for a contrast as large as the one seen.

Ranks of dependent rows prove nothing, and whitening them away takes lasting shifts along. So each column is looked at
through contrasts of several spans, recent mean less longer mean, and each contrast is held against its own spread on
the reference, where memory and season are inside: a wandering level wanders there too. The tail beyond what the
reference could show is Student's, with no more degrees of freedom than it had independent stretches of that span.
Evidence is the return period of hydrology (Gumbel 1941): one over the rate of such contrasts. A promise of T is then
kept by alarming at T, as with an e-detector, and a mean over contrasts and columns stays a return period under any
dependence, to a logarithm (harmonic mean p, Wilson 2019). The tail is a model: the promise is approximate.
"""

from __future__ import annotations

from math import lgamma, log, pi
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.core import Floats, Ints, Mask
from detectors.evidence import forecast

T = TypeVar("T", bound=msgspec.Struct)

LEVEL = (4, 8, 16, 64)  # half-lives in rows of the recent mean of values; each against one eight times as long
SPREAD = (4, 16, 64)  # of the recent mean of log |error|; each against one 32 times as long
ERROR = (1, 4, 16, 64)  # of the recent mean of forecast errors, against 0
SLOWER_LEVEL, SLOWER_SPREAD = 8, 32
STRETCH_ROWS = 3.0  # half-lives after which a contrast is independent of itself: 2 / log 2
# Half-lives that one look is worth: 2 let 1.6 false alarms per 10,000 through on quiet streams, 0.5 let 0.9.
LOOKS = 0.5
CLIP = 50.0  # deviations of a value that count
DOUBT = 0.5  # of the degrees of freedom that few independent stretches would allow

# A stream that goes on alarming is wandering, not changing.
HIGH = 0.9  # share of quiet contrasts under the mark that scale learning follows
GAIN = 0.005  # by which a contrast over the mark widens its scale: 200 rows over it widen it 2.5 times
NARROWEST, WIDEST = -0.5, 3.0  # log of the learned scale
DEARER = 1.0  # log by which each alarm raises what the next has to show
FORGOTTEN = 3000.0  # half-life in rows of that
PAUSE = 20  # rows that a column is silent after its alarm: a new spread is over the bar in one row and not in the next
CALM = 1000.0  # rows: a column that alarmed is silent until its return period is under this, or under a tenth

FREEDOMS = np.array([2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 60.0])
LEAST = 100  # values; of a column with fewer nothing can be said
_MOST = 80.0  # log of the largest evidence


def _bank() -> tuple[Floats, list[int], NDArray[np.int64], NDArray[np.int64], Floats]:
    """Half-lives of all running means, where values, spreads and errors begin, and the contrasts: recent, longer."""
    level = sorted({*LEVEL, *(SLOWER_LEVEL * h for h in LEVEL)})
    spread = sorted({*SPREAD, *(SLOWER_SPREAD * h for h in SPREAD)})
    lives = np.array([*level, *spread, *ERROR], np.float64)
    starts = [0, len(level), len(level) + len(spread), len(lives)]
    recent = [level.index(h) for h in LEVEL] + [starts[1] + spread.index(h) for h in SPREAD]
    longer = [level.index(SLOWER_LEVEL * h) for h in LEVEL]
    longer += [starts[1] + spread.index(SLOWER_SPREAD * h) for h in SPREAD]
    errors = list(range(starts[2], starts[3]))
    # the place after the last is the 0 that errors are held against
    both = np.array([recent + errors, longer + [starts[3]] * len(errors)], np.int64)
    return lives, starts, both[0], both[1], lives[both[0]]


LIVES, STARTS, RECENT, LONGER, SPAN = _bank()
# a half-life of one row stands for the row itself
PULL = np.where(LIVES > 1, 1 - 0.5 ** (1 / LIVES), 1.0)


class Calm(msgspec.Struct, frozen=True):
    """What the reference taught; a column that taught nothing has an endless `scale`."""

    centre: NDArray[np.float64]  # (columns,) median
    size: NDArray[np.float64]  # (columns,) robust deviation
    lag: NDArray[np.int64]  # (columns, LAGS)
    weight: NDArray[np.float64]  # (columns, LAGS)
    bias: NDArray[np.float64]  # (columns,) median forecast error
    error: NDArray[np.float64]  # (columns,) its robust deviation
    middle: NDArray[np.float64]  # (columns, contrasts) median
    scale: NDArray[np.float64]  # (columns, contrasts) of Student's law
    freedom: NDArray[np.float64]  # (columns, contrasts)
    high: NDArray[np.float64]  # (columns, contrasts) |contrast - middle| that a share of HIGH stays under


class Watch(msgspec.Struct, frozen=True):
    """Columns with memory, and how far each has been followed."""

    calm: Calm
    past: NDArray[np.float64]  # (longest lag, columns) the last values, oldest first
    means: NDArray[np.float64]  # (columns, LIVES)
    seen: NDArray[np.int64]  # (columns,) values
    stretch: NDArray[np.float64]  # (columns, contrasts) log of the learned scale
    evidence: NDArray[np.float64]  # (columns,) before `dearer`, at the last value
    silent: NDArray[np.float64]  # (columns,) the column says nothing until its evidence is under this; 0 = it speaks
    dearer: NDArray[np.float64]  # (columns,) log
    since: NDArray[np.int64]  # (columns,) values since `dearer` was raised
    pace: float  # what passes with a row, a mean over some 16 rows; 0 before the first


class Returns(msgspec.Struct, frozen=True):
    """Evidence that number columns with memory changed in level, spread or forecast error (`Evidence`).

    Steered on line: contrasts that go on being large widen their own scale, and an alarm raises what the next one has
    to show, forgotten with a half-life of 3,000 rows; so a stream that wanders falls silent instead of alarming for
    ever. Of a lasting change there is one alarm: after it the column is silent until it has come to rest.

    Blind to changes that keep level, spread and predictability (shape, the order of seasons), to a creep slower than
    512 rows, to what happens while the column is silent after an alarm, and to any change that the reference itself
    shows as often; the shorter the reference the more it takes for sure. Ties are not needed.
    Memory a column: 1.1 KB and 8 bytes a row of the longest season in the model.
    """

    def fit(self, rows: Floats) -> Watch:
        """From at least 100 values a column, better several seasons; the state stands at the end of the reference."""
        columns = rows.shape[1]
        calm = _scaled(rows)
        longest = int(np.where(calm.weight != 0, calm.lag, 1).max(initial=1))
        nothing, none = np.zeros(columns), np.zeros(columns, np.int64)
        state = Watch(
            calm, np.zeros((longest, columns)), np.zeros((columns, LIVES.size)), none, np.zeros((columns, SPAN.size)),
            nothing, nothing, nothing, none, 0.0,
        )  # fmt: skip
        # scales are learned only once they are known
        after, contrast, _ = _followed(state, rows)
        calm = _learned(calm, contrast)
        return msgspec.structs.replace(after, calm=calm, stretch=state.stretch)

    def step(self, state: Watch, rows: Floats, ties: Floats, time: Floats) -> tuple[Watch, Floats]:
        if not len(rows):
            return state, np.zeros(rows.shape)
        since = state.since + np.cumsum(~np.isnan(rows), axis=0)
        after, contrast, stretch = _followed(state, rows)
        found = _return_period(state.calm, contrast, stretch)
        pace = np.empty(len(rows))
        held = state.pace
        for i, passed in enumerate(time.tolist()):
            held += (passed - held) / 16 if held else passed
            pace[i] = held
        found *= pace[:, None]
        _carry(found, state.evidence)
        spoken, silent = _spoken(found, state.silent, since)
        dearer = state.dearer * 0.5 ** (since / FORGOTTEN)
        after = msgspec.structs.replace(after, evidence=found[-1], silent=silent, since=since[-1], pace=held)
        return after, spoken * np.exp(-dearer)

    def restart(self, state: Watch, columns: Ints) -> Watch:
        """The columns are `relearned` that show what 1,000 calm rows do not; the others have nothing to throw away."""
        return self.relearn(state, columns[state.evidence[columns] >= CALM * state.pace])

    def relearn(self, state: Watch, columns: Ints) -> Watch:
        """The columns fall silent, and the next alarm of each has to show e times as much as this one.

        They speak again after 20 rows, once their evidence is down to a tenth, or to what 1,000 calm rows show. Again
        at the same row it changes nothing.
        """
        columns = columns[(state.silent[columns] == 0) | (state.since[columns] > 0)]
        silent, dearer, since = state.silent.copy(), state.dearer.copy(), state.since.copy()
        silent[columns] = np.minimum(state.evidence / 10, CALM * state.pace)[columns]
        dearer[columns] = (state.dearer * 0.5 ** (state.since / FORGOTTEN))[columns] + DEARER
        since[columns] = 0
        return msgspec.structs.replace(state, silent=silent, dearer=dearer, since=since)


def beside(state: Watch, other: Watch) -> Watch:
    """The columns of both in one state."""
    longest = max(len(state.past), len(other.past))
    pasts = [np.pad(watch.past, ((longest - len(watch.past), 0), (0, 0))) for watch in (state, other)]
    calm = _side_by_side(state.calm, other.calm)
    both = _side_by_side(state, other)
    return msgspec.structs.replace(
        both, calm=calm, past=np.concatenate(pasts, axis=1), pace=max(state.pace, other.pace)
    )


def _side_by_side(one: T, other: T) -> T:
    """The first, its arrays with the other's behind them."""
    arrays = {name: getattr(one, name) for name in one.__struct_fields__ if name != "past"}
    return msgspec.structs.replace(
        one,
        **{
            name: np.concatenate([held, getattr(other, name)])
            for name, held in arrays.items()
            if isinstance(held, np.ndarray)
        },
    )


# -- what the reference teaches


def _scaled(rows: Floats) -> Calm:
    """Centre and size of the values, their forecasts, bias and size of the errors; the contrasts are not known yet."""
    columns = rows.shape[1]
    centre, size = np.zeros(columns), np.ones(columns)
    for f in range(columns):
        centre[f], size[f] = _robust(rows[:, f], 0.1)
    values = np.clip((rows - centre) / size, -CLIP, CLIP)
    lag, weight = forecast.fit(values)
    bias, error = np.zeros(columns), np.ones(columns)
    for f in range(columns):
        known = values[~np.isnan(values[:, f]), f]
        longest = int(lag[f].max()) if weight[f].any() else 0
        past = np.stack([known[longest - at : known.size - at] for at in lag[f]]) if longest else np.zeros((1, 1))
        bias[f], error[f] = _robust(known[longest:] - (weight[f] @ past if longest else 0.0), 0.05)
    shape = (columns, SPAN.size)
    return Calm(
        centre, size, lag, weight, bias, error, np.zeros(shape), np.full(shape, np.inf), np.ones(shape), np.ones(shape)
    )


def _robust(values: Floats, least: float) -> tuple[float, float]:
    """Median and deviation by the median one, at least this share of the standard deviation; (0, 1) of nothing."""
    known = values[~np.isnan(values)]
    if not known.size:
        return 0.0, 1.0
    centre = float(np.median(known))
    return centre, max(1.4826 * float(np.median(np.abs(known - centre))), least * float(known.std()), 1e-12)


def _learned(calm: Calm, contrast: Floats) -> Calm:
    """Middle, scale and tail of every contrast on the reference (m, columns, contrasts)."""
    middle, scale, freedom, high = calm.middle.copy(), calm.scale.copy(), calm.freedom.copy(), calm.high.copy()
    for f in range(contrast.shape[1]):
        rows = contrast[~np.isnan(contrast[:, f, 0]), f]
        if len(rows) < LEAST or calm.size[f] <= 1e-12:
            continue
        reach = int(np.where(calm.weight[f] != 0, calm.lag[f], 0).max())
        for k, span in enumerate(SPAN.tolist()):
            # before, the means are of too few values to be like later ones
            known = rows[min(int(4 * span) + reach, len(rows) // 2) :, k]
            middle[f, k] = np.median(known)
            apart = np.abs(known - middle[f, k])
            high[f, k] = max(np.quantile(apart, HIGH), 1e-6)
            scale[f, k], own = _student(apart)
            stretches = max(known.size / (STRETCH_ROWS * span), 1.5)
            freedom[f, k] = max(1.5, 1 / (1 / own + DOUBT / stretches))
    return msgspec.structs.replace(calm, middle=middle, scale=scale, freedom=freedom, high=high)


def _student(apart: Floats) -> tuple[float, float]:
    """Scale and degrees of freedom of Student's law by likelihood, from distances to its middle (EM; Lange 1989)."""
    least = max(0.05 * float(apart.std()), 1e-6)
    square, freedom = apart**2, FREEDOMS[:, None]
    scale = np.full(freedom.shape, max(1.4826 * float(np.median(apart)), least))
    for _ in range(12):
        # each distance is trusted (v + 1) / (v + square / scale^2): their trusted mean, in one pass over the distances
        wide = freedom * scale**2
        trusted = (freedom + 1) * scale**2 * (1 - wide * (1 / (wide + square)).mean(axis=1, keepdims=True))
        scale = np.maximum(np.sqrt(np.maximum(trusted, 0.0)), least)
    constant = [lgamma((v + 1) / 2) - lgamma(v / 2) - 0.5 * log(v * pi) for v in FREEDOMS.tolist()]
    spread = np.log1p(square / (scale**2 * freedom)).mean(axis=1)
    best = int((np.array(constant) - np.log(scale[:, 0]) - (FREEDOMS + 1) / 2 * spread).argmax())
    return float(scale[best, 0]), float(FREEDOMS[best])


# -- following


def _followed(state: Watch, rows: Floats) -> tuple[Watch, Floats, Floats]:
    """The state after the rows, and of each row its contrasts and their learned scale (n, columns, contrasts).

    A missing value stands in the past as its forecast, so that phases stay in step, and moves nothing else; its
    contrasts are NaN.
    """
    calm = state.calm
    n, columns = rows.shape
    longest = len(state.past)
    known = ~np.isnan(rows)
    values = np.clip((rows - calm.centre) / calm.size, -CLIP, CLIP)
    past = np.concatenate([state.past, values])
    contrast, stretched = np.empty((n, columns, SPAN.size)), np.empty((n, columns, SPAN.size))
    means, seen, stretch = state.means, state.seen, state.stretch
    f = np.arange(columns)[:, None]
    from_last = longest - calm.lag
    parts = np.zeros((columns, LIVES.size + 1))
    for i in range(n):
        here = known[i]
        expected = np.einsum("fl,fl->f", calm.weight, past[from_last + i, f])
        value = past[longest + i] = np.where(here, past[longest + i], expected)
        error = (value - expected - calm.bias) / calm.error
        parts[:, : STARTS[1]] = value[:, None]
        parts[:, STARTS[1] : STARTS[2]] = np.log(np.abs(error) + 0.1)[:, None]
        parts[:, STARTS[2] : STARTS[3]] = error[:, None]
        seen = seen + here
        # the plain mean until there are values enough for the running one
        pull = np.maximum(PULL, 1 / np.maximum(seen, 1)[:, None])
        longer = np.concatenate([means, np.zeros((columns, 1))], axis=1)[:, LONGER]
        means = np.where(here[:, None], means + pull * (parts[:, :-1] - means), means)
        contrast[i] = np.where(here[:, None], means[:, RECENT] - longer, np.nan)
        stretched[i] = stretch
        over = np.abs(contrast[i] - calm.middle) > calm.high * np.exp(stretch)
        moved = np.clip(stretch + GAIN * (over - (1 - HIGH)), NARROWEST, WIDEST)
        stretch = np.where(here[:, None], moved, stretch)
    after = msgspec.structs.replace(state, past=past[n:].copy(), means=means, seen=seen, stretch=stretch)
    return after, contrast, stretched


def _return_period(calm: Calm, contrast: Floats, stretch: Floats) -> Floats:
    """Rows between contrasts so large in calm (n, columns), a mean over spans; NaN = missing."""
    z = (contrast - calm.middle) / (calm.scale * np.exp(stretch))
    return np.asarray(np.exp(np.minimum(np.log(LOOKS * SPAN) - _log_tail(z, calm.freedom), _MOST)).mean(axis=2))


def _log_tail(z: Floats, freedom: Floats) -> Floats:
    """Logarithm of P(|T| >= |z|) of Student's law, to 2 % of the logarithm: by Wallace (1959) a normal deviate.

    Its tail is that of Borjesson and Sundberg (1979), off by under 0.3 % of the probability.
    """
    w = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(z * z / freedom))
    return np.asarray(log(2 / np.sqrt(2 * pi)) - w * w / 2 - np.log(0.656 * w + 0.344 * np.sqrt(w * w + 5.334)))


def _carry(found: Floats, before: Floats) -> None:
    """Missing values keep the evidence before them, in place."""
    for f in np.flatnonzero(np.isnan(found).any(axis=0)).tolist():
        missing = np.isnan(found[:, f])
        last = np.maximum.accumulate(np.where(missing, -1, np.arange(len(found))))
        found[:, f] = np.where(last < 0, before[f], found[last, f])


def _spoken(found: Floats, silent: Floats, since: Ints) -> tuple[Floats, Floats]:
    """The evidence with what silent columns do not say left out, and until when they stay silent."""
    spoken, until = found.copy(), silent.copy()
    for f in np.flatnonzero(silent > 0).tolist():
        calm: Mask = (found[:, f] < silent[f]) & (since[:, f] >= PAUSE)
        first = int(calm.argmax()) if calm.any() else len(found)
        spoken[:first, f] = 0.0
        until[f] = 0.0 if calm.any() else silent[f]
    return spoken, until
