"""Tables in the documentation that benchmarks renew, between two comments with the table's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flan_jax.files import write_atomically


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def read_table(page: Path, name: str) -> list[list[str]]:
    """Cells of the rows that the page has now, without the heading."""
    lines = _block(page, name).group("table").strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in lines]


def write_table(page: Path, name: str, table: str) -> None:
    """Puts the table in the place of the one that the page has.

    Raises:
      ValueError: the page has no place for it.
    """
    found = _block(page, name)
    text = page.read_text(encoding="utf-8")
    start, end = found.span("table")
    write_atomically(page, text[:start] + table + "\n" + text[end:])


def renewed(
    order: Sequence[tuple[str, ...]],
    old: Sequence[Sequence[str]],
    new: Mapping[tuple[str, ...], Sequence[str]],
) -> list[Sequence[str]]:
    """Rows in `order` (their first cells): the new ones, else the old, else none."""
    kept = {tuple(row[: len(order[0])]): row for row in old}
    rows = [new.get(label, kept.get(label)) for label in order]
    return [row for row in rows if row is not None]


def _block(page: Path, name: str) -> re.Match[str]:
    pattern = rf"<!-- {name} -->\n(?P<table>.*?)<!-- end -->"
    found = re.search(pattern, page.read_text(encoding="utf-8"), re.S)
    if found is None:
        raise ValueError(f"{page} has no '<!-- {name} -->' with '<!-- end -->' after it")
    return found
