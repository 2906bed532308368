"""Classical tests that look at every event: KSWIN on numbers, and DDM, EDDM and HDDM on errors.

They step on the window's row sample in order of time: all rows of a small window, a simple random sample of a larger
one, so "events" below are those sampled. None promises a run length over many looks, which `e_detector` does. All give
the alarms of their namesakes in `river.drift`, which the tests hold them against event by event; written here because
importing those costs 92 MB, and because their state could be saved only by pickling.

The DDM family takes columns that the reference has inside [0, 1], of which 1 is bad: an error, a loss, a flag.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import comb, inf, isnan, log, nan, sqrt
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.checks.verdict import chance_text, named, positions, share_text, value_text
from detectors.core import Finding, Floats, Ints, Scores
from detectors.draw import uniforms
from detectors.profile import Profile
from detectors.reference import Reference

Memory = dict[str, Any]  # of each column, plain data
Keys = NDArray[np.uint64]


class _Seen(NamedTuple):
    """A column after some events, up to the first alarm among them."""

    state: Any
    used: int  # events taken; fewer than given only where the last one raised the alarm
    score: float  # after the last event taken; NaN while too few have come
    limit: float
    alarm: bool
    before: float = float("nan")  # what the alarm says, in the test's own words
    after: float = float("nan")


def _stepped(
    memory: Mapping[str, Any],
    current: Profile,
    f: Ints,
    fresh: Any,
    see: Callable[[Any, Floats, Keys], _Seen],
    say: Callable[[str, _Seen], Finding],
) -> tuple[Memory, Scores]:
    """Every column over the window's rows, begun afresh after each alarm; of several alarms the last is told."""
    names = named(current.layout.numbers, f)
    sample = current.sample
    order = np.lexsort((sample.keys, sample.times))
    kept: Memory = {}
    scores = Scores(names, np.full(f.size, np.nan))
    for i, name in enumerate(names):
        rows = order[~np.isnan(sample.numbers[order, f[i]])]
        state, alarm, at = memory.get(name, fresh), None, 0.0
        while rows.size:
            seen = see(state, sample.numbers[rows, f[i]], sample.keys[rows])
            state, scores.score[i] = seen.state, seen.score
            if seen.alarm:
                state, alarm, at = fresh, seen, float(sample.times[rows[seen.used - 1]])
            rows = rows[seen.used :]
        kept[name] = state
        if alarm is not None:
            scores.score[i] = alarm.score
            finding = say(name, alarm)
            scores.findings.append(msgspec.structs.replace(finding, facts={**finding.facts, "time": at}))
    return kept, scores


# -- numbers


