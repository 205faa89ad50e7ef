"""What the table says of each array is what the array on the devices has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config
from flan_jax.plan.sharding_table import place, totals
from flan_jax.plan.steps import PlannedRun
from flan_jax.sharding import PjitPartitioner
from flan_jax.train.optimizer import Adafactor
from flan_jax.train.step import Trainer
from tests.fast_compile import FAST_COMPILE

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_arrays_on_eight_devices_are_as_the_table_says():
    flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count=8"
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("real_shardings.py"))],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) > 100
    assert sum(row["split"] for row in rows) > 30
    different = [
        (name, pair)
        for row in rows
        for name, pair in row.items()
        if name != "split" and pair[0] != pair[1]
    ]
    assert different == []


def run(**mesh: int) -> PlannedRun:
    config = T5Config(
        vocab_size=384,
        emb_dim=64,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=16,
        mlp_dim=128,
    )
    model = EncoderDecoderModel(config, optimizer_def=Adafactor(learning_rate=0.1))
    return PlannedRun(model, Trainer(), PjitPartitioner(**mesh), None, None, None)


def test_a_mesh_of_thousands_needs_no_devices():
    planned = run(data=-1, fsdp=64, tensor=4)
    placed = {x.name: x for x in place(planned, planned.partitioner.abstract_mesh(4096))}
    embedding = placed["token_embedder/embedding"]
    assert embedding.shape == (384, 64)
    assert embedding.logical_axes == ("vocab", "embed")
    assert embedding.spec == ("tensor", "fsdp")
    assert embedding.bytes_per_device == 384 // 4 * 64 // 64 * 4
    assert embedding.cells() == (
        "token_embedder/embedding",
        "384 × 64",
        "float32",
        "vocab, embed",
        "tensor, fsdp",
        f"{384 / 2**20:,.3f}",
    )


def test_totals_count_parameters_and_optimizer_apart():
    planned = run(data=1)
    placed = place(planned, planned.partitioner.abstract_mesh(1))
    found = totals(placed)
    parameters = [x for x in placed if not x.name.startswith("optimizer/")]
    assert found["parameters"] == sum(x.bytes_per_device for x in parameters) > 0
    assert sum(found.values()) == sum(x.bytes_per_device for x in placed)
