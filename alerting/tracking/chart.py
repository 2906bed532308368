"""Numbers over time as one small picture: SVG, a panel for each, nothing to load. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape

Series = Sequence[tuple[float, float]]  # event time and value, in order of time

PANELS = 24  # drawn at most
_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 90, 90, 22  # of a panel's field, and the room beside and above it
_ROW = _HEIGHT + _TOP + 14


def chart(title: str, series: Mapping[str, Series]) -> str:
    """An SVG document. `x_low` and `x_high` are drawn as a band around `x`; values must be finite.

    >>> chart("shelf", {"accuracy": [(0.0, 0.9), (60.0, 0.8)]}).count("<polyline")
    1
    """
    names = [name for name in series if series[name] and not _bounds(name, series)][:PANELS]
    spread = [at for name in names for at, _ in series[name]]
    begin, end = min(spread, default=0.0), max(spread, default=0.0)
    height = 40 + _ROW * len(names)
    size = f'width="{_WIDTH + _LEFT + 20}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="18" font-size="13">{escape(title)}</text>',
    ]
    for row, name in enumerate(names):
        lines += _panel(name, series, 28 + row * _ROW, begin, end)
    if names:
        lines.append(f'<text x="{_LEFT}" y="{height - 4}" fill="#666">{_moment(begin)} to {_moment(end)} UTC</text>')
    return "\n".join([*lines, "</svg>", ""])


def _bounds(name: str, series: Mapping[str, Series]) -> bool:
    """Whether it is a bound of another."""
    stem, _, end = name.rpartition("_")
    return end in ("low", "high") and stem in series


def _panel(name: str, series: Mapping[str, Series], top: float, begin: float, end: float) -> Iterator[str]:
    line, low, high = (series.get(each, ()) for each in (name, f"{name}_low", f"{name}_high"))
    values = [value for some in (line, low, high) for _, value in some]
    least, most = min(values), max(values)
    ground = top + _TOP + _HEIGHT

    def place(at: float, value: float) -> str:
        x = _LEFT + _WIDTH * ((at - begin) / (end - begin) if end > begin else 0.5)
        y = ground - _HEIGHT * ((value - least) / (most - least) if most > least else 0.5)
        return f"{x:.1f},{y:.1f}"

    yield f'<text x="{_LEFT}" y="{top + _TOP - 6:.0f}">{escape(name)}</text>'
    yield (
        f'<rect x="{_LEFT}" y="{top + _TOP:.0f}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ddd"/>'
        f'<text x="{_LEFT - 6}" y="{top + _TOP + 10:.0f}" text-anchor="end">{most:.4g}</text>'
        f'<text x="{_LEFT - 6}" y="{ground:.0f}" text-anchor="end">{least:.4g}</text>'
    )
    if low and high:
        band = " ".join(place(*point) for point in (*low, *reversed(high)))
        yield f'<polygon points="{band}" fill="#cfe2f3"/>'
    yield f'<polyline points="{" ".join(place(*point) for point in line)}" fill="none" stroke="#1f5fa8"/>'
    # a single point is no line
    yield from (
        f'<circle cx="{x}" cy="{y}" r="2" fill="#1f5fa8"/>' for x, y in (place(*p).split(",") for p in line[-1:])
    )


def _moment(at: float) -> str:
    return datetime.fromtimestamp(min(max(0.0, at), 253402300799.0), UTC).strftime("%Y-%m-%d %H:%M:%S")
