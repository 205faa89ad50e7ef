"""Rules, meshes and their errors; training on 8 simulated devices equals training on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gin
import jax
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from flan_jax.errors import UserError
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import (
    MESH_AXES,
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


@pytest.mark.exhaustive
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


@pytest.mark.exhaustive
@pytest.mark.slow
def test_eight_devices_decode_as_one(results):
    assert results["2x2x2"]["greedy"] == results["1x1x1"]["greedy"]
    assert results["2x2x2"]["sampled"] == results["1x1x1"]["sampled"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_parameters_are_split_and_stay_where_they_are(results):
    assert results["1x1x1"]["shard"] == [2, 64, 64]
    assert results["2x2x2"]["shard"] == [2, 32, 32]
    assert results["2x2x2"]["moved"] == []


def test_rules_are_served_in_order_of_priority():
    rules = (("embed", "tensor"), ("mlp", "tensor"), ("mlp", "fsdp"), ("embed", "data"))
    # By dimensions from left to right, mlp would take tensor.
    assert partition_spec(("mlp", "embed"), rules) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(("embed", "mlp"), rules) == PartitionSpec("tensor", "fsdp")
    # A second dimension of the same name has its turn with a later rule for that name.
    assert partition_spec(("embed", "embed"), rules) == PartitionSpec("tensor", "data")
    settled = (("embed", None), *rules)
    assert partition_spec(("embed", "mlp", "embed"), settled) == PartitionSpec(None, "tensor", None)


def flax_spec(axes, rules):
    """The same by Flax, whose rules T5X's are; it knows no repeated names."""
    return nn.logical_to_mesh_axes(axes, rules)


@given(
    axes=st.permutations(["batch", "vocab", "embed", "mlp", "heads", "length", "kv"]),
    count=st.integers(1, 5),
    rules=st.permutations(
        [
            *(("batch", ("replica", "data")), ("batch", "fsdp"), ("vocab", "tensor")),
            *(("embed", "fsdp"), ("embed", "tensor"), ("mlp", "tensor"), ("mlp", None)),
            *(
                ("heads", ("fsdp", "tensor")),
                ("length", "tensor"),
                ("length", "data"),
                ("kv", None),
            ),
        ]
    ),
)
def test_specs_are_those_of_flax(axes, count, rules):
    rules = tuple(rules)
    assert partition_spec(axes[:count], rules) == flax_spec(tuple(axes[:count]), rules)


def test_activations_split_in_two_dimensions():
    one, two = (standard_logical_axis_rules(activation_partitioning_dims=dims) for dims in (1, 2))
    batch = ("replica", "data", "fsdp")
    residual = ("batch", "length", "embed")
    assert partition_spec(residual, one) == PartitionSpec(batch, None, None)
    assert partition_spec(residual, two) == PartitionSpec(batch, "tensor", None)
    # Inside a layer `tensor` is taken by heads, MLP width or vocabulary, and length is whole.
    for name in ("heads", "mlp", "joined_kv", "vocab"):
        assert partition_spec(("batch", "length", name), two) == PartitionSpec(
            batch, None, "tensor"
        )
    decoding = PjitPartitioner(logical_axis_rules=two).for_decoding()
    assert partition_spec(residual, decoding.rules) == PartitionSpec(batch, None, None)


def test_parameters_split_in_one_dimension():
    rules = standard_logical_axis_rules(parameter_partitioning_dims=1)
    assert partition_spec(("embed", "mlp"), rules) == PartitionSpec(None, "tensor")
    assert partition_spec(("batch",), rules) == PartitionSpec(("replica", "data", "fsdp"))


@pytest.mark.parametrize("name", ["activation_partitioning_dims", "parameter_partitioning_dims"])
def test_numbers_of_dimensions_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or 2, found 3"):
        standard_logical_axis_rules(**{name: 3})


def test_each_mesh_axis_is_used_once():
    assert partition_spec(("batch", "length", "embed")) == PartitionSpec(
        ("replica", "data", "fsdp"), None, None
    )
    assert partition_spec(("vocab", "embed")) == PartitionSpec("tensor", "fsdp")
    assert partition_spec(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(("layers", "heads", None)) == PartitionSpec(None, "tensor", None)


def test_additional_rules_win():
    rules = standard_logical_axis_rules(additional_rules=(("vocab", None),))
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
        ({"logical_axis_rules": (("embed", "tensr"),)}, "did you mean 'tensor'"),
        ({"logical_axis_rules": (("embed", "model"),)}, "'model' is 'tensor' here"),
        ({"model_parallel_submesh": (2, 2, 1)}, "four positive numbers"),
        ({"model_parallel_submesh": (2, 2, 1, 1), "num_partitions": 8}, "set only one"),
        ({"ici_mesh_shape": (2, 2)}, "positive sizes"),
        ({"dcn_mesh_shape": (2, 1, 1)}, "needs ici_mesh_shape"),
        ({"ici_mesh_shape": (1, 4, 2), "fsdp": 4}, "says all sizes"),
        ({"params_on_devices": False}, "set it to True"),
    ],
)
def test_partitioner_errors(sizes, message):
    with pytest.raises(ValueError, match=message):
        PjitPartitioner(**sizes)


