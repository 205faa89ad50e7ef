"""`flan-jax train`: mistakes at start-up, what is printed, and what is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gin
import pytest

from flan_jax.cli import main as cli
from tests.tiny_runs import ROOT, Runner, checkpoint_steps, rows
from tests.train.test_writers import scalars


@pytest.fixture
def command(runner: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs `train` in this process: (exit code, stdout, stderr); nothing may be written."""

    def run(*flags: str, **bindings) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([*runner.train_flags(tmp_path / "model", **bindings), *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    gin.clear_config()


def error_of(command, *flags: str, **bindings) -> str:
    code, _, error = command(*flags, **bindings)
    assert code == 2
    assert error.startswith("flan-jax: error: ")
    assert "In call to configurable" not in error
    return error


def test_mistakes_in_gin_files_are_listed_before_jax_is_touched(runner: Runner, tmp_path: Path):
    bad = tmp_path / "bad.gin"
    bad.write_text(
        f"include '{runner.tiny}'\n"
        "train_script.train.total_stps = 5\n"
        "network.T5Config.emb_dim = 'x'\n"
        "\n"
        "NOPE\n"
    )
    # On a platform that does not exist, using JAX would be another error.
    ended = subprocess.run(
        [sys.executable, "-m", "flan_jax", "train", f"--gin_file={bad}", "--gin.BATCHSIZE=3"],
        env=os.environ | {"JAX_PLATFORMS": "no_such_platform"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert lines[0] == "flan-jax: error: 5 problems in the gin configuration:"
    assert lines[1].startswith(
        f"{bad}:2: train_script.train has no parameter 'total_stps'; did you"
    )
    assert (
        lines[2]
        == f"{bad}:3: wrong type for network.T5Config.emb_dim: found 'x' (str), expected int"
    )
    assert lines[3].startswith(f"{bad}:5: syntax error")
    rest = "\n".join(lines[4:])
    assert "MODEL_DIR is required and not set" in rest
    assert "BATCHSIZE" in rest
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (
            {"MIXTURE_OR_TASK_NAME": "micr"},
            "no mixture or task is called 'micr'; did you mean 'micro'",
        ),
        (
            {"MIXTURE_OR_TASK_NAME": "micro_held_out"},
            "'micro_held_out' holds tasks that are held out from training (",
        ),
        (
            {"MIXTURE_OR_TASK_NAME": "micro_third_item"},
            "held out from training (micro_third_item)",
        ),
        ({"train.stats_period": 0}, "train.stats_period must be >= 1, found 0"),
        (
            {"network.T5Config.vocab_size": 256},
            "input_vocabulary has 384 ids, the model's vocab_size is only 256",
        ),
        ({"DATA": 3}, "a mesh of replica=1, data=3, fsdp=1, tensor=1 does not fit 1 devices"),
        ({"NUM_MICROBATCHES": 3}, "BATCH_SIZE 8 must be a multiple of"),
        (
            {"MIXTURE_OR_TASK_MODULE": "no_such_tasks"},
            "module 'no_such_tasks' (MIXTURE_OR_TASK_MODULE)",
        ),
        ({"TASK_FEATURE_LENGTHS": {"inputs": 8}}, "TASK_FEATURE_LENGTHS must be like"),
        ({"USE_CACHED_TASKS": True}, "set it to False"),
        (
            {"utils.create_learning_rate_scheduler.factors": "constnt"},
            "unknown learning rate factor 'constnt' in 'constnt'",
        ),
        ({"DROPOUT_RATE": 1.5}, "T5Config.dropout_rate must be in [0, 1), found 1.5"),
        ({"LABEL_SMOOTHING": 1.0}, "label_smoothing must be in [0, 1), found 1.0"),
        ({"LOSS_NORMALIZING_FACTOR": "NUM_REAL"}, "loss_normalizing_factor must be None, a number"),
        ({"SAVE_PERIOD": 0}, "utils.SaveCheckpointConfig.period must be >= 1, found 0"),
        ({"FSDP": -1}, "only one mesh size may be -1"),
        ({"INITIAL_CHECKPOINT_PATH": "/no/such/place"}, "checkpoint /no/such/place does not exist"),
    ],
    ids=lambda value: next(iter(value)).rpartition(".")[2] if isinstance(value, dict) else "",
)
def test_wrong_values(command, tmp_path: Path, bindings, message):
    assert message in error_of(command, **bindings)
    assert checkpoint_steps(tmp_path / "model") == []
    assert not (tmp_path / "model" / "config.gin").exists()


def test_missing_vocabulary(command):
    error = error_of(
        command,
        "--gin.VOCABULARY=@seqio.SentencePieceVocabulary()",
        "--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='no/such.model'",
    )
    assert "SentencePiece model no/such.model does not exist (looked in " in error
    assert "FLAN_JAX_DATA" in error


@pytest.mark.slow
def test_batch_that_does_not_divide_over_the_mesh(runner: Runner, tmp_path: Path):
    ended = runner.train(tmp_path / "model", devices=8, BATCH_SIZE=12, DATA=4, FSDP=2)
    assert ended.code == 2
    assert "a batch of 12 cannot be split over ('replica', 'data', 'fsdp') = 8 parts" in ended.err
    assert "make the batch size a multiple of 8" in ended.err
    assert not (tmp_path / "model").exists()


def test_print_config_is_a_gin_file(command, tmp_path: Path, capsys):
    code, text, error = command("--print_config", BATCH_SIZE=24)
    assert (code, error) == (0, "")
    assert "BATCH_SIZE = 24  # from command line: --gin.BATCH_SIZE=24" in text
    assert not (tmp_path / "model").exists()
    saved = tmp_path / "saved.gin"
    saved.write_text(text)
    assert cli.main(["train", f"--gin_file={saved}", "--print_config"]) == 0
    again = capsys.readouterr().out

    def bindings(text: str) -> list[str]:
        return [
            line.partition("  # ")[0] for line in text.splitlines() if line[:1] not in ("#", "")
        ]

    assert bindings(again) == bindings(text)


def test_dry_run_tells_everything_and_writes_nothing(command, tmp_path: Path):
    code, text, _ = command("--dry_run", TRAIN_STEPS=77)
    assert code == 0
    for expected in (
        "micro: ",
        "encoder_input_tokens [8, 128] int32",
        "padding in the first batch",
        "mesh        replica 1, data 1, fsdp 1, tensor 1: 1 x cpu, 1 process(es)",
        "parameters  43,360",
        "token_embedder/embedding",
        "[384, 32] float32 P('tensor', 'fsdp')",
        "per device  parameters 0.2 MiB trained, 0.0 MiB frozen; gradients 0.2 MiB, ",
        "starts from random weights",
        f"saves       every 2 steps to {tmp_path}/model/checkpoint_<step>",
        "ends at     step 77",
    ):
        assert expected in text
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_dry_run_finds_the_checkpoint_to_go_on_from(runner: Runner, trained: Path):
    before = sorted(trained.rglob("*"))
    ended = runner.train(trained, "--dry_run", TRAIN_STEPS_RELATIVE=5)
    assert ended.code == 0, ended.err
    assert f"starts from {trained}/checkpoint_6\n" in ended.out
    assert "ends        5 steps after the step of the initial checkpoint" in ended.out
    assert sorted(trained.rglob("*")) == before


def test_gin_file_is_required(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train"])
    assert ended.value.code == 2
    assert "--gin_file is required" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_run_writes(trained: Path):
    assert checkpoint_steps(trained) == [2, 4, 6]
    found = rows(trained)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for row in found:
        assert {
            "loss",
            "accuracy",
            "tokens_per_second",
            "steps_per_second",
            "inputs_padding",
            "targets_padding",
            "grad_norm",
            "learning_rate",
            "target_tokens",
            "time",
        } < set(row)
        assert row["loss"] > 0 and row["grad_norm"] > 0 and row["tokens_per_second"] > 0
        assert 0 <= row["accuracy"] <= 1
        assert 0 < row["inputs_padding"] < 1
        assert row["learning_rate"] == pytest.approx(0.1)
        # The tasks' losses are the loss, taken apart.
        tasks = row["tasks"]
        assert len(tasks) > 1
        assert all(name.startswith("micro_") for name in tasks)
        assert sum(task["target_tokens"] for task in tasks.values()) == row["target_tokens"]
        total = sum(task["loss"] * task["target_tokens"] for task in tasks.values())
        assert total == pytest.approx(row["loss"] * row["target_tokens"], rel=1e-4)
    assert found[-1]["loss"] < found[0]["loss"]
    in_events = scalars(trained / "train")
    for row in found:
        assert in_events["loss", row["step"]] == pytest.approx(row["loss"])
        assert in_events["grad_norm", row["step"]] == pytest.approx(row["grad_norm"])
    validation = rows(trained, "training_eval/micro")
    assert [row["step"] for row in validation] == [4, 6]
    assert {"loss", "accuracy", "tasks"} < set(validation[0])
    assert ("loss", 6) in scalars(trained / "training_eval" / "micro")


@pytest.mark.slow
def test_what_a_run_says(trained: Path):
    """Standard error is no terminal here: plain lines."""
    lines = (trained / "stderr.txt").read_text().splitlines()
    assert lines[0].startswith("step 1/6  loss ")
    assert any(line.startswith("step 4  validation loss ") for line in lines)
    assert any(line.startswith("step 6/6  loss ") for line in lines)
    assert lines[-1].startswith("finished at step 6; parameters sha256 ")
    assert "\x1b" not in "".join(lines)


@pytest.mark.slow
def test_config_beside_the_checkpoints_makes_the_same_run(
    runner: Runner, trained: Path, tmp_path: Path
):
    """Trained anew by the config that was saved, not by the files it came from."""
    assert "MODEL_DIR" in (trained / "config.gin").read_text()
    ended = runner.run(
        "train",
        f"--gin_file={trained}/config.gin",
        f"--gin.train_script.train.model_dir={str(tmp_path)!r}",
    )
    assert ended.code == 0, ended.err
    times = ("time", "tokens_per_second", "steps_per_second")
    for ours, theirs in zip(rows(tmp_path), rows(trained), strict=True):
        assert {k: v for k, v in ours.items() if k not in times} == {
            k: v for k, v in theirs.items() if k not in times
        }


@pytest.mark.slow
def test_going_on_with_other_data_is_refused(runner: Runner, trained: Path, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "model")
    ended = runner.train(tmp_path / "model", TRAIN_STEPS=8, BATCH_SIZE=4, RANDOM_SEED=1)
    assert ended.code == 2
    assert "begun on other data" in ended.err
    assert "  batch_size: 8 before, 4 now" in ended.err
    assert "  random_seed: 0 before, 1 now" in ended.err
    assert checkpoint_steps(tmp_path / "model") == checkpoint_steps(trained)


@pytest.mark.slow
def test_checkpoints_keep_policy_and_run_document(runner: Runner, tmp_path: Path):
    ended = runner.train(tmp_path, KEEP_CHECKPOINTS=1, EVAL_PERIOD=0)
    assert ended.code == 0, ended.err
    assert checkpoint_steps(tmp_path) == [6]
    (path,) = (tmp_path / "checkpoint_6" / "run").glob("metadata*")
    document = json.loads(path.read_text())
    assert document["start_step"] == 0
    assert document["initial_checkpoint"] is None
    assert document["data_state"]
    assert document["config"] == (tmp_path / "config.gin").read_text()
