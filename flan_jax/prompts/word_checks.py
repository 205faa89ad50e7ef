"""Faults in the words of a template: characters, spacing, quotes, talk of options not shown.

All functions look at the text of a reading (`flan_jax.prompts.wording`), where a field is one mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from flan_jax.prompts.wording import FIELD, OPTIONS

# What T5's SentencePiece model (32,000 pieces, of C4) writes beyond ASCII without its unknown
# piece, compatibility forms aside, which its normalisation maps to these.
_BEYOND_ASCII = frozenset("£«­®°»ÉÎÜßàáâäçèéêîóôöùûüăşţșțавдеиклмнорсту–—‘’“”„•′€")
_NOT_IN_ASCII = frozenset("<{}~^\\`")
_SHOWN = {FIELD: "[field]", OPTIONS: "[options]", "\n": " / "}

# Words that make no sense where the options are not shown: those that name them, and those that
# ask to take one of something, which may be named in the text.
_OPTION_NAMES = re.compile(
    r"\b(options?|choices|candidates?|alternatives|multiple[- ]choice"
    r"|(?:which|one|any|either|none) of the following"
    r"|(?:the|your|best|right|correct) choice"
    r"|(?:listed|given|shown|offered) below)\b",
    re.IGNORECASE,
)
_OPTION_WORDS = re.compile(
    r"\b((?:which|one|any|either|none|some) of (?:these|those)"
    r"|(?:choose|pick|select)(?! between\b| out\b))\b",
    re.IGNORECASE,
)
_BELOW = re.compile(r"\b(?:below|the following|as follows)\b", re.IGNORECASE)

_WORD = r"[^\W\d_]"
_FORMS = (
    (re.compile(r"[^\s]  +[^\s]"), "two spaces in a row"),
    (re.compile(r"[ \t]+\n"), "white space at the end of a line"),
    # In the middle of a sentence, a question mark of its own stands for something.
    (
        re.compile(rf"[\w{FIELD}\"')]\s+(?:[,;:.](?=\s|$)|[!?]\s*(?:$|[A-Z]))"),
        "a space before punctuation",
    ),
    (re.compile(rf"{_WORD}[,;!?]{_WORD}|{_WORD}:{_WORD}{{2}}"), "no space after punctuation"),
    (re.compile(rf"[a-z]\.[A-Z]|{_WORD}[,;:.!?]{FIELD}"), "no space after punctuation"),
    (re.compile(rf"{_WORD}{FIELD}|{FIELD}{_WORD}"), "a word runs into a field"),
    (re.compile(f"{FIELD}{{2}}"), "two fields with nothing between them"),
    (re.compile(rf"\s{OPTIONS}"), "white space before the options, which bring their line break"),
    (re.compile(rf"{OPTIONS}[^\n]"), "text right after the options, where a line break must be"),
    (
        re.compile(r"\b(?!(?:that|had) )([^\W\d_]+) \1\b(?!-)", re.IGNORECASE),
        "a word stands there twice",
    ),
    (
        # A capital A may be the name of a thing.
        re.compile(
            r"\b(?:a (?!one\b|once|uni|use|usu|eu|ut[ie])(?=[aeiou][a-z])"
            r"|[Aa]n (?!hour|honest|honor|heir)(?=[bcdfghjklmnpqrstvwxyz][a-z]))\w+"
        ),
        "'a' for 'an' or the other way round",
    ),
)
_BRACKETS = {"(": ")", "[": "]"}
# "1)" and "b)" begin items of a list.
_ITEM = re.compile(rf"(?:^|(?<=\s))(?:\w|{FIELD})\)")


def readable(text: str) -> str:
    """`text` with marks and line breaks that can be read."""
    for mark, shown in _SHOWN.items():
        text = text.replace(mark, shown)
    return text


def _around(match: re.Match[str]) -> str:
    """A match with what stands around it."""
    start, end = match.span()
    return readable(match.string[max(0, start - 12) : end + 12])


def unwritable(text: str) -> list[str]:
    """Characters that T5's vocabulary cannot write, each once, in order."""
    return [
        character
        for character in dict.fromkeys(text)
        if character not in (FIELD, OPTIONS, "\n")
        and (
            character in _NOT_IN_ASCII
            if character.isascii() and character.isprintable()
            else character not in _BEYOND_ASCII
        )
    ]


def form_faults(text: str) -> Iterator[str]:
    """Slips of spacing, punctuation, articles, quotes and brackets, each with its surroundings."""
    for pattern, message in _FORMS:
        for match in pattern.finditer(text):
            yield f"{message}: {_around(match)!r}"
    if text.count('"') % 2 or text.count("“") != text.count("”"):
        yield "a quotation mark without its partner"
    if _bracket_fault(text) and (message := _bracket_fault(_ITEM.sub("", text))):
        yield message


def _bracket_fault(text: str) -> str | None:
    open_brackets: list[str] = []
    for character in text:
        if character in _BRACKETS:
            open_brackets.append(_BRACKETS[character])
        elif character in _BRACKETS.values() and (
            not open_brackets or open_brackets.pop() != character
        ):
            return f"a {character!r} without its partner"
    return f"a bracket is not closed: {open_brackets[-1]!r} is missing" if open_brackets else None


# Headings, list items and rows of tables may end in a word.
_HEADING = re.compile(r"[#\[*=-]|//|\d+[.)]|.* [|=] ")


def bare_lines(text: str) -> list[str]:
    """Lines that end in a word: they run into the next one where T5 reads a break as a space."""
    lines = [line.strip() for line in text.split("\n")[:-1]]
    return [
        readable(line)
        for line in lines
        if re.search(rf"{_WORD}$", line) and not _HEADING.match(line)
    ]


def option_talk(text: str) -> str | None:
    """Words that speak of options, in a text without any; None if there are none."""
    match = _OPTION_NAMES.search(text) or _OPTION_WORDS.search(text)
    if match is None:  # "below" and "the following" may announce a field
        matches = (m for m in _BELOW.finditer(text) if FIELD not in text[m.end() :])
        match = next(matches, None)
    return None if match is None else match[0]


def named_options(text: str) -> str | None:
    """Words that name options as such; None if there are none."""
    match = _OPTION_NAMES.search(text)
    return None if match is None else match[0]
