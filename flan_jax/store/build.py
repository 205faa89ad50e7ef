"""Building a store: a part for each task that changed, then all packed into shards.

While a store is built, its folder has a hidden folder with the parts that are ready. A build that
was killed leaves those, and the store that was there before as it was; the same command goes on
from there, and what comes out is the same to the byte.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flan_jax.errors import UserError
from flan_jax.files import write_atomically
from flan_jax.fingerprint import mixture_hash, task_hash
from flan_jax.mixing import MixtureDefinition
from flan_jax.realised import only
from flan_jax.store import pack
from flan_jax.store.access import LocalFolder
from flan_jax.store.definition import rows_hash, versions
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.manifest import Manifest, StoredFile, StoredSplit, StoredTask
from flan_jax.store.parts import PartPlan, open_part, plan_part
from flan_jax.store.reader import Store, load_manifest
from flan_jax.store.report import BuildReport, TaskOutcome
from flan_jax.store.verify import problems, stamp
from flan_jax.store.workers import PartResult, build_here, build_in_processes
from flan_jax.tasks import TaskDefinition

SHARD_BYTES = 512 * 2**20
SPLITS = ("train", "validation")
WORK = ".build"

# Builds the parts of some plans in a folder, and tells of each.
Runner = Callable[[Sequence[PartPlan], Path], Iterable[PartResult]]


def build_store(
    mixture: MixtureDefinition,
    out: str | Path,
    *,
    jobs: int = 1,
    splits: Sequence[str] = SPLITS,
    allow_missing: bool = False,
    endless_rows: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    modules: Sequence[str] = (),
    runner: Runner | None = None,
    tell: Callable[[TaskOutcome], None] = lambda outcome: None,
    written: Callable[[Sequence[PartPlan]], None] = lambda plans: None,
) -> BuildReport:
    """Builds the store of a mixture, or brings the one that is there up to date.

    Args:
      mixture: whose tasks to store.
      out: the folder; made if needed.
      jobs: processes that read rows at the same time.
      splits: the splits to store; a task that lacks one is stored without it.
      allow_missing: whether to write the store without the tasks that failed.
      endless_rows: how many rows to store of splits without end; None leaves them to their
        generators, so that they stay without end.
      shard_bytes: length that shards should have. One split of a task is never divided.
      modules: modules that register tasks, for other processes to import.
      runner: builds parts in another way.
      tell: called as each task is settled.
      written: called with the plans of all tasks when the store is written and needs no parts.

    Raises:
      StoreError: another build is at work here; the folder cannot be written to, or is full.
    """
    if "://" in str(out):
        raise StoreError(
            f"{out}: a store is built on a disk and copied to where it is read from: build it in a "
            "folder, then for example `gcloud storage cp -r FOLDER/* gs://...`"
        )
    folder = LocalFolder(out)
    target = Path(folder.path)
    with write_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        (target / WORK).mkdir(exist_ok=True)
    with _alone(target):
        build = _Build(mixture, target, tuple(splits), endless_rows, tell)
        if runner is None:
            runner = _processes(jobs, modules) if jobs > 1 else build_here
        build.make_parts(runner)
        if build.failed and not (allow_missing and len(build.failed) < len(mixture.rates)):
            return build.report(None)
        manifest = build.pack(shard_bytes)
        written(build.plans)
        return build.report(manifest)


def _processes(jobs: int, modules: Sequence[str]) -> Runner:
    return lambda plans, folder: build_in_processes(plans, folder, jobs, modules)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Holds the folder's lock. Raises StoreError if another build does."""
    # Here, to spare who only reads stores what comes along with fetching.
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
        mixture: MixtureDefinition,
        target: Path,
        splits: tuple[str, ...],
        endless_rows: int | None,
        tell: Callable[[TaskOutcome], None],
    ):
        self._mixture = mixture
        self._target = target
        self._splits = splits
        self._endless_rows = endless_rows
        self._tell = tell
        self._parts = target / WORK / "parts"
        self._tasks = {task.name: task for task in sorted(mixture.tasks(), key=lambda t: t.name)}
        self._plans: dict[str, PartPlan] = {}
        self._outcomes: dict[str, TaskOutcome] = {}
        self._old, self._sound = _open_old(target)
        self._kept = _identities(target, self._old)

    @property
    def plans(self) -> tuple[PartPlan, ...]:
        """What was planned: all tasks but those of which not even that could be done."""
        return tuple(self._plans.values())

    @property
    def failed(self) -> dict[str, str]:
        """Why tasks failed, by name."""
        found = sorted(self._outcomes.items())
        return {name: outcome.detail for name, outcome in found if outcome.status == "failed"}

    def make_parts(self, runner: Runner) -> None:
        """Has every task that is not in the old store built, or fail."""
        with write_errors(self._parts):
            self._parts.mkdir(exist_ok=True)
            for path in self._parts.glob("*.tmp"):
                path.unlink(missing_ok=True)
        to_build = []
        for name, task in self._tasks.items():
            try:
                plan = plan_part(task, self._splits, self._endless_rows)
                task_hash(task)  # its templates may be malformed
            except Exception as error:
                self._settle(TaskOutcome(name, "failed", detail=_text(error)))
                continue
            self._plans[name] = plan
            if self._is_kept(plan):
                self._settle(self._outcome_of_old(name))
            elif open_part(self._parts / plan.file) is not None:
                self._settle(self._outcome_of_part(plan, "resumed"))
            else:
                to_build.append(plan)
        # Large ones first, so that no process has one left when the others are done.
        to_build.sort(key=lambda plan: -(self._tasks[plan.task].num_train or 0))
        # Closed at once if it ends early: processes should not outlive the build.
        with contextlib.closing(_generated(runner(to_build, self._parts))) as results:
            for result in results:
                if result.fatal:
                    raise StoreError(result.error)
                if result.error:
                    self._settle(TaskOutcome(result.task, "failed", detail=result.error))
                else:
                    status = "resumed" if result.resumed else "built"
                    self._settle(self._outcome_of_part(self._plans[result.task], status))

    def pack(self, shard_bytes: int) -> Manifest:
        """Packs all parts and what is kept of the old store, and puts it in the old one's place."""
        names = [name for name in self._tasks if name not in self.failed]
        pieces, endless = [], {}
        for name in names:
            if self._outcomes[name].status == "unchanged":
                assert self._old is not None
                pieces += pack.pieces_of_store(name, self._old)
                endless[name] = self._old.manifest.tasks[name].endless
            else:
                part = open_part(self._parts / self._plans[name].file)
                assert part is not None, name
                pieces += pack.pieces_of_part(name, part)
                endless[name] = part.endless
        packed = pack.pack(pieces, self._target, shard_bytes, self._sound)
        manifest = self._manifest(names, endless, packed)
        with write_errors(self._target):
            identities = {name: self._plans[name].identity for name in names}
            content = {"index": manifest.index.file, "identities": identities}
            write_atomically(self._target / pack.IDENTITIES, json.dumps(content, indent=1) + "\n")
        pack.switch(self._target, manifest)
        stamp(LocalFolder(self._target), manifest.files())
        shutil.rmtree(self._parts, ignore_errors=True)
        return manifest

    def report(self, manifest: Manifest | None) -> BuildReport:
        """What was done."""
        outcomes = tuple(outcome for _, outcome in sorted(self._outcomes.items()))
        return BuildReport(str(self._target), outcomes, manifest)

    def _settle(self, outcome: TaskOutcome) -> None:
        self._outcomes[outcome.name] = outcome
        self._tell(outcome)

    def _is_kept(self, plan: PartPlan) -> bool:
        if self._old is None or self._kept.get(plan.task) != plan.identity:
            return False
        shards = self._old.manifest.shards
        stored = self._old.manifest.tasks[plan.task]
        return all(shards[split.shard].file in self._sound for split in stored.splits.values())

    def _outcome_of_old(self, name: str) -> TaskOutcome:
        assert self._old is not None
        splits = self._old.manifest.tasks[name].splits.values()
        return TaskOutcome(
            name, "unchanged", sum(s.rows for s in splits), sum(s.bytes for s in splits)
        )

    def _outcome_of_part(self, plan: PartPlan, status: str) -> TaskOutcome:
        part = open_part(self._parts / plan.file)
        if part is None:
            return TaskOutcome(plan.task, "failed", detail="its part is not there")
        rows = sum(block.rows for block in part.blocks)
        return TaskOutcome(plan.task, status, rows, part.data_length)

    def _manifest(
        self, names: Sequence[str], endless: Mapping[str, tuple[str, ...]], packed: pack.Packed
    ) -> Manifest:
        tasks = {}
        for name in names:
            places = {
                split: packed.places[name, split]
                for split in self._splits
                if (name, split) in packed.places
            }
            tasks[name] = _stored(self._tasks[name], places, endless[name])
        return Manifest(
            mixture=self._mixture.name,
            mixture_hash=mixture_hash(only(self._mixture, set(names))),
            splits=self._splits,
            endless_rows=self._endless_rows,
            index=packed.index,
            shards=packed.shards,
            tasks=tasks,
            failed=self.failed,
        )


