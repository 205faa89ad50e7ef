"""`flan-jax eval protocols`: the benchmarks' protocols, and what each of them decided."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.evaluation.benchmarks import ProtocolDefinition

_DESCRIPTION = "Lists the benchmarks' protocols; with a name, shows each variant's decisions."


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval protocols", description=_DESCRIPTION, allow_abbrev=False
    )
    built.add_argument("name", nargs="?", help="a protocol such as bbh_cot, or a benchmark")
    built.add_argument("--variant", help="with a name: only this one")
    built.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
    return built


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    arguments = parser().parse_args(argv)
    from flan_jax.evaluation.benchmarks import get_protocol, known_protocols

    known = known_protocols()
    if arguments.name is None:
        if arguments.variant is not None:
            raise UserError("--variant needs the name of a protocol")
        _list([d for variants in known.values() for d in variants.values()], arguments.format)
        return 0
    name = get_protocol(arguments.name).name
    variants = list(known[name].values())
    if arguments.variant:
        variants = [get_protocol(name, arguments.variant)]
    if arguments.format == "json":
        print_json([_as_json(definition) for definition in variants])
        return 0
    for number, definition in enumerate(variants):
        print("\n" * bool(number), end="")
        _show(definition, arguments.format)
    return 0


def _list(definitions: Sequence[ProtocolDefinition], format: str) -> None:
    if format == "json":
        print_json([_as_json(definition) for definition in definitions])
        return
    rows = [
        [d.name, d.variant, str(len(d.subtasks)), d.split, d.metrics[0], d.description]
        for d in definitions
    ]
    columns = ("protocol", "variant", "subtasks", "split", "score", "what")
    print_table(columns, rows, format=format)


def _show(definition: ProtocolDefinition, format: str) -> None:
    print(f"{definition.name} ({definition.variant}): {definition.description}")
    rows = [
        ["subtasks", ", ".join(definition.subtasks), ""],
        ["groups", ", ".join(definition.groups), ""],
        ["asked by name only", ", ".join(definition.extra_subtasks), ""],
        ["splits", f"{definition.split} of {', '.join(definition.splits)}", ""],
        ["metrics", ", ".join(definition.metrics), ""],
        ["longest answer", f"{definition.max_decode_len} tokens", ""],
        ["stop strings", ", ".join(repr(text) for text in definition.stop), ""],
        ["ranking", definition.ranking or "", ""],
        ["licence", definition.licence, ""],
        *([choice.what, choice.value, choice.source] for choice in definition.choices),
    ]
    print_table(("what", "value", "source"), [row for row in rows if row[1]], format=format)


def _as_json(definition: ProtocolDefinition) -> dict[str, Any]:
    plain = (
        "name", "variant", "benchmark", "subtasks", "extra_subtasks", "aliases", "groups", "split",
        "splits", "metrics", "mean", "chance", "max_decode_len", "stop", "ranking",
        "paper_benchmark", "paper_setting", "licence", "description",
    )  # fmt: skip
    choices = [dataclasses.asdict(choice) for choice in definition.choices]
    return {**{name: getattr(definition, name) for name in plain}, "choices": choices}
