"""The rendered scripts, run for real, with small programs in the place of the job and of Slurm."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from flan_jax.cli.launch import read_job, split_arguments
from flan_jax.launch import render
from flan_jax.launch.execute import write_files
from tests.launch.cases import CASES
from tests.launch.fake_programs import FakePrograms


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    (tmp_path / "bin").mkdir()
    fakes = FakePrograms(tmp_path / "bin", ("flan-jax", "sleep", "scontrol", "srun", "sudo"))
    monkeypatch.setenv("PATH", fakes.path)
    monkeypatch.chdir(tmp_path)
    return fakes


def written(name: str, *flags: str) -> Path:
    """The folder of the files of a case."""
    args, spec = read_job(*split_arguments((*CASES[name], *flags)))
    write_files(render(spec, args.backend))
    return Path(spec.files_folder)


def bash(script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


# --- TPU VMs --------------------------------------------------------------------------------


def test_a_tpu_vm_starts_the_job_again_after_the_loss_of_a_process(programs: FakePrograms):
    programs.script(("docker run", [{"status": 75}, {"status": 137}, {"out": "done\n"}]))
    folder = written("tpu_vm_spot")
    done = bash(folder / "start.sh")
    assert done.returncode == 0, done.stderr
    assert "status 75: start 2, from the newest checkpoint" in done.stdout
    assert "status 137: start 3" in done.stdout and "done" in done.stdout
    assert (folder / "status").read_text() == "0\n"
    runs = programs.calls("docker run")
    assert len(runs) == 3
    assert "--multiprocess" in runs[0] and "--status_when_stopped=75" in runs[0]
    assert runs[0][runs[0].index("--env") + 1] == "A"


def test_a_tpu_vm_that_has_ended_is_not_started_again(programs: FakePrograms):
    programs.script(("docker run", [{"status": 2, "err": "a mistake\n"}]))
    folder = written("tpu_vm_spot")
    first, second = bash(folder / "start.sh"), bash(folder / "start.sh")
    assert first.returncode == second.returncode == 2
    assert "a mistake" in first.stdout and "a mistake" in second.stdout
    assert len(programs.calls("docker run")) == 1


def test_a_second_connection_joins_the_running_job(programs: FakePrograms):
    programs.script(("docker run", [{"seconds": 3, "out": "done\n"}]))
    folder = written("tpu_vm_spot")
    first = subprocess.Popen(["bash", folder / "start.sh"], stdout=subprocess.DEVNULL)
    while not programs.calls("docker run"):
        time.sleep(0.02)
    first.kill()  # the connection is lost
    first.wait()
    second = bash(folder / "start.sh")
    assert second.returncode == 0 and "done" in second.stdout
    assert len(programs.calls("docker run")) == 1


def test_restarts_on_a_tpu_vm_are_limited(programs: FakePrograms):
    programs.script(("docker run", [{"status": 75}]))
    done = bash(written("tpu_vm_spot", "--restarts=1") / "start.sh")
    assert done.returncode == 75
    assert "status 75 after 1 restarts: given up" in done.stdout
    assert len(programs.calls("docker run")) == 2


# --- SkyPilot -------------------------------------------------------------------------------


def test_skypilots_task_starts_the_job_again(programs: FakePrograms):
    programs.script(("flan-jax train", [{"status": 75}, {}]))
    task = yaml.safe_load((written("skypilot_spot") / "task.yaml").read_text())
    Path("run.sh").write_text(task["run"])
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    done = bash(Path("run.sh"), SKYPILOT_NODE_RANK="1", **nodes)
    assert done.returncode == 0, done.stderr
    first, _ = programs.calls("flan-jax train")
    assert "--coordinator_address=10.0.0.1:29500" in first
    assert "--process_count=2" in first and "--process_index=1" in first


# --- Slurm ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, "", False), (75, "", True), (137, "9", True), (75, "10", False), (2, "", False)],
)
def test_slurm_queues_again_what_a_new_start_would_mend(
    programs: FakePrograms, status: int, restarts: str, requeued: bool
):
    programs.script(("srun", [{"status": status}]))
    environment = {"SLURM_JOB_ID": "7"}
    if restarts:
        environment["SLURM_RESTART_COUNT"] = restarts
    done = bash(written("slurm_train") / "job.sbatch", **environment)
    assert programs.calls("scontrol") == ([["scontrol", "requeue", "7"]] if requeued else [])
    assert done.returncode == (0 if requeued else status)


def test_slurm_passes_the_end_of_its_time_on_and_queues_again(tmp_path: Path, programs):
    task = tmp_path / "bin" / "srun"
    task.write_text(
        "#!/usr/bin/env bash\n"
        f"trap 'echo saved >{tmp_path}/saved; exit 75' TERM\n"
        f"touch {tmp_path}/begun\n"
        "while :; do /bin/sleep 0.1; done\n"
    )
    script = written("slurm_train") / "job.sbatch"
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
    try:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert programs.calls("scontrol") == [["scontrol", "requeue", "7"]]


def test_slurm_has_a_task_a_gpu(programs: FakePrograms):
    text = (written("slurm_train") / "job.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.M))
    assert options["nodes"] == "2" and options["ntasks-per-node"] == "8"
    assert options["gpus-per-node"] == "8" and options["time"] == "12:00:00"
    assert "#SBATCH --requeue" in text
