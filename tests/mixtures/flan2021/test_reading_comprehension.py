"""Reading tasks: rows in the builders' shape become the right questions and answers."""

from __future__ import annotations

import itertools

import pytest

from flan_jax.mixtures.flan2021 import reading_comprehension as rc
from flan_jax.tasks import get_task

BOOL_Q = [
    {
        "title": "Persian language",
        "passage": "Persian, also known by its endonym Farsi, is one of the Western Iranian "
        "languages. It is primarily spoken in Iran, Afghanistan (officially known as Dari since "
        "1958), and Tajikistan.\n",
        "question": "do iran and afghanistan speak the same language",
        "answer": True,
    },
    {
        "title": "Epsom railway station",
        "passage": "Epsom railway station serves the town of Epsom in Surrey. It is located off "
        "Waterloo Road. It is not in the London Oyster card zone unlike Epsom Downs.",
        "question": "can you use oyster card at epsom station",
        "answer": False,
    },
]

_NOTRE_DAME = (
    "Architecturally, the school has a Catholic character. Atop the Main Building's gold dome is "
    "a golden statue of the Virgin Mary."
)


def _squad(title: str, context: str, question: str, answers: list[str]) -> dict:
    starts = [context.index(answer) for answer in answers]
    return {
        "id": "5733be284776f41900661182",
        "title": title,
        "context": context,
        "question": question,
        "answers": {"text": answers, "answer_start": starts},
    }


SQUAD = [
    _squad(
        "University_of_Notre_Dame",
        _NOTRE_DAME,
        "What sits on top of the Main Building at Notre Dame?",
        ["a golden statue of the Virgin Mary", "golden statue of the Virgin Mary"],
    ),
    _squad(
        "Beyonc%C3%A9",
        "Beyoncé Giselle Knowles-Carter rose to fame in the late 1990s as lead singer of R&B "
        "girl-group Destiny's Child.",
        "  When did Beyonce start becoming popular?",
        ["in the late 1990s"],
    ),
]
SQUAD_2 = [
    {**SQUAD[0], "is_impossible": False, "plausible_answers": {"text": [], "answer_start": []}},
    {
        **SQUAD[0],
        "question": "Who carved the statue on top of the Main Building?",
        "answers": {"text": [], "answer_start": []},
        "is_impossible": True,
        "plausible_answers": {"text": ["the Virgin Mary"], "answer_start": [97]},
    },
]

_GAME = (
    "Hoping to rebound from their loss to the Patriots, the Raiders stayed at home for a Week 16 "
    "duel with the Houston Texans. Oakland would get the early lead in the first quarter as "
    "quarterback JaMarcus Russell completed a 20-yard touchdown pass to rookie wide receiver "
    "Chaz Schilens."
)
DROP = [
    {
        "query_id": "f37e81fa",
        "passage": _GAME,
        "question": "Who scored the first touchdown of the game?",
        "answer": "Chaz Schilens",
        "validated_answers": ["Chaz Schilens", "JaMarcus Russell", ""],
    },
    {
        "query_id": "ac6ba235",
        "passage": "The Treaty of Jassy, signed at Jassy in Moldavia on 9 January 1792, ended the "
        "war between the Russian and Ottoman Empires.",
        "question": "On which day was the treaty signed?",
        "answer": "1792-January-9",
        "validated_answers": ["1792-January-9"],
    },
]


def _multirc(answer: str, label: int) -> dict:
    return {
        "paragraph": "<b>Sent 1: </b>Jack was about to cross the street when he saw a truck."
        "<br><b>Sent 2: </b>He stepped back, and the truck rushed past.<br>",
        "question": "What did Jack do when he saw the truck?",
        "answer": answer,
        "label": label,
        "idx": {"answer": 0, "paragraph": 0, "question": 0},
    }


MULTIRC = [_multirc("He stepped back", 1), _multirc("He crossed the street ", 0)]