def test_t5x_names_of_sizes():
    assert PjitPartitioner(num_partitions=4).tensor == 4
    assert PjitPartitioner(model_parallel_submesh=(2, 2, 1, 1)).tensor == 4
    shape = {"replica": 2, "data": 1, "fsdp": 4, "tensor": 2}
    t5x = PjitPartitioner(ici_mesh_shape=(1, 4, 2), dcn_mesh_shape=(2, 1, 1))
    assert t5x.mesh_shape(16) == shape
    ours = PjitPartitioner(ici_mesh_shape=(1, 1, 4, 2), dcn_mesh_shape=(2, 1, 1, 1))
    assert ours.mesh_shape(16) == shape


@pytest.mark.parametrize(
    ("preset", "devices", "slices", "shape"),
    [
        ("auto", 8, 1, (1, 8, 1, 1)),
        ("fsdp", 8, 1, (1, 1, 8, 1)),
        ("multislice", 8, 2, (2, 1, 4, 1)),
        ("v4_32chips", 32, 1, (1, 1, 16, 2)),
        ("v4_256chips", 256, 1, (1, 1, 16, 16)),
        ("v4_512chips", 512, 1, (1, 1, 32, 16)),
    ],
)
def test_presets(preset, devices, slices, shape):
    with gin.unlock_config():
        gin.clear_config()
        gin.add_config_file_search_path(str(SCRIPT.parent.parent / "gin"))
        gin.parse_config_file(f"mesh/{preset}.gin")
    partitioner = PjitPartitioner()
    assert tuple(partitioner.mesh_shape(devices, slices).values()) == shape
    split = preset.startswith("v4")
    residual = partition_spec(("batch", "length", "embed"), partitioner.rules)
    assert residual[1] == ("tensor" if split else None)
    gin.clear_config()


def test_copies_by_slice():
    assert PjitPartitioner(replica=-1, data=1, fsdp=-1, tensor=2).mesh_shape(32, 4) == {
        "replica": 4,
        "data": 1,
        "fsdp": 4,
        "tensor": 2,
    }
    with pytest.raises(UserError, match=r"in 4 slices.*Set REPLICA=4"):
        PjitPartitioner(replica=2).mesh_shape(32, 4)


def test_mesh_must_fit_the_devices():
    with pytest.raises(UserError, match="does not fit 1 devices"):
        PjitPartitioner(tensor=3).make_mesh(jax.devices()[:1])


def test_mesh_is_explicit():
    mesh = PjitPartitioner().make_mesh(jax.devices()[:1])
    assert dict(mesh.shape) == {"replica": 1, "data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Explicit}


def test_indivisible_dimensions_are_all_named():
    config = T5Config(vocab_size=129, emb_dim=16, num_heads=6, head_dim=8, mlp_dim=32)
    shapes = jax.eval_shape(lambda: T5(config, jax.random.key(0)))
    mesh = AbstractMesh((1, 1, 2, 4), MESH_AXES, axis_types=(AxisType.Explicit,) * 4)
    with pytest.raises(ValueError, match="cannot be split evenly") as caught:
        PjitPartitioner(fsdp=2, tensor=4).shardings(logical_axes(shapes), mesh, shapes)
    message = str(caught.value)
    assert "token_embedder/embedding (129, 16): dimension 0 ('vocab') of size 129" in message
    assert "encoder/relpos_bias/rel_embedding (6, 32): dimension 0 ('heads')" in message
    assert "mlp" not in message.split("\nChoose")[0]


def test_batch_must_be_divisible():
    partitioner = PjitPartitioner(data=2, fsdp=2)
    mesh = AbstractMesh((1, 2, 2, 1), MESH_AXES, axis_types=(AxisType.Explicit,) * 4)
    assert partitioner.batch_sharding(mesh, 8).spec == PartitionSpec(("replica", "data", "fsdp"))
    with pytest.raises(UserError, match="multiple of 4"):
        partitioner.batch_sharding(mesh, 6)
