"""Programs to repair, as text: DrRepair's lines with their braces put back, in four formats."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flan_jax.draws import Draws
from flan_jax.sources.base import Row

FORMATS = ("error_comments", "line_numbers", "no_errors", "plain_code")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CHARACTER = re.compile(r"' (\\?\S) '")
_CONDITION = re.compile(r"(?:else )?if \(.*\)")
_QUOTED = re.compile("[‘’]\\s*([^‘’]*?)\\s*’")


def can_be_broken(row: Row) -> bool:
    """Whether there is a way to break the program that changes it."""
    return any(_changes(row, error) for error in row["errors"])


def program_fields(row: Row) -> Row:
    """The row's lines and those of its errors that change it, to be drawn from."""
    errors = tuple(error for error in row["errors"] if _changes(row, error))
    return {"lines": row["lines"], "errors": errors}


def drawn_repair(form: str, fields: Row, draws: Draws) -> Row:
    """The program broken in a drawn way, in one of FORMATS.

    Flan's own files are not public. From the formats' names, `error_comments` has the compiler's
    message as a comment on the line it points at; `line_numbers` has numbered lines and the message
    with its line; `no_errors` has numbered lines alone; `plain_code` is the program as it stands.

    Returns:
      `code`, the broken program; `message`, what the compiler says of it; `answer`, the program
      that compiles, without comments and numbers.
    """
    error = draws.choice(fields["errors"])
    lines = fields["lines"]
    message = plain_message(error["message"])
    broken = [error["replace"].get(n, line["code"]) for n, line in enumerate(lines)]
    texts = _with_braces(lines, broken)
    at = error["line"]
    if form == "error_comments":
        texts[at] += f" // error: {message}"
    elif form in ("line_numbers", "no_errors"):
        texts = [f"{number} {text}" for number, text in enumerate(texts, 1)]
    if form == "line_numbers":
        message = f"line {at + 1}: {message}"
    fixed = _with_braces(lines, [line["code"] for line in lines])
    return {"code": "\n".join(texts), "message": message, "answer": "\n".join(fixed)}


def plain_message(message: str) -> str:
    """A compiler's message with plain quotation marks, as T5's vocabulary has them."""
    return _QUOTED.sub(r"'\1'", message).replace("‘", "'").replace("’", "'")


def _changes(row: Row, error: Row) -> bool:
    lines = row["lines"]
    return any(lines[n]["code"] != code for n, code in error["replace"].items())


def _with_braces(lines: Sequence[Row], codes: Sequence[str]) -> list[str]:
    """`codes` indented like `lines`, with the braces that SPoC leaves to the indentation.

    They follow from the program that compiles, so that its broken version has the same.
    """
    indents = _indents(lines)
    texts = []
    for n, (line, code) in enumerate(zip(lines, codes, strict=True)):
        before = indents[n - 1] if n else 0
        after = indents[n + 1] if n + 1 < len(lines) else indents[n]
        closed = line["code"].count("}") if line["code"].startswith("}") else 0
        missing = max(0, before - indents[n] - closed)
        opens = after > indents[n] and not line["code"].endswith("{")
        skips = after == indents[n] and _CONDITION.fullmatch(line["code"]) is not None
        ends = " {" if opens else " { }" if skips and _is_else(lines, n + 1) else ""
        texts.append("  " * indents[n] + "} " * missing + _with_literals(code) + ends)
    return texts


def _is_else(lines: Sequence[Row], n: int) -> bool:
    return n < len(lines) and lines[n]["code"].startswith("else")


def _with_literals(code: str) -> str:
    """`code` without the spaces that DrRepair's tokenization adds inside quotation marks."""

    def tighten(found: re.Match[str]) -> str:
        text = found[1]
        padded = len(text) > 2 and text[0] == text[-1] == " "
        return f'"{text[1:-1] if padded else text}"'

    return _CHARACTER.sub(r"'\1'", _STRING.sub(tighten, code))


def _indents(lines: Sequence[Row]) -> list[int]:
    """The lines' indents; one that goes on with the statement before it opens no block."""
    indents: list[int] = []
    for n, line in enumerate(lines):
        goes_on = n > 0 and (
            line["code"].startswith("<<")
            or (lines[n - 1]["code"].endswith(",") and line["code"] != "} ;")
        )
        indents.append(indents[-1] if goes_on else line["indent"])
    return indents