RECORD = [
    {
        "passage": "A father in Cornwall has rescued his son from the sea. David Lewis, 41, swam "
        "out at Porthtowan beach when he heard Tom call for help\n@highlight\nTom Lewis was "
        "carried out by a rip current\n@highlight\nCoastguard warned of strong winds.",
        "query": "- Mr @placeholder was praised by the coastguard, who said that few could have "
        "reached the boy in time",
        "entities": ["Cornwall", "David Lewis", "Lewis", "Porthtowan", "Tom", "Tom Lewis"],
        "answers": ["Lewis", "David Lewis"],
        "idx": {"passage": 0, "query": 0},
    },
    {
        "passage": "By Jane Doe Arsenal have beaten Chelsea in London.",
        "query": "The win takes @placeholder to the top of the table, above Chelsea.",
        "entities": ["Arsenal", "Chelsea", "Jane Doe", "London"],
        "answers": ["Arsenal"],
        "idx": {"passage": 1, "query": 1},
    },
]


def _cosmos(context: str, question: str, answers: list[str], label: int) -> dict:
    choices = {f"answer{position}": answer for position, answer in enumerate(answers)}
    return {"id": "3Q9SPIIRWJ", "context": context, "question": question, **choices, "label": label}


_ILL = (
    "Do i need to go for a legal divorce ? I wanted to marry a woman but she is not in the same "
    "religion , so i am not concern of the marriage inside church ."
)
COSMOS = [
    _cosmos(
        _ILL,
        "Why is this person asking about divorce ?",
        [
            "If he gets married in the church he wo nt have to get a divorce .",
            "He wants to get married to a different person .",
            "He wants to know if he does nt like this girl can he divorce her ?",
            "None of the above choices .",
        ],
        1,
    ),
    _cosmos(
        "I was so hungry after practice that I walked straight past the gym and into the diner . "
        "The lady behind the counter laughed and said she had never seen a plate emptied so fast .",
        "What may happen after the writer leaves the diner ?",
        [
            "They will look for another diner .",
            "They will go to practice .",
            "They will feel full .",
            "None of the above choices .",
        ],
        2,
    ),
]

LAMBADA = [
    {
        "passage": "`` are you sure ? '' he asked . she did n't answer at once . the lake was "
        "cold , and pam 's brother had never learned to swim . `` i 'll go in after him , '' she "
        "said , and jumped into the lake"
    },
    {
        "passage": "after loading her final tray for a server , claire went to freshen up before "
        "she would be loaded into the cake . brian and max always made her laugh as they hoisted "
        "her up to the top of the cake\n"
    },
]

ROWS = {
    "bool_q": BOOL_Q,
    "squad_v1": SQUAD,
    "squad_v2": SQUAD_2,
    "drop": DROP,
    "multirc": MULTIRC,
    "record": RECORD,
    "cosmos_qa": COSMOS,
    "lambada": LAMBADA,
}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_renders_in_every_template(name: str):
    task = get_task(name)
    for row in ROWS[name]:
        assert task.source.keep is None or task.source.keep(row)
        fields = task.to_fields(row)
        assert not task.has_options or fields["answer"] in fields["options"]
        for template in itertools.chain.from_iterable(task.sections().values()):
            inputs, targets = template.render(fields)
            assert inputs and targets
            for mark in ("<b>", "<br>", "@placeholder", "@highlight", "``", "%C3"):
                assert mark not in inputs + targets


def test_boolq_is_a_question_with_yes_or_no():
    assert [rc.bool_q(row)["answer"] for row in BOOL_Q] == ["yes", "no"]
    fields = rc.bool_q(BOOL_Q[0])
    assert fields["question"] == "Do iran and afghanistan speak the same language?"
    assert fields["options"] == ["no", "yes"]


def test_squad_titles_are_readable_and_all_answers_count():
    assert [rc.squad(row)["title"] for row in SQUAD] == ["University of Notre Dame", "Beyoncé"]
    fields = rc.squad(SQUAD[0])
    assert fields["answer"] == "a golden statue of the Virgin Mary"
    assert fields["answers"] == (fields["answer"], "golden statue of the Virgin Mary")


def test_squad_2_says_unanswerable_and_so_do_its_prompts():
    answered, unanswered = map(rc.squad, SQUAD_2)
    assert answered["answer"] == "a golden statue of the Virgin Mary"
    assert unanswered["answer"] == "unanswerable"
    assert unanswered["answers"] == ("unanswerable",)
    for template in get_task("squad_v2").templates():
        assert "unanswerable" in template.render(answered)[0]
    for template in get_task("squad_v1").templates():
        assert "unanswerable" not in template.render(rc.squad(SQUAD[0]))[0]