@cache
def _ks_tails(n: int) -> tuple[float, ...]:
    """P(D >= h / n) for h = 0..n of two samples of n values without ties (Gnedenko, Korolyuk 1951).

    >>> [round(p, 4) for p in _ks_tails(4)]
    [1.0, 1.0, 0.7714, 0.2286, 0.0286]
    """
    whole = comb(2 * n, n)
    return (1.0, *(2 * sum((-1) ** (j + 1) * comb(2 * n, n - j * h) for j in range(1, n // h + 1)) / whole
                   for h in range(1, n + 1)))  # fmt: skip


class Kswin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="kswin"):
    """KSWIN (Raab, Heusinger, Schleif 2020): the newest values against as many drawn from those before, by KS.

    At every event it tests the last `recent` values against a random draw from the rest of the last `window`, at a
    fixed level, so false alarms pile up: 3 in 10,000 calm events, and 10 with river's defaults of 0.005, 100 and 30. A
    shift of 1 standard deviation is found after 50 events, one of 0.5 after 80 in 9 of 10 cases, a spread that grew by
    half in 4 of 10. A change that takes longer than `window` events is never seen. The draw is by a hash of the event's
    id, so that any replica and any replay draws alike. 50 to 100 us an event and column.
    """

    alpha: Annotated[
        float, msgspec.Meta(gt=0, lt=1, description="Level of each single test; found at p within it.")
    ] = 0.001
    window: Annotated[int, msgspec.Meta(ge=4, le=10_000, description="Values remembered.")] = 300
    recent: Annotated[
        int, msgspec.Meta(ge=2, le=500, description="Newest values of them, at most half, and as many drawn.")
    ] = 100
    seed: Annotated[int, msgspec.Meta(ge=0, description="Another seed draws others.")] = 0

    def __post_init__(self) -> None:
        if 2 * self.recent > self.window:
            raise ValueError("`recent` is at most half of `window`")

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Any], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        f = positions(current.layout.numbers, columns)
        return _stepped(memory, current, f, [], self._see, self._say)

    def drawn(self, keys: Keys) -> Ints:
        """Which of the `window - recent` older values each event's test draws, by event key (n,): (n, recent)."""
        older = np.arange(self.window - self.recent, dtype=np.uint64)
        order = uniforms(keys[:, None] ^ older * np.uint64(0x9E3779B97F4A7C15), self.seed)
        return np.argsort(order, axis=1)[:, : self.recent]

    @property
    def _limit(self) -> float:
        """The largest gap that is no alarm; none under 0.1 is one."""
        n = self.recent
        return max((h for h, p in enumerate(_ks_tails(n)) if p > self.alpha or h / n <= 0.1), default=n) / n

    def _see(self, state: list[float], values: Floats, keys: Keys) -> _Seen:
        held = np.concatenate([state, values])
        n = self.recent
        first = max(self.window - len(state) - 1, 0)  # the event that fills the window
        if first >= values.size:
            return _Seen(held.tolist(), values.size, np.nan, self._limit, alarm=False)
        views = np.lib.stride_tricks.sliding_window_view(held, self.window)[-(values.size - first) :]
        newest = np.sort(views[:, -n:], axis=1)
        older = np.sort(np.take_along_axis(views, self.drawn(keys[first:]), axis=1), axis=1)
        gaps = _largest_gaps(older, newest)
        alarms = np.flatnonzero(gaps > self._limit)
        last = int(alarms[0]) if alarms.size else gaps.size - 1
        return _Seen(
            views[last][1:].tolist(), first + last + 1, float(gaps[last]), self._limit, bool(alarms.size),
            float(np.median(older[last])), float(np.median(newest[last])),
        )  # fmt: skip

    def _say(self, name: str, alarm: _Seen) -> Finding:
        p_value = _ks_tails(self.recent)[round(alarm.score * self.recent)]
        text = (
            f"{name} changed its distribution: the median of its last {self.recent} values is "
            f"{value_text(alarm.after)}, of as many drawn from the {self.window - self.recent} before "
            f"{value_text(alarm.before)}. Largest gap {alarm.score:.3g}, limit {alarm.limit:.3g}, "
            f"{chance_text(p_value)}."
        )
        facts: dict[str, float | str] = {"statistic": "median", "before": alarm.before, "after": alarm.after}
        return Finding(name, alarm.score, alarm.limit, text, p_value, alarm.score, "largest gap", facts)


def _largest_gaps(one: Floats, other: Floats) -> Floats:
    """Largest gap between the distributions of two samples, each (tests, n) ascending: (tests,)."""
    n = one.shape[1]
    both = np.concatenate([one, other], axis=1)
    order = np.argsort(both, axis=1, kind="stable")
    ordered = np.take_along_axis(both, order, axis=1)
    gaps = np.cumsum(np.where(order < n, 1, -1), axis=1)
    # equal values step together: only the last of them counts
    last = np.concatenate([ordered[:, 1:] != ordered[:, :-1], np.ones((len(both), 1), np.bool_)], axis=1)
    return np.asarray((np.abs(gaps) * last).max(axis=1) / n)


# -- errors


def _bounded(current: Profile, reference: Profile, columns: Sequence[str]) -> Ints:
    """Positions of the asked columns that the reference has inside [0, 1]."""
    f = positions(current.layout.numbers, columns)
    return f[(reference.low[f] >= 0) & (reference.high[f] <= 1)]


def _rate(name: str, alarm: _Seen, size: str) -> Finding:
    """The finding of a mean that rose from `before` to `after`."""
    text = (
        f"{name} rose: its mean went from {value_text(alarm.before)} to {value_text(alarm.after)} over the events "
        f"since the last alarm. {size} {alarm.score:.3g}, limit {alarm.limit:.3g}."
    )
    facts: dict[str, float | str] = {"statistic": "mean", "before": alarm.before, "after": alarm.after}
    return Finding(name, alarm.score, alarm.limit, text, None, alarm.after - alarm.before, "", facts)


def _lowest_at(values: Floats, start: float) -> Ints:
    """Where the running minimum was last reached (n,); -1 = it is still `start`, from before the values."""
    lowest = np.minimum(np.minimum.accumulate(values), start)
    return np.maximum.accumulate(np.where(values == lowest, np.arange(values.size), -1))


def _first(alarms: NDArray[np.bool_]) -> tuple[int, bool]:
    """The first alarm, or the last event where there is none; and whether there is one."""
    return (int(alarms.argmax()), True) if alarms.any() else (alarms.size - 1, False)


