"""The watch over other processes, with a store in memory and leases of a second."""

from __future__ import annotations

import socket
import time

import pytest

from flan_jax.peers import EXIT_PEER_LOST, Joining, PeerWatch


class Store:
    """Keys and values as JAX's coordinator keeps them; `broken` makes calls raise or hang."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.broken: str | None = None

    def _call(self) -> None:
        if self.broken == "raises":
            raise RuntimeError("UNAVAILABLE: Socket closed")
        while self.broken == "hangs":
            time.sleep(0.01)

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self._call()
        assert allow_overwrite
        self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        self._call()
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        return self.values[key]


class Job:
    """Watches of all processes, in one; `ends` takes how a process would have ended."""

    def __init__(self, count: int, lease: float = 0.4) -> None:
        self.store, self.ends = Store(), {}
        for index in range(count):
            self.store.values[f"flan_jax/names/{index}"] = f"host{index}, pid 1"
        self.watches = [
            PeerWatch(
                self.store, index, count, "localhost:1", lease, lambda s, i=index: self._end(i, s)
            )
            for index in range(count)
        ]
        for index, watch in enumerate(self.watches):
            watch.names = {i: f"host{i}, pid {i}" for i in range(count)}
            assert index == watch._index
            watch.start()

    def _end(self, index: int, status: int) -> None:
        self.ends[index] = status
        self.watches[index].stop()

    def wait(self, count: int, seconds: float = 5.0) -> dict[int, int]:
        deadline = time.monotonic() + seconds
        while len(self.ends) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return dict(self.ends)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flan_jax.peers.PERIOD", 0.04)
    monkeypatch.setattr("flan_jax.peers.GRACE", 0.02)
    monkeypatch.setattr("flan_jax.peers.LINGER", 0.1)


@pytest.fixture
def job(quick) -> Job:
    return Job(3)


def stop_all(job: Job) -> None:
    for watch in job.watches:
        watch.stop()


def test_processes_that_live_let_each_other_be(job: Job):
    time.sleep(1.0)
    assert job.ends == {}
    stop_all(job)


def test_a_silent_process_is_named(job: Job, capfd: pytest.CaptureFixture[str]):
    job.watches[2].stop()  # it says nothing from now on
    assert job.wait(2) == {0: EXIT_PEER_LOST, 1: EXIT_PEER_LOST}
    lines = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 2
    assert all("lost process 2 of 3 (host2, pid 2): no sign of life for" in line for line in lines)


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_lost_coordinator_is_named(job: Job, capfd: pytest.CaptureFixture[str], how: str):
    time.sleep(0.1)
    job.watches[0].stop()
    job.store.broken = how
    assert job.wait(2) == {1: EXIT_PEER_LOST, 2: EXIT_PEER_LOST}
    job.store.broken = "raises"  # lets threads go
    text = capfd.readouterr().err
    assert text.count("lost process 0 of 3 (host0, pid 0), the coordinator: ") == 2


def test_a_failure_is_told(job: Job, capfd: pytest.CaptureFixture[str]):
    job.watches[1].failed("the disk is full", 2)
    assert set(job.wait(2)) >= {0, 2}
    text = capfd.readouterr().err
    assert text.count("process 1 of 3 (host1, pid 1) failed: the disk is full") == 2
    stop_all(job)


@pytest.mark.parametrize(
    ("status", "others"), [(1, 1), (2, 2), (130, 130), (75, 75), (137, 75), (134, 75)]
)
@pytest.mark.parametrize("who", [0, 1])
def test_a_mistake_is_the_status_of_all(job: Job, who: int, status: int, others: int):
    job.watches[who].failed("a mistake", status)
    rest = {0, 1, 2} - {who}
    ended = job.wait(2)
    assert {index: ended[index] for index in rest} == dict.fromkeys(rest, others)
    stop_all(job)


def test_signals_are_those_of_the_launcher():
    import flan_jax.peers as peers
    from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED

    assert (peers.EXIT_PEER_LOST, peers._SIGNALLED) == (EXIT_AGAIN, EXIT_SIGNALLED)


@pytest.mark.parametrize(
    ("listens", "message"),
    [
        (True, "is there, but not all of the others"),
        (False, "nothing answers at localhost:1, where process 0 should be"),
        (None, "the others did not come"),
    ],
)
def test_an_abort_before_all_have_come_says_who_is_missing(
    capfd: pytest.CaptureFixture[str], listens: bool | None, message: str
):
    ends: list[int] = []
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1] if listens else 1}"
        Joining(300, lambda: None if listens is None else address, ends.append).aborted()
    assert ends == [EXIT_PEER_LOST]
    text = capfd.readouterr().err
    assert "could not be joined within 300 s" in text and message in text


def test_who_is_done_may_be_silent(job: Job):
    job.watches[2].done()
    time.sleep(0.2)
    job.watches[2].stop()
    time.sleep(0.8)
    assert job.ends == {}
    stop_all(job)


def test_an_abort_names_who_was_silent_or_the_coordinator(quick, capfd: pytest.CaptureFixture[str]):
    job = Job(3, lease=30.0)
    time.sleep(0.1)
    stop_all(job)
    # Nothing listens at the coordinator's address.
    job.watches[1].aborted()
    assert "lost process 0 of 3 (host0, pid 0), the coordinator" in capfd.readouterr().err
    job.watches[1]._heard[2] -= 20.0
    job.watches[1].aborted()
    assert "lost process 2 of 3 (host2, pid 2): no sign of life for 2" in capfd.readouterr().err
    # The coordinator itself, which hears everyone, has nobody to blame for an abort of its own.
    job.ends.clear()
    job.watches[0].aborted()
    assert job.ends == {}