def test_drop_answers_are_readable():
    assert rc.drop(DROP[0])["answers"] == ("Chaz Schilens", "JaMarcus Russell")
    assert rc.drop(DROP[1])["answer"] == "9 January 1792"
    assert rc.drop(DROP[1])["answers"] == ("9 January 1792",)
    assert not rc.has_drop_answer({**DROP[0], "answer": " "})


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        ("-May-12", "12 May"),
        ("2-1", "2-1"),
        ("-7", "-7"),
        ("35.5", "35.5"),
        ("10-5-3", "10-5-3"),
    ],
)
def test_only_dates_are_turned_around(raw: str, answer: str):
    assert rc.drop({**DROP[0], "answer": raw, "validated_answers": []})["answer"] == answer


def test_multirc_judges_one_response():
    right, wrong = map(rc.multirc, MULTIRC)
    assert (right["response"], right["answer"]) == ("He stepped back", "yes")
    assert (wrong["response"], wrong["answer"]) == ("He crossed the street", "no")
    assert right["passage"] == (
        "Jack was about to cross the street when he saw a truck. "
        "He stepped back, and the truck rushed past."
    )
    assert not rc.has_verdict({**MULTIRC[0], "label": -1})


def test_an_inverted_multirc_template_asks_for_a_wrong_response_where_it_is_wrong():
    inverted = [t for t in get_task("multirc").templates() if t.targets != "{{ answer }}"]
    assert len(inverted) >= 2
    for template in inverted:
        right, _ = template.render(rc.multirc(MULTIRC[0]))
        wrong, _ = template.render(rc.multirc(MULTIRC[1]))
        assert "wrong" in wrong and "wrong" not in right


def test_record_fills_a_blank_with_an_entity():
    fields = rc.record(RECORD[0])
    assert fields["query"].startswith("Mr ____ was praised")
    assert fields["options"] == RECORD[0]["entities"]
    # In the order of the entities, not of the answers.
    assert fields["answer"] == "David Lewis"
    assert fields["answers"] == ("David Lewis", "Lewis")


def test_record_highlights_are_a_list_of_sentences():
    assert rc.record(RECORD[0])["passage"].splitlines() == [
        "A father in Cornwall has rescued his son from the sea. David Lewis, 41, swam out at "
        "Porthtowan beach when he heard Tom call for help.",
        "Highlights:",
        "- Tom Lewis was carried out by a rip current.",
        "- Coastguard warned of strong winds.",
    ]
    assert rc.record(RECORD[1])["passage"] == RECORD[1]["passage"]


def test_record_rows_whose_answer_is_no_entity_are_left_out():
    assert not rc.has_entity_answer({**RECORD[1], "answers": []})
    assert not rc.has_entity_answer({**RECORD[1], "answers": ["Tottenham"]})


def test_cosmos_loses_the_tokenizers_spaces():
    fields = rc.cosmos_qa(COSMOS[0])
    assert fields["question"] == "Why is this person asking about divorce?"
    assert fields["answer"] == "He wants to get married to a different person."
    assert fields["options"][0] == "If he gets married in the church he wont have to get a divorce."
    assert fields["options"][3] == "None of the above choices."
    context = "I did n't know it , but she 's the one who wrote `` home '' ."
    assert rc.cosmos_qa({**COSMOS[0], "context": context})["context"] == (
        "I didn't know it, but she's the one who wrote \"home\"."
    )


def test_cosmos_rows_without_a_clear_answer_are_left_out():
    assert rc.has_cosmos_answer(COSMOS[0])
    assert not rc.has_cosmos_answer({**COSMOS[0], "label": 3})
    assert not rc.has_cosmos_answer({**COSMOS[0], "label": -1})
    assert not rc.has_cosmos_answer({**COSMOS[0], "answer2": COSMOS[0]["answer1"]})
    assert rc.has_cosmos_answer({**COSMOS[0], "answer1": "None of the guests came ."})


def test_lambada_asks_for_the_last_word_of_prose():
    fields = rc.lambada(LAMBADA[0])
    assert fields["answer"] == "lake"
    assert fields["context"] == (
        "\"are you sure?\" he asked. she didn't answer at once. the lake was cold, and pam's "
        'brother had never learned to swim. "i\'ll go in after him," she said, and jumped into the'
    )
    assert rc.lambada(LAMBADA[1])["answer"] == "cake"
    assert not rc.has_last_word({"passage": "cake\n"})
