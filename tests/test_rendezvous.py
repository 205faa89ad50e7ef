"""Processes (here: threads) that meet, and all that can keep them from it."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from flan_jax.rendezvous import DistributedError, Membership, meet


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def outcomes(members: list[tuple[int, int]], timeout: float = 10.0) -> list[str]:
    """What `meet` does for processes of these (count, index): "met", or its message."""
    address = f"localhost:{free_port()}"

    def attempt(member: tuple[int, int]) -> str:
        try:
            meet(Membership(address, *member), timeout)
        except DistributedError as error:
            return str(error)
        return "met"

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(attempt, members))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_all_are_there(order):
    assert outcomes([(4, index) for index in order]) == ["met"] * 4


def test_alone_there_is_nobody_to_meet():
    meet(Membership("nowhere.invalid:1", 1, 0), 0.1)


def test_missing_processes_are_listed():
    for outcome in outcomes([(4, 0), (4, 2)], timeout=1.0):
        assert "of 4 processes, [1, 3] were not there after 1 s" in outcome
        assert "--initialization_timeout" in outcome


def test_counts_that_differ():
    for outcome in outcomes([(2, 0), (3, 1)]):
        assert "process 1 (" in outcome
        assert "--process_count=3" in outcome
        assert "--process_count=2" in outcome


def test_an_index_taken_twice():
    messages = outcomes([(3, 0), (3, 1), (3, 1)])
    assert all("two processes have --process_index=1" in message for message in messages)


def test_process_0_is_not_there():
    (outcome,) = outcomes([(2, 1)], timeout=0.5)
    assert "process 0 did not answer at localhost:" in outcome
    assert "refused" in outcome


def test_an_unknown_host():
    with pytest.raises(DistributedError, match=r"the host 'nowhere\.invalid' is unknown"):
        meet(Membership("nowhere.invalid:1", 2, 1), 60.0)


def test_a_port_in_use():
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(DistributedError, match=r"cannot listen at port .*another job"):
            meet(Membership(address, 2, 0), 60.0)


def test_another_program_at_the_port():
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        answered = pool.submit(answer)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(DistributedError, match="is not process 0 of this job"):
            meet(Membership(address, 2, 1), 5.0)
        answered.result()
