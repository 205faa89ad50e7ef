"""Micro tasks on patterns: rows that repeat, sequences of numbers, codes, likenesses."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import (
    ANIMALS,
    CATEGORIES,
    COLOURS,
    FRUITS,
    LETTERS,
    SHAPES,
    WORDS,
)
from flan_jax.mixtures.micro.lists import PLURALS
from flan_jax.mixtures.micro.registry import micro_task

_UNITS = ("AB", "AAB", "ABB", "ABC")
GAP = "?"


def _repeating_row(draws: Draws, extra: int) -> tuple[list[str], list[str]]:
    """A row that repeats a unit twice and up to `extra` items more, and answers to choose from."""
    unit = draws.choice(_UNITS)
    words = draws.sample(draws.choice([COLOURS, SHAPES, ANIMALS, FRUITS]), 4)
    length = 2 * len(unit) + draws.between(1, extra)
    row = [words["ABC".index(unit[i % len(unit)])] for i in range(length)]
    # Beside the words of the row, one that is not in it, so that guessing does not pay.
    return row, draws.shuffled([*words[: len(set(unit))], words[3]])


@micro_task("patterns", options=True)
def next_in_pattern(draws: Draws) -> dict:
    """Continue a row of words that repeats."""
    row, choices = _repeating_row(draws, 3)
    return {"shown": " ".join(row[:-1]), "answer": row[-1], "options": choices}


@micro_task("patterns", options=True, held_out=True)
def missing_in_pattern(draws: Draws) -> dict:
    """Fill the gap in a row of words that repeats."""
    row, choices = _repeating_row(draws, 2)
    gap = draws.between(1, len(row) - 2)
    shown = [*row[:gap], GAP, *row[gap + 1 :]]
    return {"shown": " ".join(shown), "answer": row[gap], "options": choices}


@micro_task("patterns", cot=True)
def next_number(draws: Draws) -> dict:
    """Continue a sequence of numbers with equal steps."""
    start, step, count = draws.between(1, 80), draws.between(1, 12), draws.between(4, 6)
    terms = [start + step * i for i in range(count)]
    word, sign = "more", "+"
    if draws.chance(0.5):
        terms.reverse()
        word, sign = "less", "-"
    *shown, answer = terms
    return {
        "numbers": ", ".join(map(str, shown)),
        "answer": str(answer),
        "reasoning": f"Each number is {step} {word} than the one before. "
        f"{shown[-1]} {sign} {step} = {answer}.",
    }


@micro_task("patterns")
def use_code(draws: Draws) -> dict:
    """Read a message by a given code."""
    count = draws.between(3, 4)
    code = dict(zip(draws.sample(LETTERS, count), draws.sample(WORDS, count), strict=True))
    message = draws.sample(list(code), draws.between(2, 3))
    return {
        "code": ", ".join(f"{letter} = {word}" for letter, word in code.items()),
        "message": " ".join(message),
        "answer": " ".join(code[letter] for letter in message),
    }


@micro_task("patterns", options=True)
def analogy(draws: Draws) -> dict:
    """Name the kind of a thing after the model of another."""
    kinds = draws.sample(list(PLURALS), 4)
    return {
        "word": draws.choice(CATEGORIES[kinds[0]]),
        "kind": kinds[0],
        "other": draws.choice(CATEGORIES[kinds[1]]),
        "answer": kinds[1],
        "options": draws.shuffled(kinds),
    }
