"""`flan-jax eval` on a model that was trained a moment ago."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny_runs import Ended, Runner, gin_flags

pytestmark = pytest.mark.slow


def evaluate(
    runner: Runner, checkpoint: Path, folder: Path, *flags: str, devices: int = 1, **bindings
) -> Ended:
    values = {
        "CHECKPOINT_PATH": str(checkpoint),
        "EVAL_OUTPUT_DIR": str(folder),
        "MIXTURE_OR_TASK_NAME": "micro_odd_one_out",
        "NUM_EXAMPLES": 4,
        "INPUTS_LENGTH": 128,
        "MAX_DECODE_LEN": 4,
        "BATCH_SIZE": 8,
        "SHOTS": 1,
    }
    return runner.run(
        "eval",
        f"--gin_file={runner.model}",
        "--gin_file=runs/eval.gin",
        *gin_flags(values | bindings),
        *flags,
        devices=devices,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def predictions(folder: Path) -> dict[str, dict[str, str]]:
    """Output by prompt, by protocol, from T5X's files."""
    found = {}
    for protocol in ("zero_shot", "few_shot"):
        path = folder / "inference_eval" / protocol / "micro_odd_one_out-000006.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[protocol] = {row["input"]["inputs_pretokenized"]: row["output"] for row in rows}
    return found


@pytest.fixture(scope="module")
def evaluated(runner: Runner, trained: Path, tmp_path_factory: pytest.TempPathFactory):
    """(folder, ended): both protocols, four questions each."""
    folder = tmp_path_factory.mktemp("evaluated")
    ended = evaluate(runner, trained / "checkpoint_6", folder)
    assert ended.code == 0, ended.err
    return folder, ended


def test_what_it_writes(evaluated):
    folder, ended = evaluated
    names = {name for name in files(folder) if not name.startswith("predictions/")}
    assert names == {
        "config.gin",
        *(f"summary-{protocol}-000006.json" for protocol in ("zero_shot", "few_shot")),
        *(
            f"inference_eval/{protocol}/micro_odd_one_out-{part}.jsonl"
            for protocol in ("zero_shot", "few_shot")
            for part in ("000006", "metrics")
        ),
    }
    summary = json.loads((folder / "summary-few_shot-000006.json").read_text())
    assert summary["step"] == 6
    assert summary["protocol"]["shots"] == 1
    assert summary["protocol"]["num_examples"] == 4
    for protocol, answers in predictions(folder).items():
        assert len(answers) == 4, protocol
    stores = list((folder / "predictions").glob("model-checkpoint_6-*/*.jsonl"))
    assert sorted(len(path.read_text().splitlines()) for path in stores) == [5, 5]
    assert "zero_shot: 4/4" in ended.err
    assert "summary-few_shot-000006.json" in ended.out
    assert (
        "NUM_EXAMPLES" in (folder / "config.gin").read_text()
        or "num_examples = 4" in (folder / "config.gin").read_text()
    )


def test_run_again_it_answers_nothing_anew(runner: Runner, trained: Path, evaluated):
    folder, _ = evaluated
    before = files(folder)
    times = {path: path.stat().st_mtime_ns for path in (folder / "predictions").rglob("*.jsonl")}
    ended = evaluate(runner, trained / "checkpoint_6", folder)
    assert ended.code == 0, ended.err
    assert files(folder) == before
    for path, modified in times.items():
        assert path.stat().st_mtime_ns == modified
    assert "4/4" not in ended.err  # what was answered says how far it is


def test_an_interrupted_job_answers_only_the_rest(
    runner: Runner, trained: Path, evaluated, tmp_path
):
    folder, _ = evaluated
    (store, *_) = sorted((folder / "predictions").glob("*/*.jsonl"))
    lines = store.read_bytes().splitlines(keepends=True)
    copy = tmp_path / store.relative_to(folder)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while writing
    ended = evaluate(runner, trained / "checkpoint_6", tmp_path)
    assert ended.code == 0, ended.err
    assert predictions(tmp_path) == predictions(folder)
    assert copy.read_bytes().splitlines(keepends=True)[:3] == lines[:3]
    assert len(copy.read_bytes().splitlines()) == len(lines)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.exhaustive), 8])
