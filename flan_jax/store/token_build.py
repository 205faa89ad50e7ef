"""Rendering and tokenising a mixture into a token store, or bringing one up to date.

As with stores of rows (`flan_jax.store.build`): each task becomes a part file in a hidden folder,
the parts are packed into shards, and the manifest is replaced last. A build that was killed goes on
after the last task that it finished, and what comes out is the same to the byte.
"""

from __future__ import annotations

import concurrent.futures.process
import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import cloudpickle
import numpy as np

from flan_jax.data.examples import ExampleMaker
from flan_jax.files import write_atomically
from flan_jax.fingerprint import shares_hash
from flan_jax.realised import only
from flan_jax.store import pack
from flan_jax.store.access import LocalFolder
from flan_jax.store.definition import digest, source_state
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.manifest import FILE, StoredFile
from flan_jax.store.parts import Block
from flan_jax.store.reader import StoreSource
from flan_jax.store.report import TaskOutcome
from flan_jax.store.token_manifest import (
    RenderedTask,
    TokenManifest,
    prompts_hash,
    read_token_manifest,
    rendering_of,
)
from flan_jax.store.token_parts import (
    TokenPart,
    TokenPlan,
    build_token_part,
    open_token_part,
)
from flan_jax.store.verify import forget, problems, stamp
from flan_jax.store.workers import PartResult
from flan_jax.tasks import TaskDefinition, get_task

SHARD_BYTES = 512 * 2**20
WORK = ".build"


def build_token_store(
    maker: ExampleMaker,
    out: str | Path,
    *,
    mixture_name: str,
    epochs: int = 1,
    jobs: int = 1,
    allow_missing: bool = False,
    shard_bytes: int = SHARD_BYTES,
    tell: Callable[[TaskOutcome], None] = lambda outcome: None,
) -> tuple[tuple[TaskOutcome, ...], TokenManifest | None]:
    """Writes the token store of a mixture's examples.

    Args:
      maker: makes the examples; without an objective.
      out: the folder; made if needed.
      mixture_name: for messages.
      epochs: how many epochs to render. In each, a row may have another variant and template.
      jobs: processes that render at the same time.
      allow_missing: whether to write the store without the tasks that failed.
      shard_bytes: length that shards should have. One epoch of a task is never divided.
      tell: called as each task is settled.

    Returns:
      What became of each task, by name; the manifest, None if nothing was written as tasks failed.

    Raises:
      StoreError: another build is at work here; the folder cannot be written to, or is full.
    """
    if "://" in str(out):
        raise StoreError(
            f"{out}: a store is made on a disk and copied to where it is read from: make it in a "
            "folder, then for example `gcloud storage cp -r FOLDER/* gs://...`"
        )
    if maker.objective is not None:
        raise StoreError("a token store holds prompts and targets: set the objective to None")
    target = Path(LocalFolder(out).path)
    with write_errors(target):
        (target / WORK).mkdir(parents=True, exist_ok=True)
    with _alone(target):
        build = _Build(maker, target, mixture_name, epochs, tell)
        build.make_parts(jobs)
        if build.failed and not (allow_missing and len(build.failed) < len(maker.task_names)):
            return build.outcomes(), None
        return build.outcomes(), build.pack(shard_bytes)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Holds the folder's lock. Raises StoreError if another build does."""
    from flan_jax.sources.fetch.locks import locked

    def taken() -> None:
        raise StoreError(f"another build is writing the store {target}: wait for it to end")

    with locked(target / WORK / "lock", lambda seconds: None, taken):
        yield
    with contextlib.suppress(OSError):  # not empty if parts are kept for the next build
        (target / WORK).rmdir()


