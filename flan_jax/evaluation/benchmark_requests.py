"""From a benchmark's protocol to requests: prompts that fit the model, with an account of each."""

from __future__ import annotations

import dataclasses

from flan_jax.evaluation.benchmarks import BenchmarkItem, BenchmarkProtocol, last
from flan_jax.evaluation.protocol import ProtocolError
from flan_jax.evaluation.requests import Request, Vocabulary, count_unknown, fit_tokens
from flan_jax.overlap.benchmarks import is_benchmark
from flan_jax.overlap.held_out import Trained, held_out_status


def plan_benchmark(
    protocol: BenchmarkProtocol,
    vocabulary: Vocabulary,
    inputs_length: int,
    *,
    trained: Trained = None,
) -> list[Request]:
    """All requests of `protocol`, subtask by subtask, by rising index.

    A prompt that is too long loses exemplars, as many as it must, from the front (or from where the
    protocol says); if the question
    alone is still too long it loses its end, but keeps its end-of-sequence id. Both are counted.

    Args:
      protocol: what to ask.
      vocabulary: turns text into token ids.
      inputs_length: most tokens of a prompt, end-of-sequence id included.
      trained: as in `requests.plan`.

    Raises:
      UserError: the benchmark's files are missing or malformed.
    """
    if inputs_length < 2:
        raise ProtocolError(f"inputs_length must be at least 2, found {inputs_length}")
    held_out = held_out_label(protocol, trained)
    return [
        _request(protocol, subtask, item, vocabulary, inputs_length, held_out)
        for subtask, items in protocol.items().items()
        for item in items
    ]


def held_out_label(protocol: BenchmarkProtocol, trained: Trained) -> bool | None:
    """Whether a benchmark is held out from what a model was trained on; None if not known."""
    benchmark = protocol.definition.benchmark
    return held_out_status(trained, benchmark).held_out if is_benchmark(benchmark) else None


def _request(
    protocol: BenchmarkProtocol,
    subtask: str,
    item: BenchmarkItem,
    vocabulary: Vocabulary,
    inputs_length: int,
    held_out: bool | None,
) -> Request:
    definition = protocol.definition
    header, exemplars, question = definition.parts(subtask, item, protocol.seed)
    exemplars = last(exemplars, protocol.shots)
    prompt, tokens, dropped = "", [], 0
    for dropped in range(len(exemplars) + 1):
        prompt = definition.join(header, definition.fewer(exemplars, dropped), question)
        tokens = [*vocabulary.encode(prompt), vocabulary.eos_id]
        if len(tokens) <= inputs_length:
            break
    kept, truncated = fit_tokens(tokens, inputs_length)
    request = request_to_judge(protocol, subtask, item)
    return dataclasses.replace(
        request,
        held_out=held_out,
        prompt=prompt,
        tokens=kept,
        target_length=len(vocabulary.encode(request.target)) + 1,
        truncated=truncated,
        dropped_exemplars=dropped,
        representable=any(
            vocabulary.decode(vocabulary.encode(text)).split() == text.split()
            for text in request.references
        ),
        unknown_tokens=count_unknown(kept, vocabulary),
        continuations=continuations(protocol, item),
    )


def request_to_judge(protocol: BenchmarkProtocol, subtask: str, item: BenchmarkItem) -> Request:
    """An item as a request without token ids: enough to judge answers, not to ask for them.

    Its prompt is the question alone.
    """
    definition = protocol.definition
    return Request(
        id=f"{subtask}/{item.index}",
        task=subtask,
        cluster=definition.benchmark,
        held_out=None,
        metrics=definition.metrics,
        prompt=definition.ask(item),
        target=item.target or item.answer,
        answer=item.answer,
        references=item.references or (item.answer,),
        options=item.options,
        option_texts=item.option_texts or item.options,
        answer_text=answer_text(item),
        tokens=(),
    )


def continuations(protocol: BenchmarkProtocol, item: BenchmarkItem) -> tuple[str, ...]:
    """The texts that are ranked for an item; none where its answer is generated.

    Raises:
      ProtocolError: there is nothing to rank, or not a text for each option.
    """
    definition = protocol.definition
    if definition.ranking is None:
        return ()
    texts = tuple(definition.continuations(item) if definition.continuations else item.options)
    if not texts or len(texts) != len(item.options):
        raise ProtocolError(
            f"{protocol.name} ranks options, but item {item.index} has {len(item.options)} options "
            f"and {len(texts)} continuations"
        )
    return texts


def answer_text(item: BenchmarkItem) -> str:
    """The text of the right option, or the answer."""
    if item.answer in item.options and item.option_texts:
        return item.option_texts[item.options.index(item.answer)]
    return item.answer
