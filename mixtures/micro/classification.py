"""Micro tasks that put words and numbers into classes."""

from __future__ import annotations

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import CATEGORIES, COLOURS, WEATHER, WORDS
from flan_jax.mixtures.micro.registry import micro_task

# An orange is a fruit and orange is a colour: no rule could tell.
MEMBERS = {kind: [word for word in words if word != "orange"] for kind, words in CATEGORIES.items()}
KINDS = list(MEMBERS)
LABELS = "blip blop zig zag ping pong tick tock".split()
INVENTED = "zib tof mip lok dax wug nep sol bim rask".split()
# Kinds of coloured things, named by one word to keep prompts short.
THING_KINDS = "animal fruit tool vehicle".split()


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@micro_task("classification", options=True)
def category_rule(draws: Draws) -> dict:
    """Say one of two words by a rule on what kind of thing a word means."""
    kind, other = draws.sample(KINDS, 2)
    hit, miss = draws.sample(LABELS, 2)
    fits = draws.chance(0.5)
    return {
        "kind": _a(kind),
        "word": draws.choice(MEMBERS[kind if fits else other]),
        "hit": hit,
        "miss": miss,
        "options": draws.shuffled([hit, miss]),
        "answer": hit if fits else miss,
    }


@micro_task("classification", options=True)
def even_odd_rule(draws: Draws) -> dict:
    """Say one of two words by whether a number is even or odd."""
    number = draws.between(1, 99)
    even, odd = draws.sample(LABELS, 2)
    return {
        "number": number,
        "even": even,
        "odd": odd,
        "options": draws.shuffled([even, odd]),
        "answer": odd if number % 2 else even,
    }


@micro_task("classification", options=True)
def list_topic(draws: Draws) -> dict:
    """Name the kind of thing that three words have in common."""
    kind, *wrong = draws.sample(KINDS, draws.between(3, 4))
    return {
        "words": ", ".join(draws.sample(MEMBERS[kind], 3)),
        "options": draws.shuffled([kind, *wrong]),
        "answer": kind,
    }


@micro_task("classification", cot=True)
def good_or_bad(draws: Draws) -> dict:
    """Call a text good or bad by a list of good and a list of bad words."""
    words = draws.sample([*WORDS, *WEATHER], 6)
    lists = {"good": words[:3], "bad": words[3:]}
    answer, other = draws.choice((("good", "bad"), ("bad", "good")))
    count = draws.between(2, 3)
    labelled = [(word, answer) for word in draws.sample(lists[answer], count)]
    labelled += [(word, other) for word in draws.sample(lists[other], 3 - count)]
    labelled = draws.shuffled(labelled)
    steps = [f"{word} is {label}." for word, label in labelled]
    return {
        "good": ", ".join(lists["good"]),
        "bad": ", ".join(lists["bad"]),
        "text": " ".join(word for word, _ in labelled),
        "reasoning": " ".join(steps) + f" That makes {count} {answer} and {3 - count} {other}.",
        "answer": answer,
    }


@micro_task("classification", options=True)
def invented_noun(draws: Draws) -> dict:
    """Find the made-up word with a given meaning."""
    names = draws.sample(INVENTED, 3)
    # Two colours and two kinds, so that neither alone tells the meaning.
    colours, kinds = draws.sample(COLOURS, 2), draws.sample(THING_KINDS, 2)
    meanings = [f"a {colour} {kind}" for colour in colours for kind in kinds]
    meanings = draws.sample(meanings, 3)
    asked = draws.below(3)
    return {
        "glossary": " ".join(f"A {a} is {b}." for a, b in zip(names, meanings, strict=True)),
        "meaning": meanings[asked],
        "options": draws.shuffled(names),
        "answer": names[asked],
    }


@micro_task("classification", options=True)
def category_odd_one(draws: Draws) -> dict:
    """Find the one of four words that is not of the same kind."""
    kind, other = draws.sample(KINDS, 2)
    answer = draws.choice(MEMBERS[other])
    words = draws.shuffled([*draws.sample(MEMBERS[kind], 3), answer])
    return {"words": ", ".join(words), "options": draws.shuffled(words), "answer": answer}
