"""`flan-jax tasks sample`: what a model would read."""

from __future__ import annotations

import argparse
import importlib.resources
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.cli.tables import print_json
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.prompts.fewshot import FewShotPolicy, draw_exemplars
from flan_jax.prompts.render import Example, render
from flan_jax.realised import realise
from flan_jax.sources.base import check_split
from flan_jax.sources.folder import locate
from flan_jax.tasks import TaskDefinition, get_task

T5_VOCABULARY = Path("t5_vocab") / "spiece.model"


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens, the end of sequence included.

    Attributes:
      name: what counts, for the reader.
      count: length of a text.
      exact: whether these are a model's tokens; words are not.
    """

    name: str
    count: Callable[[str], int]
    exact: bool = True


def token_counter(vocabulary: str | None) -> TokenCounter:
    """The counter of a SentencePiece model: the one named, T5's, the micro collection's, or words.

    Raises:
      UserError: the model that was named is missing or unusable.
    """
    candidates = [locate(T5_VOCABULARY), *_micro_vocabularies()]
    path = Path(vocabulary).expanduser() if vocabulary else _first_file(candidates)
    if path is None:
        return TokenCounter("words (no vocabulary found)", lambda t: len(t.split()) + 1, False)
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    loaded = SentencePieceVocabulary(str(path))
    return TokenCounter(path.name, lambda text: len(loaded.encode(text)) + 1)


def _micro_vocabularies() -> list[Path]:
    folder = importlib.resources.files("flan_jax.mixtures.micro") / "vocabulary"
    return sorted(Path(str(folder)).glob("*.model"))


def _first_file(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _indices(task: TaskDefinition, split: str, count: int, seed: int) -> tuple[int, ...]:
    size = task.source.num_examples(split)
    if size is None:
        return tuple(range(count))
    return draw_exemplars(size, count, Draws(seed, "sample", task.name, split), exclude=None)


def _draw_tasks(
    mixture: MixtureDefinition, count: int, seed: int
) -> list[tuple[TaskDefinition, int]]:
    """How many examples to draw of each task of a mixture."""
    draws = Draws(seed, "sample", mixture.name)
    counts: dict[str, int] = {}
    for _ in range(count):
        chosen = draws.weighted(list(mixture.rates), list(mixture.rates.values()))
        counts[chosen] = counts.get(chosen, 0) + 1
    return [(get_task(task), number) for task, number in counts.items()]


def examples(arguments: argparse.Namespace, counter: TokenCounter) -> Iterator[Example]:
    """The examples asked for, the same ones for the same arguments."""
    policy = FewShotPolicy(max_tokens=arguments.inputs_length)
    mixture = get_mixture(arguments.name)
    if arguments.allow_missing:
        mixture = realise(mixture, allow_missing=True).mixture
    for task, number in _draw_tasks(mixture, arguments.number, arguments.seed):
        check_split(task.source, arguments.split)
        for index in _indices(task, arguments.split, number, arguments.seed):
            key = Draws(arguments.seed, "variant", task.name, arguments.split, index, 0)
            variant = task.resolve_variant(arguments.variant or mixture.draw_variant(task, key))
            last = len(task.templates_of(variant)) - 1
            if arguments.template is not None and not 0 <= arguments.template <= last:
                raise UserError(
                    f"--template {arguments.template}: {task.name} has templates 0 to {last} "
                    f"for {variant}"
                )
            yield render(
                task,
                arguments.split,
                index,
                seed=arguments.seed,
                variant=variant,
                template=arguments.template,
                few_shot=policy,
                count_tokens=counter.count,
            )


def describe_example(
    example: Example, counter: TokenCounter, arguments: argparse.Namespace
) -> dict[str, Any]:
    """An example with its lengths, as `--format json` prints it."""
    inputs, targets = counter.count(example.inputs), counter.count(example.targets)
    return {
        "task": example.task,
        "split": example.split,
        "index": example.index,
        "variant": example.variant,
        "template": example.template,
        "inputs": example.inputs,
        "targets": example.targets,
        "answer": example.answer,
        "options": list(example.options),
        "exemplars": list(example.exemplars),
        "dropped_exemplars": example.dropped_exemplars,
        "vocabulary": counter.name,
        "inputs_tokens": inputs,
        "targets_tokens": targets,
        "inputs_truncated": max(0, inputs - arguments.inputs_length),
        "targets_truncated": max(0, targets - arguments.targets_length),
    }


def _length(found: dict[str, Any], name: str, limit: int) -> str:
    cut = found[f"{name}_truncated"]
    return f"{found[f'{name}_tokens']} of {limit}" + (f", {cut} CUT OFF" if cut else "")


def sample(arguments: argparse.Namespace) -> int:
    """Prints rendered examples; the same bytes every time."""
    counter = token_counter(arguments.vocabulary)
    found = [describe_example(e, counter, arguments) for e in examples(arguments, counter)]
    if arguments.format == "json":
        print_json(found)
        return 0
    for example in found:
        print(
            f"=== {example['task']} {example['split']}[{example['index']}] "
            f"{example['variant']} template {example['template']}"
            + (f", exemplars {example['exemplars']}" if example["exemplars"] else "")
            + (f", {example['dropped_exemplars']} dropped" if example["dropped_exemplars"] else "")
        )
        print(f"--- inputs ({_length(example, 'inputs', arguments.inputs_length)} tokens)")
        print(example["inputs"])
        print(f"--- targets ({_length(example, 'targets', arguments.targets_length)} tokens)")
        print(example["targets"])
        print()
    print(f"{len(found)} examples; tokens by {counter.name}, the end of sequence included")
    return 0
