"""Blocks of answer options, in many shapes so that a model learns none of them by heart.

As in the Flan 2022 collection, zero-shot prompts draw a heading and a kind of marker; when the
markers tell the options apart, the model is to answer with the marker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flan_jax.draws import Draws

HEADINGS = (
    "Options:",
    "Choices:",
    "Possible answers:",
    "Choose from:",
    "Pick one of these:",
    "The answer is one of:",
    "Select the best choice:",
    "Candidates:",
)


def _letters(index: int) -> str:
    """A, B, … Z, AA, AB, … as spreadsheets count."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


_ROMAN = ((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))


def _roman(index: int) -> str:
    text, rest = "", index + 1
    for value, numeral in _ROMAN:
        count, rest = divmod(rest, value)
        text += numeral * count
    return text


@dataclass(frozen=True)
class MarkerKind:
    """A way to mark options: the marker's text before the option, and whether it identifies it."""

    mark: Callable[[int], str]
    identifying: bool = True


MARKER_KINDS = (
    MarkerKind(lambda i: f"({_letters(i)})"),
    MarkerKind(lambda i: f"{_letters(i)}."),
    MarkerKind(lambda i: f"{_letters(i)})"),
    MarkerKind(lambda i: f"[{_letters(i)}]"),
    MarkerKind(lambda i: f"({_letters(i).lower()})"),
    MarkerKind(lambda i: f"{_letters(i).lower()}."),
    MarkerKind(lambda i: f"{i + 1}."),
    MarkerKind(lambda i: f"({i + 1})"),
    MarkerKind(lambda i: f"{_roman(i)}."),
    MarkerKind(lambda i: "-", identifying=False),
    MarkerKind(lambda i: "*", identifying=False),
    MarkerKind(lambda i: "+", identifying=False),
)


@dataclass(frozen=True)
class OptionBlock:
    """A rendered block of options.

    Attributes:
      text: the block, beginning with its line break; empty if options are not shown.
      labels: what the model should write for each option, in their order.
    """

    text: str
    labels: tuple[str, ...]


def no_block(options: Sequence[str]) -> OptionBlock:
    """Options that are not shown: each is answered by its own text."""
    return OptionBlock("", tuple(options))


def plain_block(options: Sequence[str]) -> OptionBlock:
    """The one fixed shape: dashes, answered by the option's text."""
    return _block(HEADINGS[0], MARKER_KINDS[9], options)


def drawn_block(options: Sequence[str], draws: Draws) -> OptionBlock:
    """A block whose heading and markers are drawn."""
    return _block(draws.choice(HEADINGS), draws.choice(MARKER_KINDS), options)


def _block(heading: str, kind: MarkerKind, options: Sequence[str]) -> OptionBlock:
    lines = [f"{kind.mark(i)} {option}" for i, option in enumerate(options)]
    # A single option has nothing to be told apart from, so its marker would say nothing.
    identifying = kind.identifying and len(options) > 1
    labels = [kind.mark(i) if identifying else option for i, option in enumerate(options)]
    return OptionBlock("\n" + "\n".join([heading, *lines]), tuple(labels))
