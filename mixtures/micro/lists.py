"""Micro tasks on lists: places, neighbours, membership, odd ones out."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import CATEGORIES, WORDS
from flan_jax.mixtures.micro.registry import micro_task

# Kinds that share no word with another one; a colour may also be a fruit (peach, orange, lime).
PLURALS = {
    "animal": "animals",
    "fruit": "fruits",
    "tool": "tools",
    "piece of clothing": "pieces of clothing",
    "vehicle": "vehicles",
    "piece of furniture": "pieces of furniture",
}


def _item_at(draws: Draws, position: int, shortest: int) -> dict:
    things = draws.sample(WORDS, draws.between(shortest, 6))
    return {"things": ", ".join(things), "answer": things[position]}


@micro_task("lists")
def first_item(draws: Draws) -> dict:
    """Name the first thing in a list."""
    return _item_at(draws, 0, 3)


@micro_task("lists")
def second_item(draws: Draws) -> dict:
    """Name the second thing in a list."""
    return _item_at(draws, 1, 3)


@micro_task("lists", held_out=True)
def third_item(draws: Draws) -> dict:
    """Name the third thing in a list."""
    return _item_at(draws, 2, 4)


@micro_task("lists")
def last_item(draws: Draws) -> dict:
    """Name the last thing in a list."""
    return _item_at(draws, -1, 3)


@micro_task("lists", options=True)
def item_after(draws: Draws) -> dict:
    """Name the thing that comes right after another in a list."""
    things = draws.sample(WORDS, draws.between(4, 5))
    position = draws.below(len(things) - 1)
    others = [thing for thing in things if thing != things[position]]
    return {
        "things": ", ".join(things),
        "thing": things[position],
        "answer": things[position + 1],
        "options": draws.shuffled(others),
    }


@micro_task("lists")
def remove_item(draws: Draws) -> dict:
    """Leave one thing out of a list."""
    things = draws.sample(WORDS, draws.between(3, 5))
    thing = draws.choice(things)
    rest = [other for other in things if other != thing]
    return {"things": ", ".join(things), "thing": thing, "answer": ", ".join(rest)}


@micro_task("lists")
def reverse_list(draws: Draws) -> dict:
    """Write a list from its end to its start."""
    things = draws.sample(WORDS, draws.between(3, 4))
    return {"things": ", ".join(things), "answer": ", ".join(reversed(things))}


@micro_task("lists", options=True)
def list_holds(draws: Draws) -> dict:
    """Say whether a thing is in a list."""
    *things, absent = draws.sample(WORDS, draws.between(4, 6))
    held = draws.chance(0.5)
    return {
        "things": ", ".join(things),
        "thing": draws.choice(things) if held else absent,
        "answer": "yes" if held else "no",
        "options": draws.shuffled(["yes", "no"]),
    }


@micro_task("lists", options=True, cot=True)
def odd_one_out(draws: Draws) -> dict:
    """Find the thing that is of another kind than the rest."""
    kind, other = draws.sample(list(PLURALS), 2)
    same = draws.sample(CATEGORIES[kind], draws.between(2, 4))
    odd = draws.choice(CATEGORIES[other])
    things = draws.shuffled([*same, odd])
    same = [thing for thing in things if thing != odd]
    listed = ", ".join(same[:-1]) + " and " + same[-1]
    return {
        "things": ", ".join(things),
        "answer": odd,
        "options": draws.shuffled(things),
        "reasoning": f"{listed} are {PLURALS[kind]}, but {odd} is not.",
    }
