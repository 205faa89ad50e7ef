"""`flan-jax plan`: flags, mistakes, what it prints, its exit status, its search and its cache."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import gin
import pytest

from flan_jax.cli import main as cli
from flan_jax.cli.planning import planner
from flan_jax.config import load
from flan_jax.plan.search import XLA_SETS
from tests.tiny_runs import Runner

MODEL = """
include 'models/t5/architecture.gin'
network.T5Config.emb_dim = 64
network.T5Config.num_heads = 4
network.T5Config.num_encoder_layers = 2
network.T5Config.num_decoder_layers = 2
network.T5Config.head_dim = 16
network.T5Config.mlp_dim = 128
network.T5Config.vocab_size = 384
include 'vocabularies/t5.gin'
include 'runs/finetune.gin'
TASK_FEATURE_LENGTHS = {'inputs': 128, 'targets': 128}
BATCH_SIZE = 16
"""


class Compiled:
    """Stands for the compiler: what it was asked for, and reports by a rule."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.fits = True

    def __call__(self, job: Any) -> Compiled:
        self.jobs.append(job)
        return self

    def to_dict(self) -> dict[str, Any]:
        job = self.jobs[-1]
        tensor = [line for line in job.arguments["bindings"] if line.startswith("TENSOR = ")]
        seconds = 0.1 * int(tensor[-1].split("=")[1]) if tensor else 0.1
        return {
            "fits": self.fits,
            "hbm_gib_per_chip": 2.0 if self.fits else 40.0,
            "memory": {
                "arguments_gib": 1.0,
                "outputs_gib": 1.0,
                "aliased_gib": 1.0,
                "temporaries_gib": 1.0,
                "code_gib": 0.0,
                "total_gib": 2.0,
            },
            "held_bytes": {"parameters": 2**29, "optimizer": 2**28, "batch": 2**28},
            "largest_buffers": [] if self.fits else [{"gib": 30.0, "name": "bf16[9] big"}],
            "model_flops": 1e12,
            "step_time_s": {"serial": 2 * seconds, "overlapped": seconds},
            "mfu_serial": 0.2,
            "mfu_overlapped": 0.4,
            "compute_s": seconds,
            "communication_s": seconds,
            "hbm_s": 0.01,
            "seconds_by_category": {"matmul": seconds},
            "collectives": [
                {
                    "kind": "all-gather",
                    "payload": 2**20,
                    "group_size": 8,
                    "where": "x2",
                    "overlappable": True,
                    "algorithm": "ring",
                    "count": 3,
                    "total_seconds": seconds,
                }
            ],
            "trace_s": 1.0,
            "compile_s": 2.0,
            "peak_rss_gib": 1.5,
            "notes": [],
        }


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    one = Compiled()
    monkeypatch.setattr(planner, "read_step", one)
    monkeypatch.setattr("flan_jax.plan.preflight.require_compiler", lambda machine: None)
    return one


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in an empty folder: (exit code, stdout, stderr)."""
    (tmp_path / "model.gin").write_text(MODEL, encoding="utf-8")
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))  # where there is no vocabulary
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def run(*flags: str) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = ["plan", f"--gin_file={tmp_path}/model.gin", f"--cache_dir={tmp_path}/cache"]
        code = cli.main([*arguments, *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    gin.clear_config()


def test_a_report_as_json(plan, compiled: Compiled):
    code, out, _ = plan(
        "--topology=v4-16", "--gin.FSDP=8", "--format=json", "--gin.TRAIN_STEPS=360"
    )
    assert code == 0
    report = json.loads(out)
    assert report["fits"] is True
    assert report["hbm_gib_per_chip"] == 2.0
    assert report["hbm_limit_gib"] == 30.75
    assert report["step_time_s"] == report["step_time_serial_s"] == pytest.approx(0.2)
    assert report["step_time_overlapped_s"] == pytest.approx(0.1)
    assert (report["mfu_serial"], report["mfu_overlapped"]) == (0.2, 0.4)
    assert report["mesh"] == {"replica": 1, "data": 1, "fsdp": 8, "tensor": 1}
    assert report["tokens_per_s"]["serial"] == pytest.approx(16 * 256 / 0.2)
    assert report["hours"] == pytest.approx({"serial": 0.02, "overlapped": 0.01})
    assert report["collectives"][0]["count"] == 3
    assert report["compile_s"] == 2.0
    assert {"step_time_s", "mfu_serial", "hours"} <= set(report["estimates"])
    assert not {"fits", "hbm_gib_per_chip", "collectives"} & set(report["estimates"])
    (job,) = compiled.jobs
    assert job.topology.name == "v4:2x2x2"
    assert job.arguments["step"] == "train"
    assert json.loads(json.dumps(job.arguments)) == {**job.arguments} | {
        name: list(value) for name, value in job.arguments.items() if isinstance(value, tuple)
    }


def test_a_report_for_people(plan, compiled: Compiled):
    code, out, _ = plan("--topology=v4-16", "--gin.FSDP=8")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == (
        "step        train, 16 rows, 4,096 tokens, on v4:2x2x2 (8 chips; mesh: fsdp 8)"
    )
    assert lines[1] == "memory      fits: 2.00 of 30.75 GiB a chip"
    assert "parameters 0.50, optimizer 0.25, batch 0.25, temporaries 1.00 GiB" in lines[2]
    assert "(estimate)" in out
    assert out.splitlines()[-1].startswith("trust ")


def test_what_does_not_fit_ends_with_3_and_says_what_to_try(plan, compiled: Compiled):
    compiled.fits = False
    code, out, _ = plan("--topology=v4-16")
    assert code == 3
    assert "DOES NOT FIT: 40.00 of 30.75 GiB" in out
    assert "bf16[9] big" in out
    assert "FSDP=8 with DATA=1" in out
    assert "remat_policy = 'full'" in out
    assert "NUM_MICROBATCHES: 2 rows a device" in out


def test_the_same_program_is_compiled_once(plan, compiled: Compiled):
    plan("--topology=v4-16", "--gin.FSDP=8")
    code, out, _ = plan("--topology=v4-16", "--gin.FSDP=8", "--gin.TRAIN_STEPS=7", "--format=json")
    assert code == 0
    assert len(compiled.jobs) == 1
    assert json.loads(out)["cached"]
    assert json.loads(out)["steps"] == 7
    for other in (
        ["--gin.FSDP=4"],
        ["--gin.FSDP=8", "--gin.BATCH_SIZE=32"],
        ["--gin.FSDP=8", "--xla=no_windowed_einsum"],
        ["--gin.FSDP=8", "--step=eval"],
        ["--gin.FSDP=8", "--no_cache"],
    ):
        before = len(compiled.jobs)
        assert plan("--topology=v4-16", *other)[0] == 0
        assert len(compiled.jobs) == before + 1, other


def test_several_steps(plan, compiled: Compiled):
    flags = ["--batch_size=8", "--inputs_length=64", "--max_decode_len=32"]
    code, out, _ = plan("--topology=v4-16", "--step=eval", "--step=decode", *flags, "--format=json")
    assert code == 0
    evaluated, decoded = json.loads(out)
    assert (evaluated["step"], decoded["step"]) == ("eval", "decode")
    assert evaluated["batch_size"] == 16
    assert decoded["tokens_per_step"] == 8 * 32
    assert "hours" not in evaluated


def test_an_evaluation_is_planned_at_its_own_batch_and_lengths(
    plan, compiled: Compiled, tmp_path: Path
):
    (tmp_path / "model.gin").write_text(
        MODEL[: MODEL.index("include 'runs/finetune.gin'")]
        + "include 'runs/eval.gin'\nBATCH_SIZE = 40\nINPUTS_LENGTH = 300\nMAX_DECODE_LEN = 7\n",
        encoding="utf-8",
    )
    code, out, _ = plan("--topology=v4-16", "--gin.FSDP=8", "--format=json")
    assert code == 0, out
    report = json.loads(out)
    assert report["step"] == "decode"
    assert report["batch_size"] == 40
    assert report["tokens_per_step"] == 40 * 7


def test_a_search_ranks_and_writes_a_gin_file_that_train_reads(
    plan, compiled: Compiled, tmp_path: Path
):
    best = tmp_path / "best.gin"
    code, out, err = plan(
        "--topology=v4-16",
        "--search",
        "TENSOR=2,1,3,8",
        "FSDP=4,8",
        "DATA=1",
        "--search_xla",
        "no_windowed_einsum",
        f"--write_gin={best}",
        "--format=plain",
    )
    assert code == 0
    # Of eight, one mesh of 8 chips has tensor 1 and one tensor 2; no other uses 8 chips.
    assert len(compiled.jobs) == 2
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0][0] == "TENSOR=1 FSDP=8 DATA=1 xla=no_windowed_einsum"
    assert rows[1][0] == "TENSOR=2 FSDP=4 DATA=1 xla=no_windowed_einsum"
    assert [row[1] for row in rows] == ["yes"] * 2 + ["no"] * 6
    assert "does not fit 8 devices" in rows[2][-1]
    assert "[2/2]" in err
    text = best.read_text()
    assert "LIBTPU_INIT_ARGS='--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000'" in text
    needed = {"MODEL_DIR": "'x'", "MIXTURE_OR_TASK_NAME": "'micro'", "TRAIN_STEPS": "1"}
    bindings = [f"{name} = {value}" for name, value in needed.items()]
    config = load(
        [str(tmp_path / "model.gin"), str(best)],
        [*bindings, "INITIAL_CHECKPOINT_PATH = None"],
        required=("train",),
    )
    assert config.resolve(config.values()["partitioning.PjitPartitioner.fsdp"]) == 8


def test_a_search_without_names_tries_meshes_that_use_all_chips(plan, compiled: Compiled):
    code, out, _ = plan("--topology=v4-16", "--search", "--format=json")
    assert code == 0
    found = [(r["bindings"]["FSDP"], r["bindings"]["TENSOR"], r["fits"]) for r in json.loads(out)]
    assert sorted(found) == sorted(
        [("8", "1", True), ("4", "2", True), ("2", "4", True), ("1", "8", False)] * len(XLA_SETS)
    )
    options = [job.compiler_options for job in compiled.jobs]
    assert options == list(XLA_SETS.values()) * 3


def test_a_search_in_which_nothing_can_run_says_why(plan, compiled: Compiled):
    code, _, err = plan("--topology=v4-16", "--search", "TENSOR=3,5")
    assert code == 2
    assert "no candidate can run" in err
    assert "does not fit 8 devices" in err


def error_of(plan, *flags: str) -> str:
    code, _, err = plan(*flags)
    assert code == 2
    assert err.startswith("flan-jax: error: ")
    return err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v4-33"], "did you mean 'v4-32'"),
        (["--topology=v4-16", "--gin.FSDP=3"], "does not fit 8 devices"),
        (["--topology=v4-16", "--gin.BATCH_SIZE=12"], "batch of 12 cannot be split"),
        (["--topology=v4-16", "--xla=no_windowed"], "did you mean 'no_windowed_einsum'"),
        (["--topology=v4-16", "--gin.BATCHSIZE=3"], "BATCH_SIZE"),
        (["--topology=v4-16", "--search", "TENSR=1"], "did you mean"),
        (["--topology=v4-16", "--search", "TENSOR"], "expected NAME=VALUE,VALUE"),
        (["--topology=h100:0"], "number of GPUs"),
        (["--topology=v4-16", "--step=decode", "--batch_size=3"], "batch of 3 cannot be split"),
    ],
)
def test_mistakes(plan, compiled: Compiled, flags: list[str], message: str):
    assert message in error_of(plan, *flags)
    assert compiled.jobs == []


def test_without_the_compiler_the_extra_is_named(plan, monkeypatch: pytest.MonkeyPatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else real(name, *a)
    )
    assert "pip install 'flan_jax[plan]'" in error_of(plan, "--topology=v4-16")
    code, out, _ = plan("--topology=v4-16", "--show_sharding", "--gin.DATA=4", "--gin.TENSOR=2")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert next(row[:3] for row in rows if row[0] == "token_embedder/embedding") == [
        "token_embedder/embedding",
        "384 × 64",
        "float32",
    ]
    assert rows[-2][0].startswith("parameters: ")


def test_shardings_as_json(plan):
    code, out, _ = plan(
        "--topology=2xv4:8x8x8",
        "--show_sharding",
        "--format=json",
        "--gin.FSDP=64",
        "--gin.REPLICA=2",
    )
    assert code == 0
    shown = json.loads(out)
    assert shown["mesh"] == {"replica": 2, "data": 8, "fsdp": 64, "tensor": 1}
    by_name = {array["name"]: array for array in shown["arrays"]}
    embedding = by_name["token_embedder/embedding"]
    assert embedding["spec"] == ["tensor", "fsdp"]
    assert embedding["bytes_per_device"] == 384 * 4
    assert shown["bytes_per_device"]["parameters"] == sum(
        array["bytes_per_device"] for name, array in by_name.items() if "optimizer" not in name
    )


def test_the_configuration_can_be_printed_without_topology(plan):
    code, out, _ = plan("--print_config")
    assert code == 0
    assert "BATCH_SIZE = 16" in out


def test_a_topology_and_a_gin_file_are_required(capsys: pytest.CaptureFixture[str]):
    for flags, missing in ((["--topology=v4-8"], "--gin_file"), (["--gin_file=x"], "--topology")):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["plan", *flags])
        assert stopped.value.code == 2
        assert f"{missing} is required" in capsys.readouterr().err


def test_the_help_says_what_is_an_estimate_and_what_3_means(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    text = capsys.readouterr().out
    assert "estimates" in text
    assert "3 if one does not" in text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="make plan-extra")
def test_a_tiny_t5_is_compiled_for_a_pod(runner: Runner, tmp_path: Path):
    flags = [
        "plan",
        "--gin_file=models/t5/tiny.gin",
        "--gin_file=runs/finetune.gin",
        "--gin.ACTIVATION_DTYPE=bfloat16",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 128}",
        "--gin.BATCH_SIZE=8",
        "--gin.DROPOUT_RATE=0.0",
        "--gin.FSDP=4",
        "--topology=v4-8",
        f"--cache_dir={tmp_path}",
        "--format=json",
    ]
    ended = runner.run(*flags)
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["fits"]
    assert 0 < report["hbm_gib_per_chip"] < 1 < report["hbm_limit_gib"] == 30.75
    assert report["memory"]["parameters_gib"] == pytest.approx(0.9e6 * 4 / 4 / 2**30, rel=0.1)
    assert 0 < report["step_time_overlapped_s"] <= report["step_time_serial_s"] < 0.1
    assert 0 < report["mfu_serial"] <= report["mfu_overlapped"] < 1
    assert {"all-gather"} <= {group["kind"] for group in report["collectives"]}
    again = runner.run(*flags)
    assert json.loads(again.out) == {**report, "cached": True}


@pytest.mark.slow
def test_a_tiny_t5_is_planned_for_gpus(runner: Runner, tmp_path: Path):
    ended = runner.run(
        "plan",
        f"--gin_file={runner.tiny}",
        "--gin.FSDP=4",
        "--gin.DROPOUT_RATE=0.0",
        "--topology=h100:4",
        f"--cache_dir={tmp_path}",
        "--format=json",
    )
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["rough"]
    assert report["fits"]
    assert 0 < report["memory"]["parameters_gib"] < report["hbm_gib_per_chip"] < 1
    assert 0 < report["step_time_overlapped_s"] < report["step_time_serial_s"] < 0.1
    assert {group["where"] for group in report["collectives"]} == {"NVLink"}
