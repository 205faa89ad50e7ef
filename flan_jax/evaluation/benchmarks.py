"""Benchmarks as pinned protocols: what is asked, in which words, and what counts as right.

A `ProtocolDefinition` says for one benchmark and one manner of asking where items come from, how a
prompt is put together, and how an output is judged. Definitions are content, and live in
`mixtures/benchmarks`. A `BenchmarkProtocol` is what an evaluation job is given: a definition with
the settings of a run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gin

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.evaluation.protocol import ProtocolError
from flan_jax.suggestions import did_you_mean

# Registers the house's protocols.
HOUSE_MODULE = "flan_jax.mixtures.benchmarks.protocols"
PAPER = "paper"
Ranking = Literal["sum", "per_token", "per_character"]


@dataclasses.dataclass(frozen=True)
class BenchmarkItem:
    """One question of a benchmark.

    Attributes:
      index: its row in the subtask's file; with the subtask it is the item's id.
      question: what is asked, options included where the protocol shows them; no `Q:` or `A:`.
      answer: the right answer in the form that the prompt asks for, such as `(B)`.
      references: all texts that are right; `answer` alone if empty.
      options: what may be answered, in that form; empty for open answers.
      option_texts: the options' texts, in the same order; empty if they have none of their own.
      target: what a model would ideally write; `answer` if empty.
      fields: what else `ask` needs.
    """

    index: int
    question: str
    answer: str
    references: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    option_texts: tuple[str, ...] = ()
    target: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One decision of a protocol, for `flan-jax eval why`.

    Attributes:
      what: the question, the same for all variants of a protocol ("exemplars", "mean").
      value: how this protocol decides it.
      source: who says so: a paper's section, a repository, or "open" with a reason.
    """

    what: str
    value: str
    source: str


@dataclasses.dataclass(frozen=True)
class ProtocolDefinition:
    """A benchmark, asked and judged in one way.

    Attributes:
      name: `<benchmark>_<setting>`, such as `bbh_cot`; the same for all its variants.
      benchmark: such as `bbh`.
      subtasks: their names; an item's id is `<subtask>/<index>`.
      read: items of a subtask (first argument) and split. Raises SourceError.
      ask: the prompt's last part, from an item.
      variant: whose way of doing it: `paper`, `lm_eval`, `instruct_eval`.
      exemplars: those of a subtask for an item and a seed, as text, in order.
      header: what stands above them; empty for nothing.
      separator: between header, exemplars and question.
      drop: which exemplars a prompt that is too long loses: its `first` ones or its `last`.
      metrics: names of scorers; the first one is the score.
      split: split that is asked.
      splits: all splits there are.
      mean: of the subtasks' scores: `macro` counts each once, `micro` each item.
      chance: score in percent of guessing, by subtask; missing ones are 0.
      max_decode_len: most tokens of an answer.
      stop: texts that end an output; they and what follows are dropped.
      ranking: None to generate; otherwise the continuation of the highest log-probability is
        taken: their sum, the mean per token, or the sum per character.
      continuations: the texts that are ranked, one for each option; the options if None.
      choices: what was decided, and on whose authority.
      paper_benchmark, paper_setting: how paper_results.csv calls it; empty if it is not there.
      aliases: other names of subtasks, each with the one that is used here.
      extra_subtasks: subtasks that are asked when named only, and are in no mean.
      groups: subtasks by the name of their group, for means beside the score.
      notes: what a report must say of a subtask as the data folder is, by subtask and split.
      licence: of the items.
      description: one line.
    """

    name: str
    benchmark: str
    subtasks: tuple[str, ...]
    read: Callable[[str, str], Sequence[BenchmarkItem]]
    ask: Callable[[BenchmarkItem], str]
    variant: str = PAPER
    exemplars: Callable[[str, BenchmarkItem, int], Sequence[str]] | None = None
    header: Callable[[str], str] | None = None
    separator: str = "\n\n"
    drop: Literal["first", "last"] = "first"
    metrics: tuple[str, ...] = ("exact_match",)
    split: str = "test"
    splits: tuple[str, ...] = ("test",)
    mean: Literal["macro", "micro"] = "macro"
    chance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    max_decode_len: int = 64
    stop: tuple[str, ...] = ()
    ranking: Ranking | None = None
    continuations: Callable[[BenchmarkItem], Sequence[str]] | None = None
    choices: tuple[Choice, ...] = ()
    paper_benchmark: str = ""
    paper_setting: str = ""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    extra_subtasks: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    notes: Callable[[str, str], Sequence[str]] | None = None
    licence: str = ""
    description: str = ""

    def parts(
        self, subtask: str, item: BenchmarkItem, seed: int = 0
    ) -> tuple[str, tuple[str, ...], str]:
        """(header, exemplars, question) of an item's prompt."""
        header = self.header(subtask) if self.header else ""
        exemplars = self.exemplars(subtask, item, seed) if self.exemplars else ()
        return header, tuple(exemplars), self.ask(item)

    def prompt(
        self, subtask: str, item: BenchmarkItem, *, shots: int | None = None, seed: int = 0
    ) -> str:
        """The whole prompt, with the last `shots` exemplars, or all of them if that is None."""
        header, exemplars, question = self.parts(subtask, item, seed)
        return self.join(header, last(exemplars, shots), question)

    def join(self, header: str, exemplars: Sequence[str], question: str) -> str:
        """A prompt of its parts."""
        return self.separator.join([*([header] if header else []), *exemplars, question])

    def fewer(self, exemplars: Sequence[str], dropped: int) -> Sequence[str]:
        """`exemplars` without `dropped` of them."""
        if self.drop == "first":
            return exemplars[dropped:]
        return exemplars[: len(exemplars) - dropped]

    def subtask(self, name: str) -> str:
        """A subtask by its name or an alias. Raises UserError with a suggestion."""
        found = self.aliases.get(name, name)
        subtasks = (*self.subtasks, *self.extra_subtasks)
        if found not in subtasks:
            close = did_you_mean(name, [*subtasks, *self.aliases])
            raise UserError(f"{self.name} has no subtask {name!r}{close} ({', '.join(subtasks)})")
        return found


