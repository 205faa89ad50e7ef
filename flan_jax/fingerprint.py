"""What a definition is, as a hash: two numbers with the same hash came from the same words.

A task's fingerprint covers its source and version, splits, templates, and the modules whose
functions make its fields; a mixture's covers its tasks, rates and variants. What the source's files
hold is not in it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from typing import Any

from flan_jax.mixing import MixtureDefinition
from flan_jax.prompts.options import OptionStyles
from flan_jax.prompts.template import Template
from flan_jax.tasks import TaskDefinition


def mixture_hash(mixture: MixtureDefinition) -> str:
    """16 hexadecimal digits that change with anything the mixture's definition says.

    Its name and description are no part of it. Raises TemplateError if a template file is missing
    or malformed.
    """
    tasks = sorted(mixture.tasks(), key=lambda task: task.name)
    return _digest([shares_hash(mixture), [task_hash(task) for task in tasks]])


def shares_hash(mixture: MixtureDefinition) -> str:
    """16 hexadecimal digits that change with the tasks of a mixture, their shares and variants."""
    proportions = mixture.proportions()
    tasks = sorted(mixture.tasks(), key=lambda task: task.name)
    return _digest(
        # Rounded, so that equal shares that were added up in another order stay equal.
        [
            [task.name, f"{proportions[task.name]:.12g}", _rounded(mixture.variants_of(task))]
            for task in tasks
        ]
    )


def _rounded(weights: dict[str, float]) -> dict[str, str]:
    total = sum(weights.values())
    return {variant: f"{weight / total:.12g}" for variant, weight in weights.items() if weight}


def task_hash(task: TaskDefinition) -> str:
    """16 hexadecimal digits that change with anything that decides the task's examples."""
    source = task.source
    functions = (
        task.to_fields,
        task.draw_fields,
        getattr(source, "keep", None),
        getattr(source, "generate", None),
        getattr(getattr(source, "source", None), "keep", None),  # of a filtered source
    )
    return _digest(
        {
            "name": task.name,
            "source": [source.kind, source.describe(), list(source.splits()), _reads(source)],
            "styles": task.styles,
            "has_options": task.has_options,
            "option_styles": _options_digest(task.option_styles),
            "templates": _templates_digest(task.sections()),
            "functions": [_module_digest(function) for function in functions],
        }
    )


def _reads(source: Any) -> str:
    """Which part of the data a source reads, where it says so."""
    source = getattr(source, "source", source)  # of a filtered one, what it filters
    found = {name: getattr(source, name, None) for name in ("read", "files", "carve")}
    return repr({name: value for name, value in found.items() if value is not None})


@functools.cache
def _options_digest(styles: OptionStyles) -> str:
    # What a kind of marker does is told best by some of its marks.
    marks = [[(kind.mark(i), kind.label(i)) for i in (0, 3, 27)] for kind in styles.kinds]
    return _digest([styles.headings, marks, styles.endings])


# Many tasks share a file. By the templates' identity, which the entries keep.
_DIGESTS: dict[tuple[tuple[str, int], ...], tuple[dict[str, tuple[Template, ...]], str]] = {}


def _templates_digest(sections: dict[str, tuple[Template, ...]]) -> str:
    key = tuple((section, id(templates)) for section, templates in sections.items())
    if key not in _DIGESTS:
        _DIGESTS[key] = sections, _digest_sections(sections)
    return _DIGESTS[key][1]


def _digest_sections(sections: dict[str, tuple[Template, ...]]) -> str:
    return _digest(
        {
            section: [[t.inputs, t.targets, t.needs_options, t.instruction, t.shot, repr(t.layout),
                       t.exemplars, t.requires] for t in templates]
            for section, templates in sections.items()
        }
    )  # fmt: skip


def _module_digest(function: Callable[..., Any] | None) -> str:
    if function is None:
        return ""
    inner, given = inspect.unwrap(function), ""
    if isinstance(inner, functools.partial):
        given = repr((inner.args, sorted(inner.keywords.items())))
        inner = inner.func
    name = getattr(inner, "__qualname__", "")
    return f"{name}{given}:{_source_digest(inspect.getmodule(inner))}"


@functools.cache
def _source_digest(module: Any) -> str:
    try:
        return _digest(inspect.getsource(module))
    except (OSError, TypeError):  # defined in a console or an archive
        return ""


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
