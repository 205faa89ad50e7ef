"""Micro tasks on counting."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import CATEGORIES, OBJECTS, WORDS
from flan_jax.mixtures.micro.lists import PLURALS
from flan_jax.mixtures.micro.registry import micro_task


@micro_task("counting")
def count_items(draws: Draws) -> dict:
    """Count the things in a list."""
    count = draws.between(2, 9)
    return {"things": ", ".join(draws.sample(WORDS, count)), "answer": str(count)}


@micro_task("counting")
def count_word(draws: Draws) -> dict:
    """Count how often a word is there."""
    word, *others = draws.sample(WORDS, 3)
    count = draws.between(1, 5)
    rest = [draws.choice(others) for _ in range(draws.between(1, 3))]
    row = draws.shuffled([word] * count + rest)
    return {"row": " ".join(row), "word": word, "answer": str(count)}


@micro_task("counting", cot=True)
def count_kind(draws: Draws) -> dict:
    """Count the things of one kind in a list."""
    kind = draws.choice(list(PLURALS))
    others = [thing for other in PLURALS if other != kind for thing in CATEGORIES[other]]
    count = draws.between(1, 4)
    members = draws.sample(CATEGORIES[kind], count)
    things = draws.shuffled([*members, *draws.sample(others, draws.between(1, 3))])
    found = ", ".join(thing for thing in things if thing in members)
    return {
        "things": ", ".join(things),
        "kinds": PLURALS[kind],
        "answer": str(count),
        "reasoning": f"The {PLURALS[kind]} are: {found}.",
    }


def _two_things(draws: Draws) -> tuple[dict, str, str]:
    """A row of two different things, then the one there is more of and the other one."""
    more, fewer = draws.sample(OBJECTS, 2)
    low = draws.between(1, 3)
    high = low + draws.between(1, 3)
    first, second = draws.shuffled([more, fewer])
    counts = {more: high, fewer: low}
    fields = {
        "row": " ".join(draws.shuffled([more] * high + [fewer] * low)),
        "first": first,
        "second": second,
        "options": draws.shuffled([more, fewer]),
        "reasoning": f"{first}: {counts[first]}. {second}: {counts[second]}. "
        f"{high} is more than {low}.",
    }
    return fields, more, fewer


@micro_task("counting", options=True, cot=True)
def more_of(draws: Draws) -> dict:
    """Say which of two things there are more of."""
    fields, more, _ = _two_things(draws)
    return {**fields, "answer": more}


@micro_task("counting", options=True, held_out=True)
def fewer_of(draws: Draws) -> dict:
    """Say which of two things there are fewer of."""
    fields, _, fewer = _two_things(draws)
    del fields["reasoning"]
    return {**fields, "answer": fewer}
