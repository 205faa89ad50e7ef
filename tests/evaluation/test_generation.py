"""Protocols answered and scored: what is written, what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation import generation
from flan_jax.evaluation.generation import (
    GenerationEvaluator,
    headline,
    make_generate,
    make_mesh,
)
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.mixtures import micro  # noqa: F401  registers the tasks
from flan_jax.sharding import PjitPartitioner

VOCABULARY = ByteVocabulary(125)
MODEL = SimpleNamespace(input_vocabulary=VOCABULARY, output_vocabulary=VOCABULARY)


def protocol(name: str = "zero_shot", **fields) -> EvalProtocol:
    values = {"variant": "zs_opt", "num_examples": 5, "max_decode_len": 8} | fields
    return EvalProtocol(name, ("micro_odd_one_out", "micro_larger_sum"), **values)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that a model that answers `no` to everything is given."""
    seen: list[tuple[int, ...]] = []

    def generate(params, tokens, **options):
        seen.append(tokens.shape)
        row = jnp.array([*VOCABULARY.encode("no"), 1], jnp.int32)
        return jnp.tile(row, (tokens.shape[0], 1))

    monkeypatch.setattr(generation, "generate", generate)
    return seen


def run(evaluator: GenerationEvaluator, folder: Path, checkpoint: str = "run-5"):
    mesh, sharding = make_mesh(PjitPartitioner(), evaluator.batch_size)
    with jax.set_mesh(mesh):
        return evaluator.run(MODEL, None, sharding, checkpoint, 5, folder)


def test_every_protocol_has_an_outcome_and_a_summary(tmp_path: Path, calls):
    evaluator = GenerationEvaluator(
        [protocol(), protocol("no_options", variant="zs_noopt")], 256, 4
    )
    outcomes = run(evaluator, tmp_path)
    assert [outcome.protocol.name for outcome in outcomes] == ["zero_shot", "no_options"]
    for outcome in outcomes:
        assert len(outcome.requests) == len(outcome.predictions) == 10
        assert set(outcome.predictions.values()) == {"no"}
        assert json.loads(outcome.summary.read_text())["step"] == 5
        assert set(outcome.scores.tasks) == {"micro_odd_one_out", "micro_larger_sum"}
    assert all(rows == 4 and length <= 256 for rows, length in calls)


def test_answers_are_found_again_by_checkpoint(tmp_path: Path, calls):
    evaluator = GenerationEvaluator([protocol()], 256, 4)
    first = run(evaluator, tmp_path)
    asked = len(calls)
    assert run(evaluator, tmp_path)[0].predictions == first[0].predictions
    assert len(calls) == asked
    run(evaluator, tmp_path, "run-6")
    assert len(calls) == 2 * asked


def test_progress_is_told(tmp_path: Path, calls):
    evaluator = GenerationEvaluator([protocol()], 256, 4)
    told = []
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    with jax.set_mesh(mesh):
        evaluator.run(
            MODEL,
            None,
            sharding,
            "run-5",
            5,
            tmp_path,
            progress=lambda which, progress: told.append((which.name, progress.done)),
        )
    assert {name for name, _ in told} == {"zero_shot"}
    assert [done for _, done in told][-1] == 10
    assert [done for _, done in told] == sorted(done for _, done in told)


def test_in_training_answers_belong_to_the_parameters(tmp_path: Path, calls):
    """Another run in the same folder has another model at the same step."""
    evaluator = GenerationEvaluator([protocol()], 256, 4)
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    with jax.set_mesh(mesh):
        for value in (1.0, 1.0, 2.0):
            line = evaluator.evaluate(
                MODEL, {"kernel": jnp.full(3, value)}, sharding, 5, str(tmp_path), "micro"
            )
            assert line.startswith("zero_shot: held in ")
    assert len(list((tmp_path / "predictions").iterdir())) == 2


def test_names_of_protocols_must_differ():
    with pytest.raises(UserError, match=r"protocols of different names, found \['a', 'a'\]"):
        GenerationEvaluator([protocol("a"), protocol("a", seed=1)], 64)
    with pytest.raises(UserError, match="found "):
        GenerationEvaluator([], 64)


def test_mesh_that_does_not_fit():
    with pytest.raises(UserError, match="does not fit 1 devices"):
        make_mesh(PjitPartitioner(data=1, tensor=2), 4)


def test_greedy_needs_no_keys_and_sampling_gets_one_for_each_item(monkeypatch):
    seen = []
    monkeypatch.setattr(
        generation,
        "generate",
        lambda params, tokens, **options: seen.append(options) or jnp.zeros((4, 2), jnp.int32),
    )
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    tokens, ids = np.ones((4, 8), np.int32), np.array([7, 8, 9, 7], np.uint32)
    with jax.set_mesh(mesh):
        make_generate(None, protocol(), sharding)(tokens, ids)
        make_generate(None, protocol(temperature=0.7, topk=3), sharding)(tokens, ids)
    assert seen[0]["keys"] is None
    assert (seen[1]["temperature"], seen[1]["topk"]) == (0.7, 3)
    bits = [tuple(row) for row in np.asarray(jax.random.key_data(seen[1]["keys"])).tolist()]
    assert bits[0] == bits[3]
    assert len(set(bits)) == 3


def test_headline():
    def scores(held_in, held_out):
        return SimpleNamespace(held_in=held_in, held_out=held_out, unknown=None)

    some, more = SimpleNamespace(value=0.41249), SimpleNamespace(value=0.12)
    assert headline(scores(some, more)) == "held in 41.2%, held out 12.0%"
    assert headline(scores(None, more)) == "held out 12.0%"
