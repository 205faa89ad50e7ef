"""Closed-book tasks: rows in the builders' shape become the right questions and answers."""

from __future__ import annotations

import itertools

import pytest

from flan_jax.errors import UserError
from flan_jax.mixtures.flan2021 import closed_book_qa as qa
from flan_jax.sources.tfds import TfdsSource
from flan_jax.tasks import get_task

NATURAL_QUESTIONS = [
    {"question": "who got the first nobel prize in physics", "answer": ["Wilhelm Conrad Röntgen"]},
    {
        "question": "when is the next deadpool movie being released?",
        "answer": ["May 18 , 2018", "May 18 , 2018", "2018"],
    },
]


def _trivia(question: str, value: str, aliases: list[str], entity: str) -> dict:
    return {
        "question": question,
        "question_id": "tc_1",
        "question_source": "http://www.triviacountry.com/",
        "entity_pages": {"doc_source": [], "filename": [], "title": [], "wiki_context": []},
        "search_results": {"title": [], "search_context": []},
        "answer": {
            "aliases": aliases,
            "matched_wiki_entity_name": entity,
            "normalized_aliases": [alias.lower() for alias in aliases],
            "normalized_matched_wiki_entity_name": entity.lower(),
            "normalized_value": value.lower(),
            "type": "WikipediaEntity" if entity else "FreeForm",
            "value": value,
        },
    }


TRIVIA_QA = [
    _trivia(
        "Which American-born Sinclair won the Nobel Prize for Literature in 1930?",
        "Sinclair Lewis",
        ["(Harry) Sinclair Lewis", "Sinclair Lewis", "Lewis, (Harry) Sinclair"],
        "Sinclair Lewis",
    ),
    _trivia("In which decade did stereo records first go on sale?", "1950s", ["1950s"], ""),
]


def _arc(question: str, texts: list[str], labels: list[int], key: int) -> dict:
    choices = {"label": labels, "text": texts}
    return {"id": "Mercury_1", "question": question, "choices": choices, "answerKey": key}


ARC = [
    _arc(
        "George wants to warm his hands quickly by rubbing them. "
        "Which skin surface will produce the most heat?",
        ["dry palms", "wet palms", "palms covered with oil", "palms covered with lotion"],
        [0, 1, 2, 3],
        0,
    ),
    _arc(
        "A toothpaste commercial states that a brand of toothpaste has a higher concentration of "
        "fluoride than any other toothpaste available. The commercial is most likely inferring "
        "that the advertised toothpaste",
        [
            "has a pleasant flavor.",
            "is recommended by dentists.",
            "promotes good dental hygiene.",
            "is the most expensive brand sold.",
        ],
        [0, 1, 2, 3],
        2,
    ),
]


def _book(stem: str, choices: list[str], fact: str, key: int) -> dict:
    letters = {f"choice_{letter}": text for letter, text in zip("ABCD", choices, strict=True)}
    return {
        "question": {"stem": stem, **letters},
        "fact1": fact,
        "answerKey": key,
        "humanScore": 1.0,
        "clarity": 1.8,
        "turkIdAnonymized": "b356d338b7",
    }


OPENBOOKQA = [
    _book(
        "The sun is responsible for",
        [
            "puppies learning new tricks",
            "children growing up and getting old",
            "flowers wilting in a vase",
            "plants sprouting, blooming and wilting",
        ],
        "the sun is the source of energy for physical cycles on Earth",
        3,
    ),
    _book(
        "As a car approaches you in the night",
        [
            "the headlights become more intense",
            "the headlights recede into the dark",
            "the headlights remain at a constant",
            "the headlights turn off",
        ],
        "as a source of light becomes closer , that source will appear brighter",
        0,
    ),
]

SCIENCE = [
    {
        "input": "Which instrument is used to measure atmospheric pressure? \\n (A) barometer "
        "(B) hygrometer (C) thermometer (D) magnetometer",
        "output": "barometer",
    },
    {
        "input": "When a baby shakes a rattle, it makes a noise. Which form of energy was changed "
        "to sound energy? \\n (A) electrical (B) light (C) Mechanical  (D) heat",
        "output": "mechanical",
    },
]

MATH = [
    {"question": "Solve 24 = 1601*c - 1605*c for c.", "answer": "-6"},
    {"question": "b'Solve 657 = -220*t + 1086*t + 22307 for t.\\n'", "answer": "b'-25\\n'"},
]

ROWS = {
    "natural_questions": NATURAL_QUESTIONS,
    "trivia_qa": TRIVIA_QA,
    "trivia_qa_wiki_missing": TRIVIA_QA[1:],
    "arc_challenge": ARC,
    "arc_easy": ARC,
    "openbookqa": OPENBOOKQA,
    "unified_qa_science_inst": SCIENCE,
    "math_dataset": MATH,
}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_renders_in_every_template_without_showing_its_target(name: str):
    task = get_task(name)
    for row in ROWS[name]:
        assert task.source.keep is None or task.source.keep(row)
        fields = task.to_fields(row)
        for template in itertools.chain.from_iterable(task.sections().values()):
            inputs, targets = template.render(fields)
            assert inputs and targets
            assert targets not in inputs or targets in fields["question"]


