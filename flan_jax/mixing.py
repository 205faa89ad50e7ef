"""Mixtures: weighted sets of tasks, flattened when they are defined.

A mixture of mixtures is resolved to task rates at registration, because SeqIO's nested mixtures
take quadratic time at thousands of tasks.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.prompts.render import check_variant
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import (
    TaskDefinition,
    UnknownTaskError,
    get_task,
    is_task,
    known_names,
)

# What an endless or uncounted task counts as in proportional mixing.
ENDLESS_SIZE = 10_000


@dataclass(frozen=True)
class MixtureDefinition:
    """Tasks and how often each is drawn.

    Attributes:
      name: unique among mixtures and tasks.
      rates: relative rate of each task, by name.
      variants: relative weight of each prompt variant, for all tasks; None for each task's own
        weights (`TaskDefinition.default_variants`), as in the Flan 2022 collection, which mixes its
        variants in equal parts (Longpre et al., 2023).
      task_variants: weights of single tasks, which go before `variants`.
      parts: the member that each task came with, for tasks of a mixture of mixtures.
      description: one line.
    """

    name: str
    rates: Mapping[str, float]
    variants: Mapping[str, float] | None = None
    task_variants: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        if not self.rates:
            raise UserError(f"mixture {self.name!r} has no tasks")
        for task, rate in self.rates.items():
            if not rate > 0:
                raise UserError(f"mixture {self.name!r}: the rate of {task} is {rate}, must be > 0")
        for weights in (self.variants or {}, *self.task_variants.values()):
            for variant in weights:
                check_variant(variant)

    def tasks(self) -> tuple[TaskDefinition, ...]:
        """The tasks, in the order of `rates`."""
        return tuple(get_task(name) for name in self.rates)

    def proportions(self) -> dict[str, float]:
        """Rates that sum to 1."""
        total = sum(self.rates.values())
        return {name: rate / total for name, rate in self.rates.items()}

    def shares(self) -> dict[str, float]:
        """The share of each part; of tasks without one, under their own names."""
        found: dict[str, float] = {}
        for task, share in self.proportions().items():
            part = self.parts.get(task, task)
            found[part] = found.get(part, 0.0) + share
        return found

    def variants_of(self, task: TaskDefinition) -> dict[str, float]:
        """Weights of the variants of one task that are drawn at all.

        A variant that the task does not have counts for the one that stands for it: without
        options, zs_opt is zs_noopt.

        Raises:
          UserError: none of the mixture's variants is one of the task's.
        """
        asked = self.task_variants.get(task.name, self.variants)
        weights = dict.fromkeys(task.variants(), 0.0)
        for variant, weight in (task.default_variants() if asked is None else asked).items():
            name = task.stand_in(variant)
            if name is not None:
                weights[name] += weight
        if not any(weights.values()):
            raise UserError(
                f"mixture {self.name!r}: {task.name} has none of the variants "
                f"{', '.join(asked or {})}; it has {', '.join(task.variants())}"
            )
        return weights

    def draw_variant(self, task: TaskDefinition, draws: Draws) -> str:
        """A variant for one example of `task`."""
        if task.name not in self._weights:
            weights = self.variants_of(task)
            self._weights[task.name] = tuple(weights), tuple(weights.values())
        return draws.weighted(*self._weights[task.name])

    @functools.cached_property
    def _weights(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """What `draw_variant` has looked up."""
        return {}


_MIXTURES: dict[str, MixtureDefinition] = {}
_DEFERRED: dict[str, tuple[Callable[[], MixtureDefinition], str]] = {}
# Mixtures not defined yet: the module that registers each.
_ANNOUNCED: dict[str, str] = {}


def define_mixture(
    name: str,
    members: Sequence[str] | Mapping[str, float],
    *,
    rate: str = "equal",
    cap: int = 30_000,
    variants: Mapping[str, float] | None = None,
    allow_held_out: bool = False,
    description: str = "",
) -> MixtureDefinition:
    """Defines a mixture of tasks and mixtures, without registering it.

    Args:
      name: the mixture's name.
      members: names of tasks or mixtures, or a rate for each.
      rate: for members without a rate: `equal`, or `proportional` to min(examples, cap). A member
        that is a mixture keeps its inner proportions.
      cap: see `rate`; a task's own cap is taken first.
      variants: weight of each prompt variant; None for what the members have.
      allow_held_out: whether held-out tasks may be members (for evaluation only).
      description: one line.

    Raises:
      UserError: unknown members, held-out tasks, rates that are not positive.
    """
    if rate not in ("equal", "proportional"):
        raise UserError(f"mixture {name!r}: rate must be 'equal' or 'proportional', found {rate!r}")
    if is_task(name):
        raise UserError(f"mixture {name!r}: {name!r} is the name of a task; take another")
    if not isinstance(members, Mapping):
        members = {m: natural_rate(m, cap) if rate == "proportional" else 1.0 for m in members}
    rates: dict[str, float] = {}
    parts: dict[str, str] = {}
    origins: dict[str, list[tuple[float, MixtureDefinition]]] = {}
    for member, weight in members.items():
        mixture = get_mixture(member)
        for task, share in mixture.proportions().items():
            rates[task] = rates.get(task, 0.0) + weight * share
            if not is_task(member):
                parts.setdefault(task, member)
            origins.setdefault(task, []).append((weight * share, mixture))
    held_out = [task for task in rates if get_task(task).held_out]
    if held_out and not allow_held_out:
        raise UserError(f"mixture {name!r} would train on held-out tasks: {', '.join(held_out)}")
    own = {} if variants is not None else _inherited_variants(origins)
    return MixtureDefinition(name, rates, variants, own, parts, description)


def _inherited_variants(
    origins: Mapping[str, Sequence[tuple[float, MixtureDefinition]]],
) -> dict[str, dict[str, float]]:
    """Variants of the tasks whose members weigh them otherwise than the task itself does.

    A task that comes with several members has their variants, each member's in its share.
    """
    found: dict[str, dict[str, float]] = {}
    for name, members in origins.items():
        if all(m.task_variants.get(name, m.variants) is None for _, m in members):
            continue
        task = get_task(name)
        weights = dict.fromkeys(task.variants(), 0.0)
        for share, mixture in members:
            asked = mixture.variants_of(task)
            for variant, weight in asked.items():
                weights[variant] += share * weight / sum(asked.values())
        found[name] = {v: w / sum(weights.values()) for v, w in weights.items() if w}
    return found


def register_mixture(
    name: str,
    members: Sequence[str] | Mapping[str, float],
    *,
    rate: str = "equal",
    cap: int = 30_000,
    variants: Mapping[str, float] | None = None,
    allow_held_out: bool = False,
    description: str = "",
) -> MixtureDefinition:
    """Registers a mixture; arguments and errors are those of `define_mixture`.

    Raises:
      UserError: also if the name is taken by another mixture.
    """
    mixture = define_mixture(
        name,
        members,
        rate=rate,
        cap=cap,
        variants=variants,
        allow_held_out=allow_held_out,
        description=description,
    )
    _import_announced([name])  # a name that is only announced is taken, too
    known = _MIXTURES.get(name)
    if name in _DEFERRED or (known is not None and known != mixture):
        raise UserError(f"mixture {name!r} is registered already, with other members or rates")
    _MIXTURES[name] = mixture
    return mixture


def register_deferred_mixture(
    name: str, define: Callable[[], MixtureDefinition], *, description: str = ""
) -> None:
    """Registers a mixture that `define` makes when it is asked for.

    For mixtures whose members depend on the data at hand. `define` should be quick, or remember.

    Raises:
      UserError: the name is taken by another mixture.
    """
    _import_announced([name])
    known = _DEFERRED.get(name)
    if name in _MIXTURES or (known is not None and known[0] is not define):
        raise UserError(f"mixture {name!r} is registered already, with other members or rates")
    _DEFERRED[name] = (define, description)


def announce_mixtures(modules: Mapping[str, str]) -> None:
    """Announces mixtures that are registered when asked for: the module of each name."""
    _ANNOUNCED.update(modules)


def withdraw_announced_mixtures() -> None:
    """Takes all announcements back, for whoever makes the list of them."""
    _ANNOUNCED.clear()


def _import_announced(names: Sequence[str]) -> None:
    for module in dict.fromkeys(_ANNOUNCED[name] for name in names if name in _ANNOUNCED):
        importlib.import_module(module)


def registered_mixtures() -> list[str]:
    """Names of the mixtures registered so far, made already or not."""
    return sorted({*_MIXTURES, *_DEFERRED})


def deferred_mixtures() -> dict[str, str]:
    """Names of the mixtures made on demand, and their descriptions."""
    _import_announced(list(_ANNOUNCED))
    return {name: description for name, (_, description) in sorted(_DEFERRED.items())}


def natural_rate(member: str, cap: int) -> float:
    """Training examples of a task or mixture, each task's counted up to its own cap or `cap`."""
    total = 0.0
    for task in get_mixture(member).tasks():
        size = task.train_size()
        total += min(ENDLESS_SIZE if size is None else size, task.cap or cap)
    return total


