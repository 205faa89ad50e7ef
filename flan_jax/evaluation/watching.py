"""Which checkpoints an evaluation is of: one, a list, all of a run, or those a run is yet to write.

A run that ended writes `finished.json` into its folder, by which those who watch it know.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from flan_jax.checkpoints import detect, remote
from flan_jax.checkpoints.initial import resolve_path
from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.errors import UserError
from flan_jax.files import write_atomically

_FINISHED = "finished.json"
_WAIT, _END = -1, -2


def named_checkpoints(config: RestoreCheckpointConfig) -> list[str]:
    """Paths of all checkpoints that a configuration names, in its order.

    A run's folder stands for all its checkpoints by rising step, or with mode "latest" for the
    last one.

    Raises:
      UserError: none is named, or one does not exist.
    """
    named = [config.path] if isinstance(config.path, str) else list(config.path or ())
    found: dict[str, None] = {}
    for name in named:
        path = resolve_path(replace(config, path=name))
        if path is None:
            continue
        steps = []
        if not detect.is_hub(path) and detect.find_format(path) is None:
            steps = detect.list_steps(path)
        found.update(dict.fromkeys([f"{path}/checkpoint_{step}" for step in steps] or [path]))
    if not found:
        raise UserError(
            "CHECKPOINT_PATH is not set (nor CHECKPOINT): which checkpoint is to be evaluated?"
        )
    return list(found)


@dataclass(frozen=True)
class Watch:
    """The checkpoints of a run that may still be going on, each as it comes.

    Attributes:
      folder: the run's MODEL_DIR; it need not exist yet.
      last_step: with this step, or a later one, watching ends; None: with the run.
      timeout: seconds without a new checkpoint after which it ends, too.
      period: seconds between looks.
      say: told what is waited for.
    """

    folder: str
    last_step: int | None = None
    timeout: float = 6 * 3600.0
    period: float = 10.0
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if detect.is_hub(self.folder):
            raise UserError(f"WATCH needs a run's folder, found {self.folder}")
        if self.folder and _is_checkpoint(self.folder):
            raise UserError(
                f"WATCH needs a run's folder, found the checkpoint {self.folder}: give "
                f"{self.folder.rstrip('/').rpartition('/')[0] or '.'}"
            )

    def checkpoints(self) -> Iterator[str]:
        """Paths, by rising step; call it on all processes, which get the same ones."""
        done: set[int] = set()
        last = time.monotonic()
        said = False
        while True:
            step = _of_first(self._next(done, time.monotonic() - last))
            if step == _END:
                return
            if step == _WAIT:
                if not said:
                    self.say(f"waiting for checkpoints in {self.folder}")
                said = True
                time.sleep(self.period)
                continue
            done.add(step)
            yield f"{self.folder}/checkpoint_{step}"
            last, said = time.monotonic(), False

    def _next(self, done: set[int], waited: float) -> int:
        """The step to evaluate next, or _WAIT or _END."""
        # Before the list is read: what a run writes last is seen then.
        ended = finished_step(self.folder) is not None
        exists = detect.exists(self.folder)
        steps = (
            [step for step in detect.list_steps(self.folder) if step not in done] if exists else []
        )
        if steps:
            return min(steps)
        reached = self.last_step is not None and max(done, default=-1) >= self.last_step
        return _END if ended or reached or waited >= self.timeout else _WAIT


def _is_checkpoint(folder: str) -> bool:
    return detect.exists(folder) and detect.find_format(folder) is not None


def _of_first(step: int) -> int:
    if jax.process_count() == 1:
        return step
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def note_finished(folder: str | Path, step: int) -> None:
    """Says in a run's folder that it ended at `step`."""
    write_atomically(Path(folder) / _FINISHED, json.dumps({"step": step}) + "\n")


def note_begun(folder: str | Path) -> None:
    """Takes back `note_finished`: the run goes on."""
    (Path(folder) / _FINISHED).unlink(missing_ok=True)


def finished_step(folder: str | Path) -> int | None:
    """The step at which the run in a folder or bucket ended; None if it goes on or nobody knows."""
    try:
        return int(json.loads(remote.read_file(folder, _FINISHED) or b"")["step"])
    except (CheckpointError, OSError, ValueError, KeyError, TypeError):
        return None
