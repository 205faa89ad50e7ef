"""What a mixture comes to on this machine: its tasks whose data are there.

A task whose data are missing never goes unnoticed: it stops a run before it starts, or, where that
is allowed, it is left out and named, and the share of its part of the mixture goes to the part's
other tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from flan_jax.mixing import MixtureDefinition
from flan_jax.sources.base import SourceError, SourceMissingError
from flan_jax.tasks import TaskDefinition

_NAMED = 10  # missing tasks named in a message


@dataclass(frozen=True)
class RealisedMixture:
    """A mixture on this machine.

    Attributes:
      mixture: the tasks that are there, rates made up within each part.
      missing: why each of the others is not, by task.
    """

    mixture: MixtureDefinition
    missing: dict[str, str]


class MixtureMissingError(SourceMissingError):
    """Data of some tasks of a mixture are not on this machine."""


def missing_data(task: TaskDefinition) -> str | None:
    """Why a task cannot be read here, None if it can; looks at the file system alone."""
    check = getattr(task.source, "check_present", None)
    if check is None:  # a user's own source may not tell before it is read
        return None
    try:
        check()
    except SourceError as error:
        return str(error)
    return None


def realise(
    mixture: MixtureDefinition,
    *,
    allow_missing: bool = False,
    why_missing: Callable[[TaskDefinition], str | None] = missing_data,
    remedy: str = "",
) -> RealisedMixture:
    """`mixture` without the tasks whose data are not on this machine.

    Each part of the mixture keeps its share as long as one of its tasks is there.

    Args:
      mixture: the mixture.
      allow_missing: whether to go on without the tasks that are missing.
      why_missing: says why a task is missing, or None; such as by looking into a store.
      remedy: what gets the missing data; by default `flan-jax data fetch`.

    Raises:
      MixtureMissingError: data are missing and `allow_missing` is not set, or all are missing.
    """
    missing = {task.name: why for task in mixture.tasks() if (why := why_missing(task)) is not None}
    if not missing:
        return RealisedMixture(mixture, {})
    present = {name for name in mixture.rates if name not in missing}
    if not present or not allow_missing:
        raise MixtureMissingError(
            tell_missing(mixture, missing)
            + f"\n{remedy or f'`flan-jax data fetch {mixture.name}` gets what can be got'}; "
            "--gin.ALLOW_MISSING=True goes on without the rest"
        )
    return RealisedMixture(only(mixture, present), missing)


def only(mixture: MixtureDefinition, present: Set[str]) -> MixtureDefinition:
    """`mixture` with the tasks of `present` alone, each part with the share it had."""
    if present >= mixture.rates.keys():
        return mixture
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for name, rate in mixture.rates.items():
        part = mixture.parts.get(name, "")
        before[part] = before.get(part, 0.0) + rate
        if name in present:
            after[part] = after.get(part, 0.0) + rate
    rates = {
        name: rate * before[part] / after[part]
        for name, rate in mixture.rates.items()
        if name in present and (part := mixture.parts.get(name, "")) in after
    }
    return dataclasses.replace(
        mixture,
        rates=rates,
        task_variants={n: w for n, w in mixture.task_variants.items() if n in present},
        parts={n: p for n, p in mixture.parts.items() if n in present},
    )


def tell_missing(mixture: MixtureDefinition, missing: Mapping[str, str]) -> str:
    """What is missing of a mixture, for people; `mixture` holds the rest, or all."""
    total = len({*mixture.rates, *missing})
    lines = [f"mixture {mixture.name!r}: data of {len(missing):,} of {total:,} tasks are missing"]
    # The first sentence says what is missing; the others, alike for all, what to do.
    lines += [f"  {task}: {why.split('. ')[0]}" for task, why in list(missing.items())[:_NAMED]]
    if len(missing) > _NAMED:
        lines.append(f"  … and {len(missing) - _NAMED:,} more")
    return "\n".join(lines)
