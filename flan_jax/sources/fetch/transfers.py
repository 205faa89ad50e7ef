"""Bringing one file however often it takes: attempts, waiting between them, hosts that are dead."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from flan_jax.draws import Draws
from flan_jax.sources.fetch import remote
from flan_jax.sources.fetch.errors import FetchError, StoppedError, TransientError
from flan_jax.sources.fetch.http import Expected, HttpClient
from flan_jax.sources.fetch.parts import Part
from flan_jax.sources.fetch.plan import Transfer, mirrored
from flan_jax.sources.fetch.report import Observer

# An attempt that brought as much as this was worth it, and does not count against the limit.
_PROGRESS = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often to try.

    Attributes:
      attempts: tries without progress before a file is given up.
      first_wait: seconds between the first two; doubled each time, and varied by half.
      longest_wait: the most that grows to.
      longest_retry_after: the longest wait that a server may ask for; beyond, the file fails.
      connect_timeout: seconds for a connection to be made.
      stall_timeout: seconds without a byte after which a connection counts as dead.
    """

    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    longest_retry_after: float = 120.0
    connect_timeout: float = 15.0
    stall_timeout: float = 30.0


class Transfers:
    """Brings files into parts; shared by all threads of a fetch."""

    def __init__(
        self,
        patience: Patience,
        mirrors: Mapping[str, str],
        observer: Observer,
        stop: threading.Event,
    ):
        self._patience = patience
        self._mirrors = mirrors
        self._observer = observer
        self._stop = stop
        self._http = HttpClient(patience.connect_timeout, patience.stall_timeout)
        # Thousands of files of a host that is down would each take their full patience.
        self._answered: set[str] = set()
        self._dead: dict[str, str] = {}

    def check(self) -> None:
        """Raises StoppedError if the fetch is to stop."""
        if self._stop.is_set():
            raise StoppedError("interrupted; run the command again to go on")

    def wait(self, seconds: float) -> None:
        """Sleeps, unless the fetch is to stop: then StoppedError."""
        self._stop.wait(seconds)
        self.check()

    def bring(self, transfer: Transfer, part: Part, expected: Expected) -> None:
        """Completes `part` with the content of the transfer's address.

        Raises:
          MismatchError: the announced length is not the expected one.
          FetchError: given up.
          StoppedError: the fetch is to stop.
        """
        url = remote.public_address(mirrored(transfer.url, self._mirrors))
        host = urlsplit(url).netloc
        failures, furthest = 0, part.size()
        while True:
            self.check()
            if host in self._dead:
                raise FetchError(f"{self._dead[host]} (found with another file, not tried again)")
            try:
                self._attempt(url, part, expected, _Relay(self, transfer.name, host))
                return
            except TransientError as error:
                size = part.size()
                failures = 1 if size >= furthest + _PROGRESS else failures + 1
                furthest = max(furthest, size)
                if failures >= self._patience.attempts:
                    self._give_up(host, error, failures)
                self._pause(transfer, error, failures)

    def _attempt(self, url: str, part: Part, expected: Expected, relay: _Relay) -> None:
        if urlsplit(url).scheme in ("http", "https"):
            self._http.receive(url, part, expected, relay)
        else:
            remote.receive(url, part, expected, relay)

    def _give_up(self, host: str, error: TransientError, failures: int) -> None:
        if error.unreachable and host not in self._answered:
            self._dead[host] = str(error)
        times = "once" if failures == 1 else f"{failures} times"
        raise FetchError(f"{error} (tried {times})") from error

    def _pause(self, transfer: Transfer, error: TransientError, failures: int) -> None:
        patience = self._patience
        if error.retry_after is not None:
            seconds = error.retry_after
            if seconds > patience.longest_retry_after:
                raise FetchError(
                    f"{error}, and asks to wait {seconds:.0f} s: try again later"
                ) from error
        else:
            seconds = min(patience.longest_wait, patience.first_wait * 2 ** (failures - 1))
            # Processes that failed together should not come back together.
            seconds *= 0.5 + Draws("fetch", transfer.key, os.getpid(), failures).uniform()
        self._observer.noted(transfer.name, f"{error}; again in {seconds:.1f} s")
        self.wait(seconds)

    def note_answer(self, host: str) -> None:
        """A host has sent something, so it is not dead."""
        self._answered.add(host)

    def began(self, name: str, total: int | None, done: int) -> None:
        """Passes on that an attempt has begun."""
        self._observer.began(name, total, done)

    def advanced(self, name: str, count: int) -> None:
        """Passes on that bytes have come. Raises StoppedError if the fetch is to stop."""
        self._observer.advanced(name, count)
        self.check()


class _Relay:
    """What one attempt reports to."""

    def __init__(self, transfers: Transfers, name: str, host: str):
        self._transfers = transfers
        self._name = name
        self._host = host

    def began(self, total: int | None, done: int) -> None:
        self._transfers.note_answer(self._host)
        self._transfers.began(self._name, total, done)

    def advanced(self, count: int) -> None:
        self._transfers.advanced(self._name, count)
