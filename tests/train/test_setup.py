"""What is checked before a run allocates anything."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flan_jax.data.reader import DatasetConfig
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.mixtures import micro  # noqa: F401  registers the mixture
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.sharding import PjitPartitioner, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.setup import Setup, make_setup
from flan_jax.train.step import Trainer


def model(**fields) -> EncoderDecoderModel:
    sizes = {
        "vocab_size": 384,
        "emb_dim": 16,
        "num_heads": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "head_dim": 8,
        "mlp_dim": 16,
        "dtype": "float32",
    }
    vocabulary = fields.pop("vocabulary", ByteVocabulary(125))
    return EncoderDecoderModel(
        T5Config(**sizes | fields), vocabulary, vocabulary, Adafactor(learning_rate=0.1)
    )


def dataset(**fields) -> DatasetConfig:
    return DatasetConfig(
        **{
            "mixture_or_task_name": "micro",
            "task_feature_lengths": {"inputs": 64, "targets": 16},
            "batch_size": 8,
        }
        | fields
    )


def setup(
    the_model=None, data=None, trainer=None, partitioner=None, seed: int = 0, rng=None
) -> Setup:
    return make_setup(
        the_model or model(),
        trainer or Trainer(),
        partitioner or PjitPartitioner(),
        data or dataset(),
        seed,
        rng,
    )


def test_state_is_made_as_it_was_announced():
    made = setup()
    with made.use_mesh():
        state = made.fresh_state()
    announced, leaves = named_leaves(made.abstract_state), named_leaves(state)
    assert list(announced) == list(leaves)
    for name, leaf in leaves.items():
        assert (leaf.shape, leaf.dtype) == (announced[name].shape, announced[name].dtype), name
        assert leaf.sharding.is_equivalent_to(announced[name].sharding, leaf.ndim), name
    assert int(state.step) == 0


def test_keys_depend_on_seed_and_purpose_alone():
    def bits(made: Setup, purpose: int) -> bytes:
        return np.asarray(jax.random.key_data(made.key(purpose))).tobytes()

    assert bits(setup(), 0) == bits(setup(model(emb_dim=32)), 0)
    others = {bits(setup(), 0), bits(setup(), 1), bits(setup(seed=1), 0), bits(setup(rng="rbg"), 0)}
    assert len(others) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"the_model": lambda: model(vocab_size=383)},
            "input_vocabulary has 384 ids, the model's vocab_size is only 383",
        ),
        ({"the_model": lambda: EncoderDecoderModel(model().module)}, "bind VOCABULARY"),
        (
            {"data": lambda: dataset(mixture_or_task_name="micr")},
            "no mixture or task is called 'micr'; did you mean 'micro'",
        ),
        (
            {"trainer": lambda: Trainer(num_microbatches=3)},
            "BATCH_SIZE 8 must be a multiple of .* 3",
        ),
        (
            {"partitioner": lambda: PjitPartitioner(data=1, fsdp=2)},
            "data=1, fsdp=2, tensor=1 does not fit 1 devices",
        ),
    ],
)
def test_what_does_not_fit_is_a_user_error(changed, message):
    with pytest.raises(UserError, match=message):
        setup(**{name: make() for name, make in changed.items()})


def test_missing_module_is_named():
    with pytest.raises(
        UserError, match=r"module 'no_such_module_of_anyone.tasks'.* there is no 'no_s"
    ):
        dataset(module="no_such_module_of_anyone.tasks")


def test_a_module_that_itself_lacks_something_is_not_taken_for_missing(tmp_path, monkeypatch):
    (tmp_path / "lacking_tasks.py").write_text("import no_such_module_of_anyone\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_anyone"):
        dataset(module="lacking_tasks")
