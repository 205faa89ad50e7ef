"""SVG charts of the report: drawn here, coloured by the report's style sheet.

Classes rather than colours, so that light, dark and print share one drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from flan_jax.evaluation.statistics import Interval

# Points of a curve; more would not be seen.
MAX_POINTS = 400


class Estimate(NamedTuple):
    """A share in [0, 1] and its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class IntervalRow:
    """One line of an interval chart.

    Attributes:
      label: at its left.
      after: the score.
      before: the score to compare with.
      baseline: marked by a tick.
      published: a score without an interval to hold it against, marked by a hollow dot.
    """

    label: str
    after: Estimate
    before: Estimate | None = None
    baseline: float | None = None
    published: float | None = None


@dataclass(frozen=True)
class IntervalGroup:
    """Rows below a heading; no heading if it is empty."""

    heading: str
    rows: Sequence[IntervalRow]


_LABEL_WIDTH, _PLOT_WIDTH, _VALUE_WIDTH = 210, 480, 110
_ROW_HEIGHT, _HEADING_HEIGHT, _AXIS_HEIGHT = 24, 30, 26


def percent(share: float, digits: int = 1) -> str:
    """`share` in percent without a sign, with a true minus."""
    text = f"{100 * share:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "−")


def _x(share: float) -> float:
    return round(_LABEL_WIDTH + _PLOT_WIDTH * min(1.0, max(0.0, share)), 2)


def interval_chart(groups: Sequence[IntervalGroup], title: str, ident: str) -> Markup:
    """Dots with intervals on an axis from 0 to 100%: before hollow, after filled.

    Args:
      groups: the rows.
      title: for screen readers.
      ident: unique in the document.
    """
    rows: list[str] = []
    top = 4.0
    for group in groups:
        if group.heading:
            rows.append(
                f'<text class="group" x="0" y="{top + 20:g}">{escape(group.heading)}</text>'
            )
            top += _HEADING_HEIGHT
        for row in group.rows:
            rows.append(_interval_row(row, top + _ROW_HEIGHT / 2))
            top += _ROW_HEIGHT
    grid = "".join(
        f'<line class="grid" x1="{_x(t / 4)}" x2="{_x(t / 4)}" y1="2" y2="{top:g}"/>'
        f'<text class="tick" x="{_x(t / 4)}" y="{top + 17:g}">{25 * t}%</text>'
        for t in range(5)
    )
    width, height = _LABEL_WIDTH + _PLOT_WIDTH + _VALUE_WIDTH, top + _AXIS_HEIGHT
    return _svg("intervals", width, height, title, ident, grid + "".join(rows))


def _interval_row(row: IntervalRow, y: float) -> str:
    parts = [
        f'<text class="label" x="{_LABEL_WIDTH - 14}" y="{y + 4:g}">{escape(row.label)}</text>'
    ]
    told = f"{row.label}: "
    if row.baseline is not None:
        x = _x(row.baseline)
        parts.append(f'<line class="baseline" x1="{x}" x2="{x}" y1="{y - 9:g}" y2="{y + 9:g}"/>')
    if row.published is not None:
        x = _x(row.published)
        parts.append(f'<circle class="before dot" cx="{x}" cy="{y:g}" r="4.5"/>')
    # The two are set apart vertically, so that equal intervals do not hide one another.
    shift = 3.5 if row.before is not None else 0.0
    if row.before is not None:
        parts.append(_dot("before", row.before, y - shift))
        told += f"before {_told(row.before)}, after "
    parts.append(_dot("after", row.after, y + shift))
    told += _told(row.after)
    if row.baseline is not None:
        told += f", baseline {percent(row.baseline)}%"
    if row.published is not None:
        told += f", published {percent(row.published)}%"
    values = percent(row.after.value)
    if row.before is not None:
        values = f'<tspan class="old">{percent(row.before.value)} →</tspan> {values}'
    x = _LABEL_WIDTH + _PLOT_WIDTH + _VALUE_WIDTH
    parts.append(f'<text class="value" x="{x}" y="{y + 4:g}">{values}</text>')
    return f"<g><title>{escape(told)}</title>{''.join(parts)}</g>"


