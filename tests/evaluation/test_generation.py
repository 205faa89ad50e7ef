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
from flan_jax.evaluation import benchmarks, generation, model_answers
from flan_jax.evaluation.generation import GenerationEvaluator, headline, make_mesh
from flan_jax.evaluation.model_answers import Rows, make_generate
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import bucket_of, buckets
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

    def decode(params, tokens, **options):
        seen.append(tokens.shape)
        row = jnp.array([*VOCABULARY.encode("no"), 1], jnp.int32)
        rows = (tokens.shape[0], 1)
        return SimpleNamespace(ids=jnp.tile(row, (*rows, 1)), logprobs=jnp.zeros(rows))

    monkeypatch.setattr(model_answers, "decode", decode)
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


def test_a_run_with_benchmarks_is_refused_before_its_first_step_if_their_files_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    evaluator = GenerationEvaluator([benchmarks.BenchmarkProtocol("bbh_cot"), protocol()], 256, 4)
    _, sharding = make_mesh(PjitPartitioner(), 4)
    with pytest.raises(UserError, match=r"bbh_cot: bbh/bbh/.* is not in the data folder"):
        evaluator.prepare(MODEL, sharding)


def test_questions_are_rendered_once_for_one_vocabulary(monkeypatch: pytest.MonkeyPatch):
    evaluator = GenerationEvaluator([protocol()], 256, 4)
    first = evaluator.plan(VOCABULARY)
    assert {request.held_out for request in first[0].requests} == {None}
    seen = evaluator.plan(VOCABULARY, "micro")
    assert {request.held_out for request in seen[0].requests} == {False}
    assert [r.prompt for r in seen[0].requests] == [r.prompt for r in first[0].requests]
    assert evaluator.plan(VOCABULARY)[0] is first[0]
    assert evaluator.plan(ByteVocabulary(100))[0] is not first[0]


def test_what_is_left_and_how_long_it_takes_is_known_beforehand(tmp_path: Path, calls):
    evaluator = GenerationEvaluator([protocol(), protocol("other", num_examples=2)], 256, 4)
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    with jax.set_mesh(mesh):
        plans = evaluator.plan(VOCABULARY)
        left = evaluator.left(plans, "run-5", tmp_path)
        assert [len(plan.requests) for plan in left] == [10, 4]
        assert evaluator.pace(left, MODEL, None, sharding) > 0
        assert len(calls) == 2  # one batch, twice
        assert not list(tmp_path.iterdir())
        evaluator.run(MODEL, None, sharding, "run-5", 5, tmp_path, plans=plans[:1])
        left = evaluator.left(plans, "run-5", tmp_path)
        assert [len(plan.requests) for plan in left] == [0, 4]
        assert evaluator.budget(left[1], VOCABULARY).batches == {(4, left_length(left[1])): 1}


def left_length(plan) -> int:
    return bucket_of(max(request.length for request in plan.requests), buckets(256))


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


def test_judged_otherwise_nothing_is_generated_again(
    tmp_path: Path, calls, monkeypatch: pytest.MonkeyPatch
):
    """Another metric, and stop strings: outputs are stored raw."""
    benchmarks.known_protocols()
    monkeypatch.setattr(benchmarks, "_DEFINITIONS", dict(benchmarks._DEFINITIONS))

    def register(**fields) -> None:
        benchmarks._DEFINITIONS.pop("made_up_direct", None)
        benchmarks.register_protocol(
            benchmarks.ProtocolDefinition(
                name="made_up_direct",
                benchmark="made_up",
                subtasks=("one",),
                read=lambda subtask, split: [
                    benchmarks.BenchmarkItem(i, f"Is it {i}?", "no") for i in range(5)
                ],
                ask=lambda item: item.question,
                **fields,
            )
        )

    def evaluate():
        protocol = benchmarks.BenchmarkProtocol("made_up_direct", max_decode_len=8)
        (outcome,) = run(GenerationEvaluator([protocol], 256, 4), tmp_path)
        row = (tmp_path / "inference_eval/made_up_direct/one-000005.jsonl").read_text()
        return outcome, json.loads(row.splitlines()[0])

    register(metrics=("exact_match",))
    outcome, row = evaluate()
    assert outcome.benchmark.score == 100
    assert (row["output"], row["correct"], row["ended"]) == ("no", 1.0, "eos")
    assert row["prompt_tokens"] == len("Is it 0?") + 1
    asked = len(calls)
    register(metrics=("number", "exact_match"), stop=("o",))
    outcome, row = evaluate()
    assert outcome.benchmark.score == 0
    assert (row["output"], row["correct"], row["ended"]) == ("n", 0.0, "stop")
    assert len(calls) == asked


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

    def decode(params, tokens, **options):
        seen.append(options)
        return SimpleNamespace(ids=jnp.zeros((4, 1, 2), jnp.int32), logprobs=jnp.zeros((4, 1)))

    monkeypatch.setattr(model_answers, "decode", decode)
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    rows = Rows(sharding, 4)
    tokens, ids = np.ones((4, 8), np.int32), np.array([7, 8, 9, 7], np.uint32)
    with jax.set_mesh(mesh):
        make_generate(None, protocol(), rows, MODEL)(tokens, ids)
        make_generate(None, protocol(temperature=0.7, topk=3), rows, MODEL)(tokens, ids)
    assert seen[0]["keys"] is None
    assert (seen[1]["config"].temperature, seen[1]["config"].topk) == (0.7, 3)
    bits = [tuple(row) for row in np.asarray(jax.random.key_data(seen[1]["keys"])).tolist()]
    assert bits[0] == bits[3]
    assert len(set(bits)) == 3


def test_a_batch_that_does_not_fit_the_mesh(tmp_path: Path):
    """As in training, where the mesh is not made for the evaluation's batch."""
    evaluator = GenerationEvaluator([protocol()], 256, 0)
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    with jax.set_mesh(mesh), pytest.raises(UserError, match=r"make .*batch_size a multiple of 1"):
        evaluator.run(MODEL, None, sharding, "run-5", 5, tmp_path)


def test_processes_that_would_ask_other_questions_are_told(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(generation.jax, "process_count", lambda: 2)
    monkeypatch.setattr(generation, "_of_first", lambda mine: mine + 1)
    evaluator = GenerationEvaluator([protocol()], 256, 4)
    mesh, sharding = make_mesh(PjitPartitioner(), 4)
    with jax.set_mesh(mesh), pytest.raises(UserError, match="all hosts need the same data folder"):
        evaluator.run(MODEL, None, sharding, "run-5", 5, tmp_path)


def test_headline():
    def outcome(held_in, held_out):
        scores = SimpleNamespace(held_in=held_in, held_out=held_out, unknown=None)
        return SimpleNamespace(scores=scores, benchmark=None)

    some, more = SimpleNamespace(value=0.41249), SimpleNamespace(value=0.12)
    assert headline(outcome(some, more)) == "held in 41.2%, held out 12.0%"
    assert headline(outcome(None, more)) == "held out 12.0%"
    benchmark = SimpleNamespace(scores=None, benchmark=SimpleNamespace(score=25.74))
    assert headline(benchmark) == "25.7%"
