"""Event times as they come, text or number, to UTC seconds; whole batches at once where their form allows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from detectors.core import Floats

_LATEST = 253402300800.0  # the year 10000; what lies beyond is no time
# The unit of an epoch number follows from its size: 1e11 s is the year 5138, 1e11 ms is 1973.
_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))
_FEW = 16  # texts of one width, below which thirty array operations cost more than they save
_FORM = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|z|[+-]\d\d:\d\d)?", re.ASCII)


def parse_time(value: Any) -> float:
    """UTC seconds of an ISO 8601 text (no zone = UTC) or an epoch number in s, ms, us or ns, told apart by size.

    NaN when it is neither, negative, or past the year 9999.

    >>> parse_time("1970-01-01T01:00:00.5+01:00"), parse_time(1_790_000_000_123), parse_time("soon")
    (0.5, 1790000000.123, nan)
    """
    if isinstance(value, str):
        try:
            if value.isdecimal():
                return parse_time(int(value[:21]))
            at = datetime.fromisoformat(value)
            # computed from UTC parts: timestamp() of a time without zone would take the host's zone
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return np.nan
        return seconds if 0 <= seconds < _LATEST else np.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return np.nan
    return next((value / unit for below, unit in _UNITS if value < below), np.nan)


def parse_times(values: Sequence[Any]) -> Floats:
    """`parse_time` of each value (n,). Texts of one form cost 0.1 us each instead of 0.8."""
    out = np.full(len(values), np.nan)
    alike = len(values) >= _FEW and set(map(type, values)) == {str} and len(set(map(len, values))) == 1
    if alike and _parse_form(values, range(len(values)), out):
        return out
    by_width: dict[int, list[int]] = {}
    for row, value in enumerate(values):
        if type(value) is str:
            by_width.setdefault(len(value), []).append(row)
        else:
            out[row] = parse_time(value)
    for rows in by_width.values():
        if len(rows) < _FEW or not _parse_form(values, rows, out):
            for row in rows:
                out[row] = parse_time(values[row])
    return out


def _parse_form(values: Sequence[str], rows: Sequence[int], out: Floats) -> bool:
    """Fills `out` where the texts are written like the first one, the rest one by one; False if it is no known form."""
    first = values[rows[0]]
    form = _FORM.fullmatch(first)
    text = "".join([values[row] for row in rows])
    if form is None or not text.isascii():
        return False
    width = len(first)
    # int32 digits, one matrix row per place, so every step below runs over contiguous memory
    places = np.frombuffer(text.encode(), np.uint8).reshape(len(rows), width).T.astype(np.int32) - 48
    pattern = np.frombuffer(first.encode(), np.uint8).astype(np.int32) - 48
    is_digit = (pattern >= 0) & (pattern <= 9)
    fits = ((places[is_digit] >= 0) & (places[is_digit] <= 9)).all(axis=0)
    fits &= (places[~is_digit] == pattern[~is_digit, None]).all(axis=0)

    def digits(start: int, stop: int) -> Any:
        total = places[start].astype(np.int64)
        for place in range(start + 1, stop):
            total = total * 10 + places[place]
        return total

    year, month, day = digits(0, 4), digits(5, 7), digits(8, 10)
    hour, minute, second = digits(11, 13), digits(14, 16), digits(17, 19)
    # day 29 to 31 is left to the exact parser, which knows the months' lengths and leap years
    fits &= (year >= 1970) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 28)
    fits &= (hour < 24) & (minute < 60) & (second < 60)
    # Days since 1970 of the proleptic Gregorian calendar, counted in years that begin in March.
    shifted = year - (month < 3)
    in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + in_year - 719468
    seconds = (days * 86400 + hour * 3600 + minute * 60 + second).astype(np.float64)
    if form[1]:
        seconds += digits(20, form.end(1)) / 10.0 ** (len(form[1]) - 1)
    if form[2] and form[2] not in "Zz":
        at = form.start(2)
        offset = digits(at + 1, at + 3) * 3600 + digits(at + 4, at + 6) * 60
        seconds -= offset if form[2][0] == "+" else -offset
        fits &= offset < 86400
    fits &= seconds >= 0
    out[np.asarray(rows)] = np.where(fits, seconds, np.nan)
    for at in np.flatnonzero(~fits).tolist():
        out[rows[at]] = parse_time(values[rows[at]])
    return True
