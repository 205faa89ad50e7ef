"""The collection's examples are the same in every process, whatever was imported first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import conftest
from tests.mixtures.stand_ins import write_data

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent.parent
COUNT = 1_000
# Draws that share tasks with each other; data stand in for what is not at hand.
DRAW = """
import hashlib, importlib, json, sys
from pathlib import Path

order, folder, seed, count = json.loads(sys.argv[1])
for module in order:
    importlib.import_module(module)
import flan_jax.mixtures
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.schedule import Schedule
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.fingerprint import mixture_hash
from flan_jax.mixing import get_mixture
from flan_jax.prompts.fewshot import FewShotPolicy
from tests.mixtures.stand_ins import stand_in_data

with stand_in_data(Path(folder)):
    mixture = get_mixture("flan2022")
    sizes = {task.name: task.source.num_examples("train") for task in mixture.tasks()}
    schedule = Schedule(mixture.proportions(), sizes, seed)
    lengths = {"inputs": 4096, "targets": 512}
    policy = FewShotPolicy(max_tokens=lengths["inputs"])
    vocabulary = ByteVocabulary()
    maker = ExampleMaker(mixture, vocabulary, vocabulary, lengths, seed, few_shot=policy)
    digest, drawn = hashlib.sha256(), []
    # From the 40th window on rows come again and again: later epochs look otherwise.
    draws = [*schedule.window_draws(0)[:count // 2], *schedule.window_draws(40)[:count // 2]]
    for draw in draws:
        example, tokens = maker.example(draw), maker.tokenized(draw)
        digest.update(repr(example).encode())
        digest.update(tokens.inputs.tobytes() + tokens.targets.tobytes())
        drawn.append([example.task, example.variant, example.epoch])
print(json.dumps([digest.hexdigest(), mixture_hash(mixture), drawn]))
"""
ORDERS = (
    [],
    ["flan_jax.mixtures.niv2", "flan_jax.mixtures.flan2021.translation", "flan_jax.mixtures.micro"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder that all processes share, with rows for every task."""
    made = tmp_path_factory.mktemp("collection")
    write_data(made, conftest.test_data_folder())
    return made


def _drawn(folder: Path, order: list[str], hash_seed: str, seed: int = 0) -> tuple[str, str, list]:
    arguments = json.dumps([order, str(folder), seed, COUNT])
    done = subprocess.run(
        [sys.executable, "-c", DRAW, arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=500,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_a_thousand_draws_are_the_same_in_every_process(folder):
    first, second = (
        _drawn(folder, order, seed) for order, seed in zip(ORDERS, ("1", "4242"), strict=True)
    )
    assert first == second
    _, _, drawn = first
    # The draws are worth comparing: many tasks, all kinds of variants, rows seen before.
    assert len(drawn) == COUNT and len({task for task, _, _ in drawn}) > 150
    variants = Counter(variant for _, variant, _ in drawn)
    assert set(variants) >= {"zs_opt", "zs_noopt", "fs_opt", "fs_noopt", "zs_cot", "fs_cot"}
    assert max(epoch for _, _, epoch in drawn) > 10
    other = _drawn(folder, ORDERS[0], "1", seed=1)
    assert other[0] != first[0] and other[1] == first[1]
