"""Few-shot prompts: how solved examples are laid out before the question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flan_jax.draws import Draws


@dataclass(frozen=True)
class Layout:
    """Words and breaks around exemplars.

    Attributes:
      before_input: put before every input, the query's too.
      before_target: put before every target; ends the prompt.
      between: put between exemplars.
    """

    before_input: str
    before_target: str
    between: str = "\n\n"

    def exemplar(self, inputs: str, targets: str) -> str:
        return f"{self.before_input}{inputs}{self.before_target}{targets}{self.between}"

    def query(self, inputs: str) -> str:
        return f"{self.before_input}{inputs}{self.before_target}".rstrip()


LAYOUTS = (
    Layout("", "\n"),
    Layout("Q: ", "\nA: "),
    Layout("Question: ", "\nAnswer: "),
    Layout("Input: ", "\nOutput: "),
    Layout("Problem: ", "\nSolution: "),
    Layout("Task: ", "\nResult: "),
    Layout("Prompt: ", "\nReply: ", "\n\n\n"),
    Layout("[Q] ", "\n[A] "),
    Layout("", "\nAnswer: ", "\n---\n"),
    Layout("In: ", "\nOut: ", "\n"),
)


@dataclass(frozen=True)
class FewShotPolicy:
    """How many exemplars a few-shot prompt gets, and where they come from.

    Attributes:
      min_shots: fewest exemplars drawn.
      max_shots: most exemplars drawn.
      split: split that exemplars come from; the query itself is never one.
      mix_templates: probability that exemplars have templates of their own instead of the query's.
      max_tokens: budget for the whole input, in tokens; exemplars are dropped from the front until
        it holds, and a query that fits with none is worded zero-shot. None for no limit.
      negative_examples: whether patterns that show an example of what not to do are used too
        (Natural Instructions has them).
    """

    min_shots: int = 1
    max_shots: int = 4
    split: str = "train"
    mix_templates: float = 0.3
    max_tokens: int | None = None
    negative_examples: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_shots <= self.max_shots:
            raise ValueError(
                f"few-shot prompts need 1 <= min_shots <= max_shots, "
                f"found {self.min_shots} and {self.max_shots}"
            )


def draw_exemplars(
    size: int | None, count: int, draws: Draws, *, exclude: int | None
) -> tuple[int, ...]:
    """`count` distinct row indices below `size` (None: endless), without `exclude`.

    Fewer if the split is smaller.
    """
    bound = size if size is not None else 1 << 31
    available = bound - (exclude is not None and 0 <= exclude < bound)
    chosen: dict[int, None] = {}
    while len(chosen) < min(count, available):
        index = draws.below(bound)
        if index != exclude:
            chosen[index] = None
    return tuple(chosen)


def join_within(
    opening: str,
    exemplars: Sequence[str],
    query: str,
    max_tokens: int | None,
    count_tokens: Callable[[str], int] | None,
) -> tuple[str, int]:
    """The prompt, and how many exemplars had to go (from the front) to fit `max_tokens`.

    `exemplars` end with what separates them from what follows. The prompt begins with `opening`,
    if there is one.
    """
    opening = opening + "\n\n" if opening else ""
    for dropped in range(len(exemplars) + 1):
        prompt = opening + "".join(exemplars[dropped:]) + query
        if max_tokens is None or count_tokens is None or count_tokens(prompt) <= max_tokens:
            return prompt, dropped
    return prompt, len(exemplars)
