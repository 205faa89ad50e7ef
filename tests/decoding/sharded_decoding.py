"""Run by test_mesh.py in a process of its own with 8 simulated devices; prints JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np

from flan_jax.decoding import DecodeConfig, decode, generate, item_keys, score
from flan_jax.sharding import PjitPartitioner, logical_axes
from tests.decoding.reference import LENGTH, PALM_CONFIG, T5_CONFIG, VOCAB, make, prompts

INPUTS = prompts([7, 3, 5, 1, 6, 2, 4, 7])
TARGETS = np.random.default_rng(3).integers(2, VOCAB, (8, 2, 3)).astype(np.int32)
CONFIGS = {
    "sampled": DecodeConfig(LENGTH, temperature=1.0, topk=12, topp=0.9, num_decodes=2),
    "beams": DecodeConfig(LENGTH, method="beam", num_decodes=3),
}


def run(model: Any, inputs: Any, targets: Any) -> dict[str, Any]:
    keys = item_keys(0, np.arange(8))
    found: dict[str, Any] = {"greedy": generate(model, inputs, max_decode_len=LENGTH)}
    for name, config in CONFIGS.items():
        decoded = decode(model, inputs, config, keys=keys)
        found[f"{name} ids"], found[f"{name} scores"] = decoded.ids, decoded.scores
    found["targets scores"] = score(model, inputs, targets).total
    return {name: np.asarray(x).tolist() for name, x in found.items()}


def on_mesh(model: Any, partitioner: PjitPartitioner) -> dict[str, Any]:
    with partitioner.use(partitioner.make_mesh()) as mesh:
        shardings = partitioner.shardings(logical_axes(model), mesh, model)
        rows = partitioner.batch_sharding(mesh, 8)
        placed = jax.device_put(model, shardings)
        return run(placed, jax.device_put(INPUTS, rows), jax.device_put(TARGETS, rows))


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    found = {}
    # One layer of each: what is laid out in layers is laid out alike in all of them.
    t5 = dataclasses.replace(T5_CONFIG, num_decoder_layers=1)
    palm = dataclasses.replace(PALM_CONFIG, num_layers=1)
    for name, config in (("t5", t5), ("palm", palm)):
        model = make(config)
        found[name] = {
            "none": run(model, INPUTS, TARGETS),
            "2x2x2": on_mesh(model, PjitPartitioner(fsdp=2, tensor=2)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
