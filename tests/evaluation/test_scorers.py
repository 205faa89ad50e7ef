from __future__ import annotations

import re
import string
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.errors import UserError
from flan_jax.evaluation.scorers import (
    Scorer,
    all_scorers,
    corpus_bleu,
    get_scorer,
    last_number,
    normalize_squad,
    register_scorer,
    token_f1,
)

TEXTS = st.text("abct he.,!-ANTHE12\n", max_size=30)
HYPOTHESES = [
    "the cat sat on the mat",
    "a dog barked loudly at the cat",
    "it is raining",
    "he went home",
    "nothing in common whatsoever here",
]
REFERENCES = [
    ("the cat sat on a mat", "there is a cat on the mat"),
    ("the dog barked at the cat", "a dog was barking loudly at a cat"),
    ("it rains", "it is raining now"),
    ("he went home early", "he returned home"),
    ("completely different words", "unlike the other one"),
]


def _independent_normalize(text: str) -> str:
    """SQuAD's four steps, one after the other, by other means than the code under test."""
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    without = re.sub(r"\b(a|an|the)\b", " ", kept)
    return " ".join(without.split())


def _independent_f1(prediction: str, reference: str) -> float:
    """By striking out shared words one at a time, and by precision and recall."""
    left = _independent_normalize(prediction).split()
    right = _independent_normalize(reference).split()
    if not left or not right:
        return 1.0 if left == right else 0.0
    rest, shared = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(left), shared / len(right)
    return 2 * precision * recall / (precision + recall)


@given(TEXTS, TEXTS)
def test_squad_agrees_with_an_independent_one(prediction, reference):
    assert normalize_squad(prediction) == _independent_normalize(prediction)
    assert token_f1(prediction, reference) == pytest.approx(_independent_f1(prediction, reference))
    assert token_f1(prediction, reference) == pytest.approx(token_f1(reference, prediction))


def test_squad_by_hand(make_request):
    assert token_f1("The Eiffel tower!", "eiffel Tower in Paris") == pytest.approx(2 / 3)
    request = make_request(answer="Paris", references=("Paris", "the city of Paris"))
    assert get_scorer("squad_em").judge(request, "City of Paris.").statistics == (1.0,)
    assert get_scorer("squad_f1").judge(request, "old Paris").statistics[0] == pytest.approx(2 / 3)
    assert get_scorer("squad_em").judge(request, "").statistics == (0.0,)


@pytest.mark.parametrize(
    "text, number",
    [
        ("12 + 3 = 15", "15"),
        ("it costs $2,125.", "2125"),
        ("minus −3.50 degrees", "-3.50"),
        ("39個", "39"),
        ("about .5", "0.5"),
        ("none", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


def test_number_compares_values(make_request):
    judge = get_scorer("number").judge
    request = make_request(answer="2,125")
    assert judge(request, "so 17 * 125 = 2125.0").statistics == (1.0,)
    assert judge(request, "The answer is 2125. There were 3 of them").statistics == (0.0,)
    assert not judge(request, "no idea").parsed


def _finish(name, rows):
    scorer = get_scorer(name)
    values = np.array([judgement.statistics for judgement in rows])
    return float(scorer.finish(values.sum(axis=0), len(values)))


def _requests(make_request):
    return [
        make_request(f"t/{i}", answer=references[0], references=references)
        for i, references in enumerate(REFERENCES)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_bleu_equals_sacrebleu_on_the_corpus(make_request, size):
    sacrebleu = pytest.importorskip("sacrebleu")
    requests = _requests(make_request)
    judge = get_scorer("bleu").judge
    for first in range(len(requests) - size + 1):
        part = slice(first, first + size)
        ours = _finish(
            "bleu", [judge(r, h) for r, h in zip(requests[part], HYPOTHESES[part], strict=True)]
        )
        streams = [list(stream) for stream in zip(*REFERENCES[part], strict=True)]
        theirs = sacrebleu.corpus_bleu(HYPOTHESES[part], streams).score
        assert 100 * ours == pytest.approx(theirs, abs=1e-9)


def test_bleu_of_many_sums_at_once():
    sums = np.array([[9, 7, 5, 3, 10, 9, 8, 7, 10, 10], [0, 0, 0, 0, 3, 2, 1, 0, 3, 3.0]])
    both = corpus_bleu(sums, 1)
    assert both.shape == (2,) and both[1] == 0.0
    assert both[0] == pytest.approx((0.9 * 7 / 9 * 5 / 8 * 3 / 7) ** 0.25)


def test_rouge_takes_the_best_reference(make_request):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    reference_scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for request, hypothesis in zip(_requests(make_request), HYPOTHESES, strict=True):
        best = reference_scorer.score_multi(request.references, hypothesis)
        for name in ("rouge1", "rouge2", "rougeL"):
            value = get_scorer(name).judge(request, hypothesis).statistics[0]
            assert value == pytest.approx(best[name].fmeasure)


def test_text_metrics_judge_the_answer_of_a_worked_solution(make_request):
    request = make_request(answer="blue sky", target="Look up. The answer is blue sky.")
    judgement = get_scorer("squad_f1").judge(request, "I see grey. The answer is blue.")
    assert judgement.statistics[0] == pytest.approx(2 / 3) and judgement.parsed


def test_registry():
    with pytest.raises(UserError, match="exact_match"):
        get_scorer("exact_mach")
    with pytest.raises(UserError, match="registered already"):
        register_scorer(Scorer("exact_match", judge=lambda request, text: None))
    assert {"exact_match", "squad", "rouge", "bleu"} <= {scorer.name for scorer in all_scorers()}
