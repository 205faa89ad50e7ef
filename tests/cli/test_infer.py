"""`flan-jax infer` on a model that was trained a moment ago."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.tiny_runs import Ended, Runner, gin_flags

pytestmark = pytest.mark.slow

ANSWERS = "micro_odd_one_out-predict.jsonl-00000-of-00001"


def command(runner: Runner, trained: Path, folder: Path, **bindings) -> list[str]:
    """Arguments for the model's last checkpoint."""
    return arguments(runner, trained / "checkpoint_6", folder, **bindings)


def arguments(runner: Runner, checkpoint: Path, folder: Path, **bindings) -> list[str]:
    # Sampled, for the answers to differ: each is keyed by its prompt, whatever its batch.
    values = {
        "CHECKPOINT_PATH": str(checkpoint),
        "INFER_OUTPUT_DIR": str(folder),
        "MIXTURE_OR_TASK_NAME": "micro_odd_one_out",
        "TASK_FEATURE_LENGTHS": {"inputs": 128, "targets": 6},
        "NUM_EXAMPLES": 5,
        "BATCH_SIZE": 8,
        "MAX_DECODE_LEN": 6,
        "TEMPERATURE": 1.0,
    }
    gin = gin_flags(values | bindings)
    return [f"--gin_file={runner.model}", "--gin_file=runs/infer.gin", *gin]


def infer(
    runner: Runner, checkpoint: Path, folder: Path, *flags: str, devices: int = 1, **bindings
) -> Ended:
    given = arguments(runner, checkpoint, folder, **bindings)
    return runner.run("infer", *given, *flags, devices=devices)


def answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]


@pytest.fixture(scope="module")
def inferred(runner: Runner, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inferred")
    ended = infer(runner, trained / "checkpoint_6", folder)
    assert ended.code == 0, ended.err
    assert f"wrote 5 answers to {folder / ANSWERS}" in ended.out
    return folder


def test_files_have_t5xs_names_and_rows(inferred: Path):
    assert {path.name for path in inferred.iterdir()} == {
        "config.gin",
        ANSWERS,
        f"{ANSWERS}.COMPLETED",
        f"{ANSWERS}.settings.json",
    }
    rows = answers(inferred)
    assert len(rows) == 5
    for row in rows:
        assert set(row) == {"inputs", "prediction"}
        assert set(row["inputs"]) == {"inputs_pretokenized", "targets_pretokenized"}
        assert row["inputs"]["targets_pretokenized"]
    assert len({row["prediction"] for row in rows}) > 1


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.exhaustive), 8])
def test_answers_depend_on_neither_batch_nor_mesh(
    runner: Runner, trained: Path, inferred: Path, tmp_path: Path, devices: int
):
    mesh = {"DATA": 2, "FSDP": 2, "TENSOR": 2, "BATCH_SIZE": 4} if devices == 8 else {}
    ended = infer(
        runner, trained / "checkpoint_6", tmp_path, devices=devices, **{"BATCH_SIZE": 2} | mesh
    )
    assert ended.code == 0, ended.err
    assert answers(tmp_path) == answers(inferred)


def test_prompts_are_answered_on_screen(runner: Runner, trained: Path, tmp_path: Path):
    prompts = ["What is 2 + 2?", "Wie geht's?", "x" * 500]
    ended = infer(
        runner,
        trained / "checkpoint_6",
        tmp_path / "out",
        *(f"--prompt={prompt}" for prompt in prompts),
        BATCH_SIZE=2,
    )
    assert ended.code == 0, ended.err
    shown = [line for line in ended.out.splitlines() if line.startswith("> ")]
    assert shown == [f"> {prompt}" for prompt in prompts]
    assert not (tmp_path / "out").exists()


def write_prompts(folder: Path, count: int = 12) -> Path:
    path = folder / "questions.txt"
    path.write_text("".join(f"Question {i}: {'?' * (i % 5)}\n" for i in range(count)))
    return path


def test_a_file_of_prompts_needs_no_task(runner: Runner, trained: Path, tmp_path: Path):
    """Killed in the middle, the job goes on, and ends with the bytes of one that was not."""
    prompts, out, whole = write_prompts(tmp_path), tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    no_task = {"MIXTURE_OR_TASK_NAME": "", "BATCH_SIZE": 2, "TEMPERATURE": 1.0}
    flags = (f"--prompts={prompts}", f"--output={out}")
    begun = runner.start("infer", *command(runner, trained, tmp_path / "none", **no_task), *flags)
    partial = out.with_name("a.jsonl.partial")
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.read_text().count("\n") >= 3):
        assert begun.poll() is None or out.exists()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    begun.kill()
    begun.wait()
    for file in (out, whole):
        ended = infer(
            runner,
            trained / "checkpoint_6",
            tmp_path / "none",
            f"--prompts={prompts}",
            f"--output={file}",
            **no_task,
        )
        assert ended.code == 0, ended.err
    assert out.read_bytes() == whole.read_bytes()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(12))
    assert [row["prompt"] for row in rows] == prompts.read_text().splitlines()
    assert not (tmp_path / "none").exists()