class _Build:
    """One build under way."""

    def __init__(
        self,
        maker: ExampleMaker,
        target: Path,
        mixture_name: str,
        epochs: int,
        tell: Callable[[TaskOutcome], None],
    ):
        self._maker, self._target, self._name = maker, target, mixture_name
        self._tell = tell
        vocabularies = maker.inputs_vocabulary, maker.targets_vocabulary
        self._rendering = rendering_of(
            maker.split, maker.seed, epochs, maker.feature_lengths, vocabularies, maker.few_shot
        )
        self._parts = target / WORK / "parts"
        self._outcomes: dict[str, TaskOutcome] = {}
        self._hashes: dict[str, str] = {}
        self._plans: dict[str, TokenPlan] = {}
        self._old, self._sound = _open_old(target)
        self._kept = _identities(target, self._old)

    @property
    def failed(self) -> dict[str, str]:
        """Why tasks failed, by name."""
        return {o.name: o.detail for o in self.outcomes() if o.status == "failed"}

    def outcomes(self) -> tuple[TaskOutcome, ...]:
        """What became of each task, by name."""
        return tuple(outcome for _, outcome in sorted(self._outcomes.items()))

    def make_parts(self, jobs: int) -> None:
        """Has every task that is not in the old store rendered, or fail."""
        with write_errors(self._parts):
            self._parts.mkdir(exist_ok=True)
            for path in self._parts.glob("*.tmp"):
                path.unlink(missing_ok=True)
        waiting = []
        for position, task in enumerate(self._maker.tasks):
            try:
                plan = self._plans[task.name] = self._plan(position, task)
            except Exception as error:  # whatever a source of the user's own may raise
                self._settle(TaskOutcome(task.name, "failed", detail=str(error)))
                continue
            if self._is_kept(plan):
                assert self._old is not None
                stored = self._old.tasks[task.name]
                self._settle(TaskOutcome(task.name, "unchanged", stored.rows, _bytes(stored)))
            elif (part := open_token_part(self._parts / plan.file)) is not None:
                self._settle_part(plan.task, part, "resumed")
            else:
                waiting.append(plan)
        # Large ones first, so that no process has one left when the others are done.
        waiting.sort(key=lambda plan: -(self._maker.tasks[plan.position].num_train or 0))
        for result in self._run(waiting, jobs):
            if result.fatal:
                raise StoreError(result.error)
            part = open_token_part(self._parts / self._plans[result.task].file)
            if result.error or part is None:
                why = result.error or "its part is not there"
                self._settle(TaskOutcome(result.task, "failed", detail=why))
            else:
                self._settle_part(result.task, part, "built")

    def _plan(self, position: int, task: TaskDefinition) -> TokenPlan:
        registered = get_task(task.name) if isinstance(task.source, StoreSource) else task
        self._hashes[task.name] = prompts_hash(self._maker.mixture, registered)
        identity = digest([self._hashes[task.name], vars(self._rendering), _state(task)])
        return TokenPlan(task.name, position, identity)

    def _run(self, plans: Sequence[TokenPlan], jobs: int) -> Iterator[PartResult]:
        settings = self._rendering.epochs, self._rendering.dtype
        if jobs == 1 or len(plans) < 2:
            for plan in plans:
                yield build_token_part(self._maker, *settings, plan, self._parts)
            return
        pool = concurrent.futures.ProcessPoolExecutor(
            min(jobs, len(plans)),
            multiprocessing.get_context("spawn"),
            _begin,
            # Tasks may hold functions that are defined inside others, which pickle leaves alone.
            (cloudpickle.dumps(self._maker), settings, self._parts),
        )
        try:
            futures = {pool.submit(_build, plan): plan for plan in plans}
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise StoreError(
                "a process that rendered ended before it was done (the system ends processes when "
                "memory is short): run the command again, with fewer --jobs; it goes on from here"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def pack(self, shard_bytes: int) -> TokenManifest:
        """Packs all parts and what is kept of the old store, and puts it in the old one's place."""
        names = [o.name for o in self.outcomes() if o.status != "failed"]
        pieces, told = [], {}
        for name in names:
            if self._outcomes[name].status == "unchanged":
                assert self._old is not None
                pieces += _pieces_of_old(name, self._target, self._old)
                told[name] = self._old.tasks[name]
            else:
                part = open_token_part(self._parts / self._plans[name].file)
                assert part is not None, name
                pieces += part.pieces(name)
                told[name] = RenderedTask(self._hashes[name], part.rows, *part.counts, epochs=())
        packed = pack.pack(pieces, self._target, shard_bytes, self._sound)
        manifest = TokenManifest(
            self._name,
            shares_hash(only(self._maker.mixture, set(names))),
            self._rendering,
            packed.index,
            packed.shards,
            {name: self._placed(name, told[name], packed) for name in names},
            {**self._maker.missing, **self.failed},
        )
        identities = {name: self._plans[name].identity for name in names}
        content = {"index": manifest.index.file, "identities": identities}
        with write_errors(self._target):
            write_atomically(self._target / pack.IDENTITIES, json.dumps(content, indent=1) + "\n")
        pack.switch(self._target, manifest)  # type: ignore[arg-type]  # it has files and a text
        stamp(LocalFolder(self._target), manifest.files())
        shutil.rmtree(self._parts, ignore_errors=True)
        return manifest

    def _placed(self, name: str, task: RenderedTask, packed: pack.Packed) -> RenderedTask:
        keys = [(name, f"{self._rendering.split}/{e}") for e in range(self._rendering.epochs)]
        epochs = tuple(packed.places[key] for key in keys)
        counts = task.rows, task.tokens, task.inputs_cut, task.targets_cut
        return RenderedTask(self._hashes[name], *counts, epochs)

    def _is_kept(self, plan: TokenPlan) -> bool:
        if self._old is None or self._kept.get(plan.task) != plan.identity:
            return False
        epochs = self._old.tasks[plan.task].epochs
        return all(self._old.shards[epoch.shard].file in self._sound for epoch in epochs)

    def _settle_part(self, name: str, part: TokenPart, status: str) -> None:
        size = sum(block.length for block in part.blocks)
        self._settle(TaskOutcome(name, status, part.rows, size))

    def _settle(self, outcome: TaskOutcome) -> None:
        self._outcomes[outcome.name] = outcome
        self._tell(outcome)


def _state(task: TaskDefinition) -> object:
    """What the rows come from, as it is now."""
    source = task.source
    if not isinstance(source, StoreSource):
        return source_state(source)
    # A policy's exemplars come from another split: all of the task's count.
    return {name: split.crc32 for name, split in source.store.stored(source.task).splits.items()}


def _bytes(task: RenderedTask) -> int:
    return sum(epoch.bytes for epoch in task.epochs)


def _open_old(target: Path) -> tuple[TokenManifest | None, dict[str, StoredFile]]:
    """The manifest that is there, if its index is sound, and those of its files that are."""
    folder = LocalFolder(target)
    try:
        text = folder.content(FILE)
        if text is None:
            return None, {}
        manifest = read_token_manifest(text, f"{target}/{FILE}")
        bad = problems(folder, manifest, "once")  # type: ignore[arg-type]
    except StoreError:
        return None, {}
    sound = {file.file: file for file in manifest.files() if file.file not in bad}
    return (None if manifest.index.file in bad else manifest), sound


def _identities(target: Path, old: TokenManifest | None) -> Mapping[str, str]:
    """What each task of the old store was rendered from, if that is known."""
    try:
        content = json.loads((target / pack.IDENTITIES).read_text(encoding="utf-8"))
        if old is not None and content["index"] == old.index.file:
            return {n: i for n, i in content["identities"].items() if n in old.tasks}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _pieces_of_old(name: str, target: Path, old: TokenManifest) -> Iterator[pack.Piece]:
    """The blocks of a task of the store that is there."""
    index = LocalFolder(target).open(old.index.file)
    for number, stored in enumerate(old.tasks[name].epochs):
        begin, end = 8 * (stored.first - 1), 8 * (stored.first + stored.rows + 1)
        table = np.frombuffer(index.read(begin, end), "<u8")

        def offsets(table: np.ndarray = table) -> array[int]:
            return array("Q", (table - table[0]).tolist())

        block = Block(
            f"{old.rendering.split}/{number}",
            stored.rows, stored.bytes, stored.crc32, stored.left_out,
        )  # fmt: skip
        shard = target / old.shards[stored.shard].file
        reclaim = functools.partial(forget, str(target))
        yield pack.Piece(name, block, shard, int(table[0]), offsets, reclaim)


# ---------------------------------------------------------------------------- in worker processes

_WORK: list[tuple[ExampleMaker, tuple[int, str], Path]] = []


def _begin(maker: bytes, settings: tuple[int, str], parts: Path) -> None:
    _WORK[:] = [(cloudpickle.loads(maker), settings, parts)]
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The pool's processes would wait for ever for one that was killed.
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _build(plan: TokenPlan) -> PartResult:
    maker, settings, parts = _WORK[0]
    return build_token_part(maker, *settings, plan, parts)
