"""The rendered scripts, run for real, with small programs in the place of the job and of Slurm."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
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
    fakes = FakePrograms(tmp_path / "bin", ("flan-jax", "sleep", "scontrol", "srun", "sudo", "sky"))
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


def real_srun(folder: Path, tasks: int) -> None:
    """An srun that runs tasks as Slurm's does: ends with the highest of their statuses."""
    (folder / "srun").write_text(
        "#!/usr/bin/env bash\n"
        'while [[ "$1" == --* ]]; do shift; done\n'
        "pids=(); highest=0\n"
        f"for ((i = 0; i < {tasks}; i++)); do\n"
        '  SLURM_PROCID=$i setsid "$@" & pids+=("$!")\n'
        "done\n"
        f'echo "${{pids[@]}}" >{folder}/pids\n'
        'for pid in "${pids[@]}"; do\n'
        '  code=0; wait "$pid" || code=$?; ((code > highest)) && highest=$code\n'
        "done\n"
        'exit "$highest"\n'
    )


def task(folder: Path, text: str) -> None:
    (folder / "flan-jax").write_text(f"#!/usr/bin/env bash\n{text}")


def test_a_mistake_of_one_task_is_no_reason_to_queue_again(programs: FakePrograms):
    real_srun(programs.folder, 2)
    task(programs.folder, '[ "$SLURM_PROCID" = 1 ] && exit 2\nexit 75\n')
    done = bash(written("slurm_train") / "job.sbatch", SLURM_JOB_ID="7")
    assert done.returncode == 254 and not programs.calls("scontrol")
    assert "task 1 ended with status 2" in done.stderr


@pytest.mark.parametrize("status", [75, 137, 143])
def test_tasks_that_were_lost_are_queued_again(programs: FakePrograms, status: int):
    real_srun(programs.folder, 2)
    task(programs.folder, f'[ "$SLURM_PROCID" = 1 ] && exit {status}\nexit 75\n')
    done = bash(written("slurm_train") / "job.sbatch", SLURM_JOB_ID="7")
    assert done.returncode == 0
    assert programs.calls("scontrol") == [["scontrol", "requeue", "7"]]


_SAVES = """\
trap 'echo saved >"saved_$SLURM_PROCID"; exit 75' TERM
touch "begun_$SLURM_PROCID"
while :; do /bin/sleep 0.1; done
"""


@pytest.mark.parametrize("cancelled", [False, True])
def test_tasks_that_are_told_to_end_save(programs: FakePrograms, cancelled: bool):
    """Slurm tells all processes of the tasks, and the script only when it is cancelled."""
    real_srun(programs.folder, 2)
    task(programs.folder, _SAVES)
    script = written("slurm_train") / "job.sbatch"
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
    try:
        while not (Path("begun_0").exists() and Path("begun_1").exists()):
            assert job.poll() is None
            time.sleep(0.02)
        if cancelled:
            job.send_signal(signal.SIGTERM)
        for pid in map(int, (programs.folder / "pids").read_text().split()):
            os.killpg(pid, signal.SIGTERM)
        assert job.wait(30) == (75 if cancelled else 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert Path("saved_0").exists() and Path("saved_1").exists()
    assert programs.calls("scontrol") == ([] if cancelled else [["scontrol", "requeue", "7"]])


def directives(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", path.read_text(), re.M))


def test_slurm_tells_the_tasks_and_runs_a_name_once(programs: FakePrograms):
    options = directives(written("slurm_train") / "job.sbatch")
    assert options["signal"] == "TERM@300" and options["dependency"] == "singleton"


def test_slurms_cpus_are_those_asked_for_or_those_a_build_uses(programs: FakePrograms):
    folder = written("slurm_train", "--cpus_per_task=12", "--memory=400G")
    options = directives(folder / "job.sbatch")
    assert options["cpus-per-task"] == "12" and options["mem"] == "400G"
    assert (
        "srun --kill-on-bad-exit=1 --cpus-per-task=12 bash" in (folder / "job.sbatch").read_text()
    )
    assert "cpus-per-task" not in directives(written("slurm_eval") / "job.sbatch")
    assert directives(written("slurm_build") / "job.sbatch")["cpus-per-task"] == "16"
    args, spec = read_job(
        ["slurm", "data-build"], ["s", "--out=x", "--", "--direct_num_workers", "9"]
    )
    (text,) = render(spec, args.backend).files.values()
    assert "#SBATCH --cpus-per-task=9\n" in text


def test_slurms_folders_may_have_any_name(programs: FakePrograms):
    folder = written("slurm_train", "--folder=my jobs/100%")
    assert directives(folder / "job.sbatch")["output"] == '"my jobs/100%%/train-job/log"'


def test_slurm_has_a_task_a_gpu(programs: FakePrograms):
    text = (written("slurm_train") / "job.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.M))
    assert options["nodes"] == "2" and options["ntasks-per-node"] == "8"
    assert options["gpus-per-node"] == "8" and options["time"] == "12:00:00"
    assert "#SBATCH --requeue" in text


# --- Whether a job is there -----------------------------------------------------------------


def test_skypilot_is_asked_for_jobs_of_this_name(programs: FakePrograms):
    args, spec = read_job(*split_arguments(CASES["skypilot_train"]))
    question = render(spec, args.backend).exists
    for jobs, found in ((["other"], False), (["other", "train-job"], True), ([], False)):
        rows = json.dumps([{"job_id": 1, "job_name": name} for name in jobs], indent=2)
        programs.script(("sky jobs queue", [{"out": rows}]))
        done = subprocess.run(question, capture_output=True, text=True, check=True)
        assert bool(done.stdout) == found
    programs.script(("sky jobs queue", [{"status": 1}]))
    assert subprocess.run(question, capture_output=True).returncode == 1


# --- Values ---------------------------------------------------------------------------------

VALUES = [
    "a b",
    "it's",
    '"q"',
    "$HOME",
    "`id`",
    "a\\b",
    "a\nb",
    "a\n\n\nb",
    "a  \nb",
    " a ",
    "{{ x }}",
]
VALUES += ["\u2028x", "x\x85y", "{'x': 1}", "%(x)s", "#c", "a\tb", "\\"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_scripts_hand_on_every_value_as_it_is(programs: FakePrograms, value: str):
    real_srun(programs.folder, 1)
    lines = "import os,sys,json; print(json.dumps([sys.argv[1:], os.environ['A']]))"
    task(programs.folder, f'exec {sys.executable} -c "{lines}" "$@"\n')
    cases = {
        "slurm": ("--topology=h100:1",),
        "tpu_vm": ("--topology=v5e-4", "--zone=z", "--package=p"),
        "skypilot": ("--topology=h100:1", "--package=p"),
    }
    for backend, flags in cases.items():
        args, spec = read_job([backend, "train", *flags, "--gin_file=models/t5/xl.gin"], [])
        spec = dataclasses.replace(
            spec,
            overrides=(f"X={value}",),
            environment=(("A", value),),
            name=backend.replace("_", ""),
        )
        rendered = render(spec, args.backend)
        write_files(rendered)
        environment = {}
        folder = Path(spec.files_folder)
        if backend == "skypilot":
            found = yaml.safe_load((folder / "task.yaml").read_text())
            (folder / "job.sh").write_text(found["run"])
            environment = found["envs"]
        (folder / "installed").touch()
        script = folder / ("job.sbatch" if backend == "slurm" else "job.sh")
        done = bash(script, **environment)
        assert done.returncode == 0, done.stderr
        argv, variable = json.loads(done.stdout)
        assert f"--gin.X={value}" in argv and variable == value, backend