def test_answers_depend_on_neither_batch_nor_mesh(
    runner: Runner, trained: Path, evaluated, tmp_path: Path, devices: int
):
    mesh = {"DATA": 2, "FSDP": 2, "TENSOR": 2, "BATCH_SIZE": 4} if devices == 8 else {}
    ended = evaluate(
        runner,
        trained / "checkpoint_6",
        tmp_path,
        devices=devices,
        **{"BATCH_SIZE": 3} | mesh,
    )
    assert ended.code == 0, ended.err
    assert predictions(tmp_path) == predictions(evaluated[0])


def test_dry_run_shows_the_plan_and_writes_nothing(runner: Runner, trained: Path, tmp_path: Path):
    ended = evaluate(runner, trained / "checkpoint_6", tmp_path / "out", "--dry_run")
    assert ended.code == 0, ended.err
    assert "zero_shot: micro_odd_one_out; zero-shot" in ended.out
    assert "few_shot: micro_odd_one_out; 1-shot" in ended.out
    assert f"checkpoint {trained}/checkpoint_6" in ended.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"CHECKPOINT_PATH": "checkpoint_7"}, "holds checkpoint_2, checkpoint_4, checkpoint_6"),
        ({"DATA": 3}, "a mesh of replica=1, data=3, fsdp=1, tensor=1 does not fit 1 devices"),
        ({"network.T5Config.emb_dim": 48}, "emb_dim: 32 in the checkpoint, 48 in the model"),
        ({"SHOTS": 0}, "variant fs_opt needs shots >= 1, found 0"),
        ({"MIXTURE_OR_TASK_NAME": "micro_od_one_out"}, "did you mean 'micro_odd_one_out'"),
    ],
    ids=["checkpoint", "mesh", "model", "shots", "mixture"],
)
def test_mistakes(runner: Runner, trained: Path, tmp_path: Path, bindings, message):
    if "CHECKPOINT_PATH" in bindings:
        bindings = {"CHECKPOINT_PATH": f"{trained}/checkpoint_7"}
    ended = evaluate(runner, trained / "checkpoint_6", tmp_path / "out", **bindings)
    assert ended.code == 2, ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert "In call to configurable" not in ended.err
    assert not (tmp_path / "out").exists()


def test_all_checkpoints_of_a_run_that_is_watched(runner: Runner, trained: Path, tmp_path: Path):
    """The run has ended: all it left is evaluated, and nothing more is waited for."""
    ended = evaluate(runner, trained, tmp_path, WATCH=True, CHECKPOINT_PATH=str(trained))
    assert ended.code == 0, ended.err
    names = {path.name for path in tmp_path.glob("summary-*")}
    assert names == {
        f"summary-{protocol}-{step:06d}.json"
        for protocol in ("zero_shot", "few_shot")
        for step in (2, 4, 6)
    }
    again = evaluate(runner, trained, tmp_path, CHECKPOINT_PATH=str(trained))
    assert again.code == 0, again.err
    assert again.out.count("checkpoint_") == 3
    assert "4/4" not in again.err


def test_benchmarks_inside_training_and_the_choice_of_a_step(
    runner: Runner, tmp_path: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    folder = tmp_path / "model"
    protocols = ("mmlu_direct", "bbh_direct")
    references = ", ".join(f"@{name}/evaluation.BenchmarkProtocol()" for name in protocols)
    ended = runner.train(
        folder,
        "--gin_file=eval/flan_suite_while_training.gin",
        f"--gin.evaluation.GenerationEvaluator.protocols=[{references}]",
        TRAIN_STEPS=4,
        EVAL_PERIOD=2,
        INPUTS_LENGTH=128,
        EVAL_BATCH_SIZE=4,
        EVAL_ROWS_PER_DEVICE=4,
        DIRECT_DECODE_LEN=4,
        NUM_EXAMPLES=1,
        MMLU_SUBTASKS=["anatomy", "virology"],
        BBH_SUBTASKS=["navigate", "snarks"],
    )
    assert ended.code == 0, ended.err
    for step in (2, 4):
        assert f"step {step}  mmlu_direct: " in ended.err
        for name in protocols:
            summary = json.loads((folder / f"summary-{name}-{step:06d}.json").read_text())
            assert summary["benchmark"]["n"] == 2
            assert summary["trained_on"] == ["micro"]
    chosen = runner.run("eval", "select", str(folder), "--protocol", "mmlu_direct")
    assert chosen.code == 0, chosen.err
    assert "chosen" in chosen.out
    biased = [line for line in chosen.out.splitlines() if "selection-biased" in line]
    assert [line.split()[0] for line in biased] == ["mmlu_direct"]
