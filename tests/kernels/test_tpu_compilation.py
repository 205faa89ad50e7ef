"""The kernels compile for TPUs: what the interpreter accepts the compiler may not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from flan_jax.plan.compiler import TPU_ENVIRONMENT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu"),
]

# A layer under a policy that saves the kernel's residuals; prints how many kernels the compiled
# gradient has of each name.
CHILD = """
import json, re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from flan_jax.kernels.flash_attention import LOG_SUM, OUT, flash_attention

case = json.loads(sys.argv[1])
topology = topologies.get_topology_desc(platform="tpu", **case["topology"])
sharding = SingleDeviceSharding(topology.devices[0])
batch, q, k, heads, key_heads, kv = case["sizes"]

def shape(*sizes, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

arrays = {"query": shape(batch, q, heads * kv), "key": shape(batch, k, key_heads * kv),
          "value": shape(batch, k, key_heads * kv)}
if "bias" in case["with"]:
    arrays["bias_by_offset"] = shape(heads, q + k - 1, dtype=jnp.float32)
rest = {"query_segments": shape(batch, q, dtype=jnp.int32),
        "key_segments": shape(batch, k, dtype=jnp.int32)}
if "weights" in case["with"]:
    rest["key_weights"] = shape(batch, heads, k)
if "prefix" in case["with"]:
    rest["prefix"] = shape(batch, k, dtype=jnp.bool_)

def loss(arrays, rest):
    split = {n: x.reshape(*x.shape[:2], -1, kv) if x.ndim == 3 else x for n, x in arrays.items()}
    out = flash_attention(**split, **rest, causal="causal" in case["with"])
    return jnp.sum(out.astype(jnp.float32) ** 2)

policy = jax.checkpoint_policies.save_only_these_names(OUT, LOG_SUM)
gradient = jax.jit(jax.grad(jax.checkpoint(loss, policy=policy)))
compiled = gradient.trace(arrays, rest).lower(lowering_platforms=("tpu",)).compile()
text = compiled.as_text()
found = re.findall(r"%\\S*flash_attention_(forward|backward)\\S* = .*custom-call", text)
print(json.dumps({name: found.count(name) for name in ("forward", "backward")}))
"""

V4 = {"topology_name": "v4:2x2x1", "chip_config_name": "megacore"}
V5E, V6E = {"topology_name": "v5e:2x2"}, {"topology_name": "v6e:2x2"}
ENCODER = {"sizes": [1, 2048, 2048, 4, 4, 64], "with": ["bias", "weights"]}
PALM = {"sizes": [1, 2560, 2560, 3, 1, 256], "with": ["causal", "prefix"]}

CASES = {
    "v4-encoder": ({"topology": V4} | ENCODER, 1),
    "v4-decoder": (
        {"topology": V4, "sizes": [2, 512, 512, 4, 4, 64], "with": ["bias", "causal"]},
        1,
    ),
    "v4-cross": ({"topology": V4, "sizes": [2, 528, 3968, 4, 4, 64], "with": []}, 1),
    "v4-palm": ({"topology": V4} | PALM, 1),
    "v4-long": ({"topology": V4, "sizes": [1, 3968, 3968, 2, 2, 64], "with": ["bias"]}, 4),
    "v5e-encoder": ({"topology": V5E} | ENCODER, 1),
    "v6e-palm": ({"topology": V6E} | PALM, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_compiles(name: str) -> None:
    """Once forward (the policy saves what backward needs) and once backward, by pieces."""
    case, pieces = CASES[name]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(case)],
        env=os.environ | TPU_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert json.loads(ended.stdout.splitlines()[-1]) == {"forward": pieces, "backward": pieces}
