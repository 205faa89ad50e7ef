"""Templates that are copies of each other, or nearly."""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from flan_jax.prompts.template import Template
from flan_jax.prompts.wording import FIELD, Reading, readings

# Shares of words in common. In the templates of mixtures/, the micro collection's small vocabulary
# aside, none of 5,000 pairs has more than 0.65; a copy with a word or two exchanged has above 0.8.
COPY = 0.8
NEAR = 0.7
# Patterns of fewer words than this differ by their layout, not their wording.
FEWEST_WORDS = 5


@dataclass(frozen=True)
class Pair:
    """Two templates that are alike.

    Attributes:
      first, second: their positions.
      likeness: 1 for the same words in the same order.
      copy: whether they are too much alike; else they are only near.
    """

    first: int
    second: int
    likeness: float
    copy: bool


@dataclass(frozen=True)
class _Words:
    """A template as words.

    Attributes:
      words: own words and field names of the prompt, in order.
      targets: those of the target.
      own: those of the prompt that are no fields.
      text: everything it says, white space and case aside.
    """

    words: tuple[str, ...]
    targets: tuple[str, ...]
    own: tuple[str, ...]
    text: str


def _words(template: Template) -> _Words:
    target = readings(template.targets, True)[0]
    prompt = readings(template.inputs, True)[0].stripped()
    if layout := template.layout:
        opening = readings(template.instruction, True)[0]
        frame = Reading(f"\n{layout.before_input}"), Reading(layout.before_target)
        prompt = opening + frame[0] + prompt + frame[1]
    words = tuple(prompt.words())
    own = tuple(word for word in words if not word.startswith("<"))
    return _Words(words, tuple(target.words()), own, f"{_squeeze(prompt)} -> {_squeeze(target)}")


def _squeeze(reading: Reading) -> str:
    names = iter(reading.fields)
    text = re.sub(FIELD, lambda _: f"<{next(names)}>", reading.text)
    return " ".join(text.lower().split())


def _likeness(first: _Words, second: _Words) -> tuple[float, float]:
    """(share of own words in common, share of words when fields and order count), from 0 to 1."""
    common = sum((Counter(first.own) & Counter(second.own)).values())
    shared = 2 * common / (len(first.own) + len(second.own))
    if shared < NEAR:
        return shared, 0.0  # which settles it
    matcher = difflib.SequenceMatcher(None, first.words, second.words, autojunk=False)
    return shared, matcher.ratio()


def alike(templates: tuple[Template, ...]) -> Iterator[Pair]:
    """The pairs of `templates` that are copies or nearly so, of those that ask for the same.

    Few-shot patterns may differ by punctuation and line breaks alone, which is their layout.
    """
    found = [_words(template) for template in templates]
    for (i, first), (j, second) in itertools.combinations(enumerate(found), 2):
        if templates[i].target_fields != templates[j].target_fields:
            continue
        same = first.text == second.text
        if templates[i].layout is None:
            same = (first.words, first.targets) == (second.words, second.targets)
        if same:
            yield Pair(i, j, 1.0, True)
        elif min(len(first.own), len(second.own)) >= FEWEST_WORDS:
            shared, ordered = _likeness(first, second)
            if shared >= NEAR:
                yield Pair(i, j, shared, min(shared, ordered) >= COPY)
