"""Micro tasks on order: sorting, largest and smallest, earliest."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import MONTHS, NAMES
from flan_jax.mixtures.micro.registry import micro_task
from flan_jax.mixtures.micro.strings import with_distinct_initials


def _numbers(draws: Draws, low: int, high: int, fewest: int, most: int) -> list[int]:
    return draws.sample(range(low, high + 1), draws.between(fewest, most))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


@micro_task("sorting")
def sort_numbers(draws: Draws) -> dict:
    """Sort numbers from small to large."""
    numbers = _numbers(draws, 1, 30, 3, 4)
    return {"numbers": _listed(numbers), "answer": _listed(sorted(numbers))}


@micro_task("sorting", held_out=True)
def sort_descending(draws: Draws) -> dict:
    """Sort numbers from large to small."""
    numbers = _numbers(draws, 1, 30, 3, 4)
    return {"numbers": _listed(numbers), "answer": _listed(sorted(numbers, reverse=True))}


@micro_task("sorting")
def sort_words(draws: Draws) -> dict:
    """Sort words by their first letters."""
    words = with_distinct_initials(draws, draws.between(3, 4))
    return {"words": ", ".join(words), "answer": ", ".join(sorted(words))}


@micro_task("sorting")
def sort_months(draws: Draws) -> dict:
    """Sort months as they come in the year."""
    positions = draws.sample(range(len(MONTHS)), draws.between(3, 4))
    return {
        "months": ", ".join(MONTHS[position] for position in positions),
        "answer": ", ".join(MONTHS[position] for position in sorted(positions)),
    }


@micro_task("sorting", options=True)
def extreme_number(draws: Draws) -> dict:
    """Find the largest or the smallest number."""
    numbers = _numbers(draws, 1, 60, 3, 5)
    which = draws.choice(["largest", "smallest"])
    return {
        "numbers": _listed(numbers),
        "which": which,
        "answer": str(max(numbers) if which == "largest" else min(numbers)),
        "options": [str(number) for number in draws.shuffled(numbers)],
    }


@micro_task("sorting", cot=True)
def second_smallest(draws: Draws) -> dict:
    """Find the second smallest number."""
    numbers = _numbers(draws, 1, 30, 3, 4)
    ordered = sorted(numbers)
    return {
        "numbers": _listed(numbers),
        "answer": str(ordered[1]),
        "reasoning": f"From small to large: {_listed(ordered)}.",
    }


@micro_task("sorting", options=True, cot=True)
def first_birthday(draws: Draws) -> dict:
    """Say who has the first birthday in the year."""
    people = draws.sample(NAMES, 3)
    positions = draws.sample(range(len(MONTHS)), 3)
    months = [MONTHS[position] for position in positions]
    early, middle, late = sorted(positions)
    a, b, c = (f"{name} in {month}" for name, month in zip(people, months, strict=True))
    return {
        "facts": f"The birthdays are: {a}, {b}, {c}.",
        "answer": people[positions.index(early)],
        "options": draws.shuffled(people),
        "reasoning": f"{MONTHS[early]} comes before {MONTHS[middle]} and {MONTHS[late]}.",
    }
