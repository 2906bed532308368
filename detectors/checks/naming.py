"""What a change of a number column is called: another unit, a wrong scale, a logarithm, a clip, or none of these.

A diagnosis, asked after something was found to move; it detects nothing. A wrong name sends people the wrong way, so
every doubt is a refusal. A conversion is named only when five things hold:

1. it fits: the reference's rows, converted, have the law of the rows now (two-sample KS, and mean and spread over all
   rows), and as things were does not fit;
2. no other conversion of the list fits;
3. the digits allow it: values that were whole cents are whole cents again when converted back;
4. it is no coincidence: populations shift and stretch too, and one of them may land where a conversion would. The
   chance of that is reckoned from how exactly scale and place are known. Where the digits themselves prove the
   conversion (whole numbers became multiples of ten), no population explains it, and this is skipped;
5. no factor of two digits, which somebody may have chosen, is nearer. x0.45 is 0.8 % from pounds in kilograms, and
   against 2,000 reference rows no window knows its slope to better than 2 %. So without digits such a change is a line,
   told with the interval of its slope.

So 200 rows of a continuous column can tell x1000 but not miles from kilometres, while 200 whole numbers can tell both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import floor, inf, isfinite, log, log10, nan, sqrt
from typing import NamedTuple

import numpy as np

from detectors.checks.tails import kolmogorov_tail
from detectors.core import Floats, Mask
from detectors.profile import HUGE, ROUNDING, Profile

ROWS = 50  # values that a column needs, then and now: the spread is then known to 10 % at best
FITS = 1e-3  # a conversion fits down to this chance: one right one in a thousand is refused by it
ERRORS = 3.3  # standard errors that mean and spread may be off: 1 in 1,000
COINCIDENCE = 0.01  # chance that a moved population lands as near to a conversion of the list
USUAL = 0.5  # scale of how far populations move of themselves
PART = 0.05  # of the rows at least, for a conversion of a part of them to be told
LEVELS = np.arange(1, 20) / 20  # of the quantile pairs


class Naming(NamedTuple):
    """What a change is called, and the line that says so."""

    name: str  # of the conversion, "line" for any other straight line
    text: str  # one sentence, without its full stop
    slope: float  # new = slope x old + intercept; NaN where it is no line
    low: float  # interval of the slope, two standard errors each way
    high: float
    intercept: float
    share: float  # of the rows that it holds for

    @property
    def facts(self) -> dict[str, float | str]:
        """For machines."""
        told = {"slope": self.slope, "intercept": self.intercept, "converted_share": self.share}
        return {"conversion": self.name, **{name: value for name, value in told.items() if isfinite(value)}}


class Conversion(NamedTuple):
    """A way in which values are mistaken for others: forth and back, elementwise."""

    name: str
    says: str  # what follows the column's name
    forth: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]
    slope: float = nan  # of a straight line; NaN for a curve
    intercept: float = nan


def _line(name: str, says: str, slope: float, intercept: float = 0.0) -> Conversion:
    return Conversion(
        name, says, lambda x: slope * x + intercept, lambda y: (y - intercept) / slope, slope, intercept
    )  # fmt: skip


def _both(one: str, other: str, factor: float, offset: float = 0.0) -> Iterator[Conversion]:
    """Both ways of taking one unit for another; other = factor x one + offset."""
    yield _line(f"{one} to {other}", f"reads like {other} where it was {one}", factor, offset)
    yield _line(f"{other} to {one}", f"reads like {one} where it was {other}", 1 / factor, -offset / factor)


def _power(factor: int, more: str, less: str) -> Iterator[Conversion]:
    yield _line(f"x{factor}", f"reads {factor:,} times as large, as {more} do", factor)
    yield _line(f"/{factor}", f"reads {factor:,} times as small, as {less} do", 1 / factor)


CONVERSIONS: tuple[Conversion, ...] = (
    *_both("Celsius", "Fahrenheit", 1.8, 32.0),
    *_both("Celsius", "Kelvin", 1.0, 273.15),
    *_both("Fahrenheit", "Kelvin", 1 / 1.8, 459.67 / 1.8),
    *_both("miles", "kilometres", 1.609344),
    *_both("kilograms", "pounds", 1 / 0.45359237),
    *_both("metres", "feet", 1 / 0.3048),
    *_both("inches", "centimetres", 2.54),
    *_power(10, "millimetres for centimetres", "centimetres for millimetres"),
    *_power(60, "seconds for minutes", "minutes for seconds"),
    *_power(100, "cents for euros or percent for shares", "euros for cents or shares for percent"),
    *_power(1000, "milliseconds for seconds", "seconds for milliseconds"),
    *_power(3600, "seconds for hours", "hours for seconds"),
    *_power(1000000, "microseconds for seconds", "seconds for microseconds"),
    _line("sign", "has its sign turned", -1.0),
    Conversion("log", "reads like its natural logarithm", np.log, np.exp),
    Conversion("log10", "reads like its decimal logarithm", np.log10, lambda y: np.power(10.0, y)),
    Conversion("log", "reads like the logarithm of one more", np.log1p, np.expm1),
    Conversion("exp", "reads like its exponential, as if a logarithm had been undone", np.exp, np.log),
    Conversion("10^", "reads like ten to its power, as if a logarithm had been undone",
               lambda x: np.power(10.0, x), np.log10),
    Conversion("exp", "reads like its exponential less one, as if a logarithm had been undone", np.expm1, np.log1p),
)  # fmt: skip


def name_change(current: Profile, reference: Profile, column: str) -> Naming | None:
    """The name of what happened to a number column, None when nothing did or when it cannot be told.

    Takes the row samples for the shape and the moments of all rows for scale and place; 5 ms. Blind to a change of
    unit in a part of the rows that does not leave the reference's range, and to conversions that are not in the list,
    which it tells as a line at best.

    >>> from detectors.core import from_columns, number
    >>> from detectors.profile import lay_out
    >>> rng = np.random.default_rng(1)
    >>> rows = from_columns({"temp": number(rng.normal(20, 4, 900).round(1))})
    >>> now = from_columns({"temp": number(rng.normal(20, 4, 250).round(1) * 1.8 + 32)})
    >>> reference = Profile(lay_out(rows), 2_000); reference.update(rows)
    >>> current = Profile(reference.layout, 256); current.update(now)
    >>> print(name_change(current, reference, "temp").text)
    temp reads like Fahrenheit where it was Celsius: new = 1.8 x old + 32, to the digit
    """
    if column not in reference.layout.numbers:
        return None
    f = reference.layout.numbers.index(column)
    return _named(column, _rows(current, f), _rows(reference, f))


def name_rows(values: Floats, reference: Profile, column: str) -> Naming | None:
    """The same of rows (n,) that no profile holds, such as the last of many small windows; NaN = missing."""
    values = np.sort(values[np.isfinite(values)])
    if values.size < ROWS:
        return None
    now = _side(values, values.size, float(values.mean()), float(values.std(ddof=1)))
    return _named(column, now, _rows(reference, reference.layout.numbers.index(column)))


def _named(column: str, now: _Rows | None, was: _Rows | None) -> Naming | None:
    if now is None or was is None or not was.spread > 0:
        return None
    if _fit(_line("unchanged", "is as it was", 1.0), now, was) is not None:
        return None
    fits = _fits(now, was)
    if fits:
        return _told(column, fits, now, was) or (None if _bent(fits) else _straight(column, now, was))
    return _clipped(column, now, was) or _part(column, now, was) or _straight(column, now, was)


# -- the two sides


class _Rows(NamedTuple):
    """A column's rows: those of the sample, ascending, and the moments of all."""

    rows: Floats
    n: int
    mean: float
    spread: float  # standard deviation
    tails: float  # excess of the spread's error over a normal law's: sqrt((kurtosis - 1) / 2)


