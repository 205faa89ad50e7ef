"""Mixtures of the tasks whose data are on this machine.

Real data are not shipped, so what a mixture of real tasks holds is settled when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

from flan_jax.mixing import MixtureDefinition, define_mixture, register_deferred_mixture
from flan_jax.realised import missing_data
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE, data_folder
from flan_jax.tasks import TaskDefinition, registered_tasks

# Most examples a task counts as, unless it has a cap of its own: as many rows as Flan 2021 takes of
# any dataset (Wei et al., 2022).
CAP = 30_000


def present_mixture(
    name: str,
    tasks: Iterable[TaskDefinition],
    *,
    size: Callable[[TaskDefinition], int | None] | None = None,
    description: str = "",
) -> MixtureDefinition:
    """The mixture of those `tasks` whose data are there, in proportion to their training rows.

    Args:
      name: the mixture's name.
      tasks: the candidates; held-out ones are passed over.
      size: a task's number of training rows where that is known without reading; None if not.
      description: one line.

    Raises:
      SourceMissingError: there are no data for any of them; says what to do.
    """
    candidates = [task for task in tasks if not task.held_out]
    rates = {task.name: _rate(task, size) for task in candidates if missing_data(task) is None}
    rates = {task: rate for task, rate in rates.items() if rate > 0}
    if not rates:
        raise SourceMissingError(
            f"mixture {name!r}: no data for any of its {len(candidates)} tasks in the data folder "
            f"{data_folder()}. Set {ENVIRONMENT_VARIABLE} to the folder that holds them "
            "(docs/data.md has its layout); `flan-jax data status` shows what is there"
        )
    return define_mixture(name, rates, description=description)


def _rate(task: TaskDefinition, size: Callable[[TaskDefinition], int | None] | None) -> float:
    known = size(task) if size is not None else None
    rows = task.source.num_examples("train") if known is None else known
    assert rows is not None, f"{task.name} is endless: mix it by hand"
    return float(min(rows, task.cap or CAP))


def register_present_mixture(
    name: str,
    groups: tuple[str, ...],
    *,
    size: Callable[[TaskDefinition], int | None] | None = None,
    description: str,
) -> None:
    """Registers `present_mixture` of the tasks of some groups, made once per data folder."""

    @functools.cache
    def made_for(folder: Path) -> MixtureDefinition:
        tasks = [task for task in registered_tasks() if task.group in groups]
        return present_mixture(name, tasks, size=size, description=description)

    register_deferred_mixture(name, lambda: made_for(data_folder()), description=description)
