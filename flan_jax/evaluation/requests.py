"""From a protocol to the prompts it asks, with everything needed to answer and to score them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from flan_jax.draws import Draws
from flan_jax.evaluation.protocol import EvalProtocol, ProtocolError
from flan_jax.overlap.held_out import Trained, held_out_status
from flan_jax.prompts.render import render
from flan_jax.tasks import TaskDefinition

# The shortest bucket: below it, padding costs less than another compilation.
SHORTEST_BUCKET = 32
MAX_BUCKETS = 5


class Vocabulary(Protocol):
    """What evaluation needs of a vocabulary; `encode` adds no EOS."""

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills rows up."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


def count_unknown(ids: Sequence[int], vocabulary: Vocabulary) -> int:
    """How many of `ids` stand for text that the vocabulary cannot write; 0 if it writes all."""
    unknown = getattr(vocabulary, "unk_id", None)
    return 0 if unknown is None else sum(token == unknown for token in ids)


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to the model.

    Attributes:
      id: `<task>/<index>`.
      task, cluster, metrics: from the task's definition.
      held_out: whether the task is held out from what the model was trained on; None if that is
        not known.
      prompt: what the model reads.
      target: what it would ideally write.
      answer: the answer alone, as this prompt asks for it (perhaps an option's marker).
      references: texts that count as right for metrics of text; `answer` unless the row's fields
        hold a list `answers`.
      options: what may be answered as this prompt asks for it; empty for open answers.
      option_texts: the options' texts, in the order of `options`.
      answer_text: the answer's text, whatever the prompt asks for.
      tokens: the prompt's token ids with EOS at the end, at most `inputs_length`.
      target_length: tokens of the target, EOS included.
      truncated: tokens of the prompt that had to go.
      dropped_exemplars: exemplars that had to go.
      representable: whether the answer survives encoding and decoding; if not, no model with this
        vocabulary can get it right.
      unknown_tokens: those of the prompt, as it is read, that stand for what the vocabulary cannot
        write.
      continuations: texts to be ranked, one for each option; empty where an answer is generated.
    """

    id: str
    task: str
    cluster: str
    held_out: bool | None
    metrics: tuple[str, ...]
    prompt: str
    target: str
    answer: str
    references: tuple[str, ...]
    options: tuple[str, ...]
    option_texts: tuple[str, ...]
    answer_text: str
    tokens: tuple[int, ...]
    target_length: int = 0
    truncated: int = 0
    dropped_exemplars: int = 0
    representable: bool = True
    unknown_tokens: int = 0
    continuations: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Tokens that the model reads, EOS included."""
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what the model reads, and of what it ranks."""
        data = np.asarray(self.tokens, np.int32).tobytes()
        if self.continuations:
            data += json.dumps(self.continuations).encode()
        return hashlib.blake2b(data, digest_size=8).hexdigest()


def plan(
    protocol: EvalProtocol,
    vocabulary: Vocabulary,
    inputs_length: int,
    *,
    trained: Trained = None,
) -> list[Request]:
    """All requests of `protocol`, task by task, by rising index.

    Args:
      protocol: what to ask.
      vocabulary: turns text into token ids.
      inputs_length: most tokens of a prompt, EOS included. Few-shot prompts lose exemplars to fit;
        a prompt that is still too long loses its end, as in SeqIO, but keeps its EOS.
      trained: the mixtures that the model was trained on, or their names; None if not known. It
        decides what is called held out (see `flan_jax.overlap.held_out`).

    Raises:
      UserError: unknown tasks, bad templates, an endless split without `num_examples`.
    """
    if inputs_length < 2:
        raise ProtocolError(f"inputs_length must be at least 2, found {inputs_length}")
    requests = []
    for task in protocol.tasks():
        held_out = held_out_status(trained, task.name).held_out
        for index in _indices(protocol, task):
            request = _request(protocol, task, index, vocabulary, inputs_length, held_out)
            requests.append(request)
    return requests


def _indices(protocol: EvalProtocol, task: TaskDefinition) -> Sequence[int]:
    size = task.source.num_examples(protocol.split)
    wanted = protocol.num_examples
    if size is None:
        if wanted is None:
            raise ProtocolError(
                f"protocol {protocol.name!r}: split {protocol.split!r} of {task.name} is endless; "
                "set num_examples, or take another split"
            )
        return range(wanted)
    if size == 0:
        raise ProtocolError(
            f"protocol {protocol.name!r}: split {protocol.split!r} of {task.name} is empty"
        )
    if wanted is None or wanted >= size:
        return range(size)
    # Not the first rows: files are often sorted by answer.
    draws = Draws(protocol.seed, "evaluation rows", task.name, protocol.split)
    return sorted(draws.sample(range(size), wanted))