def _rows(profile: Profile, f: int) -> _Rows | None:
    values = profile.sample.numbers[:, f]
    values = np.sort(values[~np.isnan(values)])
    if values.size < ROWS:
        return None
    n = int(profile.cells[f].sum())
    mean, spread = float(profile.mean[f]), sqrt(max(float(profile.squares[f]), 0.0) / (n - 1))
    # the rounding of a mean is no spread, see `Profile.variance`
    return _side(values, n, mean, spread if spread > ROUNDING * abs(mean) else 0.0)


def _side(values: Floats, n: int, mean: float, spread: float) -> _Rows:
    gaps = (values - values.mean()) / max(float(np.abs(values).max()), 1e-300)  # no power of it overflows
    square = float((gaps**2).mean())
    kurtosis = float((gaps**4).mean()) / square**2 if square > 0 else nan
    return _Rows(values, n, mean, spread, sqrt(max(kurtosis - 1, 0.1) / 2) if isfinite(kurtosis) else nan)


def _chance(one: Floats, other: Floats) -> float:
    """That two samples (ascending or not) come of one law: KS at every value, equal ones taken together."""
    at = np.concatenate([one, other])
    # what a conversion there and back leaves of the last digits is no difference
    grain = 1e-9 * float(min(np.abs(one).max(), np.abs(other).max()))
    one, other = np.sort(one), np.sort(other)
    gap = np.abs(
        np.searchsorted(one, at + grain, "right") / one.size - np.searchsorted(other, at + grain, "right") / other.size
    ).max()
    return float(kolmogorov_tail(np.array([gap]), np.array([one.size * other.size / (one.size + other.size)]))[0])