def last(exemplars: Sequence[str], shots: int | None) -> tuple[str, ...]:
    """The last `shots` of `exemplars`, all of them if that is None."""
    return tuple(exemplars[max(0, len(exemplars) - shots) :] if shots is not None else exemplars)


_DEFINITIONS: dict[str, dict[str, ProtocolDefinition]] = {}


def register_protocol(definition: ProtocolDefinition) -> ProtocolDefinition:
    """Adds a definition. Raises UserError if its name and variant are taken by another one."""
    variants = _DEFINITIONS.setdefault(definition.name, {})
    if definition.variant in variants and variants[definition.variant] is not definition:
        raise UserError(f"protocol {definition.name} ({definition.variant}) is registered already")
    variants[definition.variant] = definition
    return definition


def known_protocols() -> dict[str, dict[str, ProtocolDefinition]]:
    """All definitions by name, then by variant, in the order of registration."""
    importlib.import_module(HOUSE_MODULE)
    return _DEFINITIONS


def get_protocol(name: str, variant: str = PAPER) -> ProtocolDefinition:
    """A definition by the name of its protocol, or of its benchmark, whose first one is taken.

    Raises:
      UserError: there is no such protocol or variant; with a suggestion.
    """
    known = known_protocols()
    if name not in known:
        of_benchmark = [
            definition
            for variants in known.values()
            for definition in variants.values()
            if definition.benchmark == name and definition.variant == variant
        ]
        if of_benchmark:
            return of_benchmark[0]
        benchmarks = {d.benchmark for variants in known.values() for d in variants.values()}
        if name not in benchmarks:
            names = sorted({*known, *benchmarks})
            raise UserError(
                f"no benchmark or protocol is called {name!r}{did_you_mean(name, names)} "
                f"({', '.join(names)})"
            )
        raise UserError(f"benchmark {name} has no protocol with the variant {variant!r}")
    if variant not in known[name]:
        raise UserError(
            f"protocol {name} has no variant {variant!r}{did_you_mean(variant, known[name])} "
            f"({', '.join(known[name])})"
        )
    return known[name][variant]


