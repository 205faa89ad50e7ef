"""Micro tasks on strings: letters, copies, joins and replacements."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import ADJECTIVES, ANIMALS, COLOURS, OBJECTS, VEHICLES, WORDS
from flan_jax.mixtures.micro.registry import micro_task

MARKS = {"hyphen": "-", "plus sign": "+", "slash": "/", "dot": ".", "star": "*"}
_SHORT_WORDS = [word for word in WORDS if len(word) <= 5]
_NOUNS = [*OBJECTS, *ANIMALS, *VEHICLES]
_TIMES = {2: "two", 3: "three", 4: "four", 5: "five"}


def with_distinct_initials(draws: Draws, count: int) -> list[str]:
    """`count` words, no two of which begin with the same letter."""
    chosen: dict[str, str] = {}
    for word in draws.shuffled(WORDS):
        chosen.setdefault(word[0], word)
        if len(chosen) == count:
            break
    return list(chosen.values())


@micro_task("strings", cot=True)
def last_letters(draws: Draws) -> dict:
    """Join the last letters of some words."""
    words = draws.sample(WORDS, draws.between(2, 4))
    ends = [word[-1] for word in words]
    steps = " ".join(f"{word} ends in {end}." for word, end in zip(words, ends, strict=True))
    return {"words": " ".join(words), "answer": "".join(ends), "reasoning": steps}


@micro_task("strings", options=True)
def starts_with(draws: Draws) -> dict:
    """Find the word that starts with a letter."""
    words = with_distinct_initials(draws, draws.between(3, 4))
    answer = draws.choice(words)
    return {
        "letter": answer[0],
        "words": ", ".join(words),
        "answer": answer,
        "options": draws.shuffled(words),
    }


@micro_task("strings")
def repeat_phrase(draws: Draws) -> dict:
    """Write a phrase of two words a few times."""
    phrase = f"{draws.choice([*ADJECTIVES, *COLOURS])} {draws.choice(_NOUNS)}"
    count = draws.between(2, 5)
    return {
        "phrase": phrase,
        "count": str(count),
        "times": _TIMES[count],
        "answer": " ".join([phrase] * count),
    }


@micro_task("strings")
def join_words(draws: Draws) -> dict:
    """Join words with a mark."""
    words = draws.sample(WORDS, draws.between(2, 4))
    name = draws.choice(list(MARKS))
    return {
        "words": ", ".join(words),
        "mark": MARKS[name],
        "mark_name": name,
        "answer": MARKS[name].join(words),
    }


@micro_task("strings")
def spell_out(draws: Draws) -> dict:
    """Spell two short words with a mark between their letters."""
    words = draws.sample(_SHORT_WORDS, 2)
    name = draws.choice(list(MARKS))
    return {
        "words": " ".join(words),
        "mark": MARKS[name],
        "mark_name": name,
        "answer": " ".join(MARKS[name].join(word) for word in words),
    }


@micro_task("strings")
def replace_word(draws: Draws) -> dict:
    """Put one word in the place of another."""
    *words, new = draws.sample(WORDS, draws.between(4, 6))
    position = draws.below(len(words))
    changed = [*words[:position], new, *words[position + 1 :]]
    return {
        "text": " ".join(words),
        "old": words[position],
        "new": new,
        "answer": " ".join(changed),
    }
