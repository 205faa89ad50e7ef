"""Data-to-text tasks of Muffin: rows in the builders' shape to fields."""

from __future__ import annotations

import re

import pytest

from flan_jax.mixtures.flan2021 import structure_to_text as data_to_text
from flan_jax.tasks import get_task

COMMON_GEN = {
    "gem_id": "common_gen-validation-0",
    "gem_parent_id": "common_gen-validation-0",
    "concept_set_id": 0,
    "concepts": ["field", "look", "stand"],
    "target": "The player stood in the field looking at the batter.",
    "references": [
        "The player stood in the field looking at the batter.",
        "The coach stands along the field, looking at the goalkeeper.",
    ],
}
DART = {
    "gem_id": "dart-train-0",
    "gem_parent_id": "dart-train-0",
    "dart_id": 0,
    "tripleset": [
        "[TABLECONTEXT] [TITLE] Jeff Daniels",
        "Hawaii Five-O AIR_DATE 1980",
        "[TABLECONTEXT] TITLE Hawaii Five-O",
        "The Mill eatType coffee shop",
    ],
    "subtree_was_extended": False,
    "target_sources": ["WikiTableQuestions_lily"],
    "target": "Jeff Daniels appeared in an episode of Hawaii Five-O in 1980.",
    "references": [],
}
E2E = {
    "gem_id": "e2e_nlg-train-0",
    "gem_parent_id": "e2e_nlg-train-0",
    "meaning_representation": (
        "name[Alimentum], eatType[restaurant], priceRange[less than £20], area[city centre], "
        "familyFriendly[no]"
    ),
    "target": "Alimentum is a cheap restaurant in the city centre that is not family friendly.",
    "references": [],
}
WEB_NLG = {
    "gem_id": "web_nlg_en-train-0",
    "gem_parent_id": "web_nlg_en-train-0",
    "category": "Airport",
    "webnlg_id": "train/Airport/1/Id1",
    "input": [
        'Aarhus_Airport | cityServed | "Aarhus, Denmark"',
        "Aarhus_Airport | ICAO_Location_Identifier | EKAH",
    ],
    "target": "Aarhus Airport, with the ICAO code EKAH, serves the city of Aarhus in Denmark.",
    "references": [],
}
ROWS = {"common_gen": COMMON_GEN, "dart": DART, "e2e_nlg": E2E, "web_nlg_en": WEB_NLG}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_kept_and_fill_every_template(name):
    task = get_task(name)
    assert task.source.keep(ROWS[name])
    fields = task.to_fields(ROWS[name])
    for templates in task.sections().values():
        for template in templates:
            inputs, targets = template.render(fields)
            assert inputs and targets
            assert not re.search(r"[|\[\]_{}]", inputs + targets), template.where


@pytest.mark.parametrize("name", ROWS)
def test_rows_without_data_or_text_are_left_out(name):
    source = {
        "common_gen": ("concepts", [" "]),
        "dart": ("tripleset", []),
        "e2e_nlg": ("meaning_representation", ""),
        "web_nlg_en": ("input", []),
    }[name]
    keep = get_task(name).source.keep
    assert not keep({**ROWS[name], source[0]: source[1]})
    assert not keep({**ROWS[name], "target": ""})


def test_concepts_and_references():
    fields = data_to_text.common_gen(COMMON_GEN)
    assert fields["concepts"] == ["field", "look", "stand"]
    assert fields["answer"] == COMMON_GEN["target"]
    assert fields["answers"] == tuple(COMMON_GEN["references"])


def test_answer_is_among_the_answers_where_there_are_no_references():
    assert data_to_text.dart(DART)["answers"] == (DART["target"],)


def test_facts_of_dart():
    assert data_to_text.dart(DART)["facts"] == [
        "Table title: Jeff Daniels",
        "Hawaii Five-O AIR DATE 1980",
        "Table: TITLE Hawaii Five-O",
        "The Mill eat type coffee shop",
    ]


@pytest.mark.parametrize("name", ["Ronald McDonald BORN 1963", "iPhone maker Apple"])
def test_names_keep_their_capitals(name):
    assert data_to_text.dart_fact(name) == name


def test_attributes_of_e2e():
    fields = data_to_text.e2e_nlg(E2E)
    assert fields["facts"] == [
        "name: Alimentum",
        "type of venue: restaurant",
        "price range: less than £20",
        "area: city centre",
        "family friendly: no",
    ]
    assert fields["name"] == "Alimentum"


def test_template_does_without_a_restaurants_name():
    row = {**E2E, "meaning_representation": "eatType[pub], near[Café Rouge]"}
    fields = data_to_text.e2e_nlg(row)
    assert fields["name"] == ""
    for template in get_task("e2e_nlg").templates():
        assert "about ." not in template.render(fields)[0]


@pytest.mark.parametrize(
    ("triple", "fact"),
    [
        (
            'Aarhus_Airport | cityServed | "Aarhus, Denmark"',
            "Aarhus Airport, city served: Aarhus, Denmark",
        ),
        (
            "Aarhus_Airport | ICAO_Location_Identifier | EKAH",
            "Aarhus Airport, ICAO location identifier: EKAH",
        ),
        ('Alan_Bean | birthDate | "1932-03-15"', "Alan Bean, birth date: 1932-03-15"),
        ('Adare_Manor | name | "Adare Manor"@en', "Adare Manor, name: Adare Manor"),
        (
            'A | runwayLength | "2702.0"^^<http://dbpedia.org/datatype/metre>',
            "A, runway length: 2702.0",
        ),
        ("Abilene_(Texas) | isPartOf | Texas", "Abilene (Texas), is part of: Texas"),
        ("Bakewell_pudding", "Bakewell pudding"),
    ],
)
def test_facts_of_web_nlg(triple, fact):
    assert data_to_text.web_nlg_fact(triple) == fact
