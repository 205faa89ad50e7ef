"""From a task's row to the text a model reads and the text it should write.

The one renderer: SeqIO's tasks, the training reader, evaluation and `flan-jax tasks sample` all
come through `render`, so they show the same text for the same seed, epoch and index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.prompts import fewshot, options
from flan_jax.prompts.template import Template, TemplateError
from flan_jax.sources.base import Row
from flan_jax.suggestions import did_you_mean

if TYPE_CHECKING:
    from flan_jax.tasks import TaskDefinition

# Templates that require this field show what not to do.
NEGATIVE_EXAMPLES = "negative_examples"
# Zero- or few-shot; direct answers with options shown or not, worked reasoning, or input-inverted.
VARIANTS = (
    *("zs_opt", "zs_noopt", "fs_opt", "fs_noopt"),
    *("zs_cot", "fs_cot", "zs_inverted", "fs_inverted"),
)


@dataclass(frozen=True)
class Rendered:
    """A row put into words.

    Attributes:
      inputs: what the model reads.
      targets: what the model should write.
      answer: the answer itself as this prompt asks for it; equals `targets` unless those reason.
      options: what may be answered, as this prompt asks for it; empty for open answers.
      answer_text: the text of the answer, where `answer` may be its marker.
      option_texts: the texts of the options, shown or not; empty for open answers.
      references: all right answers as this prompt asks for them.
    """

    inputs: str
    targets: str
    answer: str
    options: tuple[str, ...]
    answer_text: str
    option_texts: tuple[str, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Example(Rendered):
    """One rendered example.

    Attributes:
      task, split, index, epoch: where it comes from.
      variant: one of VARIANTS; a zero-shot one where no exemplar fits the token budget.
      template: position among the task's templates of this variant.
      exemplars: rows shown as solved examples.
      dropped_exemplars: exemplars left out for the token budget.
    """

    task: str
    split: str
    index: int
    epoch: int
    variant: str
    template: int
    exemplars: tuple[int, ...] = ()
    dropped_exemplars: int = 0

    @property
    def row_id(self) -> str:
        """Where the row is: task, split and position."""
        return f"{self.task}/{self.split}/{self.index}"


def check_variant(variant: str) -> None:
    """Raises UserError unless `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise UserError(f"unknown variant {variant!r} ({known}){did_you_mean(variant, VARIANTS)}")


def usable_templates(
    task: TaskDefinition,
    variant: str,
    fields: Row | None = None,
    *,
    negative_examples: bool = False,
    answers_only: bool = False,
) -> tuple[int, ...]:
    """Positions among `task.templates_of(variant)` of the templates that may be used.

    Where options are shown, templates with a place for them are taken, and input-inverted ones,
    which name the answer instead; where they are not, templates that make no sense without are
    left out.

    Args:
      task: the task's definition.
      variant: one of VARIANTS, which may stand for one that the task has.
      fields: a row's fields, to leave out templates that require what it lacks; None keeps them.
      negative_examples: whether templates that show what not to do are used.
      answers_only: whether templates that ask for another field than the answer are left out.

    Raises:
      TemplateError: there are none.
    """
    variant = task.resolve_variant(variant)
    templates = task.templates_of(variant)
    key = (id(templates), variant, negative_examples, answers_only)
    known = _USABLE.get(key)
    if known is None or known.templates is not templates:
        chosen = _usable(templates, variant, negative_examples, answers_only)
        demanding = any(templates[i].requires for i in chosen)
        known = _USABLE[key] = _Usable(templates, chosen, demanding)
    usable = known.positions
    if fields is not None and known.demanding:
        usable = tuple(i for i in usable if templates[i].usable_for(fields))
    if not usable:
        raise TemplateError(f"{task.name} has no template for variant {variant}")
    return usable


class _Usable(NamedTuple):
    """Templates, which of them may be used, and whether some of these require a field."""

    templates: tuple[Template, ...]
    positions: tuple[int, ...]
    demanding: bool


# By the templates' identity, which the entry keeps alive: hashing them would cost what it saves.
_USABLE: dict[tuple[int, str, bool, bool], _Usable] = {}


def _usable(
    templates: tuple[Template, ...], variant: str, negative_examples: bool, answers_only: bool
) -> tuple[int, ...]:
    """As `usable_templates`, whatever a row's fields are."""
    chosen = range(len(templates))
    if variant.endswith("_opt"):
        usable = [i for i in chosen if templates[i].shows_options or not templates[i].asks_answer]
    else:
        usable = [i for i in chosen if not templates[i].needs_options]
    if not negative_examples:
        usable = [i for i in usable if templates[i].requires != NEGATIVE_EXAMPLES]
    if answers_only and not variant.endswith("_inverted"):
        usable = [i for i in usable if templates[i].asks_answer]
    return tuple(usable)


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
    answers_only: bool = False,
) -> Example:
    """Renders row `index` of `split` of `task`, as a pure function of the arguments.

    Args:
      task: the task's definition.
      split: split the row comes from.
      index: the row's position.
      seed: seed of the run.
      epoch: how often this row was seen before; each time it may look different.
      variant: one of VARIANTS. One that makes no difference for the task stands for the one that it
        has: tasks without options have none to show, tasks with worked reasoning alone show it.
      template: position of the template; drawn if None.
      few_shot: for the few-shot variants.
      count_tokens: length of a text in tokens, for the few-shot budget.
      answers_only: whether to leave out templates that ask for another field than the answer.

    Raises:
      UserError: unknown variant, or templates that do not fit the row's fields.
      SourceError: bad data.
    """
    check_variant(variant)
    variant = task.resolve_variant(variant)
    job = _Job(task, split, index, seed, epoch, few_shot, count_tokens, answers_only)
    if variant.startswith("zs"):
        return job.zero_shot(variant, template)
    return job.with_exemplars(variant, template)


@dataclass(frozen=True)
class _Job:
    """One row to be rendered."""

    task: TaskDefinition
    split: str
    index: int
    seed: int
    epoch: int
    policy: fewshot.FewShotPolicy
    count_tokens: Callable[[str], int] | None
    answers_only: bool

    def zero_shot(self, variant: str, template: int | None, dropped: int = 0) -> Example:
        """The row worded alone; `dropped` exemplars did not fit."""
        draws, fields, template, _ = self._begin(variant, template)
        chosen = self.task.templates_of(variant)[template]
        rendered = _render_row(self.task, chosen, fields, variant, draws)
        return self._example(rendered, rendered.inputs, variant, template, (), dropped)

    def with_exemplars(self, variant: str, template: int | None) -> Example:
        """The row after solved ones; worded zero-shot if none of them fits."""
        draws, fields, template, usable = self._begin(variant, template)
        chosen = self.task.templates_of(variant)[template]
        below = bool(chosen.instruction)
        query = _render_row(self.task, chosen, fields, variant, None, below)
        exemplars = self._draw_exemplars(draws) if chosen.exemplars else ()
        positions = self._positions(variant, template, usable, len(exemplars), draws)
        layout = chosen.layout or draws.choice(fewshot.LAYOUTS)
        laid_out = {
            row: self._shot(row, variant, position, below, layout)
            for row, position in zip(exemplars, positions, strict=True)
        }
        exemplars = tuple(row for row in exemplars if laid_out[row])
        shots = [laid_out[row] for row in exemplars]
        opening = chosen.render_instruction(fields) if below else ""
        inputs, dropped = fewshot.join_within(
            opening, shots, layout.query(query.inputs), self.policy.max_tokens, self.count_tokens
        )
        # A short pattern alone would not say what to do; one that shows its own examples would push
        # the query out of what the model reads.
        if dropped == len(exemplars) and (chosen.exemplars or self._over_budget(inputs)):
            return self.zero_shot(variant.replace("fs_", "zs_"), None, dropped)
        return self._example(query, inputs, variant, template, exemplars[dropped:], dropped)

    def _over_budget(self, inputs: str) -> bool:
        budget, count_tokens = self.policy.max_tokens, self.count_tokens
        return budget is not None and count_tokens is not None and count_tokens(inputs) > budget

    def _begin(self, variant: str, template: int | None) -> tuple[Draws, Row, int, tuple[int, ...]]:
        """(draws of this example, its fields, its template, the templates it could have)."""
        draws = Draws(
            self.seed, "render", self.task.name, self.split, self.index, self.epoch, variant
        )
        fields = self._fields(self.split, self.index)
        usable = usable_templates(
            self.task,
            variant,
            fields,
            negative_examples=self.policy.negative_examples,
            answers_only=self.answers_only,
        )
        return draws, fields, draws.choice(usable) if template is None else template, usable

    def _fields(self, split: str, index: int) -> Row:
        if self.task.draw_fields is None:
            return self.task.fields(split, index)
        draws = Draws(self.seed, "fields", self.task.name, split, index, self.epoch)
        return self.task.fields(split, index, draws)

    @functools.cached_property
    def _exemplar_split(self) -> str:
        """Where exemplars come from: of a task without the policy's split, the query's own."""
        split = self.policy.split
        return split if split in self.task.source.splits() else self.split

    def _draw_exemplars(self, draws: Draws) -> tuple[int, ...]:
        count = draws.between(self.policy.min_shots, self.policy.max_shots)
        size = self.task.source.num_examples(self._exemplar_split)
        exclude = self.index if self.split == self._exemplar_split else None
        return fewshot.draw_exemplars(size, count, draws, exclude=exclude)

    def _positions(
        self, variant: str, template: int, usable: tuple[int, ...], count: int, draws: Draws
    ) -> list[int]:
        """Templates of the exemplars: the query's, or their own among those that ask the same."""
        templates = self.task.templates_of(variant)
        if not count or not draws.chance(self.policy.mix_templates):
            return [template] * count
        wanted = templates[template].target_fields
        alike = [
            i
            for i in usable
            if templates[i].target_fields == wanted
            and templates[i].exemplars
            and not templates[i].requires
        ]
        return [draws.choice(alike or [template]) for _ in range(count)]

    def _shot(
        self, index: int, variant: str, position: int, below: bool, layout: fewshot.Layout
    ) -> str:
        """One exemplar with what separates it from the next; empty if its row does not fit."""
        template = self.task.templates_of(variant)[position]
        fields = self._fields(self._exemplar_split, index)
        if not template.usable_for(fields):
            return ""
        shot = _render_row(self.task, template, fields, variant, None, below)
        own = template.layout or layout
        return f"{own.before_input}{shot.inputs}{own.before_target}{shot.targets}{layout.between}"

    def _example(
        self,
        rendered: Rendered,
        inputs: str,
        variant: str,
        template: int,
        exemplars: tuple[int, ...],
        dropped: int,
    ) -> Example:
        return Example(
            **{**vars(rendered), "inputs": inputs},
            task=self.task.name,
            split=self.split,
            index=self.index,
            epoch=self.epoch,
            variant=variant,
            template=template,
            exemplars=exemplars,
            dropped_exemplars=dropped,
        )


def _render_row(
    task: TaskDefinition,
    template: Template,
    fields: Row,
    variant: str,
    draws: Draws | None,
    below_instruction: bool = False,
) -> Rendered:
    """One row in the words of `template`; `draws` draws the shape of the options, None fixes it."""
    choices: Sequence[str] = fields.get("options") or ()
    text = fields["answer"]
    if choices and text not in choices:
        raise TemplateError(
            f"{task.name}: the answer {text!r} is not among the options {list(choices)!r}"
        )
    shown = variant.endswith("_opt") and bool(choices) and template.shows_options
    # A marker may stand for the answer only where nothing else in the prompt speaks of its text.
    if shown and draws is not None and template.answers_alone:
        block = options.drawn_block(choices, draws, task.option_styles)
    else:
        block = (
            options.plain_block(choices, task.option_styles) if shown else options.no_block(choices)
        )
    labels = dict(zip(choices, block.labels, strict=True))
    answer = labels[text] if choices else text
    values = fields if answer == text else {**fields, "answer": answer}
    inputs, targets = template.render(values, block.text, below_instruction=below_instruction)
    texts = tuple(choices)
    if not template.asks_answer:
        return Rendered(inputs, targets, targets, (), targets, (), (targets,))
    references = tuple(fields.get("answers") or (text,))
    if choices:  # all right answers as this prompt asks for them, the target's own first
        right = [answer, *(labels[a] for a in references if a in labels)]
        references = tuple(dict.fromkeys(right))
    return Rendered(inputs, targets, answer, block.labels, text, texts, references)
