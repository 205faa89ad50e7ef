"""Undoing Penn Treebank tokens: several older datasets hold words and marks split by spaces."""

from __future__ import annotations

import re

# In order: each pattern may rely on what the ones before it have done.
_JOINS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), by)
    for pattern, by in (
        (r"``\s*", '"'),
        (r"\s*''", '"'),
        (r"`\s*", "'"),
        (r"-lrb-\s*", "("),
        (r"\s*-rrb-", ")"),
        (r"\s+(n't|'(?:s|re|ve|ll|d|m))\b", r"\1"),
        # What begins with a mark, such as ".com", is a word of its own.
        (r"\s+([,.;:!?%)\]]+)(?=[\s\"']|$)", r"\1"),
        (r"\s+'(?=[\s,.;:!?]|$)", "'"),
        (r"([(\[])\s+", r"\1"),
        (r"\$\s+(?=\d)", "$"),
        (r"\s+", " "),
    )
)


def untokenize(text: str) -> str:
    """The text as it would be printed: ``ca n't`` becomes ``can't``, ``good .`` becomes ``good.``.

    The tokens are those of the Penn Treebank's rules (brackets as ``-lrb-``, quotes as two
    backticks and two apostrophes).
    """
    for pattern, by in _JOINS:
        text = pattern.sub(by, text)
    return text.strip()
