"""Open-ended generation: which of several samples stands for a model, and pairs to be rated.

The Flan paper (section 6, appendix I) samples five answers at temperature 0.7, ranks them by
log-probability without normalising by length, removes those that are better than half the median
(too likely answers are often short or empty), and takes the best of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from flan_jax.draws import Draws
from flan_jax.evaluation.answer_files import AnswersError, answer_files, answer_rows
from flan_jax.suggestions import did_you_mean

LEFT, RIGHT, TIE = "left", "right", "tie"


@dataclass(frozen=True)
class Answer:
    """What stands for a model at one prompt.

    Attributes:
      id: `<category>/<index>`.
      prompt: what was asked.
      text: the answer.
    """

    id: str
    prompt: str
    text: str

    @property
    def category(self) -> str:
        """The part of the id before the last slash."""
        return self.id.rpartition("/")[0] or "all"


def choose(logprobs: Sequence[float]) -> int:
    """The position of the sample that stands for a model (the first of equals).

    Args:
      logprobs: of each sample, summed over its tokens, in nats; not above 0.

    Raises:
      ValueError: there are none, or one is above 0 or not a number.
    """
    if not logprobs or not all(value <= 0 for value in logprobs):
        raise ValueError(f"expected log-probabilities, none above 0, found {list(logprobs)}")
    limit = median(logprobs) / 2
    kept = [i for i, value in enumerate(logprobs) if value <= limit]
    return max(kept, key=lambda i: (logprobs[i], -i))


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file of JSON lines, or of all such files of a folder.

    Rows are those of `flan-jax infer` or of an evaluation job: an `id`, a `prompt` (or
    `input.inputs_pretokenized`), and a `prediction` or `output`. Where a row has several samples
    with log-probabilities (`predictions` or `paths`), `choose` decides.

    Raises:
      AnswersError: no such file, a malformed row (with its line), an id twice.
    """
    found: dict[str, Answer] = {}
    for place, row in answer_rows(answer_files([path])):
        try:
            answer = _answer(row)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AnswersError(f"{place}: {_reason(error)}") from error
        if answer.id in found:
            raise AnswersError(f"{place}: id {answer.id!r} stands there twice")
        found[answer.id] = answer
    if not found:
        raise AnswersError(f"{path} holds no answers")
    return list(found.values())


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the row has no {error}"
    return f"not a row of answers ({error})"


def _answer(row: Mapping[str, Any]) -> Answer:
    prompt = row["prompt"] if "prompt" in row else row["input"]["inputs_pretokenized"]
    samples = row.get("predictions") or row.get("paths") or ()
    if samples and all(sample.get("logprob") is not None for sample in samples):
        best = samples[choose([float(sample["logprob"]) for sample in samples])]
    else:
        best = row
    text = best["output"] if "output" in best else best["prediction"]
    if not all(isinstance(value, str) for value in (prompt, text)):
        raise TypeError("prompt and prediction must be texts")
    return Answer(str(row["id"]), prompt, text)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, side by side.

    Attributes:
      id, prompt: of both.
      left, right: the texts as they are shown.
      swapped: whether the first model's answer is on the right.
    """

    id: str
    prompt: str
    left: str
    right: str
    swapped: bool


def pair(
    first: Sequence[Answer], second: Sequence[Answer], seed: int, *, partial: bool = False
) -> list[Pair]:
    """Pairs in a random order with random sides, both decided by `seed`.

    Args:
      first, second: answers of two models.
      seed: of order and sides.
      partial: leave out what only one of them answered.

    Raises:
      AnswersError: ids or prompts differ.
    """
    others = {answer.id: answer for answer in second}
    alone = {answer.id for answer in first} ^ set(others)
    if alone and not partial:
        name = min(alone)
        raise AnswersError(
            f"{len(alone)} prompts have an answer of one model only, such as {name!r}"
            f"{did_you_mean(name, others)}; --partial leaves them out"
        )
    pairs = []
    for answer in sorted((a for a in first if a.id in others), key=lambda a: a.id):
        other = others[answer.id]
        if " ".join(other.prompt.split()) != " ".join(answer.prompt.split()):
            raise AnswersError(
                f"{answer.id}: the two models were asked in different words:\n"
                f"  {answer.prompt[:200]!r}\n  {other.prompt[:200]!r}"
            )
        swapped = Draws(seed, "sides", answer.id).chance(0.5)
        texts = (other.text, answer.text) if swapped else (answer.text, other.text)
        pairs.append(Pair(answer.id, answer.prompt, *texts, swapped))
    if not pairs:
        raise AnswersError("the two models have no prompt in common")
    return Draws(seed, "order of pairs").shuffled(pairs)
