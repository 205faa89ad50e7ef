"""Objectives in the reader: texts of rows to examples, for both kinds of model."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from flan_jax.data.examples import ExampleMaker
from flan_jax.data.reader import DatasetConfig, eval_batches, train_dataset
from flan_jax.data.schedule import Draw
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture, register_mixture
from flan_jax.objectives import CausalLM, PrefixLM, SpanCorruption
from flan_jax.objectives.denoiser import pieces
from flan_jax.objectives.ul2 import UL2, UL2R
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task
from tests.objectives.texts import reconstruct

VOCABULARY = ByteVocabulary(100)
LENGTHS = {"inputs": 96, "targets": 64}
OBJECTIVES = [SpanCorruption(), PrefixLM(), PrefixLM(0.25), UL2, UL2R]
TEMPLATES = 'templates: [{inputs: "{{ text }}", targets: "{{ text }}", allow: [answer_leak]}]\n'


def _passage(draws: Draws) -> dict[str, str]:
    words = [f"{draws.below(100)}" for _ in range(draws.between(1, 200))]
    return {"text": " ".join(words), "answer": ""}


@pytest.fixture(autouse=True)
def _text(empty_registries, tmp_path):
    """A task `text` of 20 passages of 1 to 600 bytes."""
    path = tmp_path / "text.yaml"
    path.write_text(TEMPLATES, encoding="utf-8")
    source = ProceduralSource("text", _passage, {"train": 20, "validation": 10})
    register_task(TaskDefinition("passages", "g", "c", source, path, "none"))
    register_mixture("text", ["passages"], variants={"zs_noopt": 1.0}, description="passages")


def _maker(objective, row_kind="encoder_decoder", lengths=LENGTHS, vocabulary=VOCABULARY):
    return ExampleMaker(
        get_mixture("text"), vocabulary, vocabulary, lengths, 3, objective=objective,
        row_kind=row_kind,
    )  # fmt: skip


def _tokens(index: int) -> list[int]:
    return VOCABULARY.encode(_maker(None).example(Draw(0, index, 0)).inputs)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_encoder_decoder_gets_both_sides_with_their_ends(objective):
    maker = _maker(objective)
    bound = objective.bind(VOCABULARY)
    for index in range(20):
        for epoch in range(3):
            made = maker.tokenized(Draw(0, index, epoch))
            assert len(made.inputs) <= 96 and len(made.targets) <= 64
            assert made.inputs[-1] == made.targets[-1] == VOCABULARY.eos_id
            assert made.cut == 0
            inputs, targets = made.inputs[:-1].tolist(), made.targets[:-1].tolist()
            mode = 0 if bound.modes[0] == () else 5
            text = reconstruct(inputs[mode:], targets, bound.sentinels)
            assert bytes(t - 3 for t in text) in bytes(t - 3 for t in _tokens(index))


@pytest.mark.parametrize("objective", [*OBJECTIVES, CausalLM()])
def test_a_decoder_gets_one_sequence_with_one_end(objective):
    maker = _maker(objective, "decoder_only")
    longest = 0
    for index in range(20):
        made = maker.tokenized(Draw(0, index, 0))
        whole = [*made.inputs.tolist(), *made.targets.tolist()]
        assert len(whole) <= 96 + 64
        assert VOCABULARY.eos_id not in whole[:-1]
        longest = max(longest, len(whole))
    assert longest > 96 + 64 - 16  # texts may take up either length, or both


def test_causal_text_goes_on_without_an_end():
    """The pieces of a text, put together, are the text and one end of sequence."""
    maker = _maker(CausalLM(), "decoder_only")
    index = max(range(20), key=lambda row: len(_tokens(row)))
    tokens = _tokens(index)
    parts = pieces(len(tokens), 96 + 64 - 1)
    assert len(parts) > 2
    made = [maker.tokenized(Draw(0, index, epoch)) for epoch in range(len(parts))]
    assert all(len(example.inputs) == 0 for example in made)
    order = {tuple(tokens[part]): number for number, part in enumerate(parts)}
    made.sort(key=lambda example: order[tuple(t for t in example.targets.tolist() if t != 1)])
    assert np.concatenate([e.targets for e in made]).tolist() == [*tokens, VOCABULARY.eos_id]


@pytest.mark.parametrize("row_kind", ["encoder_decoder", "decoder_only"])
def test_batches_have_the_rows_of_the_model(row_kind):
    config = DatasetConfig("text", LENGTHS, batch_size=4, objective=UL2, row_kind=row_kind)
    maker = config.example_maker(VOCABULARY, VOCABULARY, seed=3)
    batch = next(iter(train_dataset(config, maker)))
    if row_kind == "decoder_only":
        assert batch["decoder_target_tokens"].shape == (4, 160)
        assert "encoder_input_tokens" not in batch
    else:
        assert batch["decoder_target_tokens"].shape == (4, 64)
        assert batch["encoder_input_tokens"].shape == (4, 96)
    modes = {tuple(VOCABULARY.encode(mode)) for mode in UL2.modes or ()}
    side = "decoder" if row_kind == "decoder_only" else "encoder"
    tokens = batch["decoder_target_tokens" if side == "decoder" else "encoder_input_tokens"]
    starts = np.argwhere((batch[f"{side}_positions"] == 0) & (batch[f"{side}_segment_ids"] > 0))
    assert len(starts) >= 4
    assert all(tuple(tokens[row, start : start + 5]) in modes for row, start in starts)
    (evaluated,) = eval_batches(config, maker, 1)
    assert {name: rows.shape for name, rows in evaluated.items()} == {
        name: rows.shape for name, rows in batch.items()
    }


def test_a_copy_in_another_process_makes_the_same():
    maker = _maker(UL2)
    copy = pickle.loads(pickle.dumps(maker))
    for index in range(10):
        made, again = (m.tokenized(Draw(0, index, 1)) for m in (maker, copy))
        assert made.inputs.tolist() == again.inputs.tolist()
        assert made.targets.tolist() == again.targets.tolist()


def test_causal_rows_weigh_every_token():
    config = DatasetConfig(
        "text", LENGTHS, batch_size=4, objective=CausalLM(), row_kind="decoder_only"
    )
    batch = next(iter(train_dataset(config, config.example_maker(VOCABULARY, VOCABULARY, 3))))
    tokens = batch["decoder_target_tokens"] > 0
    np.testing.assert_array_equal(batch["decoder_loss_weights"] > 0, tokens)
    # A prefix of one position sees nothing that causal attention would not show it.
    starts = (batch["decoder_positions"] == 0) & tokens
    np.testing.assert_array_equal(batch["decoder_causal_attention"] > 0, starts)


def test_nothing_to_read_for_an_encoder_is_refused():
    with pytest.raises(UserError, match=r"CausalLM gives an encoder nothing.*PrefixLM"):
        _maker(CausalLM())


def test_too_short_lengths_are_refused_when_the_run_starts():
    config = DatasetConfig("text", {"inputs": 7, "targets": 4}, objective=UL2)
    with pytest.raises(UserError, match="leave no room for SpanCorruption"):
        config.example_maker(VOCABULARY, VOCABULARY, 0)
    with pytest.raises(UserError, match="the vocabulary has none to spare"):
        _maker(SpanCorruption(), vocabulary=ByteVocabulary(0))
