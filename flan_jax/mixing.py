"""Mixtures: weighted sets of tasks, flattened when they are defined.

A mixture of mixtures is resolved to task rates at registration, because SeqIO's nested mixtures
take quadratic time at thousands of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.prompts.render import VARIANTS, check_variant
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import TaskDefinition, UnknownTaskError, all_tasks, get_task

# The Flan 2022 collection mixes its four variants in equal parts (Longpre et al., 2023).
EQUAL_VARIANTS: Mapping[str, float] = dict.fromkeys(VARIANTS, 1.0)
# What an endless or uncounted task counts as in proportional mixing.
ENDLESS_SIZE = 10_000


@dataclass(frozen=True)
class MixtureDefinition:
    """Tasks and how often each is drawn.

    Attributes:
      name: unique among mixtures and tasks.
      rates: relative rate of each task, by name.
      variants: relative weight of each prompt variant.
      description: one line.
    """

    name: str
    rates: Mapping[str, float]
    variants: Mapping[str, float] = field(default_factory=lambda: dict(EQUAL_VARIANTS))
    description: str = ""

    def __post_init__(self) -> None:
        if not self.rates:
            raise UserError(f"mixture {self.name!r} has no tasks")
        for task, rate in self.rates.items():
            if not rate > 0:
                raise UserError(f"mixture {self.name!r}: the rate of {task} is {rate}, must be > 0")
        for variant in self.variants:
            check_variant(variant)

    def tasks(self) -> tuple[TaskDefinition, ...]:
        """The tasks, in the order of `rates`."""
        return tuple(get_task(name) for name in self.rates)

    def proportions(self) -> dict[str, float]:
        """Rates that sum to 1."""
        total = sum(self.rates.values())
        return {name: rate / total for name, rate in self.rates.items()}

    def draw_variant(self, task: TaskDefinition, draws: Draws) -> str:
        """A variant for one example of `task`.

        Variants that do not differ for the task count as one: without options, zs_opt is zs_noopt.
        """
        weights = dict.fromkeys(task.variants(), 0.0)
        for variant, weight in self.variants.items():
            if variant not in weights:
                variant = variant.replace("_opt", "_noopt")
            weights[variant] += weight
        return draws.weighted(list(weights), list(weights.values()))


_MIXTURES: dict[str, MixtureDefinition] = {}
_DEFERRED: dict[str, tuple[Callable[[], MixtureDefinition], str]] = {}


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
      variants: weight of each prompt variant; all alike if None.
      allow_held_out: whether held-out tasks may be members (for evaluation only).
      description: one line.

    Raises:
      UserError: unknown members, held-out tasks, rates that are not positive.
    """
    if rate not in ("equal", "proportional"):
        raise UserError(f"mixture {name!r}: rate must be 'equal' or 'proportional', found {rate!r}")
    if any(task.name == name for task in all_tasks()):
        raise UserError(f"mixture {name!r}: {name!r} is the name of a task; take another")
    if not isinstance(members, Mapping):
        members = {m: _natural_rate(m, cap) if rate == "proportional" else 1.0 for m in members}
    rates: dict[str, float] = {}
    for member, weight in members.items():
        for task, share in get_mixture(member).proportions().items():
            rates[task] = rates.get(task, 0.0) + weight * share
    held_out = [task for task in rates if get_task(task).held_out]
    if held_out and not allow_held_out:
        raise UserError(f"mixture {name!r} would train on held-out tasks: {', '.join(held_out)}")
    return MixtureDefinition(name, rates, dict(variants or EQUAL_VARIANTS), description)


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
    known = _DEFERRED.get(name)
    if name in _MIXTURES or (known is not None and known[0] is not define):
        raise UserError(f"mixture {name!r} is registered already, with other members or rates")
    _DEFERRED[name] = (define, description)


def deferred_mixtures() -> dict[str, str]:
    """Names of the mixtures made on demand, and their descriptions."""
    return {name: description for name, (_, description) in sorted(_DEFERRED.items())}


def _natural_rate(member: str, cap: int) -> float:
    mixture = get_mixture(member)
    total = 0.0
    for task in mixture.tasks():
        size = task.source.num_examples("train")
        total += min(ENDLESS_SIZE if size is None else size, task.cap or cap)
    return total


def get_mixture(name: str) -> MixtureDefinition:
    """The mixture called `name`; a task's name gives the mixture of that task alone.

    Raises:
      UnknownTaskError: neither has this name; with a suggestion.
    """
    if name in _MIXTURES:
        return _MIXTURES[name]
    if name in _DEFERRED:
        return _DEFERRED[name][0]()
    try:
        return MixtureDefinition(get_task(name).name, {name: 1.0})
    except UnknownTaskError:
        names = [*_MIXTURES, *_DEFERRED, *(task.name for task in all_tasks())]
        raise UnknownTaskError(
            f"no mixture or task is called {name!r}{did_you_mean(name, names)} "
            "(`flan-jax tasks list` shows the tasks, `flan-jax tasks mixtures` the mixtures)"
        ) from None


def all_mixtures() -> tuple[MixtureDefinition, ...]:
    """All registered mixtures, by name, but for those made on demand (`deferred_mixtures`)."""
    return tuple(_MIXTURES[name] for name in sorted(_MIXTURES))


def held_out_tasks(name: str) -> list[str]:
    """Names of the held-out tasks of a mixture or task; none if only SeqIO knows the name."""
    try:
        mixture = get_mixture(name)
    except UnknownTaskError:
        return []
    return [task.name for task in mixture.tasks() if task.held_out]
