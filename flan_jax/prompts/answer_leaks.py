"""Templates whose prompts hold the target for nearly every row, where their neighbours' do not.

That an answer stands in its prompt is often right: a reader finds it in the passage, and a wording
such as "positive or negative?" names the labels. A slip shows in that one template gives the target
away row after row while others of the same task do not.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from flan_jax.prompts.render import Example
from flan_jax.prompts.template import Template
from flan_jax.prompts.wording import readings

# A template leaks if it holds at least LEAKING of its targets and its neighbours, in the median, at
# most SOUND of theirs.
LEAKING = 0.9
SOUND = 0.5
# Fewer rows, targets or neighbours tell nothing.
FEWEST_ROWS = 5
FEWEST_TARGETS = 3
FEWEST_NEIGHBOURS = 3


@dataclass
class _Counts:
    template: Template
    rows: int = 0
    held: int = 0
    targets: set[str] = field(default_factory=set)

    @property
    def share(self) -> float:
        return self.held / self.rows


class LeakWatch:
    """Counts, by template, the zero-shot prompts that hold their target."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], _Counts] = {}

    def add(self, template: Template, example: Example) -> None:
        """Counts one example; those that show options or exemplars hold targets rightly."""
        if not example.variant.startswith("zs") or example.variant == "zs_opt":
            return
        key = (example.variant, example.template)
        counts = self._counts.setdefault(key, _Counts(template))
        counts.rows += 1
        counts.targets.add(example.targets)
        counts.held += holds(example, template)

    def found(self) -> Iterator[tuple[Template, str]]:
        """The templates that give targets away, and what to say of each."""
        for (variant, _), counts in self._counts.items():
            if counts.rows < FEWEST_ROWS or len(counts.targets) < FEWEST_TARGETS:
                continue
            others = [
                other.share
                for (others_variant, _), other in self._counts.items()
                if other is not counts
                and others_variant == variant
                and other.template.target_fields == counts.template.target_fields
            ]
            if len(others) < FEWEST_NEIGHBOURS or counts.share < LEAKING:
                continue
            usual = statistics.median(others)
            if usual <= SOUND:
                yield (
                    counts.template,
                    f"the prompt holds the target in {counts.held} of {counts.rows} rows; "
                    f"those of the other templates do in {usual:.0%}",
                )


def holds(example: Example, template: Template) -> bool:
    """Whether the prompt gives its target away, be it in its fields or in the template's words.

    Words of the template that name an option of the task, as in "yes or no?", give nothing away.
    """
    target = " ".join(example.targets.lower().split()).rstrip(".")
    if not target:
        return False
    pattern = re.compile(rf"(?<!\w){re.escape(target)}(?!\w)")
    if not pattern.search(" ".join(example.inputs.lower().split())):
        return False
    if not example.option_texts:
        return True
    own = (" ".join(reading.own.lower().split()) for reading in readings(template.inputs, False))
    return not any(pattern.search(text) for text in own)
