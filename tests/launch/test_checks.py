"""What is found before anything is rented, and what the user is told to change."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

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
from tests.launch.cases import launch
from tests.launch.fake_programs import FakePrograms

DENIED = (
    "ERROR: (gcloud.storage.ls) [me@example.com] does not have permission to access b instance"
    " [theirs] (or it may not exist): me@example.com does not have storage.buckets.get access.\n"
)


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


# --- Buckets and programs ---------------------------------------------------------------------


def test_each_bucket_is_listed_once(programs: FakePrograms):
    checks.check_buckets(spec(buckets=("gs://one/folder", "gs://two")))
    listed = [words[3] for words in programs.calls("storage ls")]
    assert listed == ["gs://one", "gs://two"]


def test_a_bucket_without_permission_stops_the_launch(programs: FakePrograms):
    programs.script(("gs://theirs", [{"status": 1, "err": DENIED}]))
    with pytest.raises(LaunchError) as caught:
        checks.check_buckets(spec(buckets=("gs://ours", "gs://theirs/run")))
    message = str(caught.value)
    assert "gs://theirs cannot be read" in message and "does not have permission" in message
    assert "add-iam-policy-binding" in message


def test_buckets_are_found_in_what_the_job_is_given(programs: FakePrograms):
    programs.script(("gs://theirs", [{"status": 1, "err": DENIED}]))
    code, _, err = launch(
        *("tpu_vm", "train", "--run", "--topology=v5e-64", "--zone=us-west4-a", "--image=a/b:c"),
        *("--gin_file=models/t5/xl.gin", "--gin.MODEL_DIR=gs://theirs/run"),
    )
    assert code == 2 and "gs://theirs cannot be read" in err
    assert not programs.calls("create")


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
