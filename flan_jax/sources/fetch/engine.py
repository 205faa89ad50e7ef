"""The fetch itself: looks at what is there, brings the rest in parallel, and reports on it all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flan_jax.sources.base import SourceError
from flan_jax.sources.downloads import AnyDownload, ManualDownload, TfdsDownload
from flan_jax.sources.fetch.builders import BuilderFetch
from flan_jax.sources.fetch.files import FileFetch
from flan_jax.sources.fetch.plan import Transfer, make_plan
from flan_jax.sources.fetch.report import FetchReport, Observer, Outcome
from flan_jax.sources.fetch.transfers import Patience, Transfers
from flan_jax.sources.fetch.workers import run_jobs

_LOG = logging.getLogger(__name__)
_Job = Callable[[], tuple[Outcome, ...]]


def fetch(
    downloads: Iterable[AnyDownload],
    data_folder: Path,
    *,
    jobs: int = 4,
    mirrors: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    observer: Observer | None = None,
    replace: bool = False,
    verify: bool = False,
    keep_archives: bool = False,
) -> FetchReport:
    """Brings `downloads` into `data_folder`; prints nothing.

    Files appear under their names only when they are whole and have the right checksum. All are
    tried, whatever becomes of the others. Several fetches into one folder can run at the same time,
    and one that was interrupted, in whatever way, goes on where it ended.

    Args:
      downloads: what is wanted; equal ones count once.
      data_folder: where files go; made if needed.
      jobs: files at a time. TFDS builders are prepared besides, one after another.
      mirrors: beginnings of addresses, and what to put in their place.
      patience: how often and how long to try.
      observer: is told how it goes on, from several threads.
      replace: fetch again files that are there but not as they should be, and accept content that
        differs from what was fetched before (never from a stated checksum).
      verify: read all files that are there and compare checksums, even if they look untouched.
      keep_archives: keep archives after their members are taken out.

    Returns:
      The outcome of every download.

    Raises:
      FetchError: a definition is unusable (see `make_plan`). Failed downloads do not raise.
      KeyboardInterrupt: passed on, after all threads were told to stop.
    """
    plan = make_plan(downloads)
    observer = observer or Observer()
    folder = Path(data_folder)
    stop = threading.Event()
    transfers = Transfers(patience or Patience(), mirrors or {}, observer, stop)
    files = FileFetch(
        folder, transfers, observer, replace=replace, verify=verify, keep_archives=keep_archives
    )
    builders = BuilderFetch(folder, transfers, observer)
    outcomes = {one.path: _by_hand(folder, one) for one in plan.manual}
    pools = [
        ([_file_job(files, one, observer) for one in plan.transfers], max(1, jobs)),
        ([_builder_job(builders, one, observer) for one in plan.builders], 1),
    ]
    for finished in run_jobs(pools, stop):
        outcomes.update({outcome.name: outcome for outcome in finished})
    return FetchReport(tuple(outcomes[name] for name in plan.order))


def _by_hand(data_folder: Path, download: ManualDownload) -> Outcome:
    path = data_folder / download.path
    try:
        there = any(path.iterdir()) if path.is_dir() else path.is_file()
    except OSError as error:
        return Outcome(download.path, "failed", f"{path}: {error.strerror}")
    if there:
        return Outcome(download.path, "there", "got by hand, not checked")
    return Outcome(download.path, "manual", f"{download.how} (it belongs at {path})")


def _file_job(files: FileFetch, transfer: Transfer, observer: Observer) -> _Job:
    def run() -> tuple[Outcome, ...]:
        found, reason = _guarded(lambda: files.run(transfer))
        outcomes = found if found is not None else files.failed(transfer, reason)
        observer.ended(transfer.name, outcomes)
        return outcomes

    return run


def _builder_job(builders: BuilderFetch, download: TfdsDownload, observer: Observer) -> _Job:
    def run() -> tuple[Outcome, ...]:
        found, reason = _guarded(lambda: builders.run(download))
        outcomes = found if found is not None else builders.failed(download, reason)
        observer.ended(download.builder, outcomes)
        return outcomes

    return run


def _guarded(run: _Job) -> tuple[tuple[Outcome, ...] | None, str]:
    """What `run` returns, or None and why it failed: no download may take others down."""
    try:
        return run(), ""
    except SourceError as error:
        return None, str(error)
    except Exception as error:
        _LOG.debug("a download failed unexpectedly", exc_info=True)
        return None, f"{type(error).__name__}: {error}"
