"""Micro tasks on small numbers."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import NAMES
from flan_jax.mixtures.micro.registry import micro_task

# Always counted from two up, so only the plural is needed.
THINGS = (
    "apples pears plums lemons melons berries bananas hats coats shirts socks gloves boots nails "
    "spoons forks chairs lamps birds ducks frogs stars"
).split()


@micro_task("arithmetic")
def add_things(draws: Draws) -> dict:
    """Add two small numbers of things."""
    a, b = draws.between(2, 15), draws.between(2, 9)
    return {
        "name": draws.choice(NAMES),
        "things": draws.choice(THINGS),
        "a": a,
        "b": b,
        "answer": str(a + b),
    }


@micro_task("arithmetic", cot=True)
def add_then_take(draws: Draws) -> dict:
    """Add a small number, then take one away."""
    a, b = draws.between(2, 12), draws.between(2, 9)
    c = draws.between(2, min(9, a + b - 1))
    return {
        "name": draws.choice(NAMES),
        "things": draws.choice(THINGS),
        "a": a,
        "b": b,
        "c": c,
        "reasoning": f"{a} + {b} = {a + b}. {a + b} - {c} = {a + b - c}.",
        "answer": str(a + b - c),
    }


@micro_task("arithmetic", options=True)
def twice_or_half(draws: Draws) -> dict:
    """Say how many things someone has who has twice or half as many."""
    first, second = draws.sample(NAMES, 2)
    if draws.chance(0.5):
        factor, a = "twice", draws.between(2, 10)
        result = 2 * a
    else:
        factor, a = "half", 2 * draws.between(2, 10)
        result = a // 2
    others = sorted({a, result - 1, result + 1, result + 2} - {result})
    wrong = draws.sample(others, draws.between(1, 3))
    return {
        "first": first,
        "second": second,
        "things": draws.choice(THINGS),
        "factor": factor,
        "a": a,
        "options": draws.shuffled([str(number) for number in (result, *wrong)]),
        "answer": str(result),
    }


@micro_task("arithmetic", options=True, cot=True)
def larger_sum(draws: Draws) -> dict:
    """Pick the larger of two sums."""
    a, b, c, d = (draws.between(1, 10) for _ in range(4))
    if a + b == c + d:
        # One more or less, so that close calls are met too.
        c += 1 if draws.chance(0.5) or c == 1 else -1
    left, right = f"{a} + {b}", f"{c} + {d}"
    more, less = max(a + b, c + d), min(a + b, c + d)
    return {
        "left": left,
        "right": right,
        "options": draws.shuffled([left, right]),
        "reasoning": f"{left} = {a + b}. {right} = {c + d}. {more} is more than {less}.",
        "answer": left if a + b > c + d else right,
    }


@micro_task("arithmetic", held_out=True)
def how_many_more(draws: Draws) -> dict:
    """Say how many things are missing to a number."""
    a, missing = draws.between(2, 12), draws.between(2, 9)
    return {
        "name": draws.choice(NAMES),
        "things": draws.choice(THINGS),
        "a": a,
        "goal": a + missing,
        "answer": str(missing),
    }
