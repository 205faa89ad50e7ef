"""One item under several variants of a protocol: what differs, and on whose authority."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax.errors import UserError
from flan_jax.evaluation.benchmark_requests import request_to_judge
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    BenchmarkProtocol,
    Choice,
    ProtocolDefinition,
    get_protocol,
    known_protocols,
)
from flan_jax.evaluation.extraction import Found
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.evaluation.voting import cut


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a variant makes of one output.

    Attributes:
      output: up to a stop string.
      stopped: whether there was one.
      found: the answer by metric; empty where options are ranked, because no text is read there.
    """

    output: str
    stopped: bool
    found: Mapping[str, Found]


@dataclasses.dataclass(frozen=True)
class View:
    """One item as one variant has it.

    Attributes:
      variant: its name.
      asked: whether the item is asked; an exemplar may not be. If not, all that follows is empty.
      prompt: the whole prompt.
      answer, references: what counts as right.
      options: what may be answered.
      continuations: the texts that are ranked; empty where the answer is generated.
      readings: of the outputs, in their order.
    """

    variant: str
    asked: bool
    prompt: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    continuations: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()


def view(
    name: str, variant: str, subtask: str, index: int, split: str, outputs: Sequence[str] = ()
) -> View:
    """An item of `split` as `variant` of protocol `name` has it, and what it makes of `outputs`.

    Raises:
      UserError: there is no such protocol, variant, subtask or split; files are missing.
    """
    protocol = BenchmarkProtocol(name, variant, split)
    definition = protocol.definition
    subtask = definition.subtask(subtask)
    items = {item.index: item for item in definition.read(subtask, split)}
    item = items.get(index)
    if item is None:
        return View(variant, False)
    request = request_to_judge(protocol, subtask, item)
    readings = []
    for output in outputs:
        text, stopped = cut(output, definition.stop)
        finders = {} if definition.ranking else {m: get_scorer(m).find for m in definition.metrics}
        found = {metric: find(request, text) for metric, find in finders.items()}
        readings.append(Reading(text, stopped, found))
    return View(
        variant,
        True,
        definition.prompt(subtask, item),
        request.answer,
        request.references,
        request.options,
        _ranked(definition, item),
        tuple(readings),
    )


def _ranked(definition: ProtocolDefinition, item: BenchmarkItem) -> tuple[str, ...]:
    if definition.ranking is None:
        return ()
    return tuple(definition.continuations(item) if definition.continuations else item.options)


def variants_of(name: str) -> tuple[str, ...]:
    """The variants of a protocol. Raises UserError if there is no such protocol."""
    return tuple(known_protocols()[get_protocol(name).name])


def shared_split(name: str, variants: Sequence[str], wanted: str | None = None) -> str:
    """A split that all variants have: `wanted`, else the first one's own, else any.

    Raises:
      UserError: there is none.
    """
    definitions = [get_protocol(name, variant) for variant in variants]
    shared = [s for s in definitions[0].splits if all(s in d.splits for d in definitions)]
    for split in (wanted,) if wanted else (definitions[0].split, *shared):
        if split in shared:
            return str(split)
    raise UserError(
        f"{name}: no split {wanted or ''!r} that {' and '.join(variants)} both have "
        f"({', '.join(shared) or 'they share none'})"
    )


# What the job and the scores follow, whatever `choices` say.
SETTINGS = ("split", "metrics", "mean", "max_decode_len", "stop", "ranking")


def differing_settings(
    left: ProtocolDefinition, right: ProtocolDefinition
) -> dict[str, tuple[Any, Any]]:
    """By name, the settings in which two definitions differ."""
    pairs = {name: (getattr(left, name), getattr(right, name)) for name in SETTINGS}
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


def differing_choices(
    left: ProtocolDefinition, right: ProtocolDefinition
) -> list[tuple[str, Choice | None, Choice | None]]:
    """(what, left's choice, right's choice) wherever the values differ or only one has any."""
    ours = {choice.what: choice for choice in left.choices}
    theirs = {choice.what: choice for choice in right.choices}
    found = []
    for what in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(what), theirs.get(what)
        if one is None or other is None or one.value != other.value:
            found.append((what, one, other))
    return found
