"""Attention split over a mesh gives what one device gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.fast_compile import FAST_COMPILE

# Prints the largest difference of the output and of each gradient, relative to its largest element.
CHILD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from flan_jax.kernels.flash_attention import flash_attention
from flan_jax.kernels.on_mesh import flash_attention_on_mesh

single = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
batch, length, heads, kv = 2, 128, 4, 64
key_heads = 1 if single else heads
normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
arrays = {"query": normal(batch, length, heads, kv) / 8,
          "key": normal(batch, length, key_heads, kv),
          "value": normal(batch, length, key_heads, kv)}
if not single:
    arrays["bias_by_offset"] = normal(heads, 2 * length - 1)
segments = jnp.asarray(rng.integers(0, 3, size=(batch, length)), jnp.int32)
out_grad = normal(batch, length, heads, kv)

def loss(attend, arrays, segments, out_grad):
    out = attend(**arrays, query_segments=segments, key_segments=segments, interpret=True)
    return jnp.sum(out * out_grad), out

def split(**given):
    return flash_attention_on_mesh(**given, batch_axes="data", head_axes="tensor")

def graded(attend, *given):
    step = jax.value_and_grad(lambda *given: loss(attend, *given), has_aux=True)
    return jax.jit(step)(*given)

(_, expected), gradients = graded(flash_attention, arrays, segments, out_grad)
mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Explicit,) * 2)
rows, full = P("data", None, "tensor", None), P("data", None, None, None)
specs = {"query": rows, "key": full if single else rows, "value": full if single else rows,
         "bias_by_offset": P("tensor", None)}
with jax.set_mesh(mesh):
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    laid_out = {name: put(x, specs[name]) for name, x in arrays.items()}
    (_, found), found_gradients = graded(
        split, laid_out, put(segments, P("data", None)), put(out_grad, rows))
difference = lambda x, y: float(np.max(np.abs(np.asarray(x) - np.asarray(y))) / np.max(np.abs(y)))
print(json.dumps({"output": difference(found, expected)}
      | {name: difference(found_gradients[name], gradients[name]) for name in arrays}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("single", [False, True], ids=["bias", "one-key-head"])
def test_as_one_device(single: bool) -> None:
    flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count=4"
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(single)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    differences = json.loads(ended.stdout.splitlines()[-1])
    assert len(differences) == (4 if single else 5)
    assert all(difference < 1e-5 for difference in differences.values()), differences
