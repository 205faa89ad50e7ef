"""Building parts in several processes, such that the death of one costs one task.

Workers are started afresh (not forked: sources may have threads) and end with the process that
started them, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.store.errors import StoreWriteError
from flan_jax.store.parts import PartPlan, write_part
from flan_jax.tasks import TaskDefinition, get_task


@dataclass(frozen=True)
class PartResult:
    """What became of a part: `error` says why there is none; `fatal` if no other would succeed.

    It is `resumed` if an earlier build had made it.
    """

    task: str
    error: str = ""
    fatal: bool = False
    resumed: bool = False


def build_part(task: TaskDefinition, plan: PartPlan, folder: Path) -> PartResult:
    """Writes one part; errors are told, not raised."""
    try:
        write_part(task, plan, folder)
    except StoreWriteError as error:
        return PartResult(plan.task, str(error), fatal=True)
    except UserError as error:
        return PartResult(plan.task, str(error))
    except Exception as error:  # whatever a source of the user's own may raise
        return PartResult(plan.task, f"{type(error).__name__}: {error}")
    return PartResult(plan.task)


def build_here(plans: Sequence[PartPlan], folder: Path) -> Iterator[PartResult]:
    """Builds parts one after the other, in this process."""
    for plan in plans:
        yield build_part(get_task(plan.task), plan, folder)


def build_in_processes(
    plans: Sequence[PartPlan], folder: Path, jobs: int, modules: Sequence[str]
) -> Iterator[PartResult]:
    """Builds parts in `jobs` processes, which import `modules` to know the tasks.

    Results come as they are ready.
    """
    waiting = list(reversed(plans))
    workers = [_Worker(folder, modules) for _ in range(min(jobs, len(plans)))]
    try:
        for worker in workers:
            worker.give(waiting.pop())
        while busy := [worker for worker in workers if worker.plan is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                result = worker.take()
                if not worker.alive:
                    workers.remove(worker)
                    worker.stop()
                    if waiting:
                        worker = _Worker(folder, modules)
                        workers.append(worker)
                if waiting and worker.alive:
                    worker.give(waiting.pop())
                yield result
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that builds one part after the other; `plan` is the one it is at."""

    def __init__(self, folder: Path, modules: Sequence[str]):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, folder, tuple(modules)), daemon=True
        )
        self._process.start()
        theirs.close()
        self.plan: PartPlan | None = None
        self.alive = True

    def give(self, plan: PartPlan) -> None:
        self.plan = plan
        with contextlib.suppress(OSError):  # if it has died, `take` says so
            self.pipe.send(plan)

    def take(self) -> PartResult:
        assert self.plan is not None
        plan, self.plan = self.plan, None
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join(10)
            return PartResult(plan.task, _cause_of_death(self._process.exitcode))

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (the system ends processes so when memory is short)" if name == "SIGKILL" else ""
        return f"the process that built it was ended by {name}{hint}; try fewer --jobs"
    return f"the process that built it ended with status {code}; see the messages above"


def _serve(pipe: Connection, folder: Path, modules: Sequence[str]) -> None:
    """What a worker does: builds what it is given until nobody gives any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    problem = _import(modules)
    while True:
        try:
            plan: PartPlan = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(PartResult(plan.task, problem) if problem else _build(plan, folder))


def _end_with(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(1)


def _import(modules: Sequence[str]) -> str:
    from flan_jax.cli.content import load_content

    try:
        load_content(modules)
    except UserError as error:
        return str(error)
    return ""


def _build(plan: PartPlan, folder: Path) -> PartResult:
    try:
        task = get_task(plan.task)
    except UserError as error:
        return PartResult(
            plan.task, f"{error}; several processes need to know the module that defines it"
        )
    return build_part(task, plan, folder)
