"""What is found before anything is rented, and what the user is told to change."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.cli.launch import read_job
from flan_jax.config.flags import quote_if_bare
from flan_jax.config.search_paths import package_gin_folders
from flan_jax.launch import (
    JobSpec,
    LaunchError,
    Place,
    RetryPolicy,
    Software,
    checks,
    parse_accelerator,
    render,
)
from flan_jax.launch.bucket_access import BucketUse
from flan_jax.launch.job_values import check_outputs, decode_flags, override_values, read_values
from flan_jax.plan.topologies import Topology
from tests.launch.cases import launch
from tests.launch.fake_programs import FakePrograms


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    folder = tmp_path / "bin"
    folder.mkdir()
    fakes = FakePrograms(folder, ("gcloud", "planner"))
    monkeypatch.setenv("PATH", fakes.path)
    monkeypatch.chdir(tmp_path)
    return fakes


def spec(**changes) -> JobSpec:
    job = JobSpec(
        "xl",
        "train",
        gin_files=("models/t5/xl.gin",),
        accelerator=parse_accelerator("v5e-64"),
        software=Software(image="a/b:c"),
        place=Place(zone="us-west4-a"),
        retry=RetryPolicy(attempts=1),
    )
    return dataclasses.replace(job, **changes)


# --- Buckets, files and programs ------------------------------------------------------------


def uses(job: JobSpec, text: str = "") -> dict[str, bool]:
    found = checks.bucket_uses(job, {**override_values(job), **read_values(text)})
    return {use.bucket: use.written for use in found}


def test_buckets_are_those_of_flags_and_files_and_some_are_written_to():
    job = spec(
        buckets=("gs://given/x",),
        overrides=("MODEL_DIR=gs://run/a", "INITIAL_CHECKPOINT_PATH='gs://start/b'"),
    )
    text = "PATHS = ['gs://listed/1', 'gs://run/2']\neval_script.evaluate.output_dir = %SCORES\n"
    assert uses(job, f"{text}SCORES = 'gs://scores/x'\n") == {
        "given": False,
        "run": True,
        "scores": True,
        "start": False,
        "listed": False,
    }


def test_a_build_writes_to_its_exchange():
    arguments = (
        "flan2022",
        "--out=/s",
        "--exchange",
        "gs://ex/b",
        "--",
        "--temp_location=gs://tmp",
    )
    job = JobSpec("build", "data-build", arguments=(*arguments, "--input=gs://in/x"))
    assert uses(job) == {"ex": True, "tmp": True, "in": False}


def test_buckets_in_gin_files_are_asked_for(programs: FakePrograms, monkeypatch):
    asked = []
    monkeypatch.setattr(checks, "check_buckets", lambda job, found: asked.extend(found) or [])
    Path("mine.gin").write_text("MODEL_DIR = 'gs://in-a-file/run'\n")
    job = spec(gin_files=("models/t5/xl.gin", "mine.gin"))
    monkeypatch.setattr(
        checks, "check_configuration", lambda job: read_values(Path("mine.gin").read_text())
    )
    checks.check(job, render(job, "tpu_vm"), plan=False)
    assert asked == [BucketUse("in-a-file", True)]
    asked.clear()
    checks.check(job, render(job, "tpu_vm"), plan=False, access=False)
    assert asked == []


def test_a_wheel_that_is_not_there_is_missed_before_anything_is_rented(programs: FakePrograms):
    Path("dist").mkdir()
    Path("dist/flan_jax-0.1.0-py3-none-any.whl").touch()
    with pytest.raises(
        LaunchError, match=r"none\.whl: no such file; there is dist/flan_jax-0\.1\.0"
    ):
        checks.check_package(spec(software=Software(package="dist/none.whl")))
    with pytest.raises(LaunchError, match="do not have this folder: build a wheel"):
        checks.check_package(spec(software=Software(package="./flan_jax")))
    for good in ("dist/flan_jax-0.1.0-py3-none-any.whl", "flan_jax==1", "https://a/b.whl"):
        checks.check_package(spec(software=Software(package=good)))


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="gcloud not found on the PATH"):
        checks.check_programs(render(spec(), "tpu_vm"))


# --- The plan -------------------------------------------------------------------------------


@pytest.fixture
def planner(programs: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    monkeypatch.setattr(checks, "_FLAN_JAX", ("planner",))
    return programs


def report(**changes) -> str:
    found = {"step": "train", "fits": True, "hbm_gib_per_chip": 9.25, "hbm_limit_gib": 15.75}
    return json.dumps(found | changes)


def test_a_step_that_fits_is_said_to(planner: FakePrograms):
    planner.script(("planner plan", [{"out": report()}]))
    note = checks.check_plan(spec(overrides=("FSDP=64",)))
    assert note == "the train step fits v5e:8x8: 9.2 of 15.8 GiB a device"
    (words,) = planner.calls()
    assert "--topology=v5e:8x8" in words and "--gin.FSDP=64" in words


def test_a_step_that_does_not_fit_stops_the_launch(planner: FakePrograms):
    out = report(fits=False, hbm_gib_per_chip=31.0, hints=["more FSDP"])
    planner.script(("planner plan", [{"status": 3, "out": out}]))
    with pytest.raises(LaunchError) as caught:
        checks.check_plan(spec())
    message = str(caught.value)
    assert "does not fit v5e:8x8: 31.0 of 15.8 GiB a device" in message
    assert "more FSDP" in message and "--no_plan" in message


def test_what_cannot_be_planned_stops_the_launch(planner: FakePrograms):
    error = "flan-jax: error: PjitPartitioner: mesh sizes do not multiply\n"
    planner.script(("planner plan", [{"status": 2, "err": f"W0000 a note\n{error}"}]))
    with pytest.raises(LaunchError, match="cannot be planned for v5e:8x8:\nPjitPartitioner: mesh"):
        checks.check_plan(spec())


def test_without_the_compiler_it_says_that_nothing_was_checked(
    programs: FakePrograms, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    job = spec()
    notes = checks.check(job, render(job, "tpu_vm"), configuration=False)
    assert any("libtpu is not installed: pip install 'flan_jax[plan]'" in note for note in notes)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_model_too_large_for_its_slice_is_not_launched(programs: FakePrograms):
    code, _, err = launch(
        *("tpu_vm", "train", "--run", "--topology=v5e-1", "--zone=us-central2-b", "--no_check"),
        *("--image=a/b:c", "--gin_file=models/t5/xxl.gin", "--gin_file=runs/flan_palm.gin"),
    )
    assert code == 2
    assert "does not fit v5e:1x1" in err and "larger --topology" in err
    assert not programs.calls("create")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_an_evaluation_of_the_suite_is_planned_with_its_own_shape(programs: FakePrograms):
    arguments = (
        *("skypilot", "eval", "--check_plan", "--topology=v5e-8", "--package=flan_jax==0.1.0"),
        *("--gin_file=models/t5/small.gin", "--gin_file=vocabularies/t5.gin"),
        *("--gin_file=eval/flan_suite.gin", "--gin.CHECKPOINT=gs://b/run"),
        "--gin.EVAL_OUTPUT_DIR=gs://b/scores",
    )
    code, out, err = launch(*arguments)
    assert code == 0, err
    assert "# the decode step fits v5e:2x4: " in out


SUITE = """
BATCH_SIZE = 64
evaluation.GenerationEvaluator.batch_size = %BATCH_SIZE
evaluation.GenerationEvaluator.inputs_length = 2048
evaluation.GenerationEvaluator.rows_per_device = 16
direct/evaluation.BenchmarkProtocol.max_decode_len = 64
cot/evaluation.BenchmarkProtocol.max_decode_len = 512
"""


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        ("", 128),
        ("partitioning.PjitPartitioner.tensor = 2\n", 64),
        ("partitioning.PjitPartitioner.num_partitions = 4\n", 32),
        ("a/evaluation.BenchmarkProtocol.paths = 40\n", 320),
        ("evaluation.GenerationEvaluator.rows_per_device = None\n", 64),
    ],
)
def test_the_shape_of_an_evaluation_is_that_of_its_largest_batch(more: str, rows: int):
    topology = parse_accelerator("v5e-8")
    assert isinstance(topology, Topology)
    found = decode_flags(read_values(SUITE + more), topology)
    assert found == (f"--batch_size={rows}", "--inputs_length=2048", "--max_decode_len=512")


def test_an_evaluation_that_does_not_say_its_shape_is_not_planned(programs: FakePrograms):
    job = spec(command="eval")
    notes = checks.check(job, render(job, "tpu_vm"), configuration=False, access=False)
    assert "the configuration does not say how long prompts and answers are" in notes[-1]


# --- Configuration ----------------------------------------------------------------------------


@pytest.mark.slow
def test_mistakes_in_gin_are_found_by_the_jobs_own_command(programs: FakePrograms):
    code, _, err = launch(
        *("tpu_vm", "train", "--run", "--topology=v5e-64", "--zone=us-west4-a", "--image=a/b:c"),
        *("--gin_file=models/t5/xll.gin", "--gin_file=runs/finetune.gin"),
        "--gin.utils.DatasetConfig.batch_sise=3",
    )
    assert code == 2
    assert "the job's configuration is wrong" in err
    assert "did you mean 'models/t5/xl.gin'" in err
    assert "batch_size" in err
    assert not programs.calls("create")


def test_arguments_of_data_build_are_parsed():
    job = JobSpec("build", "data-build", arguments=("flan2022", "--out=/x", "--jbs=3"))
    with pytest.raises(LaunchError, match=r"unrecognized arguments: --jbs=3"):
        checks.check_configuration(job)
    good = dataclasses.replace(
        job, arguments=("flan2022", "--out=/x", "--runner=beam", "--", "--runner=FlinkRunner")
    )
    checks.check_configuration(good)


REMOTE = {
    "tpu_vm": ("--topology=v5e-64", "--zone=z", "--image=a/b:c"),
    "gke": ("--topology=v5e-64", "--image=a/b:c"),
    "skypilot": ("--topology=h100:8", "--image=a/b:c"),
}
GIN = "--gin_file=models/t5/xl.gin"


@pytest.mark.parametrize("backend", REMOTE)
@pytest.mark.parametrize(
    ("folder", "meant"),
    [
        ("/runs/x", ""),
        ("runs/x", ""),
        ("gs:/b/x", "; did you mean 'gs://b/x'?"),
        ("gcs://b/x", "; did you mean 'gs://b/x'?"),
        ("GS://b/x", "; did you mean 'gs://b/x'?"),
        ("gs:///b/x", "; did you mean 'gs://b/x'?"),
    ],
)
def test_folders_that_machines_lose_are_refused(backend: str, folder: str, meant: str):
    job = (backend, "train", *REMOTE[backend], GIN, "--no_check")
    code, _, err = launch(*job, f"--gin.MODEL_DIR={folder}")
    assert code == 2
    assert f"MODEL_DIR='{folder}' is a folder of machines that lose it" in err
    assert err.strip().endswith(f"such as gs://my-bucket/run{meant}")
    assert launch(*job, "--gin.MODEL_DIR=gs://b/x")[0] == 0


def test_evaluations_on_other_machines_need_a_folder_in_a_bucket():
    with pytest.raises(LaunchError, match="EVAL_OUTPUT_DIR is not set"):
        check_outputs({"EVAL_OUTPUT_DIR": "", "eval_script.evaluate.output_dir": ""})
    assert launch("local", "train", GIN, "--no_check", "--gin.MODEL_DIR=runs/x")[0] == 0


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch):
    text = "BATCH_SIZE = 2\ntrain/utils.DatasetConfig.batch_size = %BATCH_SIZE\n"
    monkeypatch.setattr(checks, "check_configuration", lambda job: read_values(text))
    code, _, err = launch("local", "train", GIN, "--processes=3")
    assert code == 2
    assert "batch_size = 2 (BATCH_SIZE) cannot be split over 3 processes" in err
    assert launch("local", "train", GIN, "--processes=2")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gke", "--reserved", "--topology=v5e-8", "--image=i"), "--reserved: tpu_vm"),
        (("gke", "--processes=2", "--topology=v5e-8", "--image=i"), "--processes: local"),
        (("gke", "--cluster=c", "--topology=v5e-8", "--image=i"), "--cluster: gke --xpk"),
        (("gke", "--package=p", "--topology=v5e-8"), "--package: tpu_vm, skypilot"),
        (("slurm", "--spot"), "--spot: tpu_vm, gke, gke --xpk, skypilot"),
        (("slurm", "--reserved"), "--reserved: tpu_vm"),
        (("local", "--spot"), "--spot: tpu_vm"),
        (("local", "--image=a"), "--image: tpu_vm"),
        (("local", "--partition=p"), "--partition: slurm"),
        (("tpu_vm", "--image=a", "--package=b"), "give one"),
        (("slurm", "--account=a\nb"), "--account='a\\nb': expected one line"),
        (("slurm", "--memory=lots"), "expected a size such as 64G"),
        (("local", "--topology=0xv5e-64"), "expected one slice or more"),
        (("local", "--topology=h100:2", "--env=CUDA_VISIBLE_DEVICES=4"), "names 1 GPUs"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_flags_that_would_be_ignored_are_refused(arguments: tuple[str, ...], message: str):
    backend, *flags = arguments
    code, _, err = launch(backend, "train", GIN, "--no_check", *flags)
    assert code == 2
    assert message in err


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    job = ("local", "train", "--topology=h100:2", GIN)
    args, found = read_job(job, [])
    processes = render(found, args.backend).processes
    assert processes is not None
    assert [each["CUDA_VISIBLE_DEVICES"] for each in processes.environments] == ["4", "5"]
    _, found = read_job((*job, "--env=CUDA_VISIBLE_DEVICES=7,1", "--processes=1"), [])
    processes = render(found, "local").processes
    assert processes is not None
    assert [each["CUDA_VISIBLE_DEVICES"] for each in processes.environments] == ["7,1"]


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("gs://b/x", "gs://b/x"),
        ("'gs://b/x'", "gs://b/x"),
        ("'1.5e3'", "'1.5e3'"),
        ("'-1.5'", "'-1.5'"),
        ("'1'", "'1'"),
        ("'None'", "'None'"),
        ("-1.5", "-1.5"),
        ("None", "None"),
    ],
)
def test_values_mean_on_the_machines_what_they_mean_here(typed: str, written: str):
    _, found = read_job(("local", "train", GIN, f"--gin.X={typed}"), [])
    assert found.overrides == (f"X={written}",)
    read = override_values(found)["X"]
    assert read == read_values(f"X = {quote_if_bare(typed)}\n")["X"]


# --- Files of one's own ---------------------------------------------------------------------


def remote(*flags: str) -> JobSpec:
    arguments = ("gke", "train", "--topology=v5e-8", "--image=a/b:c", *flags)
    return read_job(arguments, [])[1]


def test_files_named_by_paths_of_this_machine_are_found_on_others(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/run.gin").write_text("include 'mine/base.gin'\ninclude 'runs/finetune.gin'\n")
    Path("mine/base.gin").write_text("BATCH_SIZE = 8\n")
    own = package_gin_folders()[0] / "models/t5/xl.gin"
    job = remote(f"--gin_file={own}", f"--gin_file={tmp_path}/mine/run.gin")
    assert job.gin_files == ("models/t5/xl.gin", "mine/run.gin")
    assert [name for name, _ in job.attachments] == ["mine/base.gin", "mine/run.gin"]
    job = remote("--gin_search_paths=mine", f"--gin_file={tmp_path}/mine/run.gin")
    assert job.gin_files == ("run.gin",)


def test_files_are_attached_by_the_name_they_are_asked_for_by(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/run.gin").write_text("BATCH_SIZE = 8\n")
    job = remote("--gin_search_paths=.,mine", "--gin_file=run.gin")
    assert job.attachments == (("run.gin", "BATCH_SIZE = 8\n"),)


def test_files_that_no_other_machine_could_find_are_refused(tmp_path: Path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "out.gin").write_text("A = 1\n")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(LaunchError, match="give --gin_search_paths with this file's folder"):
        remote(f"--gin_file={tmp_path}/out.gin")
    Path("run.gin").write_text(f"include '{tmp_path}/out.gin'\n")
    with pytest.raises(LaunchError, match="name the file relative to a search folder"):
        remote("--gin_file=run.gin")


# --- Imports --------------------------------------------------------------------------------


def test_launching_imports_neither_jax_nor_tensorflow(tmp_path: Path):
    code = (
        "import sys\n"
        "from flan_jax.cli.main import main\n"
        "main(['launch', 'gke', 'train', '--image=a/b:c', '--topology=v5e-64', '--no_check',"
        " '--gin_file=models/t5/xl.gin'])\n"
        "heavy = {'jax', 'jaxlib', 'flax', 'tensorflow', 'seqio', 'grain', 'orbax', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "import flan_jax.launch.supervise, flan_jax.launch.checks\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert "kind: JobSet" in done.stdout
