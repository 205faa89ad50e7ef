"""lm-evaluation-harness itself on our models, offline: it agrees with our own `lm_eval` variants.

Without the extra `lm-eval` these tests are skipped.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contender import Problem
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from tests.fast_compile import FAST_COMPILE
from tests.lm_eval_adapter.test_batches import batches, own_score

pytest.importorskip("lm_eval", reason="needs the extra: pip install 'flan_jax[lm-eval]'")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
ITEMS, DECODED, LENGTH = 6, 12, 1024
MODEL = """
include 'models/t5/architecture.gin'
include 'vocabularies/t5.gin'
network.T5Config.emb_dim = 32
network.T5Config.num_heads = 2
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
network.T5Config.head_dim = 16
network.T5Config.mlp_dim = 32
network.T5Config.vocab_size = 32128
"""
# As the harness's own mmlu_abstract_algebra and bbh_cot_fewshot_navigate, on local files.
MMLU = {
    "task": "local_mmlu",
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "dev",
    "fewshot_config": {"sampler": "first_n"},
    "num_fewshot": 5,
    "output_type": "multiple_choice",
    "description": (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    ),
    "doc_to_text": (
        "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:"
    ),
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
BBH = {
    "task": "local_bbh",
    "dataset_path": "json",
    "test_split": "test",
    "num_fewshot": 3,
    "output_type": "generate_until",
    "target_delimiter": "",
    "doc_to_text": "Q: {{input}}\nA: Let's think step by step.\n",
    "doc_to_target": "{{target}}",
    "generation_kwargs": {
        "max_gen_toks": DECODED,
        "until": ["</s>", "Q", "\n\n"],
        "do_sample": False,
        "temperature": 0.0,
    },
    "filter_list": [
        {
            "name": "get-answer",
            "filter": [
                {"function": "regex", "regex_pattern": "(?<=the answer is )(.*)(?=.)"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def mmlu_rows(data: Path, split: str) -> list[dict[str, Any]]:
    with (data / f"mmlu/{split}/abstract_algebra_{split}.csv").open(newline="") as lines:
        return [
            {
                "question": row["question"],
                "choices": [row[f"choice{i}"] for i in range(4)],
                "answer": int(row["answer"]),
            }
            for row in csv.DictReader(lines)
        ]


def bbh_prompt(data: Path) -> tuple[str, list[dict[str, str]]]:
    """(instruction, exemplars) of the authors' file of navigate."""
    text = (data / "bbh/cot-prompts/navigate.txt").read_text(encoding="utf-8")
    header, *exemplars = text.partition("-----\n")[2].strip().split("\n\nQ: ")
    parts = [each.split("\nA: Let's think step by step.\n") for each in exemplars]
    return header, [{"input": question, "target": answer} for question, answer in parts]


def write_tasks(data: Path, folder: Path) -> None:
    files = {name: mmlu_rows(data, name) for name in ("test", "dev")}
    paths = {n: write_lines(folder / f"mmlu_{n}.jsonl", rows) for n, rows in files.items()}
    mmlu = {**MMLU, "dataset_kwargs": {"data_files": paths}}
    questions = json.loads((data / "bbh/bbh/navigate.json").read_text())["examples"]
    header, exemplars = bbh_prompt(data)
    bbh = {
        **BBH,
        "dataset_kwargs": {"data_files": {"test": write_lines(folder / "bbh.jsonl", questions)}},
        "description": f"{header}\n\n",
        "fewshot_config": {"sampler": "first_n", "samples": exemplars},
    }
    for name, task in (("mmlu", mmlu), ("bbh", bbh)):
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")


