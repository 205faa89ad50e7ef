"""The same benchmarks as lm-evaluation-harness 0.4.13 asks and scores them, quirks included.

Task names there: `mmlu`, `bbh_cot_fewshot`, `mgsm_native_cot_*`, `gsm8k`. A number of these
variants may be compared with the harness's, not with the Flan paper's.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from flan_jax.evaluation.answers import number_text, numbers
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.evaluation.extraction import Found
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import Scorer, judged_by, register_scorer
from flan_jax.mixtures.benchmarks.protocols import bbh, gsm8k, mgsm, mmlu
from flan_jax.mixtures.benchmarks.protocols.files import json_lines
from flan_jax.mixtures.benchmarks.protocols.question_answer import TRIGGER, ask_cot

VARIANT = "lm_eval"
_HARNESS = "lm-evaluation-harness 0.4.13"
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_GREEDY = Choice("decoding", "greedy", _HARNESS)


def _source(task: str) -> str:
    return f"{_HARNESS}, {task}"


def regex_finder(
    pattern: Callable[[Request], str],
    *,
    last: bool = False,
    normal: Callable[[str], str] = str,
) -> Callable[[Request, str], Found]:
    """The harness's filter `regex`: the first (or last) match, compared after `normal`.

    Of a pattern with several groups the first one that is not empty counts.
    """

    def find(request: Request, prediction: str) -> Found:
        matches = re.findall(pattern(request), prediction)
        if not matches:
            return Found("", False, False)
        match = matches[-1 if last else 0]
        if isinstance(match, tuple):
            match = next((group for group in match if group), "")
        text = normal(match.strip())
        return Found(match.strip(), True, text in [normal(r) for r in request.references])

    return find


# ------------------------------------------------------------------------------------------- MMLU

_LETTERS = tuple(mmlu.LETTERS)


def letters(item: BenchmarkItem) -> BenchmarkItem:
    """An item of MMLU with bare letters for options."""
    answer = mmlu.LETTERS[mmlu.LABELS.index(item.answer)]
    return dataclasses.replace(item, answer=answer, options=_LETTERS)


def read_mmlu(subject: str, split: str) -> list[BenchmarkItem]:
    """The questions of a subject. Raises SourceError."""
    return [letters(item) for item in mmlu.read(subject, split)]


def ask_mmlu(item: BenchmarkItem) -> str:
    """Question and options, each in a line of its own."""
    options = "\n".join(
        f"{letter}. {text}" for letter, text in zip(_LETTERS, item.option_texts, strict=True)
    )
    return f"{item.question}\n{options}\nAnswer:"


def mmlu_exemplars(subject: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    """All five questions of dev with their letters."""
    del item, seed
    return [f"{ask_mmlu(e)} {e.answer}" for e in read_mmlu(subject, "dev")]


_MMLU: dict[str, Any] = {
    "benchmark": "mmlu",
    "subtasks": mmlu.SUBJECTS,
    "groups": mmlu.GROUPS,
    "read": read_mmlu,
    "ask": ask_mmlu,
    "variant": VARIANT,
    "header": mmlu.heading,
    "metrics": ("option_match",),
    "split": "test",
    "splits": ("test", "validation"),
    "mean": "micro",
    "chance": dict.fromkeys(mmlu.SUBJECTS, 25.0),
    "ranking": "sum",
    "continuations": lambda item: tuple(f" {letter}" for letter in item.options),
    "max_decode_len": 1,
    "licence": "MIT",
}
_MMLU_CHOICES = (
    Choice("split", "test", _source("mmlu")),
    Choice("mean", "of all items, each once", _source("mmlu: weight_by_size")),
    Choice("scoring", "the likeliest of ' A', ' B', ' C', ' D'", _source("mmlu")),
    Choice("answer", "the letter that ranks first; there is always one", _source("mmlu")),
    Choice("decoding", "none: nothing is generated", _source("mmlu")),
    Choice("prompt", "topic sentence; question, `A. …` to `D. …` in lines, `Answer:`", _HARNESS),
)
register_protocol(
    ProtocolDefinition(
        name="mmlu_direct",
        exemplars=mmlu_exemplars,
        choices=(*_MMLU_CHOICES, Choice("exemplars", "5 of dev (--num_fewshot 5)", _HARNESS)),
        description="MMLU by likelihood, 5-shot",
        **_MMLU,
    )
)
register_protocol(
    ProtocolDefinition(
        name="mmlu_zero_shot",
        choices=(*_MMLU_CHOICES, Choice("exemplars", "none, the default", _source("mmlu"))),
        description="MMLU by likelihood, without exemplars",
        **_MMLU,
    )
)

# --------------------------------------------------------------------------------- BIG-Bench Hard

register_scorer(
    Scorer(
        "bbh_regex",
        # Its last dot takes a character, whatever that is.
        **judged_by(regex_finder(lambda request: r"(?<=the answer is )(.*)(?=.)")),
    )
)


def ask_bbh(item: BenchmarkItem) -> str:
    """The question, to be reasoned about in a new line."""
    return f"{ask_cot(item)}\n"


def _bbh_exemplars(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    # One of the authors' exemplars reasons in the trigger's line; here all have a new one.
    line = f"A: {TRIGGER}"
    return [
        exemplar.replace(f"{line} ", f"{line}\n")
        for exemplar in bbh.exemplars(bbh.COT, subtask, item, seed)
    ]


register_protocol(
    ProtocolDefinition(
        name="bbh_cot",
        variant=VARIANT,
        header=functools.partial(bbh.instruction, bbh.COT),
        read=bbh.read,
        metrics=("bbh_regex",),
        stop=("</s>", "Q", "\n\n"),
        exemplars=_bbh_exemplars,
        ask=ask_bbh,
        mean="micro",
        max_decode_len=1024,
        choices=(
            Choice("prompt", "the BBH authors', with a line break at the end", _HARNESS),
            Choice("exemplars", "the authors' 3 of each task", _HARNESS),
            Choice("mean", "of all items, each once", _source("bbh_cot_fewshot: weight_by_size")),
            Choice(
                "answer",
                "what follows the first 'the answer is ' in a line, less its last character: "
                "without a full stop no answer is right",
                _source("bbh_cot_fewshot"),
            ),
            Choice(
                "stop", "'</s>', the letter 'Q', a blank line: an answer '(Q)' is cut", _HARNESS
            ),
            _GREEDY,
        ),
        description="BIG-Bench Hard as bbh_cot_fewshot",
        **bbh.SHARED,
    )
)

# ------------------------------------------------------------------------------------------- MGSM

_NUMBER = r"(\-?[0-9\.\,]+)"
# Bengali is looked for in English; Japanese and Chinese need their full stop.
_MGSM_STRICT = {
    "bn": f"The answer is {_NUMBER}",
    "de": f"Die Antwort lautet {_NUMBER}",
    "en": f"The answer is {_NUMBER}",
    "es": f"La respuesta es {_NUMBER}",
    "fr": f"La réponse est {_NUMBER}",
    "ja": f"答えは{_NUMBER}です。",
    "ru": f"Ответ — {_NUMBER}",
    "sw": f"Jibu ni {_NUMBER}",
    "te": f"సమాధానం {_NUMBER}",
    "th": f"คำตอบคือ {_NUMBER}",
    "zh": f"答案是 {_NUMBER}。",
}
_FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
# The words that the harness writes before question and solution, slips included.
_MGSM_WORDS = {
    "bn": ("প্রশ্ন: ", "ধাপে ধাপে উত্তর:"),
    "de": ("Frage: ", "Schritt-für-Schritt-Antwort:"),
    "en": ("Question: ", "Step-by-Step Answer:"),
    "es": ("Pregunta: ", "Respuesta paso a paso:"),
    "fr": ("Question : ", "Réponse étape par étape :"),
    "ja": ("問題： ", "ステップごとの答え:"),
    "ru": ("Задача: ", "Пошаговоерешение:"),
    "sw": ("Swali: ", "Jibu la Hatua kwa Hatua:"),
    "te": ("ప్రశ్న: ", "దశలవారీగా సమాధానం:"),
    "th": ("โจทย์: ", "คำตอบทีละขั้นตอน:"),
    "zh": ("问题： ", "逐步解答:"),
}


def _without_punctuation(text: str) -> str:
    return text.lower().translate(_PUNCTUATION)


for _name, _find in (
    ("mgsm_strict", regex_finder(lambda r: _MGSM_STRICT[r.task], normal=_without_punctuation)),
    ("mgsm_flexible", regex_finder(lambda _: _FLEXIBLE, last=True, normal=_without_punctuation)),
):
    register_scorer(Scorer(_name, **judged_by(_find)))


def read_mgsm(language: str, split: str) -> list[BenchmarkItem]:
    """The questions of a language, answers without separators. Raises SourceError."""
    items = mgsm.read(language, split)
    return [dataclasses.replace(i, answer=number_text(numbers(i.answer)[-1])) for i in items]


def ask_mgsm(item: BenchmarkItem) -> str:
    """The question between the harness's words."""
    question, answer = _MGSM_WORDS[item.fields["language"]]
    return f"{question}{item.question}\n{answer}"


