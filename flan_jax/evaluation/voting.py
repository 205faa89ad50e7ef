"""From what a model wrote to the answer that is judged: stop strings, and votes among samples.

Self-consistency (Wang et al., 2022, https://arxiv.org/abs/2203.11171): of several sampled
solutions, the answer that most of them come to. An output without a recognisable answer never
votes; of equally frequent answers the one that came first wins. The paper says neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flan_jax.evaluation.extraction import Found, collapse, match_option
from flan_jax.evaluation.ranking import best_option, option_scores
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.evaluation.store import RANKED, Generation

STOP = "stop"


@dataclass(frozen=True)
class Path:
    """One of several outputs for an item.

    Attributes:
      output: its text, up to a stop string.
      prediction: the answer found in it; empty if there is none.
      parsed: whether there is one.
      ended: `eos`, `length` or `stop`.
      logprob: of the raw output, in nats; None if not known.
    """

    output: str
    prediction: str
    parsed: bool
    ended: str
    logprob: float | None = None


@dataclass(frozen=True)
class Settled:
    """What is judged of an item.

    Attributes:
      output: the text that scorers see; of several paths, the first one with the chosen answer.
      found: the answer in it.
      ended: how it ended: `eos`, `length`, `stop` or `ranked`.
      paths: all outputs, if there are several.
      votes: votes by answer, the winner first.
      option_scores: log-probability in nats of each option, if they were ranked.
    """

    output: str
    found: Found
    ended: str
    paths: tuple[Path, ...] = ()
    votes: dict[str, int] | None = None
    option_scores: dict[str, float] | None = None


def settle(
    request: Request,
    generations: Sequence[Generation],
    stop: Sequence[str] = (),
    ranking: str | None = None,
) -> Settled:
    """The answer to judge, of all that was generated (or ranked) for `request`.

    Args:
      request: what was asked.
      generations: the outputs, in the order of their paths.
      stop: see `cut`.
      ranking: see `ProtocolDefinition`.
    """
    find = get_scorer(request.metrics[0]).find
    if ranking is not None:
        option = best_option(request, generations[0], ranking)
        scores = option_scores(request, generations[0])
        return Settled(option, find(request, option), RANKED, option_scores=scores)
    if len(generations) == 1:
        output, ended = _ended(generations[0], stop)
        return Settled(output, find(request, output), ended)
    paths = []
    for generation in generations:
        output, ended = _ended(generation, stop)
        found = find(request, output)
        paths.append(Path(output, found.text, found.parsed, ended, generation.logprob))
    winner, votes = vote(request, [path.output for path in paths])
    chosen = paths[winner]
    found = find(request, chosen.output)
    return Settled(chosen.output, found, chosen.ended, tuple(paths), votes)


def vote(request: Request, outputs: Sequence[str]) -> tuple[int, dict[str, int]]:
    """(index of the first output with the most frequent answer, votes by answer, winner first).

    The first output, and no votes, if none has an answer.
    """
    find = get_scorer(request.metrics[0]).find
    answers: list[str | None] = []
    for output in outputs:
        found = find(request, output)
        answers.append(_ballot(request, found.text) if found.parsed else None)
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0, {}
    # most_common keeps the order of first occurrence among equals.
    ranked = counts.most_common()
    return answers.index(ranked[0][0]), dict(ranked)


def _ballot(request: Request, text: str) -> str:
    """What counts as one answer: an option, however it is named, or the text."""
    option = match_option(request, text) if request.options else None
    return request.options[request.option_texts.index(option)] if option else collapse(text)


def cut(output: str, stop: Sequence[str]) -> tuple[str, bool]:
    """(`output` before the first of the texts in `stop`, whether there was one)."""
    places = [place for place in (output.find(text) for text in stop if text) if place >= 0]
    return (output[: min(places)], True) if places else (output, False)


def _ended(generation: Generation, stop: Sequence[str]) -> tuple[str, str]:
    output, stopped = cut(generation.output, stop)
    return output, STOP if stopped else generation.ended