def listen_to_prompts(file: Path) -> None:
    """Random weights all but ignore the prompt; with strong cross-attention answers differ."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    strong = {n: 30 * t if "EncDecAttention.o" in n else t for n, t in tensors.items()}
    save_file(strong, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in Hugging Face's format, its gin file, and two tasks."""
    folder = tmp_path_factory.mktemp("harness")
    for name in ("checkpoint", "tasks"):
        (folder / name).mkdir()
    sizes = {"d_model": 32, "d_ff": 32, "num_heads": 2, "d_kv": 16, "num_layers": 1}
    Problem(**sizes).write(folder / "checkpoint")
    listen_to_prompts(folder / "checkpoint" / "model.safetensors")
    (folder / "model.gin").write_text(MODEL, encoding="utf-8")
    write_tasks(test_data, folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def samples(folder: Path, test_data: Path) -> dict[str, list[dict[str, Any]]]:
    """What the harness logs of each item, by task, in the order of the items; on two devices."""
    arguments = {
        "checkpoint": folder / "checkpoint",
        "gin_file": folder / "model.gin",
        "ACTIVATION_DTYPE": "float32",
        "inputs_length": LENGTH,
        "batch_size": 4,
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "flan_jax", "eval", "harness",
            "--tasks", "local_mmlu,local_bbh", "--include_path", str(folder / "tasks"),
            "--limit", str(ITEMS), "--log_samples", "--output_path", str(folder / "out"),
            "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items()),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count=2",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "cache"),
            ENVIRONMENT_VARIABLE: str(test_data),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "local_mmlu" in done.stdout
    found = {}
    for file in (folder / "out").rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        name = "local_mmlu" if "local_mmlu" in file.name else "local_bbh"
        found[name] = sorted(rows, key=lambda row: row["doc_id"])
    assert {name: len(rows) for name, rows in found.items()} == {
        "local_mmlu": ITEMS,
        "local_bbh": ITEMS,
    }
    return found


@pytest.fixture(scope="module")
def ours(folder: Path, test_data: Path) -> dict[str, Any]:
    """Our own job's outcomes by protocol."""
    from flan_jax.evaluation.generation import GenerationEvaluator
    from flan_jax.lm_eval_adapter.loading import load_from_gin

    protocols = [
        BenchmarkProtocol("mmlu_direct", "lm_eval", subtasks=("abstract_algebra",)),
        BenchmarkProtocol("bbh_cot", "lm_eval", subtasks=("navigate",), max_decode_len=DECODED),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
        macros = {"ACTIVATION_DTYPE": "float32"}
        loaded = load_from_gin(str(folder / "checkpoint"), str(folder / "model.gin"), 8, macros)
        evaluator = GenerationEvaluator(protocols, LENGTH, loaded.batch_size)
        plans = [
            type(plan)(plan.protocol, [r for r in plan.requests if _number(r.id) < ITEMS])
            for plan in evaluator.plan(loaded.model.input_vocabulary)
        ]
        with loaded.partitioner.use(loaded.mesh):
            outcomes = evaluator.run(
                loaded.model, loaded.params, loaded.batch_sharding, "tiny", 0,
                folder / "ours", plans=plans,
            )  # fmt: skip
    return {outcome.protocol.definition.name: outcome for outcome in outcomes}


def _number(identity: str) -> int:
    return int(identity.rpartition("/")[2])


def test_ranked_options_agree_item_by_item(samples: dict[str, Any], ours: dict[str, Any]):
    outcome = ours["mmlu_direct"]
    assert not any(request.dropped_exemplars for request in outcome.requests)
    for row, request in zip(samples["local_mmlu"], outcome.requests, strict=True):
        asked = [row["arguments"][f"gen_args_{i}"] for i in range(4)]
        assert [each["arg_0"] for each in asked] == [request.prompt] * 4
        assert [each["arg_1"] for each in asked] == list(request.continuations)
        theirs = [float(response[0][0]) for response in row["resps"]]
        scores = outcome.settled[request.id].option_scores
        assert theirs == pytest.approx([scores[label] for label in "ABCD"], abs=2e-4)
        assert row["acc"] == outcome.scores.items[request.id].value


def test_generated_answers_agree_item_by_item(samples: dict[str, Any], ours: dict[str, Any]):
    outcome = ours["bbh_cot"]
    outputs = set()
    for row, request in zip(samples["local_bbh"], outcome.requests, strict=True):
        assert row["arguments"]["gen_args_0"]["arg_0"] == request.prompt
        ((text,),) = row["resps"]
        assert text == outcome.settled[request.id].output
        assert row["exact_match"] == outcome.scores.items[request.id].value
        outputs.add(text)
    assert len(outputs) > 1


def test_plain_lm_eval_finds_the_model(folder: Path, test_data: Path, tmp_path: Path):
    """By the file that --install leaves, in a folder that is added as site-packages are."""
    from flan_jax.lm_eval_adapter.registration import install

    install(tmp_path)
    program = (
        "import site, sys; site.addsitedir(sys.argv.pop(1)); "
        "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", program, str(tmp_path), "--model", "flan_jax",
            "--tasks", "local_mmlu", "--include_path", str(folder / "tasks"), "--limit", "2",
            "--model_args", f"checkpoint={folder / 'checkpoint'},gin_file={folder / 'model.gin'}",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "cache"),
            ENVIRONMENT_VARIABLE: str(test_data),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "flan_jax (" in done.stdout and "local_mmlu" in done.stdout


def test_rolling_likelihoods_add_up(folder: Path, test_data: Path, monkeypatch):
    """A text in one window is scored as a continuation of nothing."""
    from lm_eval.api.instance import Instance

    from flan_jax.errors import UserError
    from flan_jax.lm_eval_adapter.harness import FlanJaxLM

    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    model = FlanJaxLM(
        checkpoint=str(folder / "checkpoint"),
        gin_file=str(folder / "model.gin"),
        batch_size=4,
        inputs_length=32,
        ACTIVATION_DTYPE="float32",
    )

    def ask(kind: str, *arguments: Any) -> Instance:
        return Instance(kind, doc={}, arguments=arguments, idx=0)

    text = "The quick brown fox jumps over the lazy dog."
    (rolled,) = model.loglikelihood_rolling([ask("loglikelihood_rolling", text)])
    ((whole, _),) = model.loglikelihood([ask("loglikelihood", "", text)])
    assert rolled == pytest.approx(whole, rel=1e-5)
    long = " ".join([text] * 10)
    (several,) = model.loglikelihood_rolling([ask("loglikelihood_rolling", long)])
    assert several < rolled
    sampled = {"temperature": 1.0, "max_gen_toks": 8}
    asks = [ask("generate_until", text, sampled)] * 3
    outputs = model.generate_until(asks)
    assert len(set(outputs)) == 3  # the same context, drawn anew
    assert outputs == model.generate_until(asks)
    with pytest.raises(UserError, match="did you mean 'batch_size'"):
        FlanJaxLM(checkpoint="x", gin_file="y", batchsize=3)


def test_a_plain_decoder_reads_context_and_continuation_as_one_text():
    """With `prompt_eos=False`; else there is an end-of-sequence id between them."""
    from lm_eval.api.instance import Instance

    from flan_jax.lm_eval_adapter.harness import FlanJaxLM

    loaded = batches("palm").loaded
    asked = [("#$ ", "%&"), ("#$", " %&"), ("", "%&")]
    requests = [Instance("loglikelihood", doc={}, arguments=a, idx=0) for a in asked]
    ids = [ord(each) + 3 for each in "#$ %&"]
    for prompt_eos, expected in (
        (False, [(ids[:2], ids[2:]), (ids[:2], ids[2:]), ([], ids[3:])]),
        (True, [([*ids[:3], 1], ids[3:]), ([*ids[:2], 1], ids[2:]), ([1], ids[3:])]),
    ):
        model = FlanJaxLM.serving(loaded, inputs_length=32, prompt_eos=prompt_eos)
        for (total, greedy), pair in zip(model.loglikelihood(requests), expected, strict=True):
            known = own_score("palm", loaded.params, *pair)
            assert (total, greedy) == (pytest.approx(known[0], rel=1e-4), known[1])
