"""Host arrays laid out over a mesh, from one piece or from one a layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own, which has eight devices.
PROGRAM = """
import itertools, json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from flan_jax.checkpoints.placing import place
from flan_jax.sharding import PjitPartitioner

mesh = PjitPartitioner(data=2, fsdp=2, tensor=2).make_mesh()
array = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
reads = []

def piece(layer):
    def read():
        reads.append(layer)
        return array if layer is None else array[layer]
    return read

wrong = []
specs = [P(), P("fsdp"), P(None, "tensor"), P(None, "fsdp", "tensor"), P(("data", "fsdp")),
         P("tensor", "fsdp"), P(None, None, ("data", "tensor"))]
for spec in specs:
    leaf = jax.ShapeDtypeStruct(array.shape, np.float32, sharding=NamedSharding(mesh, spec))
    for stacked in (True, False):
        reads.clear()
        pieces = [piece(i) for i in range(4)] if stacked else [piece(None)]
        placed = place(leaf, pieces, stacked)
        if placed.sharding != leaf.sharding or not np.array_equal(placed, array):
            wrong.append(f"{spec} {stacked}")
        if reads != (list(range(4)) if stacked else [None]):
            wrong.append(f"{spec} {stacked} read {reads}")
    fresh = jax.device_put(np.full(array.shape, 7, np.float32), leaf.sharding)
    mixed = place(leaf, [piece(0), None, piece(2), None], True, fresh)
    expected = array.copy()
    expected[[1, 3]] = 7
    if not np.array_equal(mixed, expected):
        wrong.append(f"{spec} mixed")
    zeros = place(leaf, [piece(0), None, piece(2), None], True)
    expected[[1, 3]] = 0
    if not np.array_equal(zeros, expected):
        wrong.append(f"{spec} zeros")
scalar = place(jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, P())),
               [lambda: np.float32(5)], False)


def saved_and_restored():
    # A state that was saved on one mesh and restored on another.
    import contextlib, sys
    from flan_jax.checkpoints.manager import CheckpointManager, SaveCheckpointConfig
    from flan_jax.checkpoints.own import open_own

    def laid_out(partitioner, *spec):
        return NamedSharding(partitioner.make_mesh(), P(*spec))

    first = laid_out(PjitPartitioner(data=1, fsdp=8), None, None, "fsdp")
    second = laid_out(PjitPartitioner(data=2, fsdp=2, tensor=2), None, "fsdp", "tensor")
    with contextlib.closing(CheckpointManager(sys.argv[1], SaveCheckpointConfig())) as manager:
        manager.save(3, {"x": jax.device_put(array, first)}, {}, wait=True)
        leaf = jax.ShapeDtypeStruct(array.shape, np.float32, sharding=second)
        restored = manager.restore(3, {"x": leaf})[0]["x"]
    read = open_own(f"{sys.argv[1]}/checkpoint_3").read("x")
    same = np.array_equal(restored, array) and np.array_equal(read, array)
    return same and restored.sharding == second


print(json.dumps({"wrong": wrong, "devices": jax.device_count(), "scalar": int(scalar),
                  "resharded": bool(saved_and_restored())}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("run"))],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_layout_of_a_mesh(found):
    assert found["devices"] == 8
    assert found["wrong"] == []
    assert found["scalar"] == 5


def test_a_checkpoint_of_one_mesh_is_restored_on_another(found):
    assert found["resharded"]
