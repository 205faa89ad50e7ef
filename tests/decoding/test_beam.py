"""Beam search: against a plain search in Python and against trying everything."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from flan_jax.decoding import DecodeConfig, Decoded, decode
from tests.decoding.reference import (
    LENGTH,
    PALM_CONFIG,
    T5_CONFIG,
    VOCAB,
    NextLogits,
    log_softmax,
    make,
    palm_next_logits,
    prompts,
    t5_next_logits,
)

INPUTS = prompts([7, 3, 5, 1])
EOS = 5


def search(model, inputs, **options) -> Decoded:
    options.setdefault("eos_id", EOS)
    return jax.device_get(decode(model, inputs, DecodeConfig(LENGTH, method="beam", **options)))


class PlainSearch:
    """Beam search for one row, with lists of (log-probability, ids), as simple as can be."""

    def __init__(self, next_logits: NextLogits, row: int, rows: int, beams: int, config: dict):
        self.next_logits, self.row, self.rows, self.beams = next_logits, row, rows, beams
        self.hf, self.alpha = config["length_penalty"] == "hf", config["alpha"]
        self.early_stopping = config.get("early_stopping", False)

    def penalty(self, length: int) -> float:
        return length**self.alpha if self.hf else ((5 + length) / 6) ** self.alpha

    def extensions(self, live: list) -> list:
        """All continuations of the live beams by one token, best first."""
        found = []
        for logprob, ids in live:
            tokens = np.tile(np.array(ids, np.int32).reshape(1, -1), (self.rows, 1))
            added = log_softmax(self.next_logits(tokens))[self.row]
            found += [(logprob + added[token], [*ids, token]) for token in range(VOCAB)]
        return sorted(found, key=lambda each: -each[0])[: 2 * self.beams]

    def settled(self, finished: list, live: list, length: int) -> bool:
        if len(finished) < self.beams:
            return False
        if self.hf and self.early_stopping is True:
            return True
        to_the_end = not self.hf or (self.early_stopping == "never" and self.alpha > 0)
        best = max(logprob for logprob, _ in live) / self.penalty(LENGTH if to_the_end else length)
        return finished[-1][0] >= best

    def run(self) -> list:
        """(score, ids), best first."""
        live, finished = [(0.0, [])], []
        for length in range(1, LENGTH + 1):
            found = self.extensions(live)
            limit = self.hf and length == LENGTH
            for place, (logprob, ids) in enumerate(found):
                ends = ids[-1] == EOS or limit
                if ends and not (self.hf and place >= self.beams):
                    finished.append((logprob / self.penalty(length), ids))
            finished = sorted(finished, key=lambda each: -each[0])[: self.beams]
            live = [each for each in found if each[1][-1] != EOS][: self.beams]
            if self.settled(finished, live, length):
                break
        return finished or live


CASES = [
    {"length_penalty": "hf", "alpha": 2.0, "early_stopping": True},
    {"length_penalty": "t5x", "alpha": 0.6},
    {"length_penalty": "hf", "alpha": 1.0, "early_stopping": "never"},
    {"length_penalty": "hf", "alpha": 1.0},
    {"length_penalty": "t5x", "alpha": 0.0},
]


def check(decoded: Decoded, next_logits: NextLogits, rows: int, beams: int, case: dict) -> None:
    for i in range(rows):
        expected = PlainSearch(next_logits, i, rows, beams, case).run()[::-1]
        found = [
            ids[:length].tolist()
            for ids, length in zip(decoded.ids[i], decoded.lengths[i], strict=True)
        ]
        empty = beams - len(expected)
        assert found[empty:] == [ids for _, ids in expected]
        assert found[:empty] == [[]] * empty
        np.testing.assert_array_equal(decoded.scores[i, :empty], -1e7)
        scores = [score for score, _ in expected]
        np.testing.assert_allclose(decoded.scores[i, empty:], scores, atol=1e-4)
        assert decoded.ended[i, empty:].tolist() == [ids[-1] == EOS for _, ids in expected]
        np.testing.assert_array_equal(decoded.best()[i], decoded.ids[i, -1])


def slow_after(cases: list[dict], fast: int) -> list:
    return [
        pytest.param(
            case,
            marks=[pytest.mark.slow] if i >= fast else [],
            id="-".join(map(str, case.values())),
        )
        for i, case in enumerate(cases)
    ]


@pytest.mark.parametrize("case", slow_after(CASES, 2))
def test_t5_finds_what_a_plain_search_finds(case):
    model = make(T5_CONFIG)
    decoded = search(model, INPUTS, num_decodes=3, **case)
    check(decoded, t5_next_logits(model, INPUTS), len(INPUTS), 3, case)


@pytest.mark.parametrize("case", slow_after([CASES[2], CASES[1]], 1))
def test_palm_finds_what_a_plain_search_finds(case):
    model = make(PALM_CONFIG)
    decoded = search(model, INPUTS, num_decodes=3, **case)
    check(decoded, palm_next_logits(model, INPUTS, False), len(INPUTS), 3, case)


def test_with_beams_enough_the_best_of_all_is_found():
    """Two steps: VOCAB**2 continuations and as many beams as VOCAB find the likeliest of all."""
    model, inputs = make(T5_CONFIG), INPUTS[:2]
    config = DecodeConfig(
        2, method="beam", num_decodes=VOCAB, alpha=0.0, length_penalty="hf", eos_id=EOS
    )
    decoded = jax.device_get(decode(model, inputs, config))
    next_logits = t5_next_logits(model, inputs)
    first = log_softmax(next_logits(np.zeros((2, 0), np.int32)))
    all_of = [{}, {}]
    for token in range(VOCAB):
        second = log_softmax(next_logits(np.full((2, 1), token, np.int32)))
        for i, after in itertools.product(range(2), range(VOCAB)):
            ids = (token,) if token == EOS else (token, after)
            all_of[i][ids] = first[i, token] + (0.0 if token == EOS else second[i, after])
    for i in range(2):
        best = max(all_of[i], key=lambda ids: all_of[i][ids])
        assert tuple(decoded.ids[i, -1, : decoded.lengths[i, -1]].tolist()) == best
        assert decoded.scores[i, -1] == pytest.approx(all_of[i][best], abs=1e-4)


def test_search_stops_when_nothing_can_improve():
    """Each row goes on until it is settled, as if alone; the search, until all are."""
    model, case = make(T5_CONFIG), {"length_penalty": "hf", "alpha": 0.0}
    first = log_softmax(t5_next_logits(model, INPUTS)(np.zeros((4, 0), np.int32))).argmax(-1)
    # One beam whose likeliest token is EOS at once, in the rows that begin so.
    decoded = search(model, INPUTS, eos_id=int(first[0]), **case)
    assert decoded.lengths[0, 0] == 1
    assert decoded.steps == decoded.lengths.max()
    alone = search(model, INPUTS[:1], eos_id=int(first[0]), **case)
    assert alone.steps == 1
    np.testing.assert_array_equal(alone.ids[0], decoded.ids[0])
    np.testing.assert_allclose(alone.scores[0], decoded.scores[0], atol=1e-5)
