"""Finders of a benchmark's answer in an output: after a phrase, an option, the final number.

Each takes a request and an output and gives `Found`. Its `text` is in one normal form, so that
"(B)" and "B", or "2,125" and "2125", are one answer when the answers of several outputs are counted
(self-consistency). Outputs may come from any system, so nothing is presumed of their form.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from flan_jax.evaluation.extraction import Found, collapse, extract_phrase, match_option
from flan_jax.evaluation.requests import Request

# What stands before the final number of a worked solution: the phrases of MGSM's exemplars (Shi et
# al., 2022), which differ within German, and GSM8K's mark.
ANSWER_PHRASES = {
    "bn": ("উত্তর হল", "উত্তর হলো"),
    "de": ("die Antwort lautet", "die Antwort ist"),
    "en": ("answer is", "####"),
    "es": ("la respuesta es",),
    "fr": ("la réponse est",),
    "ja": ("答えは",),
    "ru": ("ответ —", "ответ -", "ответ:"),
    "sw": ("jibu ni",),
    "te": ("సమాధానం",),
    "th": ("คำตอบคือ",),
    "zh": ("答案是", "答案为"),
}
_PHRASE = re.compile(
    "|".join(
        r"\s+".join(re.escape(word) for word in phrase.split())
        for phrases in ANSWER_PHRASES.values()
        for phrase in phrases
    ),
    re.IGNORECASE,
)
# Thousands apart by commas (also Arabic and full-width ones), by spaces that do not break, or by
# apostrophes; Indian grouping (1,14,200), too. `\d` is any script's digit, and Decimal reads them.
_COMMAS, _SPACES = ",，٬", "\u00a0\u202f\u2009'’"
_NUMBER = re.compile(
    rf"""(?:(?<![\d)])(?P<sign>[-−－]))?[$€£¥₹￥]?
    (?P<whole>\d{{1,3}}(?:[{_COMMAS}]\d{{2,3}})*[{_COMMAS}]\d{{3}}(?!\d)
      |\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)
      |\d+)?
    (?P<part>(?(whole)\.\d+|(?<!\d)\.\d+))?""",
    re.VERBOSE,
)
_NOT_DIGITS = re.compile(rf"[{_COMMAS}{_SPACES}]")
_MARKS = "()[]{}.:,;*\"'` "
_END_MARKS = ".,?!。।؟"
_NAMED_TEXT = re.compile(r"^[(\[]?(?P<label>\w+)[)\].:]*\s+(?P<text>\S.*)$")


def find_phrase(request: Request, prediction: str) -> Found:
    """The rule of the FLAN repository for BBH, on any output; see `extract_phrase`.

    Case counts. An option may also be named by its bare letter or its text; where there are
    options, an output that names none has no answer.
    """
    text, _ = extract_phrase(prediction)
    right = text in (collapse(reference) for reference in request.references)
    if right or not request.options:
        return Found(text, bool(text), right)
    option = match_option(request, text)
    indices = [_named_by_text(request, whole) for whole in (text, collapse(prediction))]
    named = [index for index in indices if index is not None]
    right = option == request.answer_text or any(_is_right_text(request, i) for i in named)
    return Found(text, option is not None or bool(named), right)


def find_option(request: Request, prediction: str) -> Found:
    """The option that an output names, looked for after "answer is", else in the whole output.

    A letter counts with and without brackets and full stop, an option's text (case does not count)
    with and without its letter. Letters go before texts: "B" is the second option, even if the
    first one's text is "B". Nothing else is an answer: not a letter in the midst of a sentence.
    """
    for text in (extract_phrase(prediction)[0], collapse(prediction)):
        index = _named_by_letter(request, text)
        if index is not None:
            label = request.options[index]
            return Found(label, True, label in (request.answer, *request.references))
        index = _named_by_text(request, text)
        if index is not None:
            right = _is_right_text(request, index)
            return Found(request.answer if right else request.options[index], True, right)
    return Found("", False, False)


def _is_right_text(request: Request, index: int) -> bool:
    return _plain(request.option_texts[index]) == _plain(request.answer_text)


def _plain(text: str) -> str:
    return collapse(text).rstrip(_END_MARKS).rstrip().casefold()


def _bare(label: str) -> str:
    bare = collapse(label).strip(_MARKS)
    # "a" is an article as often as the option (A); words may be written in any case.
    return bare if len(bare) == 1 else bare.casefold()


def _named_by_letter(request: Request, text: str) -> int | None:
    bare = _bare(text)
    labels = [_bare(label) for label in request.options]
    return labels.index(bare) if bare and bare in labels else None


def _named_by_text(request: Request, text: str) -> int | None:
    texts = [_plain(option) for option in request.option_texts]
    plain = _plain(text)
    if plain and plain in texts:
        return texts.index(plain)
    named = _NAMED_TEXT.match(collapse(text))
    if named is None:
        return None
    index = _named_by_letter(request, named["label"])
    return index if index is not None and _plain(named["text"]) == texts[index] else None


def numbers(text: str) -> list[Decimal]:
    """All numbers in `text`, in any script's digits, thousands apart or not."""
    found = []
    for match in _NUMBER.finditer(text):
        digits = _NOT_DIGITS.sub("", match["whole"] or "") + (match["part"] or "")
        if not digits:
            continue
        try:
            found.append(Decimal(digits) * (-1 if match["sign"] else 1))
        except InvalidOperation:
            continue
    return found


def find_number(request: Request, prediction: str) -> Found:
    """The last number after the last answer phrase of any language, else of the whole output.

    Numbers are compared by value. A phrase without a number after it does not count.
    """
    found: list[Decimal] = []
    for phrase in reversed(list(_PHRASE.finditer(prediction))):
        found = numbers(prediction[phrase.end() :])
        if found:
            break
    found = found or numbers(prediction)
    if not found:
        return Found("", False, False)
    value = found[-1]
    gold = {number for reference in request.references for number in numbers(reference)[-1:]}
    return Found(number_text(value), True, value in gold)


def number_text(value: Decimal) -> str:
    """A number as plain digits, without separators and needless zeros."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text
