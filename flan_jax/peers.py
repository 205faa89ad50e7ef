"""Watches the other processes of a job, so that the loss of one ends all, with its name.

Each process keeps a counter in the key-value store of JAX's coordinator (process 0) and reads all
of them. A counter that stands still for `LEASE` seconds belongs to a process that was killed, lost
its machine, or hangs; every other one then says which, and ends. A process that fails by itself
leaves word why, and the others need not wait.

JAX has heartbeats of its own, which here only stand behind this watch: they end a process by an
abort with a stack trace that names nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flan_jax.rendezvous import this_process

PERIOD = 2.0  # seconds between looks at the counters
LEASE = 30.0  # seconds without a sign of life after which a process is lost
GRACE = 1.0  # seconds in which a process that fails for the same reason can say so itself
LINGER = 3 * PERIOD  # seconds for which process 0, whose end ends the store, lets others read
EXIT_PEER_LOST = 75  # sysexits.h: EX_TEMPFAIL, "run again"
# Ends by signals, as shells and containers report them. Like 75 they mean "run again".
_SIGNALLED = (134, 135, 136, 137, 139, 143)

_handlers: list[Any] = []  # of signals: C keeps no reference to them

_ALIVE, _NAMES = "flan_jax/alive/", "flan_jax/names/"


class KeyValueStore(Protocol):
    """The part of JAX's distributed client that is used here; calls raise once it is broken."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...
    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...
    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str: ...


def leave(status: int) -> None:
    """Ends this process at once: no exit handlers, which would wait for the others."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


@dataclass(frozen=True)
class Verdict:
    """Why a process must end, and with which status."""

    reason: str
    status: int = EXIT_PEER_LOST


class PeerWatch:
    """Two daemon threads: one talks to the store, one judges, even while the first hangs.

    Args:
      store: JAX's distributed client.
      index: of this process.
      count: of all.
      coordinator: `host:port` of JAX's coordinator, in process 0.
      lease: see `LEASE`.
      leave: ends this process with a status, at once; calls must not return.
    """

    def __init__(
        self,
        store: KeyValueStore,
        index: int,
        count: int,
        coordinator: str,
        lease: float = LEASE,
        leave: Callable[[int], Any] = leave,
    ):
        self._store, self._index, self._count = store, index, count
        self._coordinator, self._lease, self._leave = coordinator, lease, leave
        self._state: dict[str, Any] = {"beat": 0}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._states: dict[int, dict[str, Any]] = {}
        self._heard: dict[int, float] = {}
        self._broken = False
        self.names = self._exchange_names()

    def _exchange_names(self) -> dict[int, str]:
        self._store.key_value_set(f"{_NAMES}{self._index}", this_process(), allow_overwrite=True)
        return {
            i: self._store.blocking_key_value_get(f"{_NAMES}{i}", 60_000)
            for i in range(self._count)
        }

    def start(self) -> None:
        now = time.monotonic()
        self._heard = dict.fromkeys((i for i in range(self._count) if i != self._index), now)
        self._answered = now
        for target in (self._talk, self._judge):
            threading.Thread(target=target, name=f"peers{target.__name__}", daemon=True).start()

    def done(self) -> None:
        """This process needs no other any more: from now on all may end."""
        self._tell({"done": True})

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()

    def failed(self, message: str, status: int) -> None:
        """Leaves word of this process's own failure; it has some seconds to end by itself.

        The others end with the same status, unless it means "run again": whoever starts processes
        must not take a mistake, which a new start would not mend, for the loss of a process.
        Process 0 returns only when the others have had the time to read it.
        """
        timer = threading.Timer(LINGER + 10.0, self._leave, [status])
        timer.daemon = True
        timer.start()
        self._tell({"failed": message, "status": status})
        if self._index == 0:
            deadline = time.monotonic() + LINGER
            while time.monotonic() < deadline and not self._all_over():
                time.sleep(0.1)

    def wait_for_verdict(self) -> None:
        """Waits for as long as it takes to notice a lost process; the judge then ends this one."""
        time.sleep(self._lease + 2 * PERIOD + GRACE)

    def name(self, index: int) -> str:
        """`process 2 of 4 (host, pid 123)`."""
        return f"process {index} of {self._count} ({self.names[index]})"

    # --- The store -------------------------------------------------------------------------

    def _tell(self, state: dict[str, Any]) -> None:
        with self._lock:
            self._state = {**self._state, **state}
        with contextlib.suppress(Exception):  # broken: the judge says so
            self._write_state()

    def _write_state(self) -> None:
        with self._lock:
            self._state["beat"] += 1
            value = json.dumps(self._state)
        self._store.key_value_set(f"{_ALIVE}{self._index}", value, allow_overwrite=True)

    def _talk(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                self._write_state()
                found = self._store.key_value_dir_get(_ALIVE)
                failures = 0
            except Exception:  # JAX's own errors; their kinds differ by version
                failures += 1
                self._broken = failures > 1
                self._stopped.wait(PERIOD / 4)
                continue
            now = time.monotonic()
            self._answered = now
            for key, value in found:
                index, state = int(key.rpartition("/")[2]), json.loads(value)
                if index != self._index and self._states.get(index) != state:
                    self._states[index], self._heard[index] = state, now
            self._stopped.wait(PERIOD)

    # --- The judgement ---------------------------------------------------------------------

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(PERIOD / 4):
            now = time.monotonic()
            if now - last > self._lease / 4:  # it was this process that stood still: start anew
                self._answered = now
                self._heard = dict.fromkeys(self._heard, now)
            last = now
            verdict = self._verdict(now)
            if verdict is not None and not self._stopped.is_set():
                self._end(verdict)
                return

    def _verdict(self, now: float) -> Verdict | None:
        """Why this process must end; None if it need not."""
        told = self._told()
        if told is not None:
            return told
        if self._states.get(0, {}).get("done"):
            return None  # all have come to the end, and the store with them
        if self._index != 0 and now - self._answered > self._lease:
            return self._lost(0, now - self._answered)
        silent, seconds = self._most_silent(now)
        if silent is not None and seconds > self._lease:
            return self._lost(silent, seconds)
        return self._lost(0, None) if self._broken and self._index != 0 else None

    def _told(self) -> Verdict | None:
        """What another process has left word of."""
        for index, state in self._states.items():
            if "failed" in state:
                status = state.get("status", EXIT_PEER_LOST)
                again = status in _SIGNALLED or status == 0
                return Verdict(
                    f"{self.name(index)} failed: {state['failed']}",
                    EXIT_PEER_LOST if again else status,
                )
            if "lost" in state:
                return Verdict(state["lost"], state.get("status", EXIT_PEER_LOST))
        return None

    def _most_silent(self, now: float) -> tuple[int | None, float]:
        """The process not heard of for longest, and for how many seconds the store has said so."""
        latest = now if self._index == 0 else self._answered
        silent = {
            i: latest - heard
            for i, heard in self._heard.items()
            if not self._states.get(i, {}).get("done")
        }
        index = max(silent, key=silent.__getitem__, default=None)
        return index, 0.0 if index is None else silent[index]

    def aborted(self) -> None:
        """JAX aborts this process: ends it with the reason, if another process is it."""
        now = time.monotonic()
        silent, seconds = self._most_silent(now)
        verdict = self._told()
        if verdict is not None:
            pass
        elif self._index != 0 and now - self._answered > self._lease / 2:
            verdict = self._lost(0, now - self._answered)
        elif silent is not None and seconds > self._lease / 2:
            verdict = self._lost(silent, seconds)
        elif self._index != 0 and not _answers(self._coordinator):
            verdict = self._lost(0, None)
        if verdict is not None:
            self._say(verdict.reason)
            self._leave(verdict.status)

    def _lost(self, index: int, seconds: float | None) -> Verdict:
        role = ", the coordinator" if index == 0 else ""
        if seconds is None:
            return Verdict(f"lost {self.name(index)}{role}: the connection to it has broken")
        return Verdict(
            f"lost {self.name(index)}{role}: no sign of life for {seconds:.0f} s; it was killed,"
            " lost its machine, or hangs"
        )

    def _end(self, verdict: Verdict) -> None:
        self._stopped.wait(GRACE)
        if "failed" in self._state or self._stopped.is_set():
            return  # it ends for a reason of its own
        self._say(verdict.reason)
        if self._index == 0:  # the store ends with this process
            self._tell({"lost": verdict.reason, "status": verdict.status})
            time.sleep(LINGER)
        self._leave(verdict.status)

    def _say(self, verdict: str) -> None:
        text = (
            f"flan-jax: error: {verdict}\nThis process ({self._index}) ends. Run the same command"
            " on all processes again to go on from the newest checkpoint.\n"
        )
        os.write(2, text.encode())

    def _all_over(self) -> bool:
        over = ("done", "failed", "lost")
        return all(any(word in self._states.get(i, {}) for word in over) for i in self._heard)


def _answers(address: str) -> bool:
    """Whether something listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True


