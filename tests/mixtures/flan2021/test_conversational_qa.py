"""CoQA and QuAC: rows become numbered lists, and answers that say something."""

from __future__ import annotations

import itertools

import pytest

from flan_jax.mixtures.flan2021 import conversational_qa as qa
from flan_jax.tasks import get_task

COQA = [
    {
        "source": "mctest",
        "story": "Once upon a time, in a barn near a farm house, there lived a little white "
        "kitten named Cotton. Cotton lived high up in a nice warm place above the barn where all "
        "of the farmer's horses slept. But Cotton wasn't alone in her little home, oh no. She "
        "shared her hay bed with her mommy and 5 other sisters. ",
        "questions": [
            "What color was Cotton?",
            "Where did she live?",
            "Did she live alone?",
            "Who did she live with?",
        ],
        "answers": {
            "answer_start": [59, 18, 196, 281],
            "answer_end": [93, 80, 215, 315],
            "input_text": ["white", "in a barn", "no", "with her mommy and 5 sisters"],
        },
    },
    {
        "source": "cnn",
        "story": "(CNN) -- The longest-running holiday special still has a very shiny nose. "
        '"Rudolph the Red-Nosed Reindeer" premiered on television December 6, 1964, and is now '
        "one of the holiday season's perennial favorites.",
        "questions": ["What premiered in 1964?", "On which day?\n"],
        "answers": {
            "answer_start": [76, 133],
            "answer_end": [106, 149],
            "input_text": ["Rudolph the Red-Nosed Reindeer", "December 6"],
        },
    },
]


def _quac(question: str, answer: str, others: list[str], background: str) -> dict:
    return {
        "title": "Daffy Duck",
        "section_title": "Origin & history",
        "background": background,
        "context": "Daffy first appeared in Porky's Duck Hunt, released on April 17, 1937. The "
        "cartoon was directed by Tex Avery and animated by Bob Clampett. CANNOTANSWER",
        "question": question,
        "yesno": "x",
        "followup": "y",
        "orig_answer": {"text": answer, "answer_start": 0},
        "answers": {"text": [answer, *others], "answer_start": [0] * (1 + len(others))},
    }


QUAC = [
    _quac(
        "What is the origin of Daffy Duck?",
        "first appeared in Porky's Duck Hunt,",
        ["Daffy first appeared in Porky's Duck Hunt, released on April 17, 1937.", "CANNOTANSWER"],
        "Daffy Duck is an animated cartoon character produced by Warner Bros.",
    ),
    _quac("Was he his own person or modeled on someone?", "CANNOTANSWER", [], ""),
]

ROWS = {"coqa": COQA, "quac": QUAC}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_renders_in_every_template(name: str):
    task = get_task(name)
    for row in ROWS[name]:
        assert task.source.keep(row)
        fields = task.to_fields(row)
        for template in itertools.chain.from_iterable(task.sections().values()):
            inputs, targets = template.render(fields)
            assert inputs and targets
            assert "CANNOTANSWER" not in inputs + targets


def test_a_conversation_becomes_two_lists_with_the_same_numbers():
    fields = qa.coqa(COQA[0])
    assert fields["questions"].splitlines()[1] == "2. Where did she live?"
    assert fields["answer"] == ("1. white\n2. in a barn\n3. no\n4. with her mommy and 5 sisters")
    # A line break in a question would look like another question.
    assert qa.coqa(COQA[1])["questions"].count("\n") == 1


@pytest.mark.parametrize("texts", [["white"], ["white", "in a barn", " ", "with her mommy"]])
def test_conversations_with_missing_answers_are_left_out(texts: list[str]):
    assert not qa.is_whole_conversation({**COQA[0], "answers": {"input_text": texts}})


def test_a_quac_question_without_answer_gets_a_sentence_and_never_an_empty_target():
    fields = qa.quac(QUAC[1])
    assert fields["answer"] == qa.NO_ANSWER == "The passage does not say."
    assert fields["answers"] == (qa.NO_ANSWER,)
    assert not fields["answerable"]


def test_a_quac_answer_is_a_quotation_and_all_answers_count():
    fields = qa.quac(QUAC[0])
    assert fields["answerable"]
    assert fields["answer"] == "first appeared in Porky's Duck Hunt"
    assert fields["answers"][0] == fields["answer"]
    assert fields["answers"][-1] == qa.NO_ANSWER
    assert fields["passage"].endswith("animated by Bob Clampett.")
    assert fields["section"] == "Origin & history"


def test_an_inverted_quac_template_does_not_claim_that_the_passage_answers_when_it_does_not():
    inverted = [t for t in get_task("quac").templates() if t.targets != "{{ answer }}"]
    assert len(inverted) >= 2
    for template in inverted:
        answered, _ = template.render(qa.quac(QUAC[0]))
        unanswered, question = template.render(qa.quac(QUAC[1]))
        assert question == QUAC[1]["question"]
        assert "first appeared in Porky's Duck Hunt\"" in answered
        assert "does not" in unanswered and "does not" not in answered


def test_quac_rows_without_a_passage_are_left_out():
    assert not qa.has_passage({**QUAC[0], "context": "CANNOTANSWER"})
    assert not qa.has_passage({**QUAC[0], "question": " "})
