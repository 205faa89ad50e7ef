"""Parts of long texts that fit a model's input or target.

Flan 2022 trains on 2,048 input and 512 target tokens. What is longer loses its end, and with it any
instruction that follows the text, so long texts are shortened before they become prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# News text comes to about 1.4 of T5's tokens a word; what is left is for the template's own words.
INPUT_WORDS = 1_350
TARGET_WORDS = 300
# A sentence's end is looked for in the last half of an excerpt.
_LEAST_PART = 0.5
_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]*(?=\s)")


def leading(text: str, words: int) -> str:
    """The first `words` words of `text`, or all of it if it has no more.

    The excerpt ends with a sentence if one ends in its second half, else with " ...".
    """
    text = text.strip()
    ends = [match.end() for match in _WORD.finditer(text)]
    if len(ends) <= words:
        return text
    excerpt = text[: ends[words - 1]]
    # The lookahead needs what follows the last word, which is white space.
    stops = [match.end() for match in _SENTENCE_END.finditer(excerpt + " ")]
    if stops and stops[-1] >= _LEAST_PART * len(excerpt):
        return excerpt[: stops[-1]]
    return f"{excerpt} ..."


def shares(lengths: Sequence[int], total: int) -> list[int]:
    """What each length gets of `total`: short ones stay whole, long ones share the rest."""
    kept = [0] * len(lengths)
    shortest_first = sorted(range(len(lengths)), key=lambda position: lengths[position])
    for place, position in enumerate(shortest_first):
        kept[position] = min(lengths[position], total // (len(lengths) - place))
        total -= kept[position]
    return kept
