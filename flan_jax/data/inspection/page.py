"""Pages about batches and statistics: one HTML file each, with everything in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from flan_jax import __version__
from flan_jax.data.inspection.batches import InspectedRow
from flan_jax.data.inspection.stats import SIDES, bins

COLOURS = 6  # of segments, in turn; the style sheet has as many


def batch_page(
    found: Mapping[str, Any], rows: Sequence[InspectedRow], *, tokens: bool = False
) -> str:
    """The page of a batch.

    Args:
      found: what `flan-jax data show --format json` prints.
      rows: the rows it was made of.
      tokens: whether every token can be told from the next; such a page is large.
    """
    return (
        _environment()
        .get_template("batch.html.j2")
        .render(
            found=found,
            pairs=list(zip(found["rows"], rows, strict=True)),
            tokens=tokens,
            colours=COLOURS,
            loss_runs=loss_runs,
            sides=SIDES,
            version=__version__,
        )
    )


def stats_page(found: Mapping[str, Any]) -> str:
    """The page of statistics; `found` is what `flan-jax data stats --format json` prints."""
    return (
        _environment()
        .get_template("stats.html.j2")
        .render(
            found=found,
            charts={
                side: histogram_chart(
                    found["total"][side]["histogram"],
                    found["edges"][side],
                    found["lengths"][side],
                    side,
                )
                for side in SIDES
            },
            # All small charts have the same bins, so that they can be compared by eye.
            shown={
                side: bins(found["total"][side]["histogram"], found["edges"][side])
                for side in SIDES
            },
            colours=COLOURS,
            sides=SIDES,
            sparkline=sparkline,
            version=__version__,
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": lambda value: f"{value:,}"}
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))
    return environment


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def loss_runs(row: InspectedRow) -> list[tuple[int, int]]:
    """(start, end) of the stretches of targets that weigh in the loss."""
    weighs = np.concatenate([[0], row.arrays["decoder_loss_weights"] > 0, [0]]).astype(int)
    changes = np.flatnonzero(np.diff(weighs))
    return [(int(start), int(end)) for start, end in changes.reshape(-1, 2)]


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 460, 210, 40, 14, 40


def histogram_chart(counts: Sequence[int], edges: Sequence[int], limit: int, side: str) -> Markup:
    """Bars over lengths, those of texts that are cut in another colour.

    Args:
      counts: a histogram of `stats`.
      edges: upper ends of its bins.
      limit: length that texts are cut to.
      side: `inputs` or `targets`.
    """
    shown = bins(counts, edges)
    total, highest = sum(counts), max(counts)
    step = (_WIDTH - _LEFT) / max(len(shown), 1)
    plot = _HEIGHT - _TOP - _BOTTOM
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:g}" y2="{y:g}"/>'
        f'<text class="tick y" x="{_LEFT - 6}" y="{y + 4:g}">{tick:g}%</text>'
        for tick in _ticks(100 * highest / total)
        for y in [round(_TOP + plot * (1 - tick / (100 * highest / total)), 2)]
    ]
    for place, (index, end) in enumerate(shown):
        name = f"more than {_end(shown[place - 1][1])}" if end is None else f"up to {end:,}"
        kind = "bar cut" if end is None or end > limit else "bar"
        height = plot * counts[index] / highest
        x = _LEFT + place * step
        told = f"{name} tokens: {counts[index]:,} examples, {100 * counts[index] / total:.2f}%"
        parts.append(
            f'<g><title>{escape(told)}</title><rect class="hit" x="{x:.2f}" y="{_TOP}" '
            f'width="{step:.2f}" height="{plot}"/><rect class="{kind}" x="{x + 1:.2f}" '
            f'y="{_TOP + plot - height:.2f}" width="{max(step - 2, 1):.2f}" '
            f'height="{height:.2f}"/></g>'
        )
        # Doublings alone: names of all bins would touch one another.
        if end is not None and end & (end - 1) == 0:
            parts.append(
                f'<text class="tick" x="{x + step:.2f}" y="{_TOP + plot + 16}">{_end(end)}</text>'
            )
    middle = _LEFT + (_WIDTH - _LEFT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 4}">tokens of {side}</text>')
    title = f"Histogram of the lengths of {side}"
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{side}-chart">'
        f'<title id="{side}-chart">{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _ticks(highest: float) -> list[float]:
    """Round numbers from 0 to `highest`, two to five of them."""
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(m * power for m in (5, 2, 1, 0.5, 0.2) if highest / (m * power) >= 2)
    return [round(step * i, 9) for i in range(int(highest / step) + 1)]


def _end(end: int | None) -> str:
    if end is None:
        return ""
    return f"{end // 1024}k" if end >= 1024 and end % 1024 == 0 else f"{end:,}"


def sparkline(counts: Sequence[int], shown: Sequence[tuple[int, int | None]]) -> Markup:
    """A small histogram, as high as its own highest bar."""
    highest = max(max(counts), 1)
    steps = " ".join(f"V{20 - round(20 * counts[index] / highest, 1):g} h4" for index, _ in shown)
    return Markup(
        f'<svg class="spark" viewBox="0 0 {4 * len(shown)} 20" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="M0 20 {steps} V20 Z"/></svg>'
    )