def _errors(now: _Rows, was: _Rows) -> tuple[float, float]:
    """Standard errors of the place, in spreads, and of the log of the spread, between the two sides."""
    rows = sqrt(1 / now.n + 1 / was.n)
    return rows, rows * was.tails / sqrt(2)


def _far(now: _Rows, was: _Rows) -> float:
    """How far mean and spread are apart: 1 is the most that chance allows."""
    place, stretch = _errors(now, was)
    if not now.spread > 0:
        return inf
    off = abs(now.mean - was.mean) / max(now.spread, was.spread) / place
    wide = abs(log(now.spread / was.spread)) / stretch if stretch < 0.5 else 0.0
    return max(off, wide) / ERRORS


# -- one conversion of all rows


class _Fit(NamedTuple):
    conversion: Conversion
    exact: bool  # the digits prove it


def _fits(now: _Rows, was: _Rows) -> list[_Fit]:
    """The conversions that fit, one of a name; where the digits prove some, only these.

    Over a short stretch a logarithm is a line. So where a line explains the change, a named line goes before a curve.
    """
    fits = [fit for conversion in (*CONVERSIONS, *_normalised(was)) if (fit := _fit(conversion, now, was)) is not None]
    fits = [fit for fit in fits if fit.exact] or fits
    lines = [fit for fit in fits if isfinite(fit.conversion.slope)]
    if lines and len(lines) < len(fits) and _chance(now.rows, _stretched(now, was)) > FITS:
        fits = lines
    return list({fit.conversion.name: fit for fit in fits}.values())


def _bent(fits: Sequence[_Fit]) -> bool:
    return any(not isfinite(fit.conversion.slope) for fit in fits)


def _normalised(was: _Rows) -> Iterator[Conversion]:
    low, high = float(was.rows[0]), float(was.rows[-1])
    yield _line("standardised", "reads as if standardised: less its mean, by its deviation", 1 / was.spread,
                -was.mean / was.spread)  # fmt: skip
    yield _line("rescaled", "reads as if rescaled to 0..1", 1 / (high - low), -low / (high - low))


def _fit(conversion: Conversion, now: _Rows, was: _Rows) -> _Fit | None:
    read = _read_back(conversion, now, was)
    if read is None or _chance(read.rows, was.rows) < FITS:
        return None
    if not isfinite(conversion.slope):
        converted = _converted(conversion, was)
        # where a few rows carry the mean, as after an exponential, it says nothing
        if converted is None or (converted.tails < 3 and _far(now, converted) > 1):
            return None
    digits = _digits(conversion, now.rows, was.rows)
    return None if digits is False else _Fit(conversion, digits is True)


