"""One address: what is there of its files, bringing it, checking it, and putting files in place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from flan_jax.sources.downloads import Download
from flan_jax.sources.fetch.archives import unpack, unpack_gzip
from flan_jax.sources.fetch.errors import FetchError, MismatchError, local_errors
from flan_jax.sources.fetch.http import Expected
from flan_jax.sources.fetch.locks import locked
from flan_jax.sources.fetch.parts import Part, move_into_place, settle
from flan_jax.sources.fetch.plan import STATE_FOLDER, Transfer
from flan_jax.sources.fetch.records import Presence, Records, sha256_of
from flan_jax.sources.fetch.report import Observer, Outcome
from flan_jax.sources.fetch.transfers import Transfers


class FileFetch:
    """Fetches files into one data folder; the arguments are those of `engine.fetch`."""

    def __init__(
        self,
        data_folder: Path,
        transfers: Transfers,
        observer: Observer,
        *,
        replace: bool,
        verify: bool,
        keep_archives: bool,
    ):
        self._data_folder = data_folder
        self._state = data_folder / STATE_FOLDER
        self._records = Records(data_folder)
        self._transfers = transfers
        self._observer = observer
        self._replace = replace
        self._verify = verify
        self._keep_archives = keep_archives

    def run(self, transfer: Transfer) -> tuple[Outcome, ...]:
        """Makes sure of the files of one address.

        Raises:
          FetchError: those that are missing could not be brought.
          StoppedError: the fetch is to stop.
        """
        self._transfers.check()
        found = {one.path: self._examine(one, self._verify) for one in transfer.products}
        if self._wanted(transfer, found):
            lock = self._state / "locks" / f"{transfer.key}.lock"
            with locked(lock, self._transfers.wait, lambda: self._waits(transfer)):
                # Another process may have brought them in the meantime.
                now = {one.path: self._examine(one) for one in transfer.products}
                wanted = self._wanted(transfer, now)
                if wanted:
                    self._bring(transfer, wanted)
                    now.update({one.path: self._placed(one) for one in wanted})
            found = now
        return tuple(self._outcome(one, found[one.path]) for one in transfer.products)

    def failed(self, transfer: Transfer, reason: str) -> tuple[Outcome, ...]:
        """What to report if `run` failed: files that are there in spite of it are there."""
        outcomes = []
        for one in transfer.products:
            try:
                presence = self._examine(one)
            except FetchError:
                presence = Presence(False)
            if presence.ok:
                outcomes.append(self._outcome(one, presence))
            else:
                outcomes.append(Outcome(one.path, "failed", reason))
        return tuple(outcomes)

    def _examine(self, download: Download, thorough: bool = False) -> Presence:
        with local_errors():
            return self._records.examine(download, thorough=thorough)

    def _wanted(self, transfer: Transfer, found: dict[str, Presence]) -> list[Download]:
        """The files to bring. One that is there with a fault is not touched unless asked for."""
        return [
            one
            for one in transfer.products
            if not found[one.path].there or (found[one.path].problem and self._replace)
        ]

    def _waits(self, transfer: Transfer) -> None:
        self._observer.noted(transfer.name, "waiting for another fetch of it")

    def _placed(self, download: Download) -> Presence:
        size = (self._data_folder / download.path).stat().st_size
        return Presence(True, detail="fetched", size=size)

    def _outcome(self, download: Download, presence: Presence) -> Outcome:
        if presence.problem:
            return Outcome(download.path, "failed", presence.problem, presence.size)
        if presence.detail == "fetched":
            return Outcome(download.path, "fetched", f"from {download.url}", presence.size)
        return Outcome(download.path, "there", presence.detail, presence.size)

    def _bring(self, transfer: Transfer, wanted: Sequence[Download]) -> None:
        part = Part(self._state / "parts", transfer.key)
        for again in (False, True):
            try:
                checksum = self._download(transfer, part)
                self._place(transfer, wanted, part, checksum)
                break
            except MismatchError as error:
                with local_errors():
                    part.discard()
                if again:
                    raise FetchError(f"{error} (fetched twice, from {transfer.url})") from error
                self._observer.noted(transfer.name, f"{error}; once more from the start")
        with local_errors():
            part.discard_outputs()
            if not (self._keep_archives and any(one.member is not None for one in wanted)):
                part.discard()

    def _download(self, transfer: Transfer, part: Part) -> str:
        """Completes the part and checks it; its checksum."""
        expected, origin = self._expected_checksum(transfer)
        self._transfers.bring(transfer, part, Expected(transfer.size, expected is not None))
        with local_errors():
            size = part.size()
            checksum = sha256_of(part.file)
        if transfer.size is not None and size != transfer.size:
            raise MismatchError(f"expected {transfer.size} bytes, found {size}")
        if expected is not None and checksum != expected:
            raise MismatchError(f"expected SHA-256 {expected} ({origin}), found {checksum}")
        return checksum

    def _expected_checksum(self, transfer: Transfer) -> tuple[str | None, str]:
        """The checksum of what lies at the address, and how it is known; None if it is not."""
        if transfer.sha256 is not None:
            return transfer.sha256, "by its definition"
        if not self._replace:
            for one in transfer.products:
                recorded = self._records.source_sha256(one)
                if recorded is not None:
                    return recorded, "when it was fetched before; --replace accepts a change"
        return None, ""

    def _place(
        self, transfer: Transfer, wanted: Sequence[Download], part: Part, checksum: str
    ) -> None:
        """Takes the wanted files out of the part, and moves each under its name."""
        with local_errors():
            part.discard_outputs()
            outputs = {one.path: part.output(number) for number, one in enumerate(wanted)}
        members = {one.member: outputs[one.path] for one in wanted if one.member}
        if members:
            unpack(part.file, members, self._transfers.check)
        for one in wanted:
            output = outputs[one.path]
            if one.member == "":
                unpack_gzip(part.file, output, self._transfers.check)
            with local_errors():
                if one.member is None and len(transfer.products) == 1:
                    output = part.file
                elif one.member is None or not output.exists():
                    shared = part.file if one.member is None else members[one.member]
                    shutil.copyfile(shared, output)
                settle(output)
                # The record goes first: a file without one would pass unchecked later on.
                self._records.write(one, checksum, output)
                move_into_place(output, self._data_folder / one.path)
