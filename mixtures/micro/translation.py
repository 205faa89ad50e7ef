"""Micro tasks that translate by a key stated in the prompt."""

from __future__ import annotations

from collections.abc import Mapping

from flan_jax.draws import Draws
from flan_jax.mixtures.micro.lexicon import ANIMALS, COLOURS, NUMBER_WORDS, OBJECTS, WORDS
from flan_jax.mixtures.micro.registry import micro_task

CODES = "ko mi lu ba ne ti fe gu jo ki pe ru sa vo wi zu da ri".split()


def _key(draws: Draws, size: int) -> dict[str, str]:
    """Some words and their made-up codes."""
    return dict(zip(draws.sample(WORDS, size), draws.sample(CODES, size), strict=True))


def _text(key: Mapping[str, str]) -> str:
    return ", ".join(f"{word} = {code}" for word, code in key.items())


@micro_task("translation", cot=True)
def words_to_code(draws: Draws) -> dict:
    """Translate words into made-up code words with a key."""
    key = _key(draws, 4)
    words = draws.sample(list(key), draws.between(2, 3))
    return {
        "key": _text(key),
        "words": " ".join(words),
        "reasoning": " ".join(f"{word} is {key[word]}." for word in words),
        "answer": " ".join(key[word] for word in words),
    }


@micro_task("translation")
def code_to_words(draws: Draws) -> dict:
    """Translate made-up code words back into words with a key."""
    key = _key(draws, 4)
    words = draws.sample(list(key), draws.between(2, 3))
    return {
        "key": _text(key),
        "code": " ".join(key[word] for word in words),
        "answer": " ".join(words),
    }


@micro_task("translation")
def number_words(draws: Draws) -> dict:
    """Turn digits into number words or number words into digits."""
    numbers = [draws.between(0, 12) for _ in range(draws.between(3, 4))]
    digits = " ".join(map(str, numbers))
    words = " ".join(NUMBER_WORDS[number] for number in numbers)
    given, wanted, answer = draws.choice(((digits, "words", words), (words, "digits", digits)))
    return {"given": given, "wanted": wanted, "answer": answer}


@micro_task("translation")
def position_code(draws: Draws) -> dict:
    """Read a code of positions in a list of words."""
    words = draws.sample(WORDS, draws.between(4, 5))
    positions = draws.sample(range(len(words)), draws.between(2, 3))
    return {
        "words": ", ".join(words),
        "code": " ".join(str(position + 1) for position in positions),
        "answer": " ".join(words[position] for position in positions),
    }


@micro_task("translation", held_out=True)
def swapped_language(draws: Draws) -> dict:
    """Translate a colour and a thing into a made-up language that says the thing first."""
    colours, things = draws.sample(COLOURS, 2), draws.sample([*ANIMALS, *OBJECTS], 2)
    words = draws.shuffled([*colours, *things])
    key = dict(zip(words, draws.sample(CODES, 4), strict=True))
    colour, thing = draws.choice(colours), draws.choice(things)
    return {
        "key": _text(key),
        "phrase": f"{colour} {thing}",
        "answer": f"{key[thing]} {key[colour]}",
    }
