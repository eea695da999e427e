"""Draw the report's charts as SVG that takes its colours from the page, so that it follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from fcas_nnunet.evaluation.viewing.colours import confidence_colours

_WIDTH, _HEIGHT = 320, 128
_LEFT, _RIGHT, _TOP, _BOTTOM = 10, 10, 8, 22
_TAIL = 0.002  # share of a distribution beyond either end of the axis
_BARS = 64


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    label: str  # name in the legend
    x: Sequence[float]  # values, increasing
    y: Sequence[float]  # values; NaN leaves a gap
    role: str  # CSS class that gives the colour
    points: bool = False  # whether the values are few and marked one by one


def nice_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """At most `most` round numbers within a range, evenly spaced."""
    ticks = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high][:most] or [low]


def intensity_chart(
    synthetic: np.ndarray | None, real: np.ndarray | None, lowest: int, colour: str, title: str
) -> Markup:
    """Draw a structure's intensities: the synthetic set as an area, the real one as a line over it.

    Args:
        synthetic: Share of voxels at each whole standard unit; None where it is not shown.
        real: The same of the real set, or None.
        lowest: Standard units of the first bin.
        colour: Colour of the area.
        title: Title for readers who do not see the chart.
    """
    present = [shares for shares in (synthetic, real) if shares is not None]
    if not present:
        return Markup("")
    bounds = [np.searchsorted(np.cumsum(shares / shares.sum()), (_TAIL, 1 - _TAIL)) for shares in present]
    first = int(min(b[0] for b in bounds))
    width = max(_BARS, int(max(b[1] for b in bounds)) - first + 1)
    width = -(-width // _BARS) * _BARS
    first = max(0, min(first, len(present[0]) - width))
    bars = [None if s is None else s[first : first + width].reshape(_BARS, -1).sum(axis=1) for s in (synthetic, real)]
    top = max(float(b.max()) for b in bars if b is not None)
    low, high = lowest + first, lowest + first + width
    shapes = []
    if bars[0] is not None:
        shapes.append(Markup('<path class="area" d="{}" style="fill:{};stroke:{}"/>').format(
            _steps(bars[0], top, closed=True), colour, colour))  # fmt: skip
    if bars[1] is not None:
        shapes.append(Markup('<path class="real" d="{}"/>').format(_steps(bars[1], top, closed=False)))
    return _svg(shapes + _x_axis(low, high), title)


def confidence_chart(shares: np.ndarray, title: str) -> Markup:
    """Draw a histogram of confidence, each bar in the colour that the overlay gives it.

    Args:
        shares: Share of voxels at each confidence k/255.
        title: Title for readers who do not see the chart.
    """
    bars = shares.reshape(32, -1).sum(axis=1)
    top = max(float(bars.max()), 1e-12)
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = inner_width / len(bars)
    shapes = [
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>').format(
            _LEFT + i * step, _TOP + inner_height * (1 - bar / top), step - 1, inner_height * bar / top, colour)
        for i, (bar, colour) in enumerate(zip(bars, confidence_colours(len(bars)), strict=True))
    ]  # fmt: skip
    return _svg(shapes + _x_axis(0, 1), title)


def strip_chart(values: Sequence[float], names: Sequence[str], title: str) -> Markup:
    """Draw one dot per case along a line, the mean as a tick; names on hovering."""
    present = [(value, name) for value, name in zip(values, names, strict=True) if math.isfinite(value)]
    if not present:
        return Markup("")
    numbers = [value for value, _ in present]
    spread = (max(numbers) - min(numbers)) or max(abs(numbers[0]) * 0.1, 1e-3)
    low, high = min(numbers) - 0.08 * spread, max(numbers) + 0.08 * spread
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2

    def place(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    shapes = [
        Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}: {:.4g}</title></circle>').format(
            place(value), middle + ((i * 37) % 41 - 20) * 0.9, name, value)
        for i, (value, name) in enumerate(present)
    ]  # fmt: skip
    mean = place(math.fsum(numbers) / len(numbers))
    shapes.append(
        Markup('<path class="mean" d="M{:.1f} {:.1f}V{:.1f}"/>').format(mean, _TOP + 6, _HEIGHT - _BOTTOM - 6)
    )
    return _svg(shapes + _x_axis(low, high), title)


def line_chart(series: Sequence[Series], title: str, x_title: str, *, log: bool = False) -> Markup:
    """Draw lines over steps or epochs, with an axis to the left.

    Args:
        series: Lines, at least one with a finite value.
        title: Title for readers who do not see the chart.
        x_title: Title below the axis.
        log: Whether the values' axis is logarithmic; falls back to a linear one where values are not positive.
    """
    width, height, left, bottom = 520, 220, 52, 34
    finite = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]
    if not finite:
        return Markup("")
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    log = log and min(ys) > 0
    scaled = [math.log10(y) for y in ys] if log else ys
    low, high = min(scaled), max(scaled)
    pad = 0.06 * (high - low) or max(abs(high) * 0.05, 0.01)
    low, high, x_low, x_high = low - pad, high + pad, min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def at(x: float, y: float) -> tuple[float, float]:
        value = math.log10(y) if log else y
        return (left + (x - x_low) / (x_high - x_low) * (width - left - 10),
                10 + (high - value) / (high - low) * (height - bottom - 10))  # fmt: skip

    shapes = []
    for tick in _log_ticks(low, high) if log else nice_ticks(low, high, 5):
        y = at(x_low, tick)[1]
        shapes.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(left, y, width - 10))
        shapes.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:.4g}</text>').format(
            left - 6, y + 4, tick))  # fmt: skip
    for tick in nice_ticks(x_low, x_high, 6):
        x = left + (tick - x_low) / (x_high - x_low) * (width - left - 10)
        shapes.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:g}</text>').format(
            x, height - bottom + 16, tick))  # fmt: skip
    shapes.append(Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
        width - 10, height - 4, x_title))  # fmt: skip
    for line in series:
        places = [at(x, y) if math.isfinite(y) else None for x, y in zip(line.x, line.y, strict=True)]
        shapes.append(Markup('<path class="line {}" d="{}"/>').format(line.role, _polyline(places)))
        if line.points:
            shapes += [Markup('<circle class="point {}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(line.role, *place)
                       for place in places if place]  # fmt: skip
    return _svg(shapes, title, width, height)


def _polyline(places: Sequence[tuple[float, float] | None]) -> str:
    parts, pen = [], "M"
    for place in places:
        if place is None:
            pen = "M"
            continue
        parts.append(f"{pen}{place[0]:.1f} {place[1]:.1f}")
        pen = "L"
    return "".join(parts)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range of exponents, with 2 and 5 between where they are few; round numbers if fewer."""
    if high - low < 0.6:
        return nice_ticks(10**low, 10**high)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    return [f * 10.0**e for e in exponents for f in factors if low <= math.log10(f) + e <= high]


