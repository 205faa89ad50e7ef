"""`--run` against engines that fail: what passes is tried again, what does not stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.launch import (
    JobSpec,
    LaunchError,
    Place,
    Rendered,
    RetryPolicy,
    Software,
    execute,
    parse_accelerator,
    render,
)
from flan_jax.launch.failures import classify
from tests.launch.fake_programs import FakePrograms

NAMES = ("gcloud", "kubectl", "sbatch", "sky", "xpk")
RETRY = RetryPolicy(restarts=2, attempts=3, wait=0.0, timeout=20.0)

QUOTA = "ERROR: (gcloud) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been exceeded.\n"
NO_QUOTA = "ERROR: (gcloud) Quota 'TPUS_V4' exceeded. Limit: 0.0 in region us-central2.\n"
DENIED = (
    "ERROR: (gcloud) PERMISSION_DENIED: Required 'tpu.queuedResources.create' permission for"
    " 'projects/my-project'\n"
)
SERVER = "ERROR: (gcloud) HttpError: <HttpError 503 'The service is currently unavailable.'>\n"
EXISTS = "ERROR: (gcloud) ALREADY_EXISTS: Resource 'projects/p/queuedResources/xl' already exists\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    folder = tmp_path / "bin"
    folder.mkdir()
    fakes = FakePrograms(folder, NAMES)
    monkeypatch.setenv("PATH", fakes.path)
    monkeypatch.chdir(tmp_path)
    return fakes


def job(backend: str, topology: str, **changes) -> Rendered:
    spec = JobSpec(
        "xl",
        "train",
        gin_files=("models/t5/xl.gin",),
        accelerator=parse_accelerator(topology),
        software=Software(image="" if backend == "slurm" else "a/b:c"),
        place=Place(zone="us-west4-a", project="my-project", cluster="big"),
        retry=RETRY,
        **changes,
    )
    return render(spec, backend)


class Told(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


def run(rendered: Rendered, retry: RetryPolicy = RETRY, keep: bool = False) -> tuple[int, Told]:
    told = Told()
    return execute(rendered, retry, keep=keep, say=told, sleep=lambda seconds: None), told


DELETE = "gcloud compute tpus queued-resources delete xl --force --quiet"


# --- TPU VMs --------------------------------------------------------------------------------


def test_a_queued_resource_is_created_waited_for_used_and_deleted(programs: FakePrograms):
    states = ["WAITING_FOR_RESOURCES\n", "PROVISIONING\n", "ACTIVE\n"]
    programs.script((" describe ", [{"out": state} for state in states]))
    code, told = run(job("tpu_vm", "v5e-16"))
    assert code == 0
    verbs = [words[4] for words in programs.calls("queued-resources")]
    assert verbs == ["create", *["describe"] * 3, "scp", "ssh", "delete"]
    assert told[0].startswith("creating 'xl'") and DELETE in told[0]
    assert [line for line in told if line.startswith("xl: ")] == [
        "xl: WAITING_FOR_RESOURCES",
        "xl: PROVISIONING",
        "xl: ACTIVE",
    ]
    assert Path("launched/xl/start.sh").is_file() and Path("launched/xl/job.sh").is_file()


def test_machines_of_a_finished_job_are_kept_if_asked(programs: FakePrograms):
    programs.script((" describe ", [{"out": "ACTIVE\n"}]))
    _, told = run(job("tpu_vm", "v5e-16"), keep=True)
    assert not programs.calls(" delete ")
    assert DELETE in told[-1]


@pytest.mark.parametrize("error", [QUOTA, SERVER, "Connection reset by peer\n"])
def test_what_may_pass_is_tried_again(programs: FakePrograms, error: str):
    programs.script(
        (" create ", [{"status": 1, "err": error}, {"status": 1, "err": error}, {}]),
        (" describe ", [{"out": "ACTIVE\n"}]),
    )
    assert run(job("tpu_vm", "v5e-16"))[0] == 0
    assert len(programs.calls(" create ")) == 3


def test_when_it_does_not_pass_the_name_and_the_deletion_are_told(programs: FakePrograms):
    programs.script((" create ", [{"status": 1, "err": QUOTA}]))
    with pytest.raises(LaunchError) as caught:
        run(job("tpu_vm", "v5e-16"))
    message = str(caught.value)
    assert "after 3 attempts" in message and "RESOURCE_EXHAUSTED" in message
    # An attempt without a clear answer may have created it.
    assert "'xl' may exist" in message and f"Delete: {DELETE}" in message


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (NO_QUOTA, "The quota is 0"),
        (DENIED, "The account lacks a permission"),
        ("ERROR: (gcloud) You do not currently have an active account selected.\n", "Log in"),
        ("ERROR: (gcloud) unrecognized arguments: --spt\n", "does not take this description"),
        ("ERROR: (gcloud) NOT_FOUND: zone us-west9-z\n", "--zone"),
    ],
)
def test_what_does_not_pass_stops_at_once(programs: FakePrograms, error: str, advice: str):
    programs.script((" create ", [{"status": 1, "err": error}]))
    with pytest.raises(LaunchError) as caught:
        run(job("tpu_vm", "v5e-16"))
    assert len(programs.calls(" create ")) == 1
    assert advice in str(caught.value)
    assert error.strip() in str(caught.value)
    assert "Nothing of this launch is left to delete." in str(caught.value)


def test_no_answer_is_a_failure_that_may_pass(programs: FakePrograms):
    programs.script(
        (" create ", [{"seconds": 60}, {"status": 1, "err": EXISTS}]),
        (" describe ", [{"out": "ACTIVE\n"}]),
    )
    retry = RetryPolicy(restarts=0, attempts=2, wait=0.0, timeout=4.0)
    # The attempt that timed out has created it after all: the next one's complaint is good news.
    assert run(job("tpu_vm", "v5e-16"), retry)[0] == 0
    assert len(programs.calls(" create ")) == 2


def test_anothers_resource_of_the_same_name_is_not_touched(programs: FakePrograms):
    programs.script((" create ", [{"status": 1, "err": EXISTS}]))
    with pytest.raises(LaunchError, match="choose another --name") as caught:
        run(job("tpu_vm", "v5e-16"))
    assert "Nothing of this launch is left to delete." in str(caught.value)
    assert not programs.calls(" delete ")


def test_after_preemption_the_resource_is_deleted_asked_for_again_and_the_job_goes_on(
    programs: FakePrograms,
):
    states = ["ACTIVE\n", "SUSPENDED\n", "PROVISIONING\n", "ACTIVE\n"]
    programs.script(
        (" describe ", [{"out": state} for state in states]),
        ("start.sh", [{"status": 255, "err": "Connection closed by remote host\n"}, {}]),
    )
    code, told = run(job("tpu_vm", "v5e-16", spot=True))
    assert code == 0
    verbs = [words[4] for words in programs.calls("queued-resources")]
    assert verbs == [
        *("create", "describe", "scp", "ssh", "describe", "delete"),
        *("create", "describe", "describe", "scp", "ssh", "delete"),
    ]
    assert "'xl' was taken away (SUSPENDED)" in told
    assert "start 2 of at most 3" in told
    assert all("--spot" in words for words in programs.calls(" create "))


def test_preempted_more_often_than_restarts_ends_with_nothing_left(programs: FakePrograms):
    programs.script((" describe ", [{"out": "SUSPENDED\n"}]))
    with pytest.raises(LaunchError, match="no restarts are left") as caught:
        run(job("tpu_vm", "v5e-16", spot=True))
    assert len(programs.calls(" create ")) == len(programs.calls(" delete ")) == 3
    assert "Nothing of this launch is left to delete." in str(caught.value)


def test_a_lost_connection_is_taken_up_again(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        ("start.sh", [{"status": 255}, {}]),
        ("xl/status", [{"out": "running\nrunning\nrunning\nrunning\n"}]),
    )
    assert run(job("tpu_vm", "v5e-16"))[0] == 0
    assert len(programs.calls(" create ")) == 1
    assert len(programs.calls("start.sh")) == 2


def test_when_some_workers_fail_for_good_it_stops_and_names_what_is_left(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        ("start.sh", [{"status": 1}]),
        ("xl/status", [{"out": "75\n2\nrunning\n75\n"}]),
    )
    with pytest.raises(LaunchError) as caught:
        run(job("tpu_vm", "v5e-16"))
    message = str(caught.value)
    assert "failed with status 2 on 1 of its machines" in message
    assert "'xl' exists" in message and f"Delete: {DELETE}" in message
    assert len(programs.calls("start.sh")) == 1


def test_a_failed_copy_names_what_is_left(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        (" scp ", [{"status": 1, "err": "scp: /home: No space left on device\n"}]),
    )
    with pytest.raises(LaunchError, match="No space left") as caught:
        run(job("tpu_vm", "v5e-16"))
    assert f"Delete: {DELETE}" in str(caught.value)


def test_a_failed_deletion_names_what_is_left(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        (" delete ", [{"status": 1, "err": DENIED}]),
    )
    with pytest.raises(LaunchError, match="'xl' exists"):
        run(job("tpu_vm", "v5e-16"))


def test_interrupted_while_waiting_it_names_what_goes_on(programs: FakePrograms):
    programs.script((" describe ", [{"out": "WAITING_FOR_RESOURCES\n"}]))
    told = Told()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(job("tpu_vm", "v5e-16"), RETRY, say=told, sleep=interrupt)
    assert told[-1].startswith("interrupted. 'xl' may exist") and DELETE in told[-1]


# --- Engines that follow the job themselves ---------------------------------------------------

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


def test_a_missing_program_is_named(programs: FakePrograms, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="'sbatch' is not on the PATH"):
        run(job("slurm", "h100:8"))


# --- Failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "passing", "reason"),
    [
        (f"WARNING: x\n{QUOTA}", True, QUOTA.strip()),
        (SERVER, True, SERVER.strip()),
        ('There is no more capacity in the zone "us-west4-a"\n', True, "There is no more"),
        ("error: TLS handshake timeout\n", True, "TLS handshake timeout"),
        (NO_QUOTA, False, "Limit: 0.0"),
        ("something else\n", False, "something else"),
        ("", False, "it printed nothing"),
    ],
)
def test_failures_are_told_apart(output: str, passing: bool, reason: str):
    failure = classify(output)
    assert failure.passing is passing
    assert reason in failure.reason