class Ddm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ddm"):
    """DDM (Gama, Medas, Castillo, Rodrigues 2004): the error rate rose over the lowest that it has had.

    Alarm where rate + deviation is over the lowest rate + `deviations` of its own. The rate is that of all events since
    the last alarm, so the longer it was calm the duller it gets: a rise from 10 to 17 % is found 440 events after 1,000
    calm ones, 1,630 after 10,000. False alarms in 10,000 calm events: 4 at a rate of 2 %, 0.6 at 10 %. Of a model that
    made no error during the warm-up the first one is an alarm. Blind to a rate that falls. Score: rate + deviation;
    its limit is what the lowest allows.
    """

    deviations: Annotated[float, msgspec.Meta(gt=0, description="Deviations over the lowest rate.")] = 3.0
    warm_up: Annotated[int, msgspec.Meta(ge=1, description="Events before the first alarm.")] = 30

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Any], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        fresh = [0.0, 0.0, inf, 0.0]  # events, errors, lowest rate and its deviation
        return _stepped(memory, current, _bounded(current, reference, columns), fresh, self._see, self._say)

    def _see(self, state: Sequence[float], values: Floats, keys: Keys) -> _Seen:
        before, errors, lowest, lowest_deviation = state
        n, summed = before + np.arange(1, values.size + 1), errors + np.cumsum(values)
        cold = int(np.clip(self.warm_up - before, 0, values.size))
        if cold == values.size:
            return _Seen([float(n[-1]), float(summed[-1]), inf, 0.0], cold, np.nan, np.nan, alarm=False)
        rate = np.clip(summed / n, 0.0, 1.0)[cold:]
        deviation = np.sqrt(rate * (1 - rate) / n[cold:])
        at = _lowest_at(rate + deviation, lowest + lowest_deviation)
        best = np.where(at < 0, lowest, rate[at])
        best_deviation = np.where(at < 0, lowest_deviation, deviation[at])
        limit = best + self.deviations * best_deviation
        i, alarm = _first(rate + deviation > limit)
        used = cold + i + 1
        held = [float(v) for v in (n[used - 1], summed[used - 1], best[i], best_deviation[i])]
        return _Seen(held, used, float(rate[i] + deviation[i]), float(limit[i]), alarm, float(best[i]), float(rate[i]))

    def _say(self, name: str, alarm: _Seen) -> Finding:
        return _rate(name, alarm, "Mean and its deviation")


class Eddm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="eddm"):
    """EDDM (Baena-Garcia and others 2006): the distance between errors shrank below its largest.

    Alarm where mean + 2 deviations of the distance are under `ratio` of the largest they have been. Made for slow
    changes at a low error rate; a ratio has no account of chance, so it alarms in calm streams: 2 times in 10,000
    events, and 16 with the 0.9 of paper and river. Only a value of 1 is an error. Blind to errors that become rarer.
    Score: 1 - ratio.
    """

    ratio: Annotated[float, msgspec.Meta(gt=0, lt=1, description="Found under this share of the largest distance.")] = (
        0.8
    )
    warm_up: Annotated[int, msgspec.Meta(ge=1, description="Events, and errors, before the first alarm.")] = 30

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Any], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        fresh = [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]  # events, place of the last error, errors, their gaps, squares, largest
        return _stepped(memory, current, _bounded(current, reference, columns), fresh, self._see, self._say)

    def _see(self, state: Sequence[float], values: Floats, keys: Keys) -> _Seen:
        before, place, count, total, squares, largest = state
        n = before + values.size
        limit = 1 - self.ratio
        errors = before + 1.0 + np.flatnonzero(values == 1)
        gaps = np.diff(errors, prepend=place)
        k, sums, square_sums = (
            count + np.arange(1, errors.size + 1),
            total + gaps.cumsum(),
            squares + (gaps**2).cumsum(),
        )
        variance = np.maximum(square_sums - sums**2 / k, 0.0) / np.maximum(k - 1, 1)
        reach = np.where(errors > self.warm_up, sums / k + 2 * np.sqrt(variance), -1.0)
        most = np.maximum(np.maximum.accumulate(reach), largest) if reach.size else reach
        alarms = (errors > self.warm_up) & (k > self.warm_up) & (reach < self.ratio * most)
        if not errors.size:
            return _Seen([n, *state[1:]], values.size, np.nan, limit, alarm=False)
        i, alarm = _first(alarms)
        score = float(1 - reach[i] / most[i]) if k[i] > self.warm_up else np.nan
        held = [n, *(float(v[i]) for v in (errors, k, sums, square_sums, most))]
        used = int(errors[i] - before) if alarm else values.size
        return _Seen(held, used, score, limit, alarm, float(most[i]), float(reach[i]))

    def _say(self, name: str, alarm: _Seen) -> Finding:
        text = (
            f"{name} came closer together: from one to the next, mean and 2 deviations, it takes "
            f"{value_text(alarm.after)} events, {value_text(alarm.before)} at its best. Shrunk by "
            f"{share_text(alarm.score)}, limit {share_text(alarm.limit)}."
        )
        facts: dict[str, float | str] = {"statistic": "distance", "before": alarm.before, "after": alarm.after}
        return Finding(name, alarm.score, alarm.limit, text, None, alarm.score, "share", facts)


