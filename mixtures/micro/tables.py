"""Micro tasks on small tables with a name, a colour and a number in each row."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import COLOURS, NAMES
from flan_jax.mixtures.micro.registry import micro_task


def _text(names: Sequence[str], colours: Sequence[str], numbers: Sequence[int]) -> str:
    rows = zip(names, colours, numbers, strict=True)
    return "\n".join(f"{name} | {colour} | {number}" for name, colour, number in rows)


def _columns(draws: Draws) -> tuple[list[str], list[str], list[int]]:
    """Three or four rows by column, all values of a column distinct."""
    size = draws.between(3, 4)
    return draws.sample(NAMES, size), draws.sample(COLOURS, size), draws.sample(range(1, 10), size)


@micro_task("tables")
def table_cell(draws: Draws) -> dict:
    """Look up the colour or the number of a name in a table."""
    names, colours, numbers = _columns(draws)
    row = draws.below(len(names))
    column = draws.choice(("colour", "number"))
    return {
        "table": _text(names, colours, numbers),
        "name": names[row],
        "column": column,
        "answer": colours[row] if column == "colour" else str(numbers[row]),
    }


@micro_task("tables", options=True)
def table_who(draws: Draws) -> dict:
    """Find the name in the row with a colour or a number."""
    names, colours, numbers = _columns(draws)
    row = draws.below(len(names))
    return {
        "table": _text(names, colours, numbers),
        "value": draws.choice((colours[row], str(numbers[row]))),
        "options": draws.shuffled(names),
        "answer": names[row],
    }


@micro_task("tables", options=True)
def table_most(draws: Draws) -> dict:
    """Find the name with the largest number in a table."""
    names, colours, numbers = _columns(draws)
    return {
        "table": _text(names, colours, numbers),
        "options": draws.shuffled(names),
        "answer": names[numbers.index(max(numbers))],
    }


@micro_task("tables", options=True, held_out=True)
def table_least(draws: Draws) -> dict:
    """Find the name with the smallest number in a table."""
    names, colours, numbers = _columns(draws)
    return {
        "table": _text(names, colours, numbers),
        "options": draws.shuffled(names),
        "answer": names[numbers.index(min(numbers))],
    }


@micro_task("tables", cot=True)
def table_count(draws: Draws) -> dict:
    """Count the rows of a table that have a colour."""
    names, numbers = draws.sample(NAMES, 4), draws.sample(range(1, 10), 4)
    colour, *others = draws.sample(COLOURS, 3)
    count = draws.between(1, 4)
    colours = [colour] * count + [draws.choice(others) for _ in range(4 - count)]
    colours = draws.shuffled(colours)
    found = [name for name, value in zip(names, colours, strict=True) if value == colour]
    return {
        "table": _text(names, colours, numbers),
        "colour": colour,
        "reasoning": " ".join(f"{name} has {colour}." for name in found) + f" That makes {count}.",
        "answer": str(count),
    }
