from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import gin
import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation.protocol import EvalProtocol, ProtocolError
from flan_jax.evaluation.requests import bucket_of, buckets, fit_tokens, plan, summarize
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, UnknownTaskError, register_task

COLOURS = ("red", "green", "blue", "black")


def _open_row(draws):
    number = draws.below(10_000)
    return {"number": number, "answer": str(number + 1)}


def _choice_row(draws):
    answer = draws.choice(COLOURS)
    return {
        "word": f"{answer}ish{draws.below(1000)}",
        "options": draws.shuffled(COLOURS),
        "answer": answer,
    }


TEMPLATES = """
templates:
- inputs: "What follows {{ number }}?"
  targets: "{{ answer }}"
cot:
- inputs: "Reason: what follows {{ number }}?"
  targets: "One more than {{ number }}. The answer is {{ answer }}."
"""
CHOICE_TEMPLATES = """
templates:
- inputs: "Which colour is {{ word }}?{{ options }}"
  targets: "{{ answer }}"
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> dict[str, TaskDefinition]:
    folder = tmp_path_factory.mktemp("templates")
    (folder / "open.yaml").write_text(TEMPLATES)
    (folder / "choice.yaml").write_text(CHOICE_TEMPLATES)
    kinds = (
        ("evaltest_open", _open_row, "open", "direct", False),
        ("evaltest_cot", _open_row, "open", "cot", False),
        ("evaltest_choice", _choice_row, "choice", "direct", True),
    )
    return {
        name: register_task(
            TaskDefinition(
                name=name,
                group="evaltest",
                cluster=file,
                source=ProceduralSource(name, generate),
                template_file=folder / f"{file}.yaml",
                licence="Apache-2.0",
                styles=(style,),
                has_options=options,
            )
        )
        for name, generate, file, style, options in kinds
    }


def test_misspelt_task_is_named_with_a_suggestion(tasks):
    with pytest.raises(UnknownTaskError, match="evaltest_open"):
        EvalProtocol("p", ("evaltest_opem",)).tasks()


def test_misspelt_split_is_a_user_error(tasks):
    with pytest.raises(UserError, match="validation"):
        EvalProtocol("p", ("evaltest_open",), split="validatoin").tasks()


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"variant": "zs_opts"}, "zs_opt"),
        ({"variant": "fs_opt"}, "shots >= 1"),
        ({"shots": 2}, "zero-shot"),
        ({"num_examples": 0}, "num_examples"),
        ({"max_decode_len": 2.5}, "max_decode_len"),
        ({"temperature": -1.0}, "temperature"),
        ({"mixture_or_tasks": ()}, "no task"),
    ],
)
def test_contradictions_are_refused_at_once(wrong, told):
    with pytest.raises(UserError, match=told):
        EvalProtocol(**({"name": "p", "mixture_or_tasks": ("x",)} | wrong))


def test_endless_split_needs_a_number(tasks, vocabulary):
    with pytest.raises(ProtocolError, match="num_examples"):
        plan(EvalProtocol("p", ("evaltest_open",), split="train"), vocabulary, 128)


def test_gin_makes_a_protocol_and_a_list_hashes_like_a_tuple(tasks):
    with gin.unlock_config():
        gin.parse_config(
            "evaluation.EvalProtocol.name = 'p'\n"
            "evaluation.EvalProtocol.mixture_or_tasks = ['evaltest_open']\n"
        )
        try:
            made = gin.get_configurable("evaluation.EvalProtocol")()
        finally:
            gin.clear_config()
    assert made == EvalProtocol("p", ("evaltest_open",))
    assert made.protocol_hash() == EvalProtocol("p", "evaltest_open").protocol_hash()


def test_hash_changes_with_what_decides_prompts_and_with_nothing_else(tasks):
    base = EvalProtocol("p", ("evaltest_open",), num_examples=5)
    same = {"name": "q", "max_decode_len": 3, "temperature": 0.5, "topk": 4}
    for field, value in same.items():
        other = dataclasses.replace(base, **{field: value})
        assert other.protocol_hash() == base.protocol_hash(), field
    different = {"seed": 1, "split": "test", "num_examples": 6, "variant": "zs_opt"}
    different |= {"mixture_or_tasks": ("evaltest_cot",)}
    hashes = {
        dataclasses.replace(base, **{field: value}).protocol_hash()
        for field, value in different.items()
    }
    assert len(hashes | {base.protocol_hash()}) == len(different) + 1


def test_hash_sees_the_bytes_of_the_template_file(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(TEMPLATES)
    register_task(
        TaskDefinition(
            name="evaltest_edited",
            group="evaltest",
            cluster="c",
            source=ProceduralSource("evaltest_edited", _open_row),
            template_file=file,
            licence="Apache-2.0",
        )
    )
    protocol = EvalProtocol("p", ("evaltest_edited",))
    before = protocol.protocol_hash()
    file.write_text(TEMPLATES.replace("What follows", "What comes after"))
    assert protocol.protocol_hash() != before


def test_decoding_is_told_apart():
    greedy = EvalProtocol("p", ("x",))
    sampled = dataclasses.replace(greedy, temperature=0.7, topk=40)
    assert greedy.decoding() == "greedy-64"
    assert sampled.decoding() != dataclasses.replace(sampled, seed=1).decoding()


def test_plan_is_a_pure_function_and_few_shot_prompts_have_the_exact_shots(tasks, vocabulary):
    protocol = EvalProtocol(
        "p", ("evaltest_open", "evaltest_choice"), variant="fs_opt", shots=3, num_examples=20
    )
    requests = plan(protocol, vocabulary, 2048)
    assert requests == plan(protocol, vocabulary, 2048)
    assert len(requests) == 40
    for request in requests:
        question = "What follows" if request.task == "evaltest_open" else "Which colour"
        assert request.prompt.count(question) == 4
        assert request.dropped_exemplars == 0
        assert request.tokens[-1] == vocabulary.eos_id
        assert vocabulary.decode(request.tokens) == request.prompt


def test_exemplars_go_before_the_question_does(tasks, vocabulary):
    protocol = EvalProtocol("p", ("evaltest_open",), variant="fs_noopt", shots=4, num_examples=10)
    for request in plan(protocol, vocabulary, 96):
        assert request.length <= 96
        assert 0 < request.dropped_exemplars <= 4
        assert request.truncated == 0


def test_prompts_that_cannot_fit_lose_their_end_and_are_counted(tasks, vocabulary):
    requests = plan(EvalProtocol("p", ("evaltest_open",), num_examples=7), vocabulary, 8)
    assert all(r.length == 8 and r.tokens[-1] == vocabulary.eos_id for r in requests)
    assert vocabulary.decode(requests[0].tokens) == "What fo"
    summary = summarize(requests, 8, max_decode_len=2)
    assert summary.truncated == summary.long_targets == 7
    assert "7 prompts were too long" in str(summary)


def test_part_of_a_finite_split_is_drawn_not_cut_off(tasks, vocabulary):
    protocol = EvalProtocol("p", ("evaltest_open",), num_examples=50)
    indices = [int(r.id.split("/")[1]) for r in plan(protocol, vocabulary, 128)]
    assert indices == sorted(set(indices)) and len(indices) == 50
    assert max(indices) >= 100
    other = plan(dataclasses.replace(protocol, seed=1), vocabulary, 128)
    assert [r.id for r in other] != [f"evaltest_open/{i}" for i in indices]


def test_options_carry_markers_and_texts(tasks, vocabulary):
    protocol = EvalProtocol("p", ("evaltest_choice",), variant="zs_opt", num_examples=60)
    requests = plan(protocol, vocabulary, 512)
    assert any(r.answer != r.answer_text for r in requests)
    for request in requests:
        position = request.options.index(request.answer)
        assert request.option_texts[position] == request.answer_text
        assert request.answer in request.prompt


def test_digest_follows_what_is_read(tasks, vocabulary):
    (first,) = plan(EvalProtocol("p", ("evaltest_open",), num_examples=1), vocabulary, 128)
    assert first.digest == dataclasses.replace(first, target="x").digest
    assert first.digest != dataclasses.replace(first, tokens=first.tokens[1:]).digest


@pytest.mark.parametrize("length", [2, 31, 32, 64, 100, 512, 1024, 2048])
def test_buckets_rise_to_the_input_length(length):
    lengths = buckets(length)
    assert list(lengths) == sorted(set(lengths)) and lengths[-1] == length
    assert len(lengths) <= 5
    assert bucket_of(length, lengths) == length == bucket_of(length + 9, lengths)
    assert all(bucket_of(bucket, lengths) == bucket for bucket in lengths)


def test_fit_tokens_keeps_the_last():
    assert fit_tokens([5, 6, 7, 1], 4) == ((5, 6, 7, 1), 0)
    assert fit_tokens([5, 6, 7, 1], 2) == ((5, 1), 2)


def test_importing_evaluation_loads_neither_jax_nor_tensorflow():
    code = (
        "import sys, flan_jax.evaluation; "
        "bad = {'jax', 'tensorflow', 'seqio', 'sacrebleu', 'rouge_score', 'matplotlib'}; "
        "sys.exit(', '.join(bad & set(sys.modules)) or None)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
