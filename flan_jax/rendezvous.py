"""Several processes find each other before JAX joins them.

JAX's own start aborts with a stack trace when a flag is wrong or a process missing. Here, at the
address that JAX will use next, process 0 hears from every other one who it is, and all go on or
all end with the same clear message.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from flan_jax.errors import UserError

_RETRY_SECONDS = 0.2


class DistributedError(UserError):
    """Processes that were to work together did not find each other, or one of them was lost."""


@dataclass(frozen=True)
class Membership:
    """Which process of which job this is, by T5X's flags.

    Attributes:
      address: `host:port` of process 0.
      count: number of processes.
      index: of this one, from 0.
    """

    address: str
    count: int
    index: int

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise DistributedError(
                f"--coordinator_address must be host:port of process 0, found {self.address!r}"
            )
        if self.count < 1:
            raise DistributedError(f"--process_count must be at least 1, found {self.count}")
        if not 0 <= self.index < self.count:
            raise DistributedError(
                f"--process_index={self.index} does not fit --process_count={self.count}: indices"
                f" go from 0 to {self.count - 1}"
            )

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def this_process() -> str:
    """`host, pid 123`, as messages name a process."""
    return f"{socket.gethostname()}, pid {os.getpid()}"


def meet(membership: Membership, timeout: float) -> None:
    """Returns on all processes once all are there.

    Args:
      membership: of this process.
      timeout: seconds to wait for the others.

    Raises:
      DistributedError: process 0's port is in use, its name unknown, or nobody answers there;
        processes are missing; two have one index; their counts differ.
    """
    if membership.count == 1:
        return
    deadline = time.monotonic() + timeout
    if membership.index == 0:
        _gather(membership, deadline, timeout)
    else:
        _report(membership, deadline, timeout)


# --- Process 0 -------------------------------------------------------------------------------


def _gather(membership: Membership, deadline: float, timeout: float) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(membership))
        names: dict[int, str] = {0: this_process()}
        streams: list[TextIO] = []
        problem = None
        while problem is None and len(names) < membership.count:
            listener.settimeout(max(0.0, deadline - time.monotonic()) or 0.001)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(membership.count)) - set(names))
                problem = (
                    f"of {membership.count} processes, {missing} were not there after"
                    f" {timeout:.0f} s: start them with --coordinator_address={membership.address}"
                    f" --process_count={membership.count} and their --process_index, or wait longer"
                    " by --initialization_timeout"
                )
                break
            stack.enter_context(connection)
            connection.settimeout(5.0)
            stream = stack.enter_context(connection.makefile("rw", encoding="utf-8"))
            hello = _read(stream)
            if hello is None:  # a port scan or another program
                continue
            problem = _objection(hello, membership, names)
            streams.append(stream)
            names[hello.get("index", -1)] = hello.get("name", "?")
        for stream in streams:
            with contextlib.suppress(OSError):  # it has gone: JAX, or its peers, will find out
                _write(stream, {"problem": problem})
        if problem is not None:
            raise DistributedError(problem)


def _listen(membership: Membership) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(
            ("", membership.port), family=family, dualstack_ipv6=dual, backlog=membership.count
        )
    except OSError as error:
        raise DistributedError(
            f"process 0 cannot listen at port {membership.port}"
            f" ({os.strerror(error.errno or 0)}): is another job running here? Choose another port"
            " in --coordinator_address, on all processes"
        ) from error


def _objection(
    hello: Mapping[str, Any], membership: Membership, names: Mapping[int, str]
) -> str | None:
    index, count, name = hello.get("index", -1), hello.get("count"), hello.get("name")
    if count != membership.count:
        return (
            f"process {index} ({name}) was started with --process_count={count}, process 0"
            f" ({names[0]}) with --process_count={membership.count}: all need the same"
        )
    if index in names:
        return (
            f"two processes have --process_index={index}: {names[index]} and {name}; each needs its"
            f" own, from 0 to {membership.count - 1}"
        )
    return None


# --- The others ------------------------------------------------------------------------------


def _report(membership: Membership, deadline: float, timeout: float) -> None:
    stranger = (
        f"what answers at {membership.address} is not process 0 of this job: is another job"
        " running there? Choose another port in --coordinator_address, on all processes"
    )
    with (
        _connect(membership, deadline, timeout) as connection,
        connection.makefile("rw", encoding="utf-8") as stream,
    ):
        try:
            hello = {"index": membership.index, "count": membership.count, "name": this_process()}
            _write(stream, hello)
            # Process 0 answers when all are there, or when its own time is over.
            connection.settimeout(max(0.0, deadline - time.monotonic()) + timeout + 5.0)
            answer = _read(stream)
        except OSError:
            answer = None
        if answer is None or "problem" not in answer:
            raise DistributedError(stranger)
        if answer["problem"] is not None:
            raise DistributedError(answer["problem"])


def _connect(membership: Membership, deadline: float, timeout: float) -> socket.socket:
    try:
        socket.getaddrinfo(membership.host, membership.port)
    except OSError as error:
        raise DistributedError(
            f"--coordinator_address={membership.address}: the host {membership.host!r} is unknown"
            f" here ({error.strerror})"
        ) from error
    while True:
        try:
            return socket.create_connection((membership.host, membership.port), timeout=5.0)
        except OSError as error:
            if time.monotonic() > deadline:
                raise DistributedError(
                    f"process 0 did not answer at {membership.address} for {timeout:.0f} s"
                    f" ({error.strerror or error}): it must run there, with --process_index=0, and"
                    " its port be open to this host; --initialization_timeout waits longer"
                ) from error
        time.sleep(_RETRY_SECONDS)


# --- Lines of JSON ---------------------------------------------------------------------------


def _write(stream: TextIO, message: Mapping[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _read(stream: TextIO) -> dict[str, Any] | None:
    """The next message; None at the end, after a timeout, or if it is none."""
    try:
        message = json.loads(stream.readline(65536))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
