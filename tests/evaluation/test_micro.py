"""The scorers on the prompts of a real collection."""

from __future__ import annotations

import pytest

import flan_jax.mixtures.micro  # noqa: F401 (registers the tasks)
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import plan
from flan_jax.evaluation.scores import score
from flan_jax.tasks import all_tasks


@pytest.mark.parametrize("variant", ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"])
def test_targets_are_right_and_other_questions_targets_are_not(variant, vocabulary):
    names = tuple(task.name for task in all_tasks() if task.group == "micro")
    shots = 1 if variant.startswith("fs") else 0
    protocol = EvalProtocol("all", names, variant=variant, shots=shots, num_examples=12)
    requests = plan(protocol, vocabulary, 2048)
    right = score(requests, {r.id: r.target for r in requests}, resamples=10)
    assert [r.id for r in requests if right.items[r.id].value != 1.0] == []
    assert right.overall.unparsed == 0
    # The target of the next task's question answers this one at best by accident.
    moved = requests[12:] + requests[:12]
    wrong = score(
        requests, {r.id: m.target for r, m in zip(requests, moved, strict=True)}, resamples=10
    )
    assert wrong.overall.value < 0.25