def _steps(bars: np.ndarray, top: float, *, closed: bool) -> str:
    """A histogram's outline."""
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step, base = inner_width / len(bars), _HEIGHT - _BOTTOM
    path = [f"M{_LEFT} {base}"]
    for index, bar in enumerate(bars):
        path.append(f"V{base - inner_height * bar / top:.1f}H{_LEFT + (index + 1) * step:.1f}")
    return "".join(path) + (f"V{base}Z" if closed else f"V{base}")


def _x_axis(low: float, high: float) -> list[Markup]:
    base = _HEIGHT - _BOTTOM
    shapes = [Markup('<path class="axis" d="M{} {}H{}"/>').format(_LEFT, base, _WIDTH - _RIGHT)]
    for tick in nice_ticks(low, high, 5):
        x = _LEFT + (tick - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)
        anchor = "start" if x < 24 else "end" if x > _WIDTH - 24 else "middle"
        shapes.append(Markup('<path class="axis" d="M{:.1f} {}v4"/>').format(x, base))
        shapes.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{:g}</text>').format(
            x, base + 16, anchor, round(tick, 10)))  # fmt: skip
    return shapes


def _svg(shapes: Sequence[Markup], title: str, width: int = _WIDTH, height: int = _HEIGHT) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, title, Markup("").join(shapes)
    )
