"""From a task's row to the text a model reads and the text it should write.

The one renderer: SeqIO's tasks, the training reader, evaluation and `flan-jax tasks sample` all
come through `render`, so they show the same text for the same seed, epoch and index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.prompts import fewshot, options
from flan_jax.prompts.template import Template, TemplateError
from flan_jax.sources.base import Row
from flan_jax.suggestions import did_you_mean

if TYPE_CHECKING:
    from flan_jax.tasks import TaskDefinition

VARIANTS = ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")


@dataclass(frozen=True)
class Example:
    """One rendered example.

    Attributes:
      inputs: what the model reads.
      targets: what the model should write.
      answer: the answer itself as this prompt asks for it; equals `targets` unless those reason.
      options: what may be answered, as this prompt asks for it; empty for open answers.
      task, split, index, epoch: where it comes from.
      variant: one of VARIANTS.
      template: position of its template in the task's file.
      exemplars: rows shown as solved examples.
      dropped_exemplars: exemplars left out for the token budget.
    """

    inputs: str
    targets: str
    answer: str
    options: tuple[str, ...]
    task: str
    split: str
    index: int
    epoch: int
    variant: str
    template: int
    exemplars: tuple[int, ...] = ()
    dropped_exemplars: int = 0


def check_variant(variant: str) -> None:
    """Raises UserError unless `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise UserError(f"unknown variant {variant!r} ({known}){did_you_mean(variant, VARIANTS)}")


def usable_templates(task: TaskDefinition, variant: str) -> tuple[int, ...]:
    """Positions of the templates that `variant` may use.

    Where options are shown, templates with a place for them are taken if there are any; where they
    are not, templates that make no sense without are left out.
    """
    templates = task.templates()
    positions = range(len(templates))
    if task.has_options and variant.endswith("_opt"):
        usable = tuple(i for i in positions if templates[i].shows_options)
    else:
        usable = tuple(i for i in positions if not templates[i].needs_options)
    if not usable:
        raise TemplateError(f"{task.name} has no template for variant {variant}")
    return usable


def render(
    task: TaskDefinition,
    split: str,
    index: int,
    *,
    seed: int,
    epoch: int = 0,
    variant: str,
    template: int | None = None,
    few_shot: fewshot.FewShotPolicy = fewshot.FewShotPolicy(),
    count_tokens: Callable[[str], int] | None = None,
) -> Example:
    """Renders row `index` of `split` of `task`, as a pure function of the arguments.

    Args:
      task: the task's definition.
      split: split the row comes from.
      index: the row's position.
      seed: seed of the run.
      epoch: how often this row was seen before; each time it may look different.
      variant: one of VARIANTS. Tasks without options have none to show: `_opt` is as `_noopt`.
      template: position of the template; drawn if None.
      few_shot: for the few-shot variants.
      count_tokens: length of a text in tokens, for the few-shot budget.

    Raises:
      UserError: unknown variant, or templates that do not fit the row's fields.
      SourceError: bad data.
    """
    check_variant(variant)
    draws = Draws(seed, "render", task.name, split, index, epoch, variant)
    usable = usable_templates(task, variant)
    if template is None:
        template = draws.choice(usable)
    show_options = variant.endswith("_opt")
    fields = task.fields(split, index)
    chosen = task.templates()[template]
    if variant.startswith("zs"):
        inputs, targets, answer, labels = _render_one(task, chosen, fields, show_options, draws)
        exemplars, dropped = (), 0
    else:
        below = bool(chosen.instruction)
        inputs, targets, answer, labels = _render_one(
            task, chosen, fields, show_options, None, below
        )
        exemplars = _draw_exemplars(task, split, index, few_shot, draws)
        shots = _render_exemplars(task, exemplars, few_shot, template, usable, show_options, draws)
        layout = draws.choice(fewshot.LAYOUTS)
        inputs, dropped = fewshot.join_within(
            layout, shots, inputs, few_shot.max_tokens, count_tokens,
            chosen.render_instruction(fields),
        )  # fmt: skip
    return Example(
        inputs, targets, answer, labels, task.name, split, index, epoch, variant, template,
        exemplars[dropped:], dropped,
    )  # fmt: skip


def _render_one(
    task: TaskDefinition,
    template: Template,
    fields: Row,
    show_options: bool,
    draws: Draws | None,
    below_instruction: bool = False,
) -> tuple[str, str, str, tuple[str, ...]]:
    """(inputs, targets, answer, labels); `draws` draws the shape of the options, None fixes it."""
    choices: Sequence[str] = fields.get("options") or ()
    answer = fields["answer"]
    if choices and answer not in choices:
        raise TemplateError(
            f"{task.name}: the answer {answer!r} is not among the options {list(choices)!r}"
        )
    shown = show_options and bool(choices) and template.shows_options
    # A marker may stand for the answer only where nothing else in the prompt speaks of its text.
    if shown and draws is not None and template.answers_alone:
        block = options.drawn_block(choices, draws)
    else:
        block = options.plain_block(choices) if shown else options.no_block(choices)
    if choices:
        answer = block.labels[list(choices).index(answer)]
    inputs, targets = template.render(
        {**fields, "answer": answer}, block.text, below_instruction=below_instruction
    )
    return inputs, targets, answer, block.labels


def _draw_exemplars(
    task: TaskDefinition, split: str, index: int, policy: fewshot.FewShotPolicy, draws: Draws
) -> tuple[int, ...]:
    count = draws.between(policy.min_shots, policy.max_shots)
    size = task.source.num_examples(policy.split)
    exclude = index if split == policy.split else None
    return fewshot.draw_exemplars(size, count, draws, exclude=exclude)


def _render_exemplars(
    task: TaskDefinition,
    exemplars: tuple[int, ...],
    policy: fewshot.FewShotPolicy,
    template: int,
    usable: tuple[int, ...],
    show_options: bool,
    draws: Draws,
) -> list[tuple[str, str]]:
    mixed = draws.chance(policy.mix_templates)
    below = bool(task.templates()[template].instruction)
    shots = []
    for index in exemplars:
        position = draws.choice(usable) if mixed else template
        fields = task.fields(policy.split, index)
        inputs, targets, _, _ = _render_one(
            task, task.templates()[position], fields, show_options, None, below
        )
        shots.append((inputs, targets))
    return shots
