"""The words of a template apart from the row: what a pattern says whatever the fields hold.

A pattern with conditions says one thing or another, so it has several readings. In a reading every
field is one mark, and so is the block of options; text in quotes that a pattern may print, as in
`{{ "s" if count > 1 }}`, counts as the pattern's own words.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jinja2 import nodes

from flan_jax.prompts.template import Template, parse_pattern

# Private-use characters, which no template holds.
FIELD = "\ue000"
OPTIONS = "\ue001"
# With more conditions than this, all true, all false, and one at a time are read.
_MOST_CONDITIONS = 5
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


@dataclass(frozen=True)
class Reading:
    """One thing a pattern may say.

    Attributes:
      text: its words, with FIELD for every field and OPTIONS for the options.
      fields: names of the fields, in the order of their marks.
    """

    text: str
    fields: tuple[str, ...] = ()

    def __add__(self, other: Reading) -> Reading:
        ends, begins = self.text.endswith(FIELD), other.text.startswith(FIELD)
        if ends and begins and self.fields[-1] == other.fields[0]:
            # Two parts of one field, as in `{{ name[:1] | upper }}{{ name[1:] }}`.
            return Reading(self.text + other.text[1:], self.fields + other.fields[1:])
        return Reading(self.text + other.text, self.fields + other.fields)

    def stripped(self) -> Reading:
        """Without white space around, as rendering leaves it."""
        return Reading(self.text.strip(), self.fields)

    @property
    def own(self) -> str:
        """The words alone, a space for every mark."""
        return self.text.replace(FIELD, " ").replace(OPTIONS, " ")

    def words(self) -> list[str]:
        """Lower-case words and, in angle brackets, field names, in their order."""
        names = iter(self.fields)
        parts = re.split(f"({FIELD}|{OPTIONS})", self.text)
        found: list[str] = []
        for part in parts:
            if part == FIELD:
                found.append(f"<{next(names)}>")
            elif part == OPTIONS:
                found.append("<options>")
            else:
                found += [word.lower() for word in _WORD.findall(part)]
        return found


@functools.cache
def readings(pattern: str, options: bool) -> tuple[Reading, ...]:
    """All that `pattern` may say, with or without the options; no reading twice.

    Raises:
      TemplateSyntaxError: of jinja2; patterns of loaded templates have none.
    """
    tree = parse_pattern(pattern)
    fixed = {"options": options, "loop.first": True, "loop.last": True}
    atoms = sorted(_conditions(tree) - fixed.keys())
    found = (_read(tree.body, {**fixed, **held}) for held in _assignments(atoms))
    return tuple(dict.fromkeys(found))


def prompt_readings(template: Template, options: bool) -> tuple[Reading, ...]:
    """All that a template's prompt and target may say: zero-shot inputs, or one whole exemplar."""
    layout = template.layout
    inputs = [reading.stripped() for reading in readings(template.inputs, options)]
    if layout is None:
        return tuple(inputs)
    before, after = Reading(layout.before_input), Reading(layout.before_target)
    targets = [reading.stripped() for reading in readings(template.targets, options)]
    return tuple(before + i + after + t for i, t in itertools.product(inputs, targets))


def _assignments(atoms: list[str]) -> Iterable[dict[str, bool]]:
    if len(atoms) <= _MOST_CONDITIONS:
        for values in itertools.product((True, False), repeat=len(atoms)):
            if _possible(held := dict(zip(atoms, values, strict=True))):
                yield held
        return
    yield dict.fromkeys(atoms, True)
    yield dict.fromkeys(atoms, False)
    for chosen in atoms:
        yield {atom: atom == chosen for atom in atoms}


def _possible(held: Mapping[str, bool]) -> bool:
    """Whether no field is said to equal two texts at a time."""
    equal = [atom.partition(" == ")[0] for atom, true in held.items() if true and " == " in atom]
    return len(equal) == len(set(equal))


def _say(node: nodes.Node) -> str:
    """A condition as text: the same for the same condition."""
    if isinstance(node, nodes.Compare) and len(node.ops) == 1 and node.ops[0].op == "eq":
        return f"{_say(node.expr)} == {_say(node.ops[0].expr)}"
    if isinstance(node, nodes.Getattr):
        return f"{_say(node.node)}.{node.attr}"
    return node.name if isinstance(node, nodes.Name) else repr(node)


def _atoms(test: nodes.Node) -> set[str]:
    if isinstance(test, nodes.Not):
        return _atoms(test.node)
    if isinstance(test, nodes.And | nodes.Or):
        return _atoms(test.left) | _atoms(test.right)
    return {_say(test)}


def _holds(test: nodes.Node, held: Mapping[str, bool]) -> bool:
    if isinstance(test, nodes.Not):
        return not _holds(test.node, held)
    if isinstance(test, nodes.And):
        return _holds(test.left, held) and _holds(test.right, held)
    if isinstance(test, nodes.Or):
        return _holds(test.left, held) or _holds(test.right, held)
    return held[_say(test)]


def _conditions(tree: nodes.Template) -> set[str]:
    found: set[str] = set()
    for node in tree.find_all((nodes.If, nodes.CondExpr)):
        found |= _atoms(node.test)  # type: ignore[attr-defined]
    return found


def _read(body: Iterable[nodes.Node], held: Mapping[str, bool]) -> Reading:
    """What a list of statements prints."""
    found = Reading("")
    for node in body:
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                found += _read_expression(part, held)
        elif isinstance(node, nodes.If):
            found += _read_if(node, held)
        elif isinstance(node, nodes.For):  # two rounds show what stands between them
            found += _read(node.body, {**held, "loop.first": True, "loop.last": False})
            found += _read(node.body, {**held, "loop.first": False, "loop.last": True})
    return found


def _read_if(node: nodes.If, held: Mapping[str, bool]) -> Reading:
    for branch in (node, *node.elif_):
        if _holds(branch.test, held):
            return _read(branch.body, held)
    return _read(node.else_, held)


def _read_expression(node: nodes.Expr, held: Mapping[str, bool]) -> Reading:
    if isinstance(node, nodes.TemplateData):
        return Reading(node.data)
    if isinstance(node, nodes.Const):
        return Reading(str(node.value))
    if isinstance(node, nodes.CondExpr):
        if _holds(node.test, held):
            return _read_expression(node.expr1, held)
        return Reading("") if node.expr2 is None else _read_expression(node.expr2, held)
    if isinstance(node, nodes.Concat):
        parts = [_read_expression(part, held) for part in node.nodes]
        return functools.reduce(Reading.__add__, parts)
    if isinstance(node, nodes.Name) and node.name == "options":
        return Reading(OPTIONS if held["options"] else "")
    names = sorted({name.name for name in node.find_all(nodes.Name)})
    if isinstance(node, nodes.Name):
        names = [node.name]
    return Reading(FIELD, (" ".join(names),))