register_protocol(
    ProtocolDefinition(
        name="mgsm_cot",
        variant=VARIANT,
        read=read_mgsm,
        ask=ask_mgsm,
        metrics=("mgsm_strict", "mgsm_flexible"),
        max_decode_len=256,
        stop=("</s>", "<|im_end|>", *dict.fromkeys(q.strip() for q, _ in _MGSM_WORDS.values())),
        choices=(
            Choice("prompt", "the question between two native words", _source("mgsm_native_cot")),
            Choice("exemplars", "none, the default", _source("mgsm_native_cot")),
            Choice("mean", "of 10 languages, each once", "ours: the harness has no group figure"),
            Choice(
                "answer",
                "the number after the native phrase ('The answer is' for Bengali), digits 0-9; "
                "mgsm_flexible takes the last number; punctuation does not count, so 1.5 is 15",
                _source("mgsm_native_cot"),
            ),
            Choice(
                "stop", "the words for 'Question:' of all languages, '</s>', '<|im_end|>'", _HARNESS
            ),
            _GREEDY,
        ),
        description="MGSM as mgsm_native_cot, without exemplars",
        **mgsm.SHARED,
    )
)

# ------------------------------------------------------------------------------------------ GSM8K

_SHOTS, _SEED = 5, 1234


def _gsm8k_normal(text: str) -> str:
    for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(pattern, "", text)
    return text.lower()


