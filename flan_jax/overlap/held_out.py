"""What a report may call held out: nothing that the model was trained on under any name.

A task is held out from a mixture if it is none of its tasks, none of them is declared to stem from
the same data, and none reads the same source. No text is compared here: `flan-jax tasks overlap`
does that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.overlap.benchmarks import Benchmark, get_benchmark
from flan_jax.overlap.declared import derivations
from flan_jax.tasks import TaskDefinition, get_task, is_task

HELD_OUT, SEEN, UNKNOWN = "held out", "not held out", "unknown"

# What a model was trained on: a mixture or its name, or several; None if that is not known.
Trained = str | MixtureDefinition | Iterable[str | MixtureDefinition] | None


@dataclass(frozen=True)
class HeldOutStatus:
    """Whether a task may be called held out.

    Attributes:
      label: `held out`, `not held out` or `unknown`.
      reason: why, in a sentence.
    """

    label: str
    reason: str

    @property
    def held_out(self) -> bool | None:
        """The label as a truth value, None for `unknown`."""
        return {HELD_OUT: True, SEEN: False}.get(self.label)


def held_out_status(trained: Trained, name: str) -> HeldOutStatus:
    """Whether a task or benchmark is held out from what a model was trained on.

    Args:
      trained: the mixtures (or their names, or tasks' names) that the model was finetuned on; None
        if they are not known. One that is defined nowhere is not known either.
      name: of a task or benchmark.

    Raises:
      UserError: no task or benchmark is called `name`.
    """
    asked = get_task(name) if is_task(name) else get_benchmark(name)
    if trained is None:
        return HeldOutStatus(UNKNOWN, "it is not recorded what the model was trained on")
    mixtures, unknown = _mixtures(trained)
    for mixture in mixtures:
        reason = _seen_in(mixture, asked)
        if reason:
            return HeldOutStatus(SEEN, reason)
    if unknown:
        return HeldOutStatus(UNKNOWN, f"what {unknown[0]!r} was trained on, or holds, is not known")
    if not mixtures:
        return HeldOutStatus(UNKNOWN, "it is not recorded what the model was trained on")
    names = ", ".join(mixture.name for mixture in mixtures)
    return HeldOutStatus(HELD_OUT, f"no task of {names} is declared to have its data")


def names_of(trained: Trained) -> list[str] | None:
    """The names of what a model was trained on, None if that is not known."""
    if trained is None:
        return None
    several = [trained] if isinstance(trained, str | MixtureDefinition) else list(trained)
    return [one if isinstance(one, str) else one.name for one in several]


def _mixtures(trained: str | MixtureDefinition | Iterable[str | MixtureDefinition]):
    """(mixtures, names that nothing here has)."""
    several = [trained] if isinstance(trained, str | MixtureDefinition) else list(trained)
    mixtures: list[MixtureDefinition] = []
    unknown: list[str] = []
    for one in several:
        try:
            mixtures.append(get_mixture(one) if isinstance(one, str) else one)
        except UserError:  # defined nowhere, or made of data that are not here
            unknown.append(str(one))
    return mixtures, unknown


def _seen_in(mixture: MixtureDefinition, asked: TaskDefinition | Benchmark) -> str:
    """Why a mixture holds the data of what is asked; empty if it is not known to."""
    own_task = asked.task if isinstance(asked, Benchmark) else asked.name
    if own_task in mixture.rates:
        return f"{own_task} is a task of {mixture.name}"
    source = None if isinstance(asked, Benchmark) else _source(asked)
    for task in mixture.tasks():
        declared = derivations(task, asked)
        if declared:
            row = declared[0]
            return (
                f"{task.name}, a task of {mixture.name}, has data of {row.dataset}: {row.evidence}"
            )
        if source is not None and _source(task) == source:
            return f"{task.name}, a task of {mixture.name}, reads the same data ({source[1]})"
    return ""


def _source(task: TaskDefinition) -> tuple[str, str]:
    return task.source.kind, task.source.describe()
