"""`--run` on TPU VMs that fail: what passes is tried again, what does not stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flan_jax.launch import LaunchError, RetryPolicy, execute
from flan_jax.launch.execute import write_files
from tests.launch.fake_jobs import DENIED, EXISTS, NO_QUOTA, QUOTA, RETRY, SERVER, Told, job, run
from tests.launch.fake_programs import FakePrograms
from tests.launch.test_supervise import is_alive


def steps(programs: FakePrograms) -> list[str]:
    """What gcloud was asked: verbs, and what for by ssh."""
    asked = {"start.sh": "job", "echo ok": "arrived", "/status": "result"}
    found = []
    for words in programs.calls("queued-resources"):
        of_ssh = [name for text, name in asked.items() if words[4] == "ssh" and text in words[-1]]
        of_describe = ["owner"] if "flan_jax_launch)" in words[-1] else []
        found += of_ssh or of_describe or [words[4]]
    return found


DELETE = "gcloud compute tpus queued-resources delete xl --force --quiet"


def test_a_queued_resource_is_created_waited_for_used_and_deleted(programs: FakePrograms):
    states = ["WAITING_FOR_RESOURCES\n", "PROVISIONING\n", "ACTIVE\n"]
    programs.script((" describe ", [{"out": state} for state in states]))
    code, told = run(job("tpu_vm", "v5e-16"))
    assert code == 0
    job_on_machines = ["scp", "arrived", "job", "result"]
    assert steps(programs) == ["create", *["describe"] * 3, *job_on_machines, "delete"]
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
    programs.script((" create ", [{"status": 1, "err": SERVER}]))
    with pytest.raises(LaunchError) as caught:
        run(job("tpu_vm", "v5e-16"))
    message = str(caught.value)
    assert "after 3 attempts" in message and "503" in message
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
        ("flan_jax_launch)", [{"out": "LAUNCH\n"}]),
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


@pytest.mark.parametrize(
    ("first", "owner", "left"),
    [
        (QUOTA, "", "Nothing of this launch is left to delete."),
        (QUOTA, "0123456789ab\n", "Nothing of this launch is left to delete."),
        (SERVER, "0123456789ab\n", "Nothing of this launch is left to delete."),
        (SERVER, "", "'xl' may exist"),  # nobody can tell
    ],
)
def test_anothers_resource_is_not_taken_for_ours_after_a_failure(
    programs: FakePrograms, first: str, owner: str, left: str
):
    programs.script(
        (" create ", [{"status": 1, "err": first}, {"status": 1, "err": EXISTS}]),
        ("flan_jax_launch)", [{"out": owner}]),
        (" describe ", [{"out": "ACTIVE\n"}]),
    )
    with pytest.raises(LaunchError, match="The name is taken: choose another --name") as caught:
        run(job("tpu_vm", "v5e-16"))
    assert left in str(caught.value)
    assert not programs.calls(" delete ") and not programs.calls(" ssh ")


def test_an_earlier_launch_from_here_can_be_joined(programs: FakePrograms):
    programs.script(
        (" create ", [{}, {"status": 1, "err": EXISTS}]),
        ("state.state", [{"out": "ACTIVE\n"}]),
        ("start.sh", [{"status": 1}]),
        ("xl/status", [{"out": "2\n" * 4}]),
    )
    with pytest.raises(LaunchError, match="status 2"):
        run(job("tpu_vm", "v5e-16"))
    (earlier,) = Path("launched/xl/launches").read_text().split()
    programs.script(
        (" create ", [{}, {"status": 1, "err": EXISTS}]),
        ("flan_jax_launch)", [{"out": f"{earlier}\n"}]),
    )
    with pytest.raises(LaunchError, match="of an earlier launch from here") as caught:
        run(job("tpu_vm", "v5e-16"))
    message = str(caught.value)
    assert "--command=bash xl/start.sh" in message and f"launch anew: {DELETE}" in message
    assert len(programs.calls("start.sh")) == 1  # not joined silently
    assert "Nothing of this launch is left to delete." in message


@pytest.mark.parametrize(
    ("failure", "left"),
    [
        ({"status": 137}, "may exist"),
        ({"status": 1, "err": f"Create request issued for: [xl]\n{QUOTA}"}, "may exist"),
        ({"status": 1, "err": "something new\n"}, "may exist"),
        ({"status": 1, "err": QUOTA}, "Nothing of this launch is left"),
    ],
)
def test_after_a_failed_creation_what_may_exist_is_said(
    programs: FakePrograms, failure: dict, left: str
):
    programs.script((" create ", [failure]))
    with pytest.raises(LaunchError) as caught:
        run(job("tpu_vm", "v5e-16"))
    assert left in str(caught.value)
    assert (DELETE in str(caught.value)) is (left == "may exist")


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
    assert steps(programs) == [
        *("create", "describe", "scp", "arrived", "job", "describe", "delete"),
        *("create", "describe", "describe", "scp", "arrived", "job", "result", "delete"),
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
        ("xl/status", [{"out": "running\n" * 4}, {"out": "0\n" * 4}]),
    )
    assert run(job("tpu_vm", "v5e-16"))[0] == 0
    assert len(programs.calls(" create ")) == 1
    assert len(programs.calls("start.sh")) == 2


GONE = (
    "Exception in thread Thread-1: TPUInUnusableTerminalState: This TPU has terminal state"
    ' "PREEMPTED", so it cannot be used anymore.\n'
    "WARNING: Could not prepare all 1 nodes, attempting to ssh into the rest.\n"
)


@pytest.mark.parametrize("where", ["scp", "start.sh"])
def test_machines_that_gcloud_leaves_out_have_not_finished(programs: FakePrograms, where: str):
    gone = {"status": 0, "err": GONE}
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),  # the resource's state lags behind
        (f" {where} " if where == "scp" else where, [gone, {}]),
        *([("/status", [gone, {"out": "0\n" * 4}])] if where == "start.sh" else []),
    )
    code, told = run(job("tpu_vm", "v5e-16", spot=True), RETRY)
    assert code == 0
    assert "'xl' was taken away (PREEMPTED)" in told
    assert len(programs.calls(" create ")) == len(programs.calls(" delete ")) == 2


def test_a_machine_that_did_not_answer_is_asked_again(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        ("echo ok", [{"out": "ok\n" * 3}, {"out": "ok\n" * 4}]),
        ("/status", [{"out": "0\n" * 3}, {"out": "0\n" * 4}]),
    )
    code, told = run(job("tpu_vm", "v5e-16"))
    assert code == 0 and "files arrived on 3 of 4 machines" in told
    assert steps(programs) == [
        *("create", "describe", "scp", "arrived", "describe", "scp", "arrived"),
        *("job", "result", "describe", "job", "result", "delete"),
    ]


def test_machines_that_never_answer_are_given_up_and_kept(programs: FakePrograms):
    programs.script((" describe ", [{"out": "ACTIVE\n"}]), ("/status", [{"out": "0\n" * 3}]))
    with pytest.raises(LaunchError, match="cannot be reached, or some of its machines") as caught:
        run(job("tpu_vm", "v5e-16"), RetryPolicy(restarts=0, attempts=1, wait=0.0))
    assert len(programs.calls("start.sh")) == 11  # not bound to --restarts
    assert "'xl' exists" in str(caught.value) and not programs.calls(" delete ")


def test_a_good_connection_makes_good_for_earlier_ones(
    programs: FakePrograms, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flan_jax.launch.machines._LASTED", 0.0)
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        ("start.sh", [{"status": 255}]),
        ("/status", [*[{"out": "running\n" * 4}] * 15, {"out": "0\n" * 4}]),
    )
    assert run(job("tpu_vm", "v5e-16"), RetryPolicy(restarts=0, attempts=1, wait=0.0))[0] == 0


def test_a_resource_that_fails_is_not_asked_for_again(programs: FakePrograms):
    programs.script(
        ("state.failedData", [{"out": "quota of v5e in us-west4-a is 8\n"}]),
        (" describe ", [{"out": "ACCEPTED\n"}, {"out": "FAILED\n"}]),
    )
    with pytest.raises(LaunchError, match="'xl' is FAILED: quota of v5e in us-west4-a") as caught:
        run(job("tpu_vm", "v5e-16"))
    assert len(programs.calls(" create ")) == 1
    assert f"Delete: {DELETE}" in str(caught.value)


def test_what_is_gone_already_counts_as_deleted(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        (" delete ", [{"status": 1, "err": "ERROR: (gcloud) NOT_FOUND: Resource 'xl'\n"}]),
    )
    assert run(job("tpu_vm", "v5e-16"))[0] == 0


def test_machines_that_do_not_take_the_key_are_named_with_advice(programs: FakePrograms):
    programs.script(
        (" describe ", [{"out": "ACTIVE\n"}]),
        (" scp ", [{"status": 255, "err": "me@10.0.0.1: Permission denied (publickey).\n"}]),
    )
    with pytest.raises(LaunchError, match="ssh-add") as caught:
        run(job("tpu_vm", "v5e-16"))
    assert "'xl' exists" in str(caught.value) and len(programs.calls(" scp ")) == 1


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
    assert told[-1].startswith("interrupted. 'xl' exists") and DELETE in told[-1]


_LAUNCHER = """
from flan_jax.launch import execute
from tests.launch.fake_jobs import RETRY, job
execute(job("tpu_vm", "v5e-16"), RETRY)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("where", [" create ", "start.sh"])
def test_ended_by_a_signal_it_names_what_goes_on_and_ends_its_children(
    programs: FakePrograms, tmp_path: Path, number: signal.Signals, where: str
):
    programs.script(
        (where, [{"child": True, "seconds": 60}]), (" describe ", [{"out": "ACTIVE\n"}])
    )
    root = Path(__file__).resolve().parents[2]
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    child = tmp_path / "bin" / "child"
    while not (child.exists() and child.read_text()):
        assert launcher.poll() is None
        time.sleep(0.02)
    begun = time.monotonic()
    launcher.send_signal(number)
    _, err = launcher.communicate(timeout=30)
    assert time.monotonic() - begun < 20
    assert launcher.returncode != 0
    exists = "may exist" if where == " create " else "exists"
    assert f"flan-jax launch: interrupted. 'xl' {exists}." in err and f"Delete: {DELETE}" in err
    assert not is_alive(int(child.read_text()))


# --- The script on a TPU VM --------------------------------------------------------------------


@pytest.mark.parametrize(("failures", "status"), [(4, 0), (5, 1)])
def test_a_tpu_vm_fetches_the_image_patiently(programs: FakePrograms, failures: int, status: int):
    other = FakePrograms(programs.folder, ("sudo", "sleep", "gcloud"))
    other.script(("docker pull", [*[{"status": 1}] * failures, {}]))
    image = "europe-docker.pkg.dev/p/images/flan_jax:tpu"
    write_files(job("tpu_vm", "v5e-16", image=image))
    assert subprocess.run(["bash", "launched/xl/job.sh"], timeout=60).returncode == status
    assert Path("launched/xl/status").read_text() == f"{status}\n"
    assert len(programs.calls("docker pull")) == 5
    assert [words[1] for words in programs.calls("sleep")] == ["10", "30", "60", "120"]
    login = "sudo gcloud auth configure-docker europe-docker.pkg.dev --quiet"
    assert len(programs.calls(login)) == 1
    assert len(programs.calls("docker run")) == (status == 0)