@gin.configurable(module="evaluation")
@dataclasses.dataclass(frozen=True)
class BenchmarkProtocol:
    """A benchmark's protocol with the settings of a run.

    Attributes:
      benchmark: name of a protocol (`bbh_cot`), or of a benchmark for its first one.
      variant: whose way of asking.
      split: None for the definition's.
      subtasks: only these; None for all.
      num_examples: items of each subtask, drawn with `seed`; None for all.
      shots: at most so many exemplars, the last ones; None for all.
      seed: decides which items are drawn, exemplars where they are, and what is sampled.
      max_decode_len: most tokens of an answer; None for the definition's.
      temperature: 0 for greedy decoding.
      topk: sample among this many tokens; 0 for all.
      paths: answers sampled for each item; the majority of those with an answer counts
        (self-consistency, Wang et al., 2022). More than 1 needs a temperature.
      name: for files and tables; made of the settings if None.
    """

    benchmark: str
    variant: str = PAPER
    split: str | None = None
    subtasks: tuple[str, ...] | list[str] | None = None
    num_examples: int | None = None
    shots: int | None = None
    seed: int = 0
    max_decode_len: int | None = None
    temperature: float = 0.0
    topk: int = 0
    paths: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        definition = self.definition
        for field, value in {
            "split": self.split or definition.split,
            "max_decode_len": self.max_decode_len or definition.max_decode_len,
            "subtasks": self._subtasks(definition),
        }.items():
            object.__setattr__(self, field, value)
        object.__setattr__(self, "name", self.name or self._name())
        self._check(definition)

    def _subtasks(self, definition: ProtocolDefinition) -> tuple[str, ...]:
        if self.subtasks is None:
            return definition.subtasks
        return tuple(definition.subtask(name) for name in self.subtasks)

    def _name(self) -> str:
        parts = [self.definition.name]
        parts += [self.variant] if self.variant != PAPER else []
        parts += [str(self.split)] if self.split != self.definition.split else []
        parts += [f"sc{self.paths}"] if self.paths > 1 else []
        return "_".join(parts)

    def _check(self, definition: ProtocolDefinition) -> None:
        if self.split not in definition.splits:
            raise ProtocolError(
                f"{self.name}: no split {self.split!r} ({', '.join(definition.splits)})"
                + did_you_mean(str(self.split), definition.splits)
            )
        for field in ("num_examples", "max_decode_len", "paths"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or value != int(value) or value < 1):
                raise ProtocolError(
                    f"{self.name}: {field} must be a whole number >= 1, found {value!r}"
                )
        for field in ("shots", "temperature", "topk"):
            value = getattr(self, field)
            if value is not None and not value >= 0:
                raise ProtocolError(f"{self.name}: {field} must be >= 0, found {value!r}")
        if self.paths > 1 and self.temperature == 0:
            raise ProtocolError(
                f"{self.name}: {self.paths} paths are all the same without sampling; set "
                "temperature (the self-consistency paper: 0.7 with topk 40 for PaLM 540B)"
            )
        if definition.ranking and self.paths > 1:
            raise ProtocolError(f"{self.name} ranks options; there are no paths to sample")

    @property
    def definition(self) -> ProtocolDefinition:
        """What is asked and how it is judged. Raises UserError if there is no such protocol."""
        return get_protocol(self.benchmark, self.variant)

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an output."""
        return self.definition.stop

    @property
    def ranking(self) -> Ranking | None:
        """How options are ranked; None to generate."""
        return self.definition.ranking

    @property
    def store_name(self) -> str:
        """Under which name outputs are stored: all runs of one split of a benchmark share a store,
        so that asking more items of it only asks those.
        """
        return f"{self.definition.name}-{self.variant}-{self.split}"

    def items(self) -> dict[str, list[BenchmarkItem]]:
        """The items that are asked, by subtask. Raises SourceError: data missing or malformed."""
        found = {}
        for subtask in self.subtasks or ():
            items = list(self.definition.read(subtask, str(self.split)))
            if self.num_examples is not None and self.num_examples < len(items):
                # Not the first ones: files are often sorted.
                draws = Draws(self.seed, "benchmark rows", self.definition.name, subtask)
                items = [
                    items[i] for i in sorted(draws.sample(range(len(items)), self.num_examples))
                ]
            found[subtask] = items
        return found

    def decoding(self) -> str:
        """How answers are made, in a few characters that can be part of a file name."""
        if self.definition.ranking:
            return f"rank-{self.definition.ranking}"
        if self.temperature == 0:
            return f"greedy-{self.max_decode_len}"
        return f"t{self.temperature:g}-k{self.topk}-{self.max_decode_len}-seed{self.seed}"

    def protocol_hash(self) -> str:
        """16 hexadecimal digits of every prompt, every right answer and how answers are judged."""
        return self._hash

    @functools.cached_property
    def _hash(self) -> str:
        definition = self.definition
        digest = hashlib.blake2b(digest_size=8)
        for subtask, items in self.items().items():
            for item in items:
                prompt = definition.prompt(subtask, item, shots=self.shots, seed=self.seed)
                known = [subtask, item.index, prompt, item.answer, item.references, item.options]
                digest.update(json.dumps(known).encode())
        judged = [definition.metrics, definition.stop, definition.mean, definition.ranking]
        digest.update(json.dumps(judged).encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """The protocol in one line."""
        count = "all items" if self.num_examples is None else f"{self.num_examples:,} items"
        shots = "" if self.shots is None else f", at most {self.shots} exemplars"
        paths = f", {self.paths} paths" if self.paths > 1 else ""
        return (
            f"{self.name}: {self.definition.description or self.definition.name} "
            f"({self.variant}); {count} of each of {len(self.subtasks or ())} subtasks of "
            f"{self.split}{shots}; {self.decoding()}{paths}; seed {self.seed}"
        )
