"""Tables on standard output: rich on a terminal, plain lines in a pipe, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

FORMATS = ("auto", "plain", "json")


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """Prints `value` as indented JSON; characters outside ASCII stay readable."""
    print(json.dumps(value, indent=2, ensure_ascii=False), file=stream or sys.stdout)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    format: str = "auto",
    styles: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Prints `rows` under `columns`.

    Args:
      columns: The headings.
      rows: Cells, as many in each row as there are columns.
      format: "auto" draws a table if the stream is a terminal; "plain" writes tab-separated lines
        without headings, as "auto" does elsewhere, which suits `grep`, `cut` and `awk`.
      styles: Rich styles of cells by their text, such as {"problem": "bold red"}.
      stream: Standard output by default.
    """
    output: TextIO = stream or sys.stdout
    if format == "plain" or not output.isatty():
        for row in rows:
            print("\t".join(" ".join(cell.split()) for cell in row), file=output)
        return
    # Rich takes a tenth of a second to import, so only a terminal pays for it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
    Console(file=output).print(table)