Confidence = Annotated[float, msgspec.Meta(gt=0, lt=1, description="Chance of a false alarm in one comparison.")]


class HddmA(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hddm_a"):
    """HDDM-A (Frias-Blanco and others 2015): the mean rose since its lowest point, by Hoeffding's bound.

    Holds for any values in [0, 1], so for losses too. The bound takes the variance for the largest possible, 1/4: blind
    to a rise under sqrt(log(2 / delta) / (2 n)), 0.06 over n = 1,000 events: 30 to 47 % errors are found after 150
    events, 2 to 5 % never; no false alarm in 80,000 calm events. Blind to a mean that falls. Score: the rise; its limit
    is the bound.
    """

    delta: Confidence = 0.001

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Any], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        fresh = [0.0, 0.0, 0.0, 0.0]  # events and sum of all, and of those up to the lowest point
        return _stepped(memory, current, _bounded(current, reference, columns), fresh, self._see, self._say)

    def _see(self, state: Sequence[float], values: Floats, keys: Keys) -> _Seen:
        before, total, cut, cut_total = state
        n, summed = before + np.arange(1, values.size + 1), total + np.cumsum(values)

        def upper(mean: Any, rows: Any) -> Any:
            return mean + np.sqrt(log(1 / self.delta) / (2 * rows))

        at = _lowest_at(upper(summed / n, n), upper(cut_total / cut, cut) if cut else inf)
        lowest_n, lowest_sum = np.where(at < 0, cut, n[at]), np.where(at < 0, cut_total, summed[at])
        was, now = lowest_sum / lowest_n, summed / n
        bound = np.sqrt((n - lowest_n) / lowest_n / n / 2 * log(2 / self.delta))
        i, alarm = _first((n > lowest_n) & (now - was >= bound))
        held = [float(v[i]) for v in (n, summed, lowest_n, lowest_sum)]
        return _Seen(held, i + 1, float(now[i] - was[i]), float(bound[i]), alarm, float(was[i]), float(now[i]))

    def _say(self, name: str, alarm: _Seen) -> Finding:
        return _rate(name, alarm, "Rise")


class HddmW(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hddm_w"):
    """HDDM-W (Frias-Blanco and others 2015): the same with weights that fade, by McDiarmid's bound.

    Quicker than `hddm_a` on large rises because the last 1 / `fading` events count most, and blind to small ones for
    the same reason: with 0.05, 30 to 47 % errors are found after 60 events, 10 to 17 % never. False alarms in 10,000
    calm events: none at a rate of 2 or 10 %, 4 at 30 %. Score: the rise of the faded mean since its lowest point; its
    limit is the bound. 1 us an event and column.
    """

    delta: Confidence = 0.001
    fading: Annotated[float, msgspec.Meta(gt=0, lt=1, description="Weight of the newest event.")] = 0.05

    def start(self, reference: Reference, columns: Sequence[str]) -> Memory:
        return {}

    def step(
        self, memory: Mapping[str, Any], current: Profile, reference: Profile, columns: Sequence[str]
    ) -> tuple[Memory, Scores]:
        # of all events, of those up to the lowest point, of those since: faded mean and sum of squared weights
        fresh = [nan, 1.0, nan, 1.0, nan, 1.0, inf]
        return _stepped(memory, current, _bounded(current, reference, columns), fresh, self._see, self._say)

    def _see(self, state: Sequence[float], values: Floats, keys: Keys) -> _Seen:
        mean, weight, was, was_weight, now, now_weight, lowest = state
        fading, faded = self.fading, (1 - self.fading) ** 2
        chance = log(1 / self.delta) / 2
        rise = bound = nan
        used = 0
        # one by one: where the second mean begins depends on the first, and a window has 256 events at most
        for used, value in enumerate(values.tolist(), 1):
            mean = value if isnan(mean) else mean + fading * (value - mean)
            weight = fading**2 + faded * weight
            upper = mean + sqrt(chance * weight)
            if upper < lowest:
                lowest, was, was_weight, now, now_weight = upper, mean, weight, nan, 1.0
                rise = 0.0
                continue
            now = value if isnan(now) else now + fading * (value - now)
            now_weight = fading**2 + faded * now_weight
            rise, bound = now - was, sqrt(chance * (was_weight + now_weight))
            if rise > bound:
                return _Seen(list(state), used, rise, bound, True, was, now)
        return _Seen([mean, weight, was, was_weight, now, now_weight, lowest], used, rise, bound, False)

    def _say(self, name: str, alarm: _Seen) -> Finding:
        return _rate(name, alarm, "Rise")
