"""`--run` with engines that follow the job themselves: submitted once, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flan_jax.launch import LaunchError
from tests.launch.fake_jobs import job, run
from tests.launch.fake_programs import FakePrograms

SUBMITTED = [
    ("gke", "v5e-16", "kubectl --namespace=default create", "kubectl --namespace=default delete"),
    ("skypilot", "h100:8", "sky jobs launch", "sky jobs cancel"),
    ("slurm", "h100:8", "sbatch", "scancel"),
]


@pytest.mark.parametrize(("backend", "topology", "create", "delete"), SUBMITTED)
def test_a_job_is_submitted_once_and_its_commands_told(
    programs: FakePrograms, backend: str, topology: str, create: str, delete: str
):
    code, told = run(job(backend, topology))
    assert code == 0
    assert len(programs.calls()) == 1 and programs.calls(create)
    assert delete in told[0]
    assert any(line.startswith("logs: ") for line in told)
    (path,) = (word for word in programs.calls()[0] if word.endswith((".yaml", ".sbatch")))
    assert Path(path.removeprefix("--filename=")).is_file()


@pytest.mark.parametrize(
    ("backend", "topology", "error", "message"),
    [
        (
            "gke",
            "v5e-16",
            'error: resource mapping not found: no matches for kind "JobSet" in version "v1"\n',
            "no JobSet controller",
        ),
        ("gke", "v5e-16", "Error from server (Forbidden): jobsets is forbidden\n", "permission"),
        (
            "slurm",
            "h100:8",
            "sbatch: error: invalid partition specified: gpus\n",
            "invalid partition",
        ),
    ],
)
def test_a_refused_submission_stops(
    programs: FakePrograms, backend: str, topology: str, error: str, message: str
):
    programs.script(("", [{"status": 1, "err": error}]))
    with pytest.raises(LaunchError, match=message):
        run(job(backend, topology))
    assert len(programs.calls()) == 1


def test_slurm_that_does_not_answer_is_asked_again(programs: FakePrograms):
    error = "sbatch: error: Batch job submission failed: Unable to contact slurm controller\n"
    programs.script(("sbatch", [{"status": 1, "err": error}, {"out": "Submitted batch job 7\n"}]))
    assert run(job("slurm", "h100:8"))[0] == 0
    assert len(programs.calls("sbatch")) == 2


CREATE = "kubectl --namespace=default create"
TAKEN = (
    "Error from server (AlreadyExists): error when creating"
    ' "launched/xl/jobset.yaml": jobsets.jobset.x-k8s.io "xl" already exists\n'
)
WEBHOOK = (
    'Error from server (InternalError): Internal error occurred: failed calling webhook "m.kb.io":'
    " Post https://jobset-webhook: connection refused\n"
)
ATTACHED = (("mine/run.gin", "BATCH_SIZE = 8\n"),)


def test_files_of_a_jobset_are_applied_before_it_is_created(programs: FakePrograms):
    assert run(job("gke", "v5e-16", attachments=ATTACHED))[0] == 0
    assert [words[2] for words in programs.calls()] == ["apply", "create"]


def test_a_jobset_is_not_submitted_unless_it_was_created(programs: FakePrograms):
    other = 'Error from server (AlreadyExists): configmaps "xl-config-1" already exists\n'
    programs.script((CREATE, [{"status": 1, "err": WEBHOOK}, {"status": 1, "err": other}]))
    with pytest.raises(LaunchError) as caught:
        run(job("gke", "v5e-16", attachments=ATTACHED))
    assert "'xl' may exist" in str(caught.value)


def test_a_jobset_created_by_an_attempt_without_an_answer_is_submitted(programs: FakePrograms):
    programs.script((CREATE, [{"status": 1, "err": WEBHOOK}, {"status": 1, "err": TAKEN}]))
    assert run(job("gke", "v5e-16"))[0] == 0


def test_files_of_a_jobset_that_was_refused_are_named(programs: FakePrograms):
    programs.script((CREATE, [{"status": 1, "err": TAKEN}]))
    with pytest.raises(LaunchError, match="The name is taken") as caught:
        run(job("gke", "v5e-16", attachments=ATTACHED))
    message = str(caught.value)
    clear = "kubectl --namespace=default delete --filename=launched/xl/config.yaml"
    assert f"Left is what was prepared. Delete: {clear}" in message
    assert "delete --filename=launched/xl/jobset.yaml" not in message


def test_xpks_question_is_a_name_that_is_taken(programs: FakePrograms):
    question = "Workload xl already exists, do you want to overwrite it? (y/n)"
    eof = "EOFError: EOF when reading a line\n"
    programs.script(("xpk workload create", [{"status": 1, "out": question, "err": eof}]))
    with pytest.raises(LaunchError, match="The name is taken") as caught:
        run(job("gke", "v5e-16", use_xpk=True))
    assert "Nothing of this launch is left to delete." in str(caught.value)
    assert len(programs.calls()) == 1


@pytest.mark.parametrize("found", ["7\n", ""])
def test_a_job_that_is_there_is_not_submitted_twice(programs: FakePrograms, found: str):
    rendered = dataclasses.replace(job("slurm", "h100:8"), exists=("squeue", "--me"))
    timeout = "sbatch: error: Batch job submission failed: Socket timed out\n"
    programs.script(
        ("sbatch", [{"status": 1, "err": timeout}, {"out": "Submitted batch job 8\n"}]),
        ("squeue", [{"out": found}]),
    )
    assert run(rendered)[0] == 0
    assert len(programs.calls("sbatch")) == (1 if found else 2)
    assert len(programs.calls("squeue")) == 1


def test_a_job_of_which_it_cannot_be_said_whether_it_is_there_is_not_submitted_again(
    programs: FakePrograms,
):
    rendered = dataclasses.replace(job("slurm", "h100:8"), exists=("squeue", "--me"))
    timeout = "sbatch: error: Batch job submission failed: Socket timed out\n"
    programs.script(
        ("sbatch", [{"status": 1, "err": timeout}]),
        ("squeue", [{"status": 1, "err": "slurm_load_jobs error: Socket timed out\n"}]),
    )
    with pytest.raises(LaunchError, match="squeue") as caught:
        run(rendered)
    assert len(programs.calls("sbatch")) == 1 and "'xl' may exist" in str(caught.value)


def test_a_missing_program_is_named(programs: FakePrograms, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="'sbatch' is not on the PATH"):
        run(job("slurm", "h100:8"))
