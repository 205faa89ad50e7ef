"""The normalized average of a suite: the mean of its scores, each against guessing.

As the Flan paper (Chung et al., 2022, section 2.3) has it, after BIG-bench: a score x against a
chance score r counts as 100 (x - r) / (100 - r). Below guessing it is negative, which is kept.
BIG-Bench Hard is normalised subtask by subtask, each against its own chance, and then averaged:
so the paper's Table 5 comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flan_jax.errors import UserError


@dataclass(frozen=True)
class Suite:
    """Benchmarks whose normalised scores are averaged.

    Attributes:
      name: for tables.
      components: names of protocols; all of them are needed.
      parts: averages over some of the components, by name.
      source: who defines it.
    """

    name: str
    components: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    source: str


@dataclass(frozen=True)
class NormalizedAverage:
    """A suite's average, in percent of the way from guessing to all right.

    Attributes:
      value: mean over the components.
      parts: mean over each part's components.
      components: normalised score of each.
    """

    value: float
    parts: Mapping[str, float]
    components: Mapping[str, float]


def normalized_average(suite: Suite, normalized: Mapping[str, float]) -> NormalizedAverage:
    """Averages the components' normalised scores; others are ignored.

    Args:
      suite: what to average.
      normalized: normalised scores in percent by protocol (`Part.normalized` of a result).

    Raises:
      UserError: a component is missing; an average of the others would not be comparable.
    """
    missing = [name for name in suite.components if name not in normalized]
    if missing:
        raise UserError(
            f"the {suite.name} needs {len(suite.components)} protocols; missing: "
            f"{', '.join(missing)}. Averages of fewer are not comparable"
        )
    components = {name: normalized[name] for name in suite.components}

    def mean(names: Sequence[str]) -> float:
        return sum(components[name] for name in names) / len(names)

    return NormalizedAverage(
        value=mean(suite.components),
        parts={part: mean(names) for part, names in suite.parts.items()},
        components=components,
    )
