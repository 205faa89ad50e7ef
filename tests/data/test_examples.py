"""From a draw to token ids."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from flan_jax.data.examples import ExampleMaker, encode_with_eos
from flan_jax.data.schedule import Draw
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.prompts.fewshot import FewShotPolicy

LENGTHS = {"inputs": 120, "targets": 24}
BYTES = ByteVocabulary()


@pytest.fixture
def maker(mixture) -> ExampleMaker:
    policy = FewShotPolicy(max_tokens=LENGTHS["inputs"])
    return ExampleMaker(mixture, BYTES, BYTES, LENGTHS, seed=3, few_shot=policy)


@pytest.mark.parametrize(
    "length, expected",
    [(9, [100, 101, 102, 1]), (4, [100, 101, 102, 1]), (3, [100, 101, 1]), (1, [1])],
)
def test_encode_trims_and_then_ends(length, expected):
    ids = encode_with_eos(BYTES, "abc", length)
    assert ids.dtype == np.int32
    assert ids.tolist() == expected


def _draws():
    return [
        Draw(task, index, epoch) for task in range(3) for index in range(9) for epoch in range(2)
    ]


def test_tokens_are_those_of_the_rendered_text(maker):
    for draw in _draws():
        example, tokens = maker.example(draw), maker.tokenized(draw)
        assert tokens.task == draw.task
        assert tokens.inputs.tolist() == [*BYTES.encode(example.inputs)[:119], 1]
        assert tokens.targets.tolist() == [*BYTES.encode(example.targets)[:23], 1]
        assert example.task == maker.task_names[draw.task]


def test_few_shot_prompts_stay_within_the_inputs(maker):
    shots = 0
    for draw in _draws():
        example = maker.example(draw)
        shots += len(example.exemplars)
        assert len(BYTES.encode(example.inputs)) + 1 <= 120 or not example.exemplars
    assert shots > 20


def test_makers_agree_whatever_was_made_before(maker):
    fresh = dataclasses.replace(maker)
    made = [maker.example(draw) for draw in _draws()]
    assert [fresh.example(draw) for draw in reversed(_draws())] == made[::-1]


def test_variants_are_drawn_by_the_mixture(maker):
    only = dataclasses.replace(
        maker, mixture=dataclasses.replace(maker.mixture, variants={"zs_opt": 1.0})
    )
    assert {only.example(draw).variant for draw in _draws()} == {"zs_opt", "zs_noopt"}
    # Long enough for one exemplar always: without any, a prompt is a zero-shot one.
    maker = dataclasses.replace(maker, few_shot=FewShotPolicy(max_tokens=400))
    found = Counter(maker.example(Draw(1, i, 0)).variant for i in range(57))
    assert set(found) == {"zs_opt", "zs_noopt", "fs_opt", "fs_noopt"}
    assert min(found.values()) >= 5
    # A row that is read again may come as another variant.
    assert len({maker.example(Draw(1, 0, epoch)).variant for epoch in range(30)}) == 4


def test_epochs_and_seeds_look_different(maker):
    def texts(maker, epoch):
        return [maker.example(Draw(1, i, epoch)).inputs for i in range(20)]

    other = dataclasses.replace(maker, seed=4)
    assert texts(maker, 0) != texts(maker, 1)
    assert texts(maker, 0) != texts(other, 0)