def test_a_search_query_becomes_a_question_with_all_its_answers():
    first, second = map(qa.natural_questions, NATURAL_QUESTIONS)
    assert first["question"] == "Who got the first nobel prize in physics?"
    assert second["question"] == "When is the next deadpool movie being released?"
    assert second["answer"] == "May 18, 2018"
    assert second["answers"] == ("May 18, 2018", "2018")
    assert not qa.has_answer({"question": "who was it", "answer": []})
    assert not qa.has_answer({"question": "who was it", "answer": [" "]})


def test_trivia_keeps_the_answer_as_people_write_it_and_its_aliases():
    fields = qa.trivia_qa(TRIVIA_QA[0])
    assert fields["answer"] == "Sinclair Lewis"
    assert fields["answers"] == (
        "Sinclair Lewis",
        "(Harry) Sinclair Lewis",
        "Lewis, (Harry) Sinclair",
    )


def test_wiki_missing_are_the_questions_without_a_wikipedia_entry():
    assert [qa.is_no_wikipedia_entry(row) for row in TRIVIA_QA] == [False, True]
    source = get_task("trivia_qa_wiki_missing").source
    assert isinstance(source, TfdsSource)
    assert source.keep is qa.is_no_wikipedia_entry
    assert get_task("trivia_qa").template_file == get_task("trivia_qa_wiki_missing").template_file


def test_arc_takes_the_choice_that_the_key_names_whatever_its_position():
    assert qa.arc(ARC[0])["answer"] == "dry palms"
    assert qa.arc(ARC[1])["answer"] == "promotes good dental hygiene."
    shuffled = _arc("Which is a metal?", ["wood", "iron", "glass"], [2, 0, 1], 0)
    assert qa.has_arc_key(shuffled)
    assert qa.arc(shuffled)["answer"] == "iron"
    assert qa.arc(shuffled)["options"] == ["wood", "iron", "glass"]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(_arc("Q?", ["a", "b", "c", "d", "e"], [0, 1, 2, 3, 4], 4), id="key E"),
        pytest.param(_arc("Q?", ["a", "b", "c"], [0, 1, 2], 3), id="key without a choice"),
        pytest.param(_arc("Q?", ["a", "b", "a "], [0, 1, 2], 2), id="two choices alike"),
        pytest.param(_arc("Q?", ["a", "", "c"], [0, 1, 2], 2), id="empty choice"),
    ],
)
def test_arc_leaves_out_rows_without_one_clear_answer(row: dict):
    assert not qa.has_arc_key(row)


def test_openbookqa_has_stem_fact_and_choices():
    fields = qa.openbookqa(OPENBOOKQA[0])
    assert fields["question"] == "The sun is responsible for"
    assert fields["answer"] == "plants sprouting, blooming and wilting"
    assert fields["options"][0] == "puppies learning new tricks"
    fact = "as a source of light becomes closer, that source will appear brighter"
    assert qa.openbookqa(OPENBOOKQA[1])["fact"] == fact
    assert not qa.has_book_answer({**OPENBOOKQA[0], "answerKey": -1})


def test_science_options_are_parsed_out_of_the_one_string():
    fields = qa.unified_qa_science(SCIENCE[0])
    assert fields["question"] == "Which instrument is used to measure atmospheric pressure?"
    assert fields["options"] == ["barometer", "hygrometer", "thermometer", "magnetometer"]
    assert fields["answer"] == "barometer"


def test_science_answer_is_the_option_as_it_is_written_there():
    fields = qa.unified_qa_science(SCIENCE[1])
    assert fields["options"][2] == fields["answer"] == "Mechanical"


@pytest.mark.parametrize(
    ("text", "output"),
    [
        pytest.param("Which? \\n (A) a (B) b (C) c", "a", id="three options"),
        pytest.param("Which? \\n (A) a (B) b (C) c (D) d (E) e", "a", id="five options"),
        pytest.param("Which? \\n (A) a (B) b (C) c (D) d", "e", id="answer not offered"),
        pytest.param("Which? \\n (A) a (B) a (C) c (D) d", "a", id="answer offered twice"),
        pytest.param("Which? (A) a (B) b (C) c (D) d", "a", id="no line break"),
    ],
)
def test_science_rows_that_are_not_four_way_are_left_out(text: str, output: str):
    assert not qa.is_four_way({"input": text, "output": output})


def test_a_science_row_that_cannot_be_parsed_is_an_error_that_shows_it():
    with pytest.raises(UserError, match="What is a comet"):
        qa.unified_qa_science({"input": "What is a comet?", "output": "ice"})


def test_equations_lose_the_marks_of_bytes():
    assert qa.math_dataset(MATH[0]) == {**MATH[0]}
    assert qa.math_dataset(MATH[1]) == {
        "question": "Solve 657 = -220*t + 1086*t + 22307 for t.",
        "answer": "-25",
    }
