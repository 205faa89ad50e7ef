"""From protocols of any kind to requests, all of them before a model is loaded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flan_jax.errors import UserError
from flan_jax.evaluation import requests as task_requests
from flan_jax.evaluation.benchmark_requests import held_out_label, plan_benchmark
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.protocol import EvalProtocol, ProtocolError
from flan_jax.evaluation.requests import Request, Vocabulary
from flan_jax.overlap.held_out import Trained, held_out_status

AnyProtocol = EvalProtocol | BenchmarkProtocol


@dataclass(frozen=True)
class Plan:
    """What one protocol asks.

    Attributes:
      protocol: how it asks.
      requests: what.
    """

    protocol: AnyProtocol
    requests: list[Request]


def plan(
    protocol: AnyProtocol,
    vocabulary: Vocabulary,
    inputs_length: int,
    *,
    trained: Trained = None,
) -> list[Request]:
    """All requests of a protocol of either kind; see `requests.plan` and `plan_benchmark`.

    Raises:
      UserError: data are missing or malformed, tasks unknown, or numbers impossible.
    """
    if isinstance(protocol, BenchmarkProtocol):
        return plan_benchmark(protocol, vocabulary, inputs_length, trained=trained)
    return task_requests.plan(protocol, vocabulary, inputs_length, trained=trained)


def plan_all(
    protocols: Sequence[AnyProtocol],
    vocabulary: Vocabulary,
    inputs_length: int,
    *,
    strict_length: bool = False,
) -> list[Plan]:
    """The plans of all protocols, for a model of which it is not known what it was trained on.

    Args:
      protocols: what to ask.
      vocabulary: turns text into token ids.
      inputs_length: most tokens of a prompt.
      strict_length: whether a question that is too long even without exemplars is refused; else it
        loses its end, which is counted.

    Raises:
      UserError: what is wrong with any of them, all together.
    """
    plans: list[Plan] = []
    problems: dict[str, list[str]] = {}
    error: UserError | None = None
    for protocol in protocols:
        try:
            asked = plan(protocol, vocabulary, inputs_length)
            if strict_length:
                _refuse_truncated(protocol, asked, inputs_length)
            plans.append(Plan(protocol, asked))
        except UserError as found:
            error = found
            problems.setdefault(str(found), []).append(str(protocol.name))
    if error is not None and len(protocols) == 1:
        raise error
    if error is not None:
        raise UserError("not all protocols can be asked:\n" + "\n".join(_listing(problems)))
    return plans


def labelled(plan: Plan, trained: Trained) -> Plan:
    """The plan for a model that was trained on other mixtures: same questions, told as held out
    or not.
    """
    protocol = plan.protocol
    if trained is None:
        return plan

    @functools.cache
    def status(task: str) -> bool | None:
        if isinstance(protocol, BenchmarkProtocol):
            return held_out_label(protocol, trained)
        return held_out_status(trained, task).held_out

    requests = [
        dataclasses.replace(request, held_out=status(request.task)) for request in plan.requests
    ]
    return Plan(protocol, requests)


def _listing(problems: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line for each problem, with the protocols that have it."""
    for problem, names in problems.items():
        known = len(names) == 1 and problem.startswith(names[0])
        text = problem if known else f"{', '.join(names)}: {problem}"
        yield "- " + text.replace("\n", "\n  ")


def _refuse_truncated(protocol: AnyProtocol, asked: Sequence[Request], inputs_length: int) -> None:
    cut = [request for request in asked if request.truncated]
    if cut:
        worst = max(cut, key=lambda request: request.truncated)
        raise ProtocolError(
            f"{protocol.name}: {len(cut)} of {len(asked)} questions are longer than INPUTS_LENGTH "
            f"{inputs_length} without any exemplar, {worst.id} by {worst.truncated} tokens; set "
            "INPUTS_LENGTH higher, or STRICT_LENGTH = False to ask them without their end"
        )
