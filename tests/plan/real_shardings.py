"""Run by test_sharding_table.py in a process with 8 simulated devices; prints JSON.

For every array of the train state: what `place` says without devices, and what the array has when
it is made on the devices.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import jax
from jax.sharding import Mesh

from flan_jax.data.reader import DatasetConfig
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.mixtures import micro  # noqa: F401  registers the mixture
from flan_jax.models.decoder_only import DecoderOnlyModel
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.plan.sharding_table import Placed, place
from flan_jax.plan.steps import PlannedRun
from flan_jax.sharding import PjitPartitioner, as_tuple, named_leaves
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.setup import make_setup
from flan_jax.train.step import Trainer

SIZES = {"vocab_size": 384, "emb_dim": 64, "num_heads": 4, "head_dim": 16, "mlp_dim": 128}


def models():
    # Factors some parameters and not others.
    optimizer = Adafactor(learning_rate=0.1, min_dim_size_to_factor=64)
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    vocabulary = ByteVocabulary(125)
    yield EncoderDecoderModel(T5Config(**SIZES, **layers), vocabulary, vocabulary, optimizer)
    yield DecoderOnlyModel(PalmConfig(**SIZES, num_layers=2), vocabulary, optimizer)


def compare(expected: Placed, name: str, array: jax.Array, mesh: Mesh) -> dict[str, Any]:
    """Pairs that should be equal: what the table says, and what the array has."""
    shard = array.addressable_shards[0].data
    parts = [math.prod(mesh.shape[axis] for axis in as_tuple(axes)) for axes in expected.spec]
    expected_shard = [n // k for n, k in zip(expected.shape, parts, strict=True)]
    return {
        "names": [expected.name, name],
        "shapes": [expected.shape, array.shape],
        "dtypes": [expected.dtype, str(array.dtype)],
        "bytes": [expected.bytes_per_device, shard.nbytes],
        "shards": [expected_shard, shard.shape],
        "split": max(parts, default=1) > 1,
    }


def main() -> None:
    rows = []
    dataset = DatasetConfig("micro", {"inputs": 64, "targets": 16}, batch_size=8)
    partitioner = PjitPartitioner(data=1, fsdp=4, tensor=2)
    for model in models():
        run = PlannedRun(model, Trainer(), partitioner, dataset, None, None)
        placed = place(run, partitioner.abstract_mesh(8))
        setup = make_setup(model, Trainer(), partitioner, dataset.for_model(model), seed=0)
        with setup.use_mesh():
            state = setup.fresh_state()
        real = list(named_leaves(state.params).items())
        real += [(f"optimizer/{name}", x) for name, x in named_leaves(state.opt_state).items()]
        rows += [
            compare(expected, name, array, setup.mesh)
            for expected, (name, array) in zip(placed, real, strict=True)
        ]
    print(json.dumps(rows))


if __name__ == "__main__":
    assert jax.device_count() == 8
    sys.exit(main())