def test_answers_to_a_bucket(runner: Runner, trained: Path, inferred: Path, tmp_path: Path):
    """`file://` goes the same way as `gs://`: by fsspec, through a folder that is sent."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    checkpoint, address = trained / "checkpoint_6", f"file://{bucket}"
    ended = infer(runner, checkpoint, tmp_path, INFER_OUTPUT_DIR=address)
    assert ended.code == 0, ended.err
    assert f"wrote 5 answers to {address}/{ANSWERS}" in ended.out
    assert {file.name for file in bucket.iterdir()} == {file.name for file in inferred.iterdir()}
    assert answers(bucket) == answers(inferred)
    ended = infer(runner, checkpoint, tmp_path, INFER_OUTPUT_DIR=address)
    assert f"{address}/{ANSWERS} is complete already" in ended.err


def test_a_file_of_answers_in_a_bucket(runner: Runner, trained: Path, tmp_path: Path):
    """Begun elsewhere and cut off: only that file is brought, and gone on with."""
    prompts, here, bucket = write_prompts(tmp_path), tmp_path / "a.jsonl", tmp_path / "bucket"
    bucket.mkdir()
    no_task = {"MIXTURE_OR_TASK_NAME": "", "BATCH_SIZE": 2, "TEMPERATURE": 1.0}

    def answer(output: object, *flags: str, **bindings) -> Ended:
        given = (f"--prompts={prompts}", f"--output={output}", *flags)
        bindings = no_task | bindings
        return infer(runner, trained / "checkpoint_6", tmp_path / "none", *given, **bindings)

    assert answer(here).code == 0
    rows = here.read_text().splitlines()
    settings = json.loads(here.with_name("a.jsonl.settings.json").read_text())
    partial = [json.dumps(settings), *rows[:7]]
    (bucket / "a.jsonl.partial").write_text("".join(f"{row}\n" for row in partial))
    (bucket / "other.jsonl").write_text("not ours")
    address = f"file://{bucket}/a.jsonl"
    ended = answer(address)
    assert ended.code == 0, ended.err
    assert f"{address}: going on after 7 of 12 prompts" in ended.err
    assert (bucket / "a.jsonl").read_bytes() == here.read_bytes()
    names = {"a.jsonl", "a.jsonl.settings.json", "other.jsonl"}
    assert {file.name for file in bucket.iterdir()} == names
    ended = answer(address, MAX_DECODE_LEN=3)
    assert ended.code == 2
    assert f"{address} holds answers that were made with other settings" in ended.err
    ended = answer("nosuch://bucket/a.jsonl")
    assert ended.code == 2
    assert "--output nosuch://bucket: " in ended.err


def test_scores_of_given_targets(runner: Runner, trained: Path, tmp_path: Path):
    prompts, out = tmp_path / "options.jsonl", tmp_path / "scores.jsonl"
    rows = [{"prompt": "Red or blue?", "targets": ["red", "blue"], "id": "colour"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = (f"--prompts={prompts}", f"--output={out}")
    ended = infer(runner, trained / "checkpoint_6", tmp_path, *flags, INFER_MODE="score")
    assert ended.code == 0, ended.err
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["id"], row["targets"]) == ("colour", ["red", "blue"])
    assert len(row["scores"]) == 2
    assert max(row["scores"]) < 0
    prompts.write_text('{"prompt": "no targets"}\n')
    ended = infer(runner, trained / "checkpoint_6", tmp_path, *flags, INFER_MODE="score")
    assert ended.code == 2
    assert "mode 'score' needs targets" in ended.err


def test_conversation(runner: Runner, trained: Path, tmp_path: Path):
    typed = "What is 2 + 2?\n\ntwo \\\nlines\n"
    ended = runner.run(
        "infer",
        *command(runner, trained, tmp_path / "none", MAX_DECODE_LEN=3),
        "--interactive",
        stdin=typed,
    )
    assert ended.code == 0, ended.err
    assert ended.out.startswith("Type a prompt")
    assert ended.out.count("> ") == 4  # two prompts, an empty one, and the end


def test_nothing_to_answer(runner: Runner, trained: Path, tmp_path: Path):
    ended = infer(runner, trained / "checkpoint_6", tmp_path, MIXTURE_OR_TASK_NAME="")
    assert ended.code == 2
    assert "nothing to answer: give --prompts FILE" in ended.err
    path = write_prompts(tmp_path)
    flags = {"MIXTURE_OR_TASK_NAME": "", "INFER_OUTPUT_DIR": ""}
    ended = infer(runner, trained / "checkpoint_6", tmp_path, f"--prompts={path}", **flags)
    assert ended.code == 2
    assert "Give --output FILE" in ended.err


def test_dry_run_shows_prompts(runner: Runner, trained: Path, inferred: Path, tmp_path: Path):
    ended = infer(runner, trained / "checkpoint_6", tmp_path / "out", "--dry_run")
    assert ended.code == 0, ended.err
    for row in answers(inferred):
        assert row["inputs"]["inputs_pretokenized"] in ended.out
    assert not (tmp_path / "out").exists()


def test_foreign_checkpoint_answers(runner: Runner, test_data: Path, tmp_path: Path):
    """Straight from a Hugging Face folder, whose own dropout rate is not that of inference."""
    ended = infer(
        runner,
        test_data / "hf_tiny_t5",
        tmp_path,
        **{
            "network.T5Config.emb_dim": 128,
            "network.T5Config.num_heads": 4,
            "network.T5Config.num_encoder_layers": 2,
            "network.T5Config.num_decoder_layers": 2,
            "network.T5Config.mlp_dim": 192,
        },
    )
    assert ended.code == 0, ended.err
    assert len(answers(tmp_path)) == 5


def test_mistakes(runner: Runner, trained: Path, tmp_path: Path):
    ended = infer(runner, trained / "checkpoint_6", tmp_path / "out", FSDP=2, DATA=1)
    assert ended.code == 2
    assert "a mesh of replica=1, data=1, fsdp=2, tensor=1 does not fit 1 devices" in ended.err
    assert "Traceback" not in ended.err
    ended = infer(runner, trained / "checkpoint_9", tmp_path / "out")
    assert ended.code == 2
    assert "holds checkpoint_2, checkpoint_4, checkpoint_6" in ended.err
    assert not (tmp_path / "out").exists()