def _stored(
    task: TaskDefinition, splits: Mapping[str, StoredSplit], endless: tuple[str, ...]
) -> StoredTask:
    return StoredTask(
        splits=splits,
        endless=endless,
        rows_hash=rows_hash(task),
        task_hash=task_hash(task),
        group=task.group,
        licence=task.licence,
        kind=task.source.kind,
        source=task.source.describe(),
        versions=tuple(versions(task.source)),
    )


def _generated(results: Iterable[PartResult]) -> Generator[PartResult, None, None]:
    yield from results


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _open_old(target: Path) -> tuple[Store | None, dict[str, StoredFile]]:
    """The store that is there, if any, and those of its files that are sound, by name."""
    folder = LocalFolder(target)
    try:
        manifest = load_manifest(folder)
        bad = problems(folder, manifest, "once")
        sound = {file.file: file for file in manifest.files() if file.file not in bad}
        if manifest.index.file in bad:
            return None, sound
        return Store(folder, manifest, broken=frozenset(bad)), sound
    except StoreError:
        return None, {}


def _identities(target: Path, old: Store | None) -> dict[str, str]:
    """What each task of the old store was built from, if that is known."""
    try:
        content = json.loads((target / pack.IDENTITIES).read_text(encoding="utf-8"))
        if old is not None and content["index"] == old.manifest.index.file:
            return {n: i for n, i in content["identities"].items() if n in old.manifest.tasks}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}
