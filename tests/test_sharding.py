"""Rules, meshes and their errors; training on 8 simulated devices equals training on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from flan_jax.errors import UserError
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import (
    PjitPartitioner,
    logical_axes,
    partition_spec,
    standard_logical_axis_rules,
)

SCRIPT = Path(__file__).with_name("sharded_training.py")


@pytest.fixture(scope="module")
def results():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent.parent), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), "10"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "rematerialization" not in done.stderr, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_eight_devices_train_as_one(results):
    one, eight = results["1x1x1"]["history"], results["2x2x2"]["history"]
    assert len(one) == len(eight) == 10
    per_token = [
        [step["loss"] / step["weight_sum"] for step in history] for history in (one, eight)
    ]
    assert np.ptp(per_token[0]) > 0.05  # it does train
    np.testing.assert_allclose(per_token[1], per_token[0], atol=1e-5, rtol=0)
    for a, b in zip(one, eight, strict=True):
        assert b["per_task_weight_sum"] == a["per_task_weight_sum"] == [32.0, 24.0, 0.0]
        np.testing.assert_allclose(b["per_task_loss"], a["per_task_loss"], rtol=1e-5)


@pytest.mark.slow
def test_eight_devices_decode_as_one(results):
    assert results["2x2x2"]["greedy"] == results["1x1x1"]["greedy"]
    assert results["2x2x2"]["sampled"] == results["1x1x1"]["sampled"]


@pytest.mark.slow
def test_parameters_are_split_and_stay_where_they_are(results):
    assert results["1x1x1"]["shard"] == [2, 64, 64]
    assert results["2x2x2"]["shard"] == [2, 32, 32]
    assert results["2x2x2"]["moved"] == []


def test_each_mesh_axis_is_used_once():
    assert partition_spec(("batch", "length", "embed")) == PartitionSpec(
        ("data", "fsdp"), None, None
    )
    assert partition_spec(("vocab", "embed")) == PartitionSpec("tensor", "fsdp")
    assert partition_spec(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(("layers", "heads", None)) == PartitionSpec(None, "tensor", None)


def test_additional_rules_win():
    rules = standard_logical_axis_rules((("vocab", None),))
    assert partition_spec(("vocab", "embed"), rules) == PartitionSpec(None, "fsdp")


def test_unknown_logical_axis():
    with pytest.raises(ValueError, match="did you mean 'embed'"):
        partition_spec(("embedd",))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": -1, "fsdp": -1}, "only one mesh size"),
        ({"tensor": 0}, "positive"),
        ({"tensor": 2, "num_partitions": 4}, "another name for tensor"),
        ({"logical_axis_rules": (("embed", "modle"),)}, "not one of"),
    ],
)
def test_partitioner_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        PjitPartitioner(**sizes)


def test_num_partitions_is_tensor():
    assert PjitPartitioner(num_partitions=4).tensor == 4


def test_mesh_must_fit_the_devices():
    with pytest.raises(UserError, match="does not fit 1 devices"):
        PjitPartitioner(tensor=3).make_mesh(jax.devices()[:1])


def test_mesh_is_explicit():
    mesh = PjitPartitioner().make_mesh(jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Explicit}


def test_indivisible_dimensions_are_all_named():
    config = T5Config(vocab_size=129, emb_dim=16, num_heads=6, head_dim=8, mlp_dim=32)
    shapes = jax.eval_shape(lambda: T5(config, jax.random.key(0)))
    mesh = AbstractMesh((1, 2, 4), ("data", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with pytest.raises(ValueError, match="cannot be split evenly") as caught:
        PjitPartitioner(fsdp=2, tensor=4).shardings(logical_axes(shapes), mesh, shapes)
    message = str(caught.value)
    assert "token_embedder/embedding (129, 16): dimension 0 ('vocab') of size 129" in message
    assert "encoder/relpos_bias/rel_embedding (6, 32): dimension 0 ('heads')" in message
    assert "mlp" not in message.split("\nChoose")[0]


def test_batch_must_be_divisible():
    partitioner = PjitPartitioner(data=2, fsdp=2)
    mesh = AbstractMesh((2, 2, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    assert partitioner.batch_sharding(mesh, 8).spec == PartitionSpec(("data", "fsdp"))
    with pytest.raises(UserError, match="multiple of 4"):
        partitioner.batch_sharding(mesh, 6)
