"""Blocks of answer options, in many shapes so that a model learns none of them by heart.

As in the Flan 2022 collection, zero-shot prompts draw a heading, a kind of marker and a line
ending; when the markers tell the options apart, the model is to answer with the marker. Any number
of options can be marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flan_jax.draws import Draws

PLAIN_HEADINGS = (
    "Options:",
    "Choices:",
    "Possible answers:",
    "Choose from:",
    "Pick one of these:",
    "The answer is one of:",
    "Select the best choice:",
    "Candidates:",
)
HEADINGS = (
    *PLAIN_HEADINGS,
    "Available options:",
    "Pick from:",
    "Select from the following:",
    "Answers to choose from:",
    "Your options are:",
    "Which one?",
    "OPTIONS:",
    "Possible choices:",
    "Here are the candidates:",
    "One of these is right:",
)


def _upper(index: int) -> str:
    """A, B, … Z, AA, AB, … as spreadsheets count."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("A") + digit) + text
    return text


def _lower(index: int) -> str:
    return _upper(index).lower()


def _number(index: int) -> str:
    return str(index + 1)


_NUMERALS = (
    (100, "c"),
    (90, "xc"),
    (50, "l"),
    (40, "xl"),
    (10, "x"),
    (9, "ix"),
    (5, "v"),
    (4, "iv"),
    (1, "i"),
)


def _roman(index: int) -> str:
    text, rest = "", index + 1
    for value, numeral in _NUMERALS:
        count, rest = divmod(rest, value)
        text += numeral * count
    return text


def _upper_roman(index: int) -> str:
    return _roman(index).upper()


@dataclass(frozen=True)
class MarkerKind:
    """A way to mark options: what goes around the count, which may be nothing but a bullet.

    Attributes:
      around: text with `%` where the count stands.
      count: the count of option i, from 0; None for a bullet, which tells no option from another.
      tail: what follows the marker and is no part of the answer.
    """

    around: str
    count: Callable[[int], str] | None = None
    tail: str = ""

    @property
    def identifying(self) -> bool:
        """Whether the marker tells the options apart."""
        return self.count is not None

    def label(self, index: int) -> str:
        """What stands for option `index`, from 0, as an answer; for bullets, nothing does."""
        return self.around if self.count is None else self.around.replace("%", self.count(index))

    def mark(self, index: int) -> str:
        """The marker of option `index`, from 0, as it stands before the option."""
        return self.label(index) + self.tail


_BULLETS = ("-", "*", "+")
# The shapes of the micro collection, whose small vocabulary spells the others letter by letter.
PLAIN_KINDS = (
    MarkerKind("(%)", _upper),
    MarkerKind("%.", _upper),
    MarkerKind("%)", _upper),
    MarkerKind("[%]", _upper),
    MarkerKind("(%)", _lower),
    MarkerKind("%.", _lower),
    MarkerKind("%.", _number),
    MarkerKind("(%)", _number),
    MarkerKind("%.", _roman),
    *(MarkerKind(bullet) for bullet in _BULLETS),
)
_AROUND = (
    *(("(%)", ""), ("%.", ""), ("%)", ""), ("[%]", "")),
    *(("%", ":"), ("%", "/"), ("(%)", "."), ("[%]", ".")),
)
# No `<`, `{`, `^`, `~` or `|`: T5's vocabulary cannot write them, or they read like markup.
MARKER_KINDS = (
    *(
        MarkerKind(around, count, tail)
        for count in (_upper, _lower, _number, _roman, _upper_roman)
        for around, tail in _AROUND
    ),
    MarkerKind("#%", _number),
    *(
        MarkerKind(bullet)
        for bullet in (*_BULLETS, "--", "**", "++", "=", "==", "---", "..", "***", "+++")
    ),
    *(
        MarkerKind(bullet)
        for bullet in ("*)", "-)", "(+)", "(-)", "(*)", "[+]", "[-]", "[*]", "-:", "*:")
    ),
)
ENDINGS = ("", ";", ",")


@dataclass(frozen=True)
class OptionStyles:
    """What blocks of options are drawn from.

    Attributes:
      headings: what stands above the options.
      kinds: how options are marked.
      endings: what ends every line but the last.
    """

    headings: tuple[str, ...] = HEADINGS
    kinds: tuple[MarkerKind, ...] = MARKER_KINDS
    endings: tuple[str, ...] = ENDINGS


FLAN_STYLES = OptionStyles()
PLAIN_STYLES = OptionStyles(PLAIN_HEADINGS, PLAIN_KINDS, ("",))


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


def plain_block(options: Sequence[str], styles: OptionStyles = FLAN_STYLES) -> OptionBlock:
    """The one fixed shape, answered by the option's text: dashes, or a bullet that `styles` has."""
    bullets = [kind for kind in styles.kinds if not kind.identifying]
    dash = MarkerKind("-")
    return _block("Options:", bullets[0] if bullets and dash not in bullets else dash, "", options)


def drawn_block(
    options: Sequence[str], draws: Draws, styles: OptionStyles = FLAN_STYLES
) -> OptionBlock:
    """A block whose heading, markers and line endings are drawn."""
    heading, kind = draws.choice(styles.headings), draws.choice(styles.kinds)
    return _block(heading, kind, draws.choice(styles.endings), options)


def _block(heading: str, kind: MarkerKind, ending: str, options: Sequence[str]) -> OptionBlock:
    # An ending would make options that end with one, or the last of a list, look cut off.
    if any(option.endswith((".", "!", "?", ";", ",")) for option in options):
        ending = ""
    lines = [f"{kind.mark(i)} {option}" for i, option in enumerate(options)]
    # A single option has nothing to be told apart from, so its marker would say nothing.
    identifying = kind.identifying and len(options) > 1
    labels = [kind.label(i) if identifying else option for i, option in enumerate(options)]
    return OptionBlock(f"\n{heading}\n" + f"{ending}\n".join(lines), tuple(labels))