def _request(
    protocol: EvalProtocol,
    task: TaskDefinition,
    index: int,
    vocabulary: Vocabulary,
    inputs_length: int,
    held_out: bool | None,
) -> Request:
    example = render(
        task,
        protocol.split,
        index,
        seed=protocol.seed,
        variant=protocol.variant_of(task),
        few_shot=protocol.few_shot_policy(inputs_length),
        count_tokens=lambda text: len(vocabulary.encode(text)) + 1,
        answers_only=True,
    )
    tokens, truncated = fit_tokens(
        [*vocabulary.encode(example.inputs), vocabulary.eos_id], inputs_length
    )
    again = vocabulary.decode(vocabulary.encode(example.answer))
    return Request(
        id=f"{task.name}/{index}",
        task=task.name,
        cluster=task.cluster,
        held_out=held_out,
        metrics=task.metrics,
        prompt=example.inputs,
        target=example.targets,
        answer=example.answer,
        references=example.references,
        options=example.options,
        option_texts=example.option_texts,
        answer_text=example.answer_text,
        tokens=tokens,
        target_length=len(vocabulary.encode(example.targets)) + 1,
        truncated=truncated,
        dropped_exemplars=example.dropped_exemplars,
        representable=again.split() == example.answer.split(),
        unknown_tokens=count_unknown(tokens, vocabulary),
    )


def fit_tokens(tokens: Sequence[int], length: int) -> tuple[tuple[int, ...], int]:
    """(`tokens` cut to `length` but with the same last token, how many had to go)."""
    over = len(tokens) - length
    if over <= 0:
        return tuple(tokens), 0
    return (*tokens[: length - 1], tokens[-1]), over


def buckets(inputs_length: int) -> tuple[int, ...]:
    """The padded lengths in use: `inputs_length` and a few powers of two below it, rising.

    A pure function of the length alone, so that how a prompt is padded does not depend on which
    others are asked with it.
    """
    lengths = [inputs_length]
    power = 1 << (inputs_length - 1).bit_length()
    while len(lengths) < MAX_BUCKETS and power // 2 >= SHORTEST_BUCKET:
        power //= 2
        if power < lengths[-1]:
            lengths.append(power)
    return tuple(reversed(lengths))


def bucket_of(length: int, lengths: Sequence[int]) -> int:
    """The least of the rising `lengths` that holds `length`; the last one if none does."""
    return next((bucket for bucket in lengths if length <= bucket), lengths[-1])


@dataclasses.dataclass(frozen=True)
class PlanSummary:
    """What a plan holds; `str()` of it is for printing.

    Attributes:
      requests, tasks, clusters: how many.
      histogram: requests by padded length.
      truncated: requests that lost part of their prompt.
      fewer_exemplars: requests that lost exemplars.
      long_targets: requests whose target does not fit the decoded length.
      unrepresentable: requests whose answer the vocabulary cannot write.
      unknown: requests whose prompt has text that the vocabulary cannot write.
      tokens: of all prompts together.
    """

    requests: int
    tasks: int
    clusters: int
    histogram: dict[int, int]
    median_length: int
    longest: int
    truncated: int
    fewer_exemplars: int
    long_targets: int
    unrepresentable: int
    unknown: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.requests:,} requests from {self.tasks:,} tasks in {self.clusters:,} clusters",
            f"prompt tokens: median {self.median_length:,}, longest {self.longest:,}, "
            f"together {self.tokens:,}",
        ]
        most = max(self.histogram.values(), default=1)
        for bucket, count in self.histogram.items():
            bar = "█" * round(30 * count / most)
            lines.append(f"  ≤ {bucket:>6,}  {count:>8,}  {bar}".rstrip())
        for count, what in (
            (self.truncated, "prompts were too long and lost their end"),
            (self.fewer_exemplars, "prompts lost exemplars to fit"),
            (self.long_targets, "targets are longer than max_decode_len, so cannot be reached"),
            (self.unrepresentable, "answers cannot be written with this vocabulary"),
            (self.unknown, "prompts have pieces that are unknown to this vocabulary"),
        ):
            if count:
                lines.append(f"{count:,} {what}")
        return "\n".join(lines)


def summarize(
    requests: Iterable[Request], inputs_length: int, max_decode_len: int | None = None
) -> PlanSummary:
    """Counts and lengths of `requests`; `max_decode_len` is to count targets that are longer."""
    requests = list(requests)
    lengths = buckets(inputs_length)
    counts = Counter(bucket_of(request.length, lengths) for request in requests)
    sizes = [request.length for request in requests] or [0]
    return PlanSummary(
        requests=len(requests),
        tasks=len({request.task for request in requests}),
        clusters=len({request.cluster for request in requests}),
        histogram={bucket: counts[bucket] for bucket in lengths},
        median_length=int(np.median(sizes)),
        longest=max(sizes),
        truncated=sum(request.truncated > 0 for request in requests),
        fewer_exemplars=sum(request.dropped_exemplars > 0 for request in requests),
        long_targets=sum(r.target_length > (max_decode_len or math.inf) for r in requests),
        unrepresentable=sum(not request.representable for request in requests),
        unknown=sum(request.unknown_tokens > 0 for request in requests),
        tokens=sum(request.length for request in requests),
    )
