"""Micro tasks on logic: and, or, not, rules, comparisons, liars."""

from __future__ import annotations

from collections.abc import Callable

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import COLOURS, NAMES, OBJECTS, WEATHER
from flan_jax.mixtures.micro.registry import micro_task

# What is claimed of two people, when it holds, and how to see it.
_CLAIMS: tuple[tuple[str, Callable[[bool, bool], bool], str], ...] = (
    ("both {a} and {b} like {thing}", lambda a, b: a and b, "Both must be yes."),
    ("{a} or {b} or both like {thing}", lambda a, b: a or b, "One yes is enough."),
    ("neither {a} nor {b} likes {thing}", lambda a, b: not (a or b), "Both must be no."),
    (
        "{a} likes {thing} but {b} does not",
        lambda a, b: a and not b,
        "The first must be yes and the second no.",
    ),
)
# More of it, most of it, least of it.
_SCALES = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
    ("stronger", "strongest", "weakest"),
    ("richer", "richest", "poorest"),
)


@micro_task("logic", options=True, cot=True)
def both_or_either(draws: Draws) -> dict:
    """Judge a claim with and, or, neither, but not."""
    a, b = draws.sample(NAMES, 2)
    thing = draws.choice([*COLOURS, *WEATHER])
    wording, holds, rule = draws.choice(_CLAIMS)
    truth = draws.chance(0.5)
    worlds = [(x, y) for x in (True, False) for y in (True, False) if holds(x, y) == truth]
    likes = dict(zip((a, b), draws.choice(worlds), strict=True))
    facts = [f"{who} {'likes' if likes[who] else 'does not like'} {thing}." for who in (a, b)]
    word = {True: "yes", False: "no"}
    return {
        "facts": " ".join(facts),
        "claim": wording.format(a=a, b=b, thing=thing),
        "answer": word[truth],
        "options": draws.shuffled(["yes", "no"]),
        "reasoning": f"{a}: {word[likes[a]]}. {b}: {word[likes[b]]}. {rule}",
    }


@micro_task("logic", options=True)
def if_then(draws: Draws) -> dict:
    """Follow the one of some rules whose condition holds."""
    count = draws.between(2, 3)
    lights = draws.sample(COLOURS, count)
    things = draws.sample(OBJECTS, count)
    held = draws.below(count)
    rules = [f"If the light is {x}, take the {y}." for x, y in zip(lights, things, strict=True)]
    return {
        "rules": " ".join(rules),
        "light": lights[held],
        "answer": things[held],
        "options": draws.shuffled(things),
    }


def _three_people(draws: Draws) -> tuple[list[str], tuple[str, str, str], str]:
    """Three people in order, the scale they are compared on, and two facts that tell the order."""
    people: list[str] = draws.sample(NAMES, 3)
    scale = draws.choice(_SCALES)
    facts = [f"{people[i]} is {scale[0]} than {people[i + 1]}." for i in draws.shuffled([0, 1])]
    return people, scale, " ".join(facts)


@micro_task("logic", options=True, cot=True)
def who_is_most(draws: Draws) -> dict:
    """Say who is the tallest, oldest … of three people."""
    people, (more, most, _), facts = _three_people(draws)
    a, b, c = people
    return {
        "facts": facts,
        "most": most,
        "answer": a,
        "options": draws.shuffled(people),
        "reasoning": f"{a} is {more} than {b}, and {b} is {more} than {c}.",
    }


@micro_task("logic", options=True, held_out=True)
def who_is_least(draws: Draws) -> dict:
    """Say who is the shortest, youngest … of three people."""
    people, (_, _, least), facts = _three_people(draws)
    return {
        "facts": facts,
        "least": least,
        "answer": people[2],
        "options": draws.shuffled(people),
    }


@micro_task("logic", options=True, cot=True)
def truth_teller(draws: Draws) -> dict:
    """Conclude from what a liar or a truth-teller says."""
    honest, liar = draws.sample(NAMES, 2)
    habits = [f"{honest} always tells the truth.", f"{liar} always lies."]
    thing = draws.choice(OBJECTS)
    colours = draws.sample(COLOURS, 2)
    said, other = draws.shuffled(colours)
    lies = draws.chance(0.5)
    speaker = liar if lies else honest
    return {
        "habits": " ".join(draws.shuffled(habits)),
        "saying": f"{speaker} says: The {thing} is {said}.",
        "thing": thing,
        "colours": " or ".join(colours),
        "answer": other if lies else said,
        "options": draws.shuffled(colours),
        "reasoning": f"{liar} lies, so the {thing} is not {said}."
        if lies
        else f"{honest} tells the truth, so the {thing} is {said}.",
    }