def get_mixture(name: str) -> MixtureDefinition:
    """The mixture called `name`; a task's name gives the mixture of that task alone.

    Raises:
      UnknownTaskError: neither has this name; with a suggestion.
    """
    if name not in _MIXTURES and name not in _DEFERRED:
        _import_announced([name])
    if name in _MIXTURES:
        return _MIXTURES[name]
    if name in _DEFERRED:
        return _DEFERRED[name][0]()
    try:
        task = get_task(name).name  # `name` may be an alias
        return MixtureDefinition(task, {task: 1.0})
    except UnknownTaskError:
        names = [*_MIXTURES, *_DEFERRED, *_ANNOUNCED, *known_names()]
        raise UnknownTaskError(
            f"no mixture or task is called {name!r}{did_you_mean(name, names)} "
            "(`flan-jax tasks list` shows the tasks, `flan-jax mixture list` the mixtures)"
        ) from None


def all_mixtures() -> tuple[MixtureDefinition, ...]:
    """All registered mixtures, by name, but for those made on demand (`deferred_mixtures`)."""
    _import_announced(list(_ANNOUNCED))
    return tuple(_MIXTURES[name] for name in sorted(_MIXTURES))


def held_out_tasks(name: str) -> list[str]:
    """Names of the held-out tasks of a mixture or task; none if only SeqIO knows the name."""
    try:
        mixture = get_mixture(name)
    except UnknownTaskError:
        return []
    return [task.name for task in mixture.tasks() if task.held_out]