def _converted(conversion: Conversion, was: _Rows) -> _Rows | None:
    """The old rows in the new unit; None where that has no size."""
    if isfinite(conversion.slope):
        mean, spread = conversion.slope * was.mean + conversion.intercept, abs(conversion.slope) * was.spread
        return _Rows(np.sort(conversion.forth(was.rows)), was.n, mean, spread, was.tails)
    with np.errstate(all="ignore"):
        rows = conversion.forth(was.rows)
    rows = np.sort(rows[np.abs(rows) < HUGE])
    if rows.size < ROWS or not rows[0] < rows[-1]:
        return None
    return _side(rows, rows.size, float(rows.mean()), float(rows.std(ddof=1)))


def _stretched(now: _Rows, was: _Rows) -> Floats:
    """The old rows on the line that gives them the mean and spread of now."""
    return np.asarray(now.mean + (was.rows - was.mean) * (now.spread / was.spread))


def _read_back(conversion: Conversion, now: _Rows, was: _Rows) -> _Rows | None:
    """The rows now in the old unit, where their mean and spread fit: of all rows along a line, of the sample else."""
    read = now
    if isfinite(conversion.slope):
        mean, spread = (now.mean - conversion.intercept) / conversion.slope, now.spread / abs(conversion.slope)
        read = now._replace(mean=mean, spread=spread)
        if _far(read, was) > 1:
            return None
    with np.errstate(all="ignore"):
        rows = np.sort(conversion.back(now.rows))
    if not (np.abs(rows) < HUGE).all():
        return None
    if isfinite(conversion.slope):
        return read._replace(rows=rows)
    read = _side(rows, rows.size, float(rows.mean()), float(rows.std(ddof=1)))
    return None if _far(read, was) > 1 else read


def _coincidence(conversion: Conversion, now: _Rows, was: _Rows) -> float:
    """Chance that a population which moved for reasons of its own came as near to the conversion by accident.

    The log of its spread and the place of its mean, in spreads, are taken to move by a law of heavy tails: half of all
    move by under 0.2, one in nine by over 1. A stretch about zero moves one of the two only, and so does a mere shift;
    then the other is no evidence.
    """
    place, stretch = _errors(now, was)
    converted = _converted(conversion, was)
    if converted is None:
        return 1.0
    mean, spread = converted.mean, converted.spread
    larger = max(spread, was.spread)
    scale_chance = _near(log(spread / was.spread), ERRORS * stretch)
    place_chance = _near((mean - was.mean) / larger, ERRORS * place * spread / larger)
    if conversion.slope == 1:
        return place_chance
    # where a stretch about zero lands, how far it would leave the mean from where it is
    by_scale = abs(mean - was.mean * spread / was.spread) / (place * spread + abs(mean) * stretch)
    if by_scale < ERRORS:
        if mean and was.mean:
            ratio = place * max(spread / abs(mean), was.spread / abs(was.mean))
            scale_chance = min(scale_chance, _near(log(spread / was.spread), ERRORS * ratio))
        return scale_chance
    return scale_chance * place_chance


def _near(move: float, width: float) -> float:
    """Chance of a move within `width` of this one, under the density s^2 / (s + |move|)^3."""
    return min(1.0, 2 * width * USUAL**2 / (USUAL + abs(move)) ** 3)


# -- digits


def _step(values: Floats) -> float:
    """The power of ten that all values are whole multiples of, 0 where there is none above their precision."""
    largest = float(np.abs(values).max())
    for power in range(6, -7, -1):
        step = 10.0**power
        if step * 1e9 < largest:
            break
        if step <= largest and (np.abs(values / step - np.round(values / step)) < 1e-4).all():
            return step
    return 0.0


