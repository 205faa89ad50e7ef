"""What can be said of a section of templates without any row."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from flan_jax.prompts.similarity import alike
from flan_jax.prompts.template import FEW_SHOT, Template, fields_of
from flan_jax.prompts.word_checks import (
    bare_lines,
    form_faults,
    named_options,
    option_talk,
    unwritable,
)
from flan_jax.prompts.wording import OPTIONS, Reading, prompt_readings, readings

# Flan has ten templates for each task; fewer, and a model learns them instead of the task.
FEWEST_TEMPLATES = 10
# Of templates of a task with options: this share should show them, and this many of those should
# make sense without (Flan 2021 shows options in 7 to 10 of 10).
SHOWING_SHARE = 0.5
FEWEST_WITHOUT = 3
# Of few-shot patterns: as many different frames as this share of them.
FRAMES_SHARE = 0.5


@dataclass(frozen=True)
class Fault:
    """Something found in a template.

    Attributes:
      severity: `problem` or `note`.
      where: file, section and position.
      message: what was found, and what was expected.
      check: which check found it; a template may `allow` some.
    """

    severity: str
    where: str
    message: str
    check: str = ""


@functools.cache
def check_section(
    section: str, templates: tuple[Template, ...], has_options: bool
) -> tuple[Fault, ...]:
    """All faults of one section of a template file, in the order of its templates.

    Args:
      section: its name.
      templates: its templates.
      has_options: whether the task has options to show.
    """
    found: list[Fault] = []
    for position, template in enumerate(templates):
        where = template.where or f"{section}[{position}]"
        for severity, check, message in _check_template(template, has_options):
            if check not in template.allow:
                found.append(Fault(severity, where, message, check))
    found += _check_likeness(section, templates)
    file = templates[0].where.partition(": ")[0]
    place = f"{file}: {section}" if file else section
    found += [Fault("note", place, message) for message in _check_numbers(section, templates)]
    if has_options and section in ("templates", FEW_SHOT):
        found += [Fault(severity, place, m) for severity, m in _check_showing(templates)]
    elif not has_options:
        found += [Fault("note", place, m, "option_talk") for m in _check_named_options(templates)]
    return tuple(dict.fromkeys(found))


_Found = Iterator[tuple[str, str, str]]


def _check_template(template: Template, has_options: bool) -> _Found:
    if not template.fields:
        yield "problem", "", "uses no field of the row"
    if template.shows_options and not has_options:
        yield "problem", "", "shows options, but the task has none (has_options)"
    if template.needs_options and not template.shows_options:
        yield "problem", "", "needs_options is set, but nothing shows {{ options }}"
    yield from _check_leak(template)
    yield from _check_empty(template)
    if has_options:
        yield from _check_option_talk(template)
    yield from _check_words(template)
    if template.layout is not None:
        yield from _check_layout(template)


def _check_leak(template: Template) -> _Found:
    """The target's fields must not stand in the prompt."""
    wanted = template.target_fields
    patterns = {"inputs": template.inputs, "shot": template.shot}
    patterns["opening" if template.layout else "instruction"] = template.instruction
    for key, pattern in patterns.items():
        for name in sorted(fields_of(pattern) & wanted):
            yield (
                "problem",
                "answer_leak",
                f"`{key}` has the field {name!r}, which the target asks for",
            )


def _check_empty(template: Template) -> _Found:
    for key, pattern in (("inputs", template.inputs), ("targets", template.targets)):
        if any(not reading.text.strip() for reading in readings(pattern, options=False)):
            yield "problem", "", f"the {key} are empty if a condition does not hold"


def _without_options(template: Template) -> list[str]:
    """What a template says where no options are shown; nothing if it is not used there."""
    if template.needs_options:
        return []
    found = (*readings(template.instruction, False), *prompt_readings(template, False))
    return [reading.text for reading in found]


def _check_option_talk(template: Template) -> _Found:
    said = next(filter(None, map(option_talk, _without_options(template))), None)
    if said:
        hint = "reword it, or set needs_options" if template.shows_options else "reword it"
        yield (
            "problem",
            "option_talk",
            f"speaks of options ({said!r}) where none are shown: {hint}, "
            "or `allow: [option_talk]` if the text itself names them",
        )


