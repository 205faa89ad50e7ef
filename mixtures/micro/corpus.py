"""Plain text about the micro collection's words, for a small model's pre-training.

Passages state facts in more than one way, so that a word taken out can be found again in the rest:
what a model learns from filling such gaps is to copy, look up, count, order and compare. They are
statements, never questions, and use none of the relations that the held-out tasks ask for (third
items, least, fewer, falling order, differences, two days, missing middles, swapped word order).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import (
    ANIMALS,
    CATEGORIES,
    CLOTHES,
    COLOURS,
    DAYS,
    FRUITS,
    MONTHS,
    NAMES,
    NUMBER_WORDS,
    OBJECTS,
    PLACES,
    WORDS,
)
from flan_jax.mixtures.micro.registry import TEMPLATES
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task

_SYLLABLES = [a + b for a in "bdfgklmnprtz" for b in "aeiou"]


def _listing(draws: Draws) -> str:
    items = draws.sample(WORDS, draws.between(3, 5))
    first, second, last = items[0], items[1], items[-1]
    at = draws.below(len(items) - 1)
    facts = [
        f"The first word is {first}.",
        f"The second word is {second}.",
        f"The last word is {last}.",
        f"After {items[at]} comes {items[at + 1]}.",
        f"Before {items[at + 1]} comes {items[at]}.",
        f"There are {len(items)} words.",
        f"Backwards it is {', '.join(reversed(items))}.",
        f"Without {first} it is {', '.join(items[1:])}.",
        f"Joined: {'-'.join(items)}.",
    ]
    return " ".join([f"The list is {', '.join(items)}.", *draws.sample(facts, 4)])


def _belongings(draws: Draws) -> str:
    names = draws.sample(NAMES, 3)
    things = draws.sample(OBJECTS, 3)
    colours = draws.sample(COLOURS, 3)
    rows = list(zip(names, things, colours, strict=True))
    told = [f"{name} has a {colour} {thing}." for name, thing, colour in rows]
    back = [f"The {thing} of {name} is {colour}." for name, thing, colour in rows]
    who = [f"Who has the {thing} is {name}." for name, thing, _ in rows]
    return " ".join([*told, *draws.sample([*back, *who], 3)])


def _table(draws: Draws) -> str:
    names = draws.sample(NAMES, 3)
    numbers = draws.sample(range(1, 10), 3)
    colours = [draws.choice(COLOURS) for _ in names]
    rows = list(zip(names, colours, numbers, strict=True))
    lines = [f"{name} | {colour} | {number}" for name, colour, number in rows]
    most = max(rows, key=lambda row: row[2])
    facts = [f"The colour of {name} is {colour}." for name, colour, _ in rows]
    facts += [f"The number of {name} is {number}." for name, _, number in rows]
    facts += [f"{most[0]} has the most, {most[2]}."]
    shown = "\n".join(["name | colour | number", *lines])
    return f"{shown}\n{' '.join(draws.sample(facts, 3))}"


def _numbers(draws: Draws) -> str:
    numbers = draws.sample(range(1, 30), draws.between(3, 4))
    rising = sorted(numbers)
    text = [str(number) for number in numbers]
    order = [str(number) for number in rising]
    return (
        f"The numbers are {', '.join(text)}. From small to large they are {', '.join(order)}. "
        f"The largest is {order[-1]}, the smallest is {order[0]}."
    )


def _sums(draws: Draws) -> str:
    facts = []
    for _ in range(4):
        a, b = draws.between(1, 9), draws.between(1, 9)
        facts += [f"{a} and {b} make {a + b}.", f"{a} + {b} = {a + b}.", f"{a + b} - {b} = {a}."]
    return " ".join(draws.sample(facts, 6))


def _counts(draws: Draws) -> str:
    kinds = draws.sample(FRUITS + ANIMALS, 2)
    items = [draws.choice(kinds) for _ in range(draws.between(3, 7))]
    counts = [items.count(kind) for kind in kinds]
    facts = [f"{kind} is there {count} times." for kind, count in zip(kinds, counts, strict=True)]
    if counts[0] != counts[1]:
        more = kinds[counts.index(max(counts))]
        facts.append(f"There are more of {more}.")
    return " ".join([f"Here are {' '.join(items)}.", *facts, f"Together there are {len(items)}."])


def _kinds(draws: Draws) -> str:
    facts = []
    for _ in range(5):
        kind = draws.choice(list(CATEGORIES))
        article = "an" if kind[0] == "a" else "a"
        facts.append(f"A {draws.choice(CATEGORIES[kind])} is {article} {kind}.")
    return " ".join(facts).replace("A apple", "An apple").replace("A owl", "An owl")


def _code(draws: Draws) -> str:
    words = draws.sample(COLOURS + ANIMALS, 4)
    codes = draws.sample(_SYLLABLES, 4)
    table = dict(zip(words, codes, strict=True))
    key = ", ".join(f"{word} = {code}" for word, code in table.items())
    lines = []
    for _ in range(3):
        pair = draws.sample(words, 2)
        coded = " ".join(table[word] for word in pair)
        plain = " ".join(pair)
        lines.append(draws.choice([f"{plain} is {coded}.", f"{coded} means {plain}."]))
    return f"Code: {key}. {' '.join(lines)}"


def _walks(draws: Draws) -> str:
    names = draws.sample(NAMES, 2)
    where: dict[str, str] = {}
    lines = []
    for _ in range(draws.between(3, 4)):
        name, place = draws.choice(names), draws.choice(PLACES)
        where[name] = place
        lines.append(f"{name} goes to the {place}.")
    ends = [f"Now {name} is in the {place}." for name, place in where.items()]
    return " ".join([*lines, *ends])


def _gifts(draws: Draws) -> str:
    a, b = draws.sample(NAMES, 2)
    thing, colour = draws.choice(OBJECTS), draws.choice(COLOURS)
    return (
        f"{a} gives the {colour} {thing} to {b}. The {thing} came from {a}. {b} got the {thing} "
        f"from {a}. {b} has the {colour} {thing}."
    )


def _calendar(draws: Draws) -> str:
    facts = []
    for cycle in (DAYS, MONTHS):
        at = draws.below(len(cycle))
        this, after = cycle[at], cycle[(at + 1) % len(cycle)]
        facts += [f"After {this} comes {after}.", f"Before {after} comes {this}."]
    months = [draws.below(12) for _ in range(3)]
    if len(set(months)) == 3:
        given = ", ".join(MONTHS[m] for m in months)
        facts.append(f"{given} in order: {', '.join(MONTHS[m] for m in sorted(months))}.")
    return " ".join(draws.shuffled(facts))


def _comparisons(draws: Draws) -> str:
    quality = draws.choice(["tall", "old", "fast", "rich", "strong"])
    more, most = (quality + "er", quality + "est")
    people = draws.sample(NAMES, 3)
    facts = [f"{a} is {more} than {b}." for a, b in itertools.pairwise(people)]
    return " ".join(
        [
            *draws.shuffled(facts),
            f"{people[0]} is the {most}.",
            f"{people[0]} is {more} than {people[2]}.",
        ]
    )


def _patterns(draws: Draws) -> str:
    unit = draws.sample(WORDS, draws.between(2, 3))
    start, step = draws.between(1, 9), draws.between(1, 4)
    series = ", ".join(str(start + step * i) for i in range(5))
    return f"{' '.join(unit * 3)} and so on with {unit[0]}. Counting by {step}: {series}."


def _rules(draws: Draws) -> str:
    kinds = draws.sample(list(CATEGORIES), 2)
    labels = draws.sample([a + b for a in _SYLLABLES[:20] for b in "pt"], 2)
    rule = " ".join(f"{kind} is called {label}." for kind, label in zip(kinds, labels, strict=True))
    uses = []
    for _ in range(3):
        at = draws.below(2)
        uses.append(f"{draws.choice(CATEGORIES[kinds[at]])} is {labels[at]}.")
    return f"Rule: {rule} So {' '.join(uses)}"


def _spelling(draws: Draws) -> str:
    facts = []
    for word in draws.sample(WORDS, 3):
        facts += [
            f"{word} is spelled {' '.join(word)}.",
            f"{word} begins with {word[0]} and ends with {word[-1]}.",
        ]
    number = draws.below(len(NUMBER_WORDS))
    facts.append(f"{number} is {NUMBER_WORDS[number]}.")
    return " ".join(draws.sample(facts, 4))


def _sayings(draws: Draws) -> str:
    name = draws.choice(NAMES)
    phrase = " ".join(draws.sample(WORDS, draws.between(2, 4)))
    coat = f"{draws.choice(COLOURS)} {draws.choice(CLOTHES)}"
    says = f"{name} says {phrase}. Again {name} says {phrase}."
    return f"{says} {name} wears a {coat}: the {coat} of {name}."


GENRES: tuple[Callable[[Draws], str], ...] = (
    _listing,
    _belongings,
    _table,
    _numbers,
    _sums,
    _counts,
    _kinds,
    _code,
    _walks,
    _gifts,
    _calendar,
    _comparisons,
    _patterns,
    _rules,
    _spelling,
    _sayings,
)


def passages(draws: Draws) -> dict[str, str]:
    """One or two passages of different genres."""
    chosen = draws.sample(GENRES, draws.between(1, 2))
    return {"text": "\n".join(genre(draws) for genre in chosen), "answer": ""}


register_task(
    TaskDefinition(
        name="micro_corpus",
        group="micro_corpus",
        cluster="text",
        source=ProceduralSource("micro_corpus", passages),
        template_file=TEMPLATES / "corpus.yaml",
        licence="Apache-2.0",
        tags=("pretraining",),
        description="Plain statements, for pre-training by span corruption.",
    )
)