for _name, _find in (
    ("gsm8k_strict", regex_finder(lambda _: r"#### (\-?[0-9\.\,]+)", normal=_gsm8k_normal)),
    ("gsm8k_flexible", regex_finder(lambda _: _FLEXIBLE, last=True, normal=_gsm8k_normal)),
):
    register_scorer(Scorer(_name, **judged_by(_find)))


def _ask_gsm8k(item: BenchmarkItem) -> str:
    return f"Question: {item.question}\nAnswer:"


@functools.cache
def _draws(size: int, count: int) -> tuple[tuple[int, ...], ...]:
    """The rows that the harness's default sampler draws for its first `count` questions."""
    generator = random.Random(_SEED)
    return tuple(tuple(generator.sample(range(size), _SHOTS)) for _ in range(count))


def _gsm8k_exemplars(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del subtask, seed
    train = json_lines("gsm8k/train.jsonl")
    # Each question has draws of its own, so they depend on where it stands in the file.
    rows = _draws(len(train), 1 << max(4, item.index.bit_length()))[item.index]
    return [f"Question: {train[row]['question']}\nAnswer: {train[row]['answer']}" for row in rows]


register_protocol(
    ProtocolDefinition(
        name="gsm8k_cot",
        variant=VARIANT,
        exemplars=_gsm8k_exemplars,
        ask=_ask_gsm8k,
        mean="micro",
        metrics=("gsm8k_strict", "gsm8k_flexible"),
        max_decode_len=256,
        stop=("Question:", "</s>", "<|im_end|>"),
        choices=(
            Choice("prompt", "`Question:`, `Answer:`", _source("gsm8k")),
            Choice(
                "exemplars",
                f"{_SHOTS} of train, calculator marks included, others for every question: the "
                f"harness's draws with its default seed {_SEED} over the whole test file",
                _source("gsm8k"),
            ),
            Choice("mean", "of all items", "there is one set"),
            Choice(
                "answer",
                "the first number after '#### '; gsm8k_flexible takes the last number",
                _source("gsm8k"),
            ),
            Choice("stop", "'Question:', '</s>', '<|im_end|>'", _source("gsm8k")),
            _GREEDY,
        ),
        description="GSM8K as gsm8k, 5-shot",
        **gsm8k.SHARED,
    )
)
