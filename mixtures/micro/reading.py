"""Micro tasks on made-up passages of three or four short sentences."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import COLOURS, FURNITURE, NAMES, OBJECTS, PLACES
from flan_jax.mixtures.micro.registry import micro_task


@micro_task("reading", cot=True)
def where_now(draws: Draws) -> dict:
    """Follow people from place to place and say where one of them is."""
    names = draws.sample(NAMES, 2)
    moves = [*names, *(draws.choice(names) for _ in range(draws.between(1, 2)))]
    places = draws.sample(PLACES, len(moves))
    person = draws.choice(names)
    stops = [place for name, place in zip(moves, places, strict=True) if name == person]
    steps = [f"{person} goes to the {stops[0]}."]
    steps += [f"Then {person} goes to the {place}." for place in stops[1:]]
    return {
        "passage": " ".join(
            f"{name} goes to the {place}." for name, place in zip(moves, places, strict=True)
        ),
        "person": person,
        "reasoning": " ".join(steps),
        "answer": stops[-1],
    }


@micro_task("reading")
def who_gave(draws: Draws) -> dict:
    """Answer who gives, who gets, or what is given."""
    count = draws.between(2, 3)
    people, things = draws.sample(NAMES, 2 * count), draws.sample(OBJECTS, count)
    gifts = list(zip(people[:count], people[count:], things, strict=True))
    giver, getter, thing = draws.choice(gifts)
    question, answer = draws.choice(
        (
            (f"Who gives the {thing}?", giver),
            (f"Who gets the {thing}?", getter),
            (f"What does {giver} give?", thing),
            (f"What does {getter} get?", thing),
        )
    )
    return {
        "passage": " ".join(f"{a} gives the {what} to {b}." for a, b, what in gifts),
        "question": question,
        "answer": answer,
    }


@micro_task("reading", options=True)
def colour_of(draws: Draws) -> dict:
    """Say which colour a thing of the passage has."""
    count = draws.between(3, 4)
    things, colours = draws.sample([*OBJECTS, *FURNITURE], count), draws.sample(COLOURS, count)
    asked = draws.below(count)
    return {
        "passage": " ".join(f"The {a} is {b}." for a, b in zip(things, colours, strict=True)),
        "thing": things[asked],
        "options": draws.shuffled(colours),
        "answer": colours[asked],
    }


@micro_task("reading", options=True)
def true_by_passage(draws: Draws) -> dict:
    """Say whether the passage makes a claim true."""
    names, things = draws.sample(NAMES, 3), draws.sample(OBJECTS, 3)
    person = draws.below(3)
    if draws.chance(0.5):
        claimed, answer = person, "yes"
    else:
        claimed, answer = (person + draws.between(1, 2)) % 3, "no"
    return {
        "passage": " ".join(f"{a} has the {b}." for a, b in zip(names, things, strict=True)),
        "claim": f"{names[person]} has the {things[claimed]}.",
        "options": draws.shuffled(["yes", "no"]),
        "answer": answer,
    }


def _visits(draws: Draws) -> tuple[str, str, Sequence[str]]:
    """(name, passage with its sentences out of order, places in the order of the visits)."""
    name, places = draws.choice(NAMES), draws.sample(PLACES, 3)
    order = ("first", "second", "third")
    visits = [f"{name} goes to the {a} {b}." for a, b in zip(places, order, strict=True)]
    return name, " ".join(draws.shuffled(visits)), places


@micro_task("reading")
def first_or_third_stop(draws: Draws) -> dict:
    """Say which place someone goes to first or third."""
    name, passage, places = _visits(draws)
    when, answer = draws.choice((("first", places[0]), ("third", places[2])))
    return {"name": name, "passage": passage, "when": when, "answer": answer}


@micro_task("reading", held_out=True)
def second_stop(draws: Draws) -> dict:
    """Say which place someone goes to second."""
    name, passage, places = _visits(draws)
    return {"name": name, "passage": passage, "answer": places[1]}
