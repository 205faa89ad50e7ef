"""The shapes of a planned step are those of the run's own batches and state."""

from __future__ import annotations

import jax
import pytest

from flan_jax.data.counts import take_counts
from flan_jax.data.reader import DatasetConfig, train_dataset
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.mixtures import micro  # noqa: F401  registers the mixture
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.lora import LoraConfig
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.plan.model_flops import jaxpr_flops
from flan_jax.plan.steps import DecodeShape, PlannedRun, abstract_batch, trace_step
from flan_jax.sharding import PjitPartitioner
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.step import Trainer

SIZES = {"vocab_size": 384, "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64}
VOCABULARY = ByteVocabulary(125)


def t5(**fields) -> EncoderDecoderModel:
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    config = T5Config(**SIZES | layers | fields)
    return EncoderDecoderModel(config, VOCABULARY, VOCABULARY, Adafactor(learning_rate=0.1))


def palm() -> DecoderOnlyModel:
    config = PalmConfig(**SIZES, num_layers=2)
    return DecoderOnlyModel(config, VOCABULARY, Adafactor(learning_rate=0.1))


def run(model, **fields) -> PlannedRun:
    dataset = DatasetConfig("micro", {"inputs": 128, "targets": 32}, batch_size=8)
    defaults = {
        "trainer": Trainer(),
        "partitioner": PjitPartitioner(),
        "dataset": dataset,
        "eval_dataset": dataset,
        "decode": DecodeShape(4, 128, 16),
    }
    return PlannedRun(model, **defaults | fields)


@pytest.mark.parametrize("model", [t5(), palm()], ids=["t5", "palm"])
@pytest.mark.parametrize("pack", [True, False])
def test_a_batch_has_the_arrays_that_the_reader_makes(model, pack: bool):
    dataset = DatasetConfig("micro", {"inputs": 128, "targets": 32}, batch_size=8, pack=pack)
    planned = run(model, dataset=dataset)
    dataset = dataset.for_model(model)
    maker = dataset.example_maker(VOCABULARY, VOCABULARY, seed=0)
    real = next(iter(train_dataset(dataset, maker, counted=True)))
    take_counts(real)
    abstract = abstract_batch(planned, "train", planned.partitioner.abstract_mesh(4))
    assert {n: (x.shape, x.dtype) for n, x in abstract.items()} == {
        n: (x.shape, x.dtype) for n, x in real.items()
    }


def trace(planned: PlannedRun, step):
    return trace_step(planned, step, planned.partitioner.make_mesh())


def test_a_training_step_is_worth_three_forward_passes_and_half_of_lora_two():
    traced = trace(run(t5()), "train")
    assert traced.passes == 3
    assert traced.tokens == 8 * (128 + 32)
    forward = jaxpr_flops(traced.forward.jaxpr)
    assert jaxpr_flops(traced.step.jaxpr) == pytest.approx(3 * forward, rel=0.02)
    adapted = trace(run(t5(lora=LoraConfig(rank=2))), "train")
    assert adapted.passes == 2


def test_the_forward_pass_of_decoding_has_its_tokens():
    planned = run(palm())
    traced = trace(planned, "decode")
    assert traced.passes == 1
    assert traced.tokens == 4 * 16
    assert traced.loop_runs == 16
    (tokens,) = {
        x.shape
        for x in jax.tree.leaves(traced.forward.in_avals)
        if x.dtype == "int32" and x.ndim == 2
    }
    assert tokens == (4, 128 + 16)


def test_what_is_held_is_counted_by_part():
    planned = run(t5())
    held = trace(planned, "train").info["held_bytes"]
    state = planned.state(planned.partitioner.abstract_mesh(1))
    assert held["parameters"] == sum(4 * x.size for x in jax.tree.leaves(state.params))
    assert held["batch"] == 8 * 4 * (128 * 3 + 32 * 6)
    assert held["optimizer"] > 0
    assert set(trace(planned, "eval").info["held_bytes"]) == {"parameters", "batch"}


def test_a_batch_that_no_mesh_can_split_is_refused():
    planned = run(t5(), trainer=Trainer(num_microbatches=4))
    with pytest.raises(UserError, match="batch of 2 cannot be split"):
        planned.check_batch("train", PjitPartitioner().abstract_mesh(4))
    with pytest.raises(UserError, match="multiple of trainer"):
        run(t5(), trainer=Trainer(num_microbatches=3)).check_batch(
            "train", PjitPartitioner().abstract_mesh(1)
        )


def test_steps_that_are_not_configured_say_what_is_missing():
    planned = run(t5(), eval_dataset=None, decode=None)
    with pytest.raises(UserError, match="train_eval_dataset_cfg"):
        planned.rows("eval")
    with pytest.raises(UserError, match="--max_decode_len"):
        planned.rows("decode")
    assert planned.default_step == "train"
    assert run(t5(), dataset=None).default_step == "decode"
