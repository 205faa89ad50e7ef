"""TFDS builders: TFDS downloads and prepares them, we look, lock and report."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from flan_jax.sources.downloads import TfdsDownload
from flan_jax.sources.fetch.errors import local_errors
from flan_jax.sources.fetch.locks import locked
from flan_jax.sources.fetch.plan import STATE_FOLDER
from flan_jax.sources.fetch.report import Observer, Outcome
from flan_jax.sources.fetch.transfers import Transfers
from flan_jax.sources.tfds_folders import MANUAL_VARIABLE, TFDS_VARIABLE, BuilderName


class BuilderFetch:
    """Prepares the builders of one fetch, below `data_folder` unless TFDS's variables say else."""

    def __init__(self, data_folder: Path, transfers: Transfers, observer: Observer):
        self._data_folder = data_folder
        self._prepared = _chosen(TFDS_VARIABLE, data_folder / "tensorflow_datasets")
        self._manual = _chosen(MANUAL_VARIABLE, data_folder / "manual")
        self._transfers = transfers
        self._observer = observer

    def run(self, download: TfdsDownload) -> tuple[Outcome, ...]:
        """Prepares one builder unless it is there.

        Raises:
          SourceError: there is no such builder, or it cannot be prepared.
        """
        name = BuilderName.parse(download.builder)
        if name.prepared(self._prepared) is not None:
            return (Outcome(download.builder, "there"),)
        from flan_jax.sources.tfds import prepare_builder

        self._transfers.check()
        with local_errors():
            self._prepared.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(download.builder.encode()).hexdigest()[:24]
        lock = locked(
            self._data_folder / STATE_FOLDER / "locks" / f"{key}.lock",
            self._transfers.wait,
            lambda: self._observer.noted(download.builder, "waiting for another fetch of it"),
        )
        with lock:
            if name.prepared(self._prepared) is not None:
                return (Outcome(download.builder, "there", "by another fetch"),)
            self._observer.began(download.builder, None, 0)
            prepare_builder(download.builder, self._prepared, manual_dir=self._manual)
        return (Outcome(download.builder, "fetched", f"prepared in {self._prepared}"),)

    def failed(self, download: TfdsDownload, reason: str) -> tuple[Outcome, ...]:
        """What to report if `run` failed: work for hands, where the definition says how."""
        if download.manual:
            detail = f"{download.manual} (files go to {self._manual}; TFDS said: {reason})"
            return (Outcome(download.builder, "manual", detail),)
        return (Outcome(download.builder, "failed", reason),)


def _chosen(variable: str, default: Path) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen).expanduser().absolute() if chosen else default