def _told(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{percent(estimate.value)}% ({percent(low)} to {percent(high)})"


def _dot(kind: str, estimate: Estimate, y: float) -> str:
    low, high = estimate.interval
    return (
        f'<line class="{kind} whisker" x1="{_x(low)}" x2="{_x(high)}" y1="{y:g}" y2="{y:g}"/>'
        f'<circle class="{kind} dot" cx="{_x(estimate.value)}" cy="{y:g}" r="4"/>'
    )


def _svg(kind: str, width: float, height: float, title: str, ident: str, body: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{ident}"><title id="{ident}">{escape(title)}</title>{body}</svg>'
    )


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span [low, high] (both ends covered), about `most` of them."""
    # A span that rounding could have made is none.
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-12):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    # 1e-9: the span over the step may miss a whole number by rounding.
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (m * step) <= most + 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve as means of at most MAX_POINTS neighbouring bins; short ones as they are."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    bins = np.array_split(np.arange(len(steps)), MAX_POINTS)
    return (
        np.array([steps[part].mean() for part in bins]),
        np.array([values[part].mean() for part in bins]),
    )


def smooth(values: np.ndarray, half: int) -> np.ndarray:
    """The running median over `half` points to each side (fewer at the ends)."""
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def compact(value: float) -> str:
    """A number for an axis: 1500 as 1.5k."""
    for scale, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{suffix}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


_LINE_WIDTH, _LINE_HEIGHT = 470, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34


def line_chart(
    steps: Sequence[float],
    values: Sequence[float],
    title: str,
    ident: str,
    *,
    as_percent: bool = False,
    from_zero: bool = False,
) -> Markup:
    """A curve over training steps, with its running median where there are many points."""
    x, y = thin(np.asarray(steps, float), np.asarray(values, float))
    scale = 100.0 if as_percent else 1.0
    y = y * scale
    # The highest 2% may be spikes that would flatten all the rest.
    top = float(np.quantile(y, 0.98)) if len(y) >= 50 else float(y.max())
    x_ticks = nice_ticks(float(x.min()), float(x.max()))
    y_ticks = nice_ticks(0.0 if from_zero else float(y.min()), max(top, float(y[-1])))
    x_low, x_high = float(x.min()), max(float(x.max()), float(x.min()) + 1)
    inner_width, inner_height = _LINE_WIDTH - _LEFT - _RIGHT, _LINE_HEIGHT - _TOP - _BOTTOM

    def px(value: float) -> float:
        return round(_LEFT + inner_width * (value - x_low) / (x_high - x_low), 1)

    def py(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(_TOP + inner_height * (1 - min(1.03, max(0.0, share))), 1)

    def path(kind: str, ys: np.ndarray) -> str:
        points = " ".join(f"{px(a)},{py(b)}" for a, b in zip(x, ys, strict=True))
        return f'<polyline class="{kind}" points="{points}"/>'

    unit = "%" if as_percent else ""
    body = [
        f'<line class="grid" x1="{_LEFT}" x2="{_LINE_WIDTH - _RIGHT}" y1="{py(t)}" y2="{py(t)}"/>'
        f'<text class="tick y" x="{_LEFT - 7}" y="{py(t) + 4:g}">{compact(t)}{unit}</text>'
        for t in y_ticks
    ]
    body += [
        f'<text class="tick" x="{px(t)}" y="{_LINE_HEIGHT - 17}">{compact(t)}</text>'
        for t in x_ticks
        if x_low <= t <= x_high
    ]
    middle = _LEFT + inner_width / 2
    body.append(f'<text class="tick" x="{middle:g}" y="{_LINE_HEIGHT - 3}">step</text>')
    if len(y) >= 50:
        body += [path("curve raw", y), path("curve", smooth(y, max(2, len(y) // 40)))]
    else:
        body.append(path("curve", y))
    told = f"{title}: from {y[0]:.4g}{unit} to {y[-1]:.4g}{unit} over {len(steps)} measurements"
    return _svg("line", _LINE_WIDTH, _LINE_HEIGHT, told, ident, "".join(body))


def curves_of(
    rows: Iterable[Mapping[str, object]],
) -> dict[str, tuple[list[float], list[float]]]:
    """(steps, values) by name for what rows of metrics.jsonl hold; not-a-numbers are left out.

    Rows may hold different names; a row without `step` is ignored.
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        step = row.get("step")
        if not isinstance(step, (int, float)):
            continue
        for name, value in row.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(float(step))
                values.append(float(value))
    return curves
