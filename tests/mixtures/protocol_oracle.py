"""An oracle: the right answers of a benchmark in every form that must count as right."""

from __future__ import annotations

from collections.abc import Mapping

from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.predictions import requests_to_judge
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import get_scorer

# `{}` is the answer as the prompt asks for it, `{letter}` without brackets, `{text}` the option's.
PLAIN = ("{}", "{}.", " {} ")
PHRASES = (
    "the answer is {}.",
    "The answer is {}",
    "First, 3 + 4 = 7. Second, that is not 12. So the answer is {}.",
)
OPTIONS = ("{letter}", "{letter}.", "({letter})", "({letter}).", "the answer is {letter}.",
           "The answer is ({letter})", "We rule out (A) and (B). So the answer is {letter}.",
           "{text}", "{text}.", "{} {text}")  # fmt: skip
NATIVE = {
    "bn": "5 + 6 = 11। উত্তর হল {}।",
    "de": "5 + 6 = 11. Die Antwort ist {}.",
    "en": "5 + 6 = 11. The answer is {}.",
    "es": "5 + 6 = 11. La respuesta es {}.",
    "fr": "5 + 6 = 11. La réponse est {}.",
    "ja": "5+6=11。答えは{}です。",
    "ru": "5 + 6 = 11. Ответ — {}.",
    "sw": "5 + 6 = 11. Jibu ni {}.",
    "te": "5+6=11. సమాధానం {}.",
    "th": "5 + 6 = 11 คำตอบคือ {}",
    "zh": "5 + 6 = 11。答案是 {}。",
}


def forms(name: str, variant: str, request: Request) -> tuple[str, ...]:
    """The forms in which an answer to `request` must count as right."""
    if variant == "instruct_eval":
        return ("{}", "{}.", "{} because")
    if variant == "lm_eval":
        if name.startswith("mmlu"):
            return ("{}",)
        if name == "mgsm_cot":
            return (
                NATIVE["en" if request.task == "bn" else request.task].replace(" ist", " lautet"),
            )
        return (
            ("So the answer is {}.", "So the answer is {}!") if name == "bbh_cot" else ("#### {}",)
        )
    if name == "tydiqa":
        return (*PLAIN, "the {}")
    found = PLAIN + PHRASES
    if name.startswith("mgsm"):
        found += (NATIVE[request.task], "{}個", "{}, {}", "${}.00", "**{}**")
    if name.startswith("gsm8k"):
        found += ("#### {}", "${}", "{}.00", "It is {} dollars.")
    if request.options and len(request.answer.strip("()")) == 1:
        # Boron as an option's text is the letter of another option: then the letter counts.
        letters = [option.strip("()") for option in request.options]
        texts = request.answer_text not in letters
        found += tuple(form for form in OPTIONS if texts or not form.startswith("{text}"))
    if name.startswith("strategyqa"):
        found += ("{upper}", "{upper}.", "Hard to say. So the answer is {upper}.")
    return found


def fill(form: str, request: Request) -> str:
    """A form with the answer to `request`."""
    answer = request.answer
    return form.format(
        answer,
        answer,
        letter=answer.strip("()"),
        text=request.answer_text,
        upper=answer.capitalize(),
    )


def wrong(protocol: BenchmarkProtocol) -> Mapping[str, list[str]]:
    """By form, the ids of items for which the oracle was not right."""
    missed: dict[str, list[str]] = {}
    find = get_scorer(protocol.definition.metrics[0]).find
    name, variant = protocol.definition.name, protocol.variant
    for request in requests_to_judge(protocol):
        for form in forms(name, variant, request):
            found = find(request, fill(form, request))
            if not (found.correct and found.parsed):
                missed.setdefault(form, []).append(request.id)
    return missed