def _check_named_options(templates: tuple[Template, ...]) -> Iterator[str]:
    """For a task without options, whose rows may hold some in their text."""
    said = {
        position: name
        for position, template in enumerate(templates)
        if "option_talk" not in template.allow
        and (name := next(filter(None, map(named_options, _without_options(template))), None))
    }
    if said:
        names = ", ".join(repr(name) for name in dict.fromkeys(map(str.lower, said.values())))
        yield (
            f"templates {', '.join(map(str, said))} speak of options ({names}), which this task "
            "does not show: its rows must name them"
        )


def _check_words(template: Template) -> _Found:
    """Form and characters of everything the template may say."""
    texts: list[Reading] = []
    for options in (True, False) if template.shows_options else (False,):
        texts += prompt_readings(template, options)
        if template.shot:
            texts += [reading.stripped() for reading in readings(template.shot, options)]
    for reading in readings(template.instruction, options=False):
        texts.append(reading.stripped() + Reading("\n\n"))
    if template.layout is None:
        texts += [reading.stripped() for reading in readings(template.targets, options=False)]
    else:
        texts.append(Reading(template.layout.between))
    said = dict.fromkeys(m for reading in texts for m in form_faults(reading.text.strip()))
    for message in said:
        yield "problem", "form", message
    bare = dict.fromkeys(line for reading in texts for line in bare_lines(reading.text))
    for line in bare:
        yield (
            "note",
            "form",
            f"a line ends without punctuation, and T5 sees no line break: {line!r}",
        )
    bad = dict.fromkeys(c for reading in texts for c in unwritable(reading.text))
    if bad:
        shown = " ".join(repr(c) for c in bad)
        yield "problem", "", f"characters that T5's vocabulary cannot write: {shown}"
    for reading in readings(template.inputs, options=True):
        if reading.text != reading.text.strip() and not reading.text.startswith("\n" + OPTIONS):
            yield "problem", "form", "the inputs begin or end in white space, which is cut off"
            return


def _check_layout(template: Template) -> _Found:
    layout = template.layout
    assert layout is not None
    if not layout.before_target:
        yield "problem", "", "before_target is empty: prompt and target run together"
    elif not re.search(r"[\s(\[\"']$", layout.before_target):
        yield (
            "problem",
            "",
            f"before_target {layout.before_target!r} should end in white space: the target follows",
        )
    if template.exemplars and not re.search(r"\s", layout.between):
        yield (
            "problem",
            "",
            f"between {layout.between!r} has no white space: exemplars run together",
        )


def _check_likeness(section: str, templates: tuple[Template, ...]) -> Iterator[Fault]:
    for pair in alike(templates):
        second = templates[pair.second]
        if "near_duplicate" in second.allow or "near_duplicate" in templates[pair.first].allow:
            continue
        where = second.where or f"{section}[{pair.second}]"
        if pair.likeness == 1 and pair.copy:
            message = f"the same as template {pair.first}"
        else:
            message = (
                f"{'nearly the same as' if pair.copy else 'much like'} template {pair.first} "
                f"({pair.likeness:.0%} of the words)"
            )
        yield Fault("problem" if pair.copy else "note", where, message, "near_duplicate")


def _check_numbers(section: str, templates: tuple[Template, ...]) -> Iterator[str]:
    if len(templates) < FEWEST_TEMPLATES:
        yield f"{len(templates)} templates; Flan uses ten for each task"
    frames = {
        (t.layout.before_input, t.layout.before_target, t.layout.between, t.instruction)
        for t in templates
        if t.layout is not None
    }
    if frames and len(templates) > 1 and len(frames) <= FRAMES_SHARE * len(templates):
        yield f"only {len(frames)} different frames for {len(templates)} few-shot patterns"


def _check_showing(templates: tuple[Template, ...]) -> Iterator[tuple[str, str]]:
    answering = [template for template in templates if template.asks_answer]
    showing = [template for template in answering if template.shows_options]
    if len(showing) < SHOWING_SHARE * len(answering):
        yield "problem", f"only {len(showing)} of {len(answering)} templates show the options"
    without = [template for template in showing if not template.needs_options]
    if showing and len(without) < FEWEST_WITHOUT:
        yield (
            "note",
            f"only {len(without)} of the templates with options also work without: "
            f"at least {FEWEST_WITHOUT} should",
        )