def _digits(conversion: Conversion, now: Floats, was: Floats) -> bool | None:
    """Whether the digits prove the conversion (True), contradict it (False), or say nothing (None).

    The reference's values lie on a grid, such as whole cents; converted, that grid is another one. Rows that keep to
    the converted grid while ordinary ones would not prove it; rows that leave it disprove it. Values that were rounded
    again after the conversion may be off by half of their own last digit.
    """
    now, was = np.unique(now), np.unique(was)  # a value that comes often, such as 0, says no more
    if now.size < 10:
        return None
    step = _step(was)
    if not step:
        return _lengths(conversion, now, was)

    def off(values: Floats) -> Floats:
        """How far values are from the converted grid, as a share of its mesh there, which `mesh` gives."""
        at = np.round(conversion.back(values) / step) * step
        return np.asarray(np.abs(values - conversion.forth(at)))

    with np.errstate(all="ignore"):
        mesh = np.abs(conversion.forth(np.round(conversion.back(now) / step) * step + step) - now)
        own = _step(now)
        on_own = (
            bool(own) and (np.abs(conversion.forth(was) / own - np.round(conversion.forth(was) / own)) < 1e-4).all()
        )
        grain = 1e-9 * float(np.abs(now).max()) + (0.501 * own if own and not on_own else 0.0)
        by_luck = 2 * grain / float(np.median(mesh))
        if not by_luck < 0.7:
            return None
        kept = float((off(now) <= grain).mean())
        usual = off(was)
        by_chance = float((usual <= grain).mean()) if np.isfinite(usual).all() else 0.0
        as_before = float((np.abs(now / step - np.round(now / step)) < 1e-4).mean())
    if kept < 0.9:
        return False
    return True if kept > 0.99 and by_luck < 0.25 and (by_chance < 0.5 or as_before < 0.5) else None


def _lengths(conversion: Conversion, now: Floats, was: Floats) -> bool | None:
    """The same of values without a grid but with few significant digits, as sensors write them: 15596.2, 1.31537."""
    digits = next((d for d in range(2, 9) if (_short(was, d)).mean() > 0.99), None)
    if digits is None:
        return None
    with np.errstate(all="ignore"):
        read, as_before = _short(conversion.back(now), digits).mean(), _short(now, digits).mean()
    if max(read, as_before) < 0.5 and not _short(now, 9).all():
        return False
    return True if read > 0.99 and as_before < 0.5 else None


def _short(values: Floats, digits: int) -> Mask:
    """Which values need no more significant digits."""
    size = np.abs(values) + (values == 0)
    grain = np.power(10.0, np.floor(np.log10(size)) - digits + 1)
    return np.asarray(np.abs(values - np.round(values / grain) * grain) <= 1e-10 * size)


# -- other names


def _clipped(column: str, now: _Rows, was: _Rows) -> Naming | None:
    """All that went beyond a bound now lies on it."""
    for bound, beyond, side in (
        (now.rows[-1], was.rows > now.rows[-1], "above"),
        (now.rows[0], was.rows < now.rows[0], "below"),
    ):
        there, before = float((now.rows == bound).mean()), float((was.rows == bound).mean())
        expected = float(beyond.mean()) + before
        error = sqrt(expected * (1 - expected) * (1 / now.rows.size + 1 / was.rows.size))
        if there > 0.9 or beyond.mean() < PART or abs(there - expected) > 3 * error or there - before < PART:
            continue
        kept, rest = now.rows[now.rows != bound], was.rows[~beyond & (was.rows != bound)]
        if kept.size and rest.size and _chance(kept, rest) > 0.05:
            text = f"{column} is clipped at {bound:.4g}: {100 * there:.3g} % of its rows lie there, and none {side}"
            return Naming("clipped", text, nan, nan, nan, nan, there)
    return None


def _part(column: str, now: _Rows, was: _Rows) -> Naming | None:
    """A conversion of a part of the rows, which lies well away from where all rows were; the rest is as ever."""
    room = was.spread / 2
    for away in (now.rows < was.rows[0] - room, now.rows > was.rows[-1] + room):
        far, near = now.rows[away], now.rows[~away]
        if min(far.size, near.size) < max(ROWS, PART * now.rows.size) or _chance(near, was.rows) < 0.01:
            continue
        part = _side(far, far.size, float(far.mean()), float(far.std(ddof=1)))
        return _told(column, _fits(part, was), part, was, far.size / now.rows.size)
    return None


