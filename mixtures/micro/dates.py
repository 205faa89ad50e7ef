"""Micro tasks on days of the week and hours."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import DAYS, NAMES, PLACES
from flan_jax.mixtures.micro.registry import micro_task


@micro_task("dates", options=True)
def neighbour_day(draws: Draws) -> dict:
    """Name the day after or before a day of the week."""
    position = draws.below(7)
    side, step = draws.choice((("after", 1), ("before", -1)))
    day, answer = DAYS[position], DAYS[(position + step) % 7]
    wrong = draws.sample([d for d in DAYS if d not in (day, answer)], draws.between(1, 3))
    return {
        "name": draws.choice(NAMES),
        "place": draws.choice(PLACES),
        "day": day,
        "side": side,
        "options": draws.shuffled([answer, *wrong]),
        "answer": answer,
    }


@micro_task("dates", held_out=True)
def two_days_away(draws: Draws) -> dict:
    """Name the day two days after or before a day of the week."""
    position = draws.below(7)
    side, step = draws.choice((("after", 2), ("before", -2)))
    return {
        "name": draws.choice(NAMES),
        "place": draws.choice(PLACES),
        "day": DAYS[position],
        "side": side,
        "answer": DAYS[(position + step) % 7],
    }


@micro_task("dates", options=True)
def last_in_week(draws: Draws) -> dict:
    """Say who comes on the last day of a week that starts on Monday."""
    count = draws.between(2, 3)
    names, days = draws.sample(NAMES, count), draws.sample(range(7), count)
    visits = [f"{name} on {DAYS[day]}" for name, day in zip(names, days, strict=True)]
    return {
        "visits": ", ".join(visits),
        "options": draws.shuffled(names),
        "answer": names[days.index(max(days))],
    }


@micro_task("dates", cot=True)
def days_between(draws: Draws) -> dict:
    """Count the days from one day of the week to another."""
    start, count = draws.below(7), draws.between(1, 6)
    steps = [f"{DAYS[(start + step) % 7]} is {step}." for step in range(1, count + 1)]
    return {
        "name": draws.choice(NAMES),
        "place": draws.choice(PLACES),
        "start": DAYS[start],
        "end": DAYS[(start + count) % 7],
        "reasoning": " ".join(steps),
        "answer": str(count),
    }


@micro_task("dates", cot=True)
def clock_later(draws: Draws) -> dict:
    """Say what the clock shows some hours later."""
    start, hours = draws.between(1, 12), draws.between(2, 9)
    end = start + hours
    steps = f"{start} + {hours} = {end}."
    if end > 12:
        steps += f" {end} - 12 = {end - 12}."
        end -= 12
    return {
        "name": draws.choice(NAMES),
        "place": draws.choice(PLACES),
        "start": f"{start} o'clock",
        "hours": hours,
        "reasoning": steps,
        "answer": f"{end} o'clock",
    }
