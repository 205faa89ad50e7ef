"""Muffin tasks that ask for data to be put into words. Names and splits are Flan's.

CommonGen, DART, E2E and WebNLG, all as the GEM benchmark has them: a training row has one text,
other rows have all the references there are, which become `answers`.
"""

from __future__ import annotations

import re

from flan_jax.mixtures.flan2021.question_text import collapse
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.mixtures.flan2021.summarization import numbered
from flan_jax.sources.base import Row

METRICS = ("bleu", "rougeL")

# `cityServed`, `eatType`; not `iPhone`, nor what begins with a capital, such as `McDonald`.
_CAMEL_WORD = re.compile(r"(?<![\w'])[a-z]{2,}(?:[A-Z][a-z]+)+(?!\w)")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _apart(word: str) -> str:
    return _HUMP.sub(" ", word).lower()


def relation_words(name: str) -> str:
    """A relation's name as words: `cityServed`, `City_served` and `city served` are the same.

    Abbreviations stay in capitals: `ICAO_Location_Identifier` is "ICAO location identifier".
    """
    words = _HUMP.sub(" ", name.replace("_", " ")).split()
    return " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in words)


def _texts(row: Row) -> Row:
    answer = collapse(row["target"])
    references = (collapse(reference) for reference in row["references"])
    return {
        "answer": answer,
        "answers": tuple(dict.fromkeys((answer, *filter(None, references)))),
    }


def has_target(row: Row) -> bool:
    """Whether a row has a text; GEM hides the texts of some test sets."""
    return bool(row["target"].strip())


def has_concepts(row: Row) -> bool:
    """Whether a row of CommonGen has concepts and a sentence."""
    return has_target(row) and any(concept.strip() for concept in row["concepts"])


def common_gen(row: Row) -> Row:
    """Concepts and a sentence that uses them all."""
    concepts = [collapse(concept) for concept in row["concepts"] if concept.strip()]
    return {"concepts": concepts, **_texts(row)}


# How DART marks facts about a table itself: its title, or a value of its topic.
_DART_TITLE = re.compile(r"\[TABLECONTEXT\]\s*\[TITLE\]\s*", re.IGNORECASE)
_DART_CONTEXT = re.compile(r"\[TABLECONTEXT\]\s*", re.IGNORECASE)


def dart_fact(triple: str) -> str:
    """One of DART's facts, whose subject, relation and object the builder joins by blanks.

    Where one ends and the next begins cannot be told, so only the writing changes: underscores and
    camel case become blanks. Capitals, in which relations from tables are written, are kept.
    """
    text = _DART_TITLE.sub("Table title: ", triple)
    text = _DART_CONTEXT.sub("Table: ", text).replace("_", " ")
    return collapse(_CAMEL_WORD.sub(lambda match: _apart(match[0]), text))


def has_triples(row: Row) -> bool:
    """Whether a row of DART has facts and a text."""
    return has_target(row) and any(triple.strip() for triple in row["tripleset"])


def dart(row: Row) -> Row:
    """Facts from tables and knowledge bases, and a text that states them."""
    facts = [dart_fact(triple) for triple in row["tripleset"] if triple.strip()]
    return {"facts": facts, "numbered_facts": numbered(facts), **_texts(row)}


_ATTRIBUTE = re.compile(r"\s*([^,\[\]]+?)\s*\[([^\]]*)\]")
# E2E's name for what kind of place it is does not say so, even taken apart.
_E2E_NAMES = {"eat type": "type of venue"}


def _attributes(meaning: str) -> list[tuple[str, str]]:
    found = ((relation_words(m[1]), collapse(m[2])) for m in _ATTRIBUTE.finditer(meaning))
    return [(_E2E_NAMES.get(name, name), value) for name, value in found if value]


def has_attributes(row: Row) -> bool:
    """Whether a row of E2E has attributes and a text."""
    return has_target(row) and bool(_attributes(row["meaning_representation"]))


def e2e_nlg(row: Row) -> Row:
    """Attributes of a restaurant, each as "attribute: value", and a description."""
    attributes = _attributes(row["meaning_representation"])
    return {
        "facts": [f"{name}: {value}" for name, value in attributes],
        "name": dict(attributes).get("name", ""),
        **_texts(row),
    }


_QUOTES = "\"' "
# What may follow a literal of RDF: its type or its language.
_LITERAL_END = re.compile(r"(?<=\")(?:\^\^\S+|@[a-z]{2,3}(?:-\w+)?)$")


def web_nlg_fact(triple: str) -> str:
    """One of WebNLG's facts: `Aarhus_Airport | cityServed | "Aarhus, Denmark"` is
    "Aarhus Airport, city served: Aarhus, Denmark". Texts of another form lose their underscores.
    """
    parts = [part.strip() for part in triple.split("|", 2)]
    if len(parts) != 3:
        return collapse(triple.replace("_", " "))
    subject, relation, value = parts
    value = _LITERAL_END.sub("", value).strip(_QUOTES)
    subject = subject.strip(_QUOTES)
    fact = f"{subject.replace('_', ' ')}, {relation_words(relation)}: {value.replace('_', ' ')}"
    return collapse(fact)


def has_input(row: Row) -> bool:
    """Whether a row of WebNLG has facts and a text."""
    return has_target(row) and any(triple.strip() for triple in row["input"])


def web_nlg(row: Row) -> Row:
    """Facts from DBpedia and a text that states them."""
    facts = [web_nlg_fact(triple) for triple in row["input"] if triple.strip()]
    return {"facts": facts, "numbered_facts": numbered(facts), **_texts(row)}


register(
    "common_gen",
    to_fields=common_gen,
    keep=has_concepts,
    metrics=METRICS,
    licence="MIT",
    description="CommonGen: a sentence from everyday concepts",
)
register(
    "dart",
    to_fields=dart,
    keep=has_triples,
    metrics=METRICS,
    licence="MIT",
    description="DART: a text that states facts from tables and knowledge bases",
)
register(
    "e2e_nlg",
    to_fields=e2e_nlg,
    keep=has_attributes,
    metrics=METRICS,
    licence="CC-BY-SA-4.0",
    description="E2E: descriptions of restaurants from their attributes",
)
register(
    "web_nlg_en",
    to_fields=web_nlg,
    keep=has_input,
    metrics=METRICS,
    licence="CC-BY-NC-SA-4.0",
    description="WebNLG: a text that states facts from DBpedia",
)