def _slope(now: _Rows, was: _Rows) -> tuple[float, float]:
    """Slope of the line and its standard error: of all rows' spreads, or, where few carry these, of the quantiles.

    Of the quantile pairs the median of all slopes between two (Theil 1950, Sen 1968).
    """
    _, stretch = _errors(now, was)
    x, y = np.quantile(was.rows, LEVELS), np.quantile(now.rows, LEVELS)
    one, other = np.triu_indices(x.size, 1)
    run = x[other] - x[one]
    between = (y[other] - y[one])[run > 0] / run[run > 0]
    if between.size:
        # the error of the log of the distance of two quantiles of a normal law, 20 % and 80 %
        robust = sqrt(1 / now.rows.size + 1 / was.rows.size)
        if robust < stretch:
            middle = float(np.median(between))
            return middle, abs(middle) * robust
    slope = now.spread / was.spread
    return slope, slope * stretch


def _may_be_chosen(conversion: Conversion, slope: float) -> bool:
    """Whether a factor of two digits is nearer to the slope than the conversion's, which has more."""
    if not isfinite(conversion.slope) or conversion.intercept or not slope > 0:
        return False
    step = 10.0 ** (floor(log10(slope)) - 1)
    chosen, own = round(slope / step) * step, abs(conversion.slope)
    return abs(own / step - round(own / step)) > 1e-6 and abs(chosen - slope) < abs(own - slope)


def _straight(column: str, now: _Rows, was: _Rows) -> Naming | None:
    """A line with no name of its own: another gain, another zero."""
    slope, error = _slope(now, was)
    if abs(slope - 1) < ERRORS * error or now.n < 4 * ROWS:
        return None  # a shift; populations do that
    intercept = now.mean - slope * was.mean
    if _chance(now.rows, slope * was.rows + intercept) < 0.05:
        return None
    text = f"{column} lies on one line with what it was: {_equation(slope, intercept, error)}"
    return Naming("line", text, slope, slope - 2 * error, slope + 2 * error, intercept, 1.0)


# -- words


def _told(column: str, fits: Sequence[_Fit], now: _Rows, was: _Rows, share: float = 1.0) -> Naming | None:
    """The one conversion that fits, unless it may be a coincidence."""
    if len(fits) != 1:
        return None
    conversion = fits[0].conversion
    if not fits[0].exact:
        # a curve that a line could be taken for has to land closer
        flat = _bent(fits) and _chance(now.rows, _stretched(now, was)) > FITS
        if _coincidence(conversion, now, was) > (COINCIDENCE / 100 if flat else COINCIDENCE):
            return None
        if _may_be_chosen(conversion, _slope(now, was)[0]):
            return None
    whose = column if share == 1 else f"{column} in {100 * share:.2g} % of its rows"
    if not isfinite(conversion.slope):
        return Naming(conversion.name, f"{whose} {conversion.says}", nan, nan, nan, nan, share)
    if fits[0].exact:
        slope, error, intercept = conversion.slope, 0.0, conversion.intercept
    else:
        slope, error = _slope(now, was)
        slope = slope if conversion.slope > 0 else -slope
        intercept = now.mean - slope * was.mean
    text = f"{whose} {conversion.says}: {_equation(slope, intercept, error)}"
    return Naming(conversion.name, text, slope, slope - 2 * error, slope + 2 * error, intercept, share)


def _equation(slope: float, intercept: float, error: float) -> str:
    sign = "-" if intercept < 0 else "+"
    constant = f" {sign} {abs(intercept):.3g}" if intercept else ""
    known = f" (slope {slope - 2 * error:.3g} to {slope + 2 * error:.3g})" if error else ", to the digit"
    return f"new = {slope:.4g} x old{constant}{known}"
