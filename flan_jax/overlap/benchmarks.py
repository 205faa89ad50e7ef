"""Benchmarks as the overlap check sees them: items of text, and how many there should be."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flan_jax.errors import UserError
from flan_jax.sources.base import SourceError
from flan_jax.suggestions import did_you_mean
from flan_jax.tasks import TaskDefinition, UnknownTaskError, get_task

# Registers the house's benchmarks and what is known of where tasks come from.
HOUSE_MODULE = "flan_jax.mixtures.benchmarks"
# Splits of a task that questions are taken from, the first that it has.
_ASKED = ("test", "validation")


@dataclass(frozen=True)
class Item:
    """One item of a benchmark.

    Attributes:
      id: names it within the benchmark.
      question: what is asked.
      others: longer texts that belong to it, by kind: `answer`, `context`, `options`.
    """

    id: str
    question: str
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      name: unique.
      read: gives the items; None if no reader is known, then only what is declared counts. Raises
        SourceError if the data are missing or malformed.
      size: how many items it should have; fewer are a part of it. None if not known.
      scaffolding: gives texts of its prompts, which do not count as its items' own.
      task: name of the task whose items it asks, if it is one of ours.
      description: one line.
    """

    name: str
    read: Callable[[], Iterable[Item]] | None = None
    size: int | None = None
    scaffolding: Callable[[], Iterable[str]] = tuple
    task: str | None = None
    description: str = ""


_BENCHMARKS: dict[str, Benchmark] = {}


def register_benchmark(benchmark: Benchmark) -> Benchmark:
    """Adds `benchmark`. Raises UserError if the name is taken by another one."""
    known = _BENCHMARKS.setdefault(benchmark.name, benchmark)
    if known != benchmark:
        raise UserError(f"benchmark {benchmark.name!r} is registered already")
    return benchmark


def is_benchmark(name: str) -> bool:
    """Whether a benchmark has this name."""
    importlib.import_module(HOUSE_MODULE)
    return name in _BENCHMARKS


def known_benchmarks() -> tuple[Benchmark, ...]:
    """All benchmarks, by name."""
    importlib.import_module(HOUSE_MODULE)
    return tuple(_BENCHMARKS[name] for name in sorted(_BENCHMARKS))


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`; a task's name gives its test (else validation) questions.

    Raises:
      UserError: neither has this name; with a suggestion.
    """
    known = _BENCHMARKS.get(name) if is_benchmark(name) else None
    if known is not None and known.read is not None:
        return known
    try:
        return _benchmark_of(get_task(name))
    except UnknownTaskError:
        if known is not None:
            return known
        readable = [each.name for each in known_benchmarks() if each.read is not None]
        raise UserError(
            f"no benchmark or task is called {name!r}{did_you_mean(name, _BENCHMARKS)} "
            f"(benchmarks with a reader: {', '.join(readable)})"
        ) from None


def _benchmark_of(task: TaskDefinition) -> Benchmark:
    split = next((split for split in _ASKED if split in task.source.splits()), None)

    def read() -> Iterable[Item]:
        from flan_jax.overlap.text import texts_in

        assert split is not None
        size = task.source.num_examples(split)
        if size is None:
            raise SourceError(f"{task.name}: split {split} is endless")
        for index in range(size):
            texts = [(n, t) for n, t in texts_in(task.fields(split, index)) if t.strip()]
            # Which field is the question differs between tasks: the longest text stands for it.
            first = max(range(len(texts)), key=lambda i: len(texts[i][1]))
            others = tuple(text for i, text in enumerate(texts) if i != first)
            yield Item(f"{split}/{index}", texts[first][1], others)

    return Benchmark(
        name=task.name,
        read=read if split else None,
        task=task.name,
        description=f"the {split} questions of task {task.name}",
    )
