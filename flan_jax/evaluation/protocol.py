"""What an evaluation asks: which rows of which tasks, in which words, answered how.

Two numbers may be compared when their protocols have the same hash: then every prompt was the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import gin

from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import check_variant
from flan_jax.sources.base import check_split
from flan_jax.tasks import TaskDefinition


class ProtocolError(UserError):
    """A protocol contradicts itself or does not fit its tasks."""


@gin.configurable(module="evaluation")
@dataclasses.dataclass(frozen=True)
class EvalProtocol:
    """One way to examine a model.

    Attributes:
      name: for people; no part of the hash.
      mixture_or_tasks: names of tasks and mixtures (one name may be given as a plain string). Every
        task counts once, however often it is named and whatever its rate.
      variant: one of `zs_opt`, `zs_noopt`, `fs_opt`, `fs_noopt`. Tasks without options have none to
        show: for them `_opt` is `_noopt`.
      shots: exact number of exemplars in a few-shot prompt (fewer only where the prompt would
        exceed the input length, which is counted); 0 for the zero-shot variants.
      split: split the questions come from.
      num_examples: questions per task, drawn with `seed` from a finite split; None for all of it.
        An endless split needs a number.
      seed: decides templates, exemplars, the order of options, and which rows are asked.
      max_decode_len: most tokens of an answer.
      temperature: 0 for greedy decoding.
      topk: sample among this many tokens; 0 for all.
    """

    name: str
    mixture_or_tasks: str | tuple[str, ...] | list[str]
    variant: str = "zs_noopt"
    shots: int = 0
    split: str = "validation"
    num_examples: int | None = None
    seed: int = 0
    max_decode_len: int = 64
    temperature: float = 0.0
    topk: int = 0

    # What a benchmark's protocol may have besides.
    paths: ClassVar[int] = 1
    stop: ClassVar[tuple[str, ...]] = ()
    ranking: ClassVar[None] = None

    def __post_init__(self) -> None:
        names = self.mixture_or_tasks
        names = (names,) if isinstance(names, str) else tuple(names)
        # Frozen for users; normalised once here, so that a list from gin hashes like a tuple.
        object.__setattr__(self, "mixture_or_tasks", names)
        if not names:
            raise ProtocolError(f"protocol {self.name!r} names no task or mixture")
        check_variant(self.variant)
        self._check_shots()
        self._check_numbers()

    def _check_shots(self) -> None:
        few_shot = self.variant.startswith("fs")
        if few_shot and self.shots < 1:
            raise ProtocolError(
                f"protocol {self.name!r}: variant {self.variant} needs shots >= 1, "
                f"found {self.shots}"
            )
        if not few_shot and self.shots:
            raise ProtocolError(
                f"protocol {self.name!r}: variant {self.variant} is zero-shot but shots is "
                f"{self.shots}; set shots to 0 or take an `fs_` variant"
            )

    def _check_numbers(self) -> None:
        least: dict[str, float] = {"max_decode_len": 1, "temperature": 0, "topk": 0, "shots": 0}
        if self.num_examples is not None:
            least["num_examples"] = 1
        for field, minimum in least.items():
            value = getattr(self, field)
            whole = field != "temperature"
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= minimum:
                raise ProtocolError(
                    f"protocol {self.name!r}: {field} must be a {'whole ' if whole else ''}number "
                    f">= {minimum}, found {value!r}"
                )

    def tasks(self) -> tuple[TaskDefinition, ...]:
        """The tasks, each once, in the order they are named.

        Raises:
          UnknownTaskError: no task or mixture has such a name; with a suggestion.
          SourceError: a task has no such split.
        """
        found: dict[str, TaskDefinition] = {}
        for name in self.mixture_or_tasks:
            for task in get_mixture(name).tasks():
                check_split(task.source, self.split)
                found.setdefault(task.name, task)
        return tuple(found.values())

    def variant_of(self, task: TaskDefinition) -> str:
        """The variant that `task` is asked in."""
        return task.resolve_variant(self.variant)

    def few_shot_policy(self, inputs_length: int) -> FewShotPolicy:
        """Exactly `shots` exemplars, within `inputs_length` tokens."""
        shots = max(1, self.shots)
        return FewShotPolicy(min_shots=shots, max_shots=shots, max_tokens=inputs_length)

    def decoding(self) -> str:
        """How answers are decoded, in a few characters that can be part of a file name."""
        if self.temperature == 0:
            return f"greedy-{self.max_decode_len}"
        return f"t{self.temperature:g}-k{self.topk}-{self.max_decode_len}-seed{self.seed}"

    @property
    def store_name(self) -> str:
        """Under which name outputs are stored."""
        return self.protocol_hash()

    def protocol_hash(self) -> str:
        """16 hexadecimal digits that change with anything the definition decides about prompts.

        That is all attributes but the name and the decoding, the resolved tasks with their sources,
        and the bytes of their template files. (What a source's files hold shows in the digest of
        each `Request` instead.)
        """
        content: dict[str, Any] = {
            "variant": self.variant,
            "shots": self.shots,
            "split": self.split,
            "num_examples": self.num_examples,
            "seed": self.seed,
            "tasks": [_task_fingerprint(t) for t in sorted(self.tasks(), key=lambda t: t.name)],
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def describe(self) -> str:
        """The protocol in one line."""
        count = "all" if self.num_examples is None else f"{self.num_examples:,}"
        shots = f"{self.shots}-shot" if self.shots else "zero-shot"
        shown = "options shown" if self.variant.endswith("_opt") else "options not shown"
        return (
            f"{self.name}: {', '.join(self.mixture_or_tasks)}; {shots}, {shown}; "
            f"{count} examples a task of {self.split}; {self.decoding()}; seed {self.seed}"
        )


def _task_fingerprint(task: TaskDefinition) -> Sequence[str]:
    task.templates()  # Says clearly if the file is missing or malformed.
    templates = hashlib.blake2b(task.template_file.read_bytes(), digest_size=16).hexdigest()
    return [task.name, "+".join(task.styles), task.source.kind, task.source.describe(), templates]