class Joining:
    """A process that waits for the others, which JAX aborts when not all come in time.

    It is no mistake that a new start cannot mend: machines that were taken away may be long in
    coming back, and the others, which were started again already, must not end the job.

    Args:
      seconds: for which JAX waits.
      coordinator: gives `host:port` of process 0, or None where it is not known (yet).
      leave: as `PeerWatch` has it.
    """

    def __init__(
        self,
        seconds: float,
        coordinator: Callable[[], str | None],
        leave: Callable[[int], Any] = leave,
    ):
        self._seconds, self._coordinator, self._leave = seconds, coordinator, leave

    def aborted(self) -> None:
        """Ends this process, and says which other one is missing as far as it can be told."""
        address = self._coordinator()
        if address is None:
            who = "the others did not come"
        elif _answers(address):
            who = f"process 0 at {address} is there, but not all of the others"
        else:
            who = f"nothing answers at {address}, where process 0 should be"
        text = (
            f"flan-jax: error: processes could not be joined within {self._seconds:.0f} s: {who}."
            " See what the others print; a firewall may be in the way\n"
        )
        os.write(2, text.encode())
        self._leave(EXIT_PEER_LOST)


class Abortable(Protocol):
    """What has the last word when JAX aborts this process."""

    def aborted(self) -> None: ...


def explain_aborts(watch: Abortable) -> None:
    """Lets `watch` have the last word when JAX aborts this process.

    JAX ends a process whose coordinator is gone, or who has a silent peer, by `abort()` from a
    thread of its own, with a stack trace that names nobody. The C handler of SIGABRT runs before
    the end. (Python's own handlers would not: they wait for the main thread.)
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p

    def handle(number: int) -> None:
        libc.signal(number, int(signal.SIG_DFL))
        watch.aborted()

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(handle)
    _handlers.append(handler)
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


def leave_aborts_alone() -> None:
    """Undoes `explain_aborts`."""
    ctypes.CDLL(None).signal(int(signal.SIGABRT), None)  # SIG_DFL is a null pointer
