"""MMLU and BIG-Bench Hard as declare-lab's instruct-eval asks and scores them.

Its hit is an output that starts with the right answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    Choice,
    ProtocolDefinition,
    register_protocol,
)
from flan_jax.evaluation.extraction import Found
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import Scorer, judged_by, register_scorer
from flan_jax.mixtures.benchmarks.protocols import bbh, lm_eval, mmlu

VARIANT = "instruct_eval"
_SOURCE = "declare-lab/instruct-eval"
_SHOTS = 3


def _find(request: Request, prediction: str) -> Found:
    text = prediction.strip()
    right = any(text.startswith(reference) for reference in request.references)
    return Found(text, bool(text), right)


register_scorer(Scorer("starts_with", **judged_by(_find)))

_SHARED_CHOICES = (
    Choice("answer", "an output that starts with the right answer: '12' is right for '1'", _SOURCE),
    Choice("decoding", "greedy", _SOURCE),
)


def _heading(subject: str) -> str:
    # Two spaces before the subject, as there.
    topic = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about  {topic}."


register_protocol(
    ProtocolDefinition(
        name="mmlu_direct",
        benchmark="mmlu",
        variant=VARIANT,
        subtasks=mmlu.SUBJECTS,
        groups=mmlu.GROUPS,
        read=lm_eval.read_mmlu,
        header=_heading,
        exemplars=lm_eval.mmlu_exemplars,
        ask=lm_eval.ask_mmlu,
        drop="last",
        metrics=("starts_with",),
        split="test",
        splits=("test", "validation"),
        mean="micro",
        chance=dict.fromkeys(mmlu.SUBJECTS, 25.0),
        max_decode_len=2,
        choices=(
            Choice("split", "test", _SOURCE),
            Choice("mean", "of all items, each once", _SOURCE),
            Choice("scoring", "2 tokens are generated", _SOURCE),
            Choice(
                "prompt",
                "topic sentence with a double space; question, `A. …` to `D. …` in lines, "
                "`Answer:`",
                _SOURCE,
            ),
            Choice(
                "exemplars",
                "5 of dev, fewer where the prompt is too long (2,048 tokens): the last ones go",
                _SOURCE,
            ),
            *_SHARED_CHOICES,
        ),
        description="MMLU as instruct-eval, 5-shot",
        licence="MIT",
    )
)


def _read_bbh(subtask: str, split: str) -> list[BenchmarkItem]:
    return bbh.read(subtask, split)[_SHOTS:]


def _ask_bbh(item: BenchmarkItem) -> str:
    return f"{item.question}\nAnswer:"


def _bbh_exemplars(subtask: str, item: BenchmarkItem, seed: int) -> Sequence[str]:
    del item, seed
    return [f"{_ask_bbh(e)} {e.answer}" for e in bbh.read(subtask, "test", _SHOTS)]


register_protocol(
    ProtocolDefinition(
        name="bbh_direct",
        variant=VARIANT,
        read=_read_bbh,
        drop="last",
        metrics=("starts_with",),
        exemplars=_bbh_exemplars,
        ask=_ask_bbh,
        max_decode_len=32,
        choices=(
            Choice("prompt", "the question, `Answer:`; no instruction", _SOURCE),
            Choice("exemplars", "the first 3 items of the file, which are not scored", _SOURCE),
            Choice("mean", "of 27 files, each once", _SOURCE),
            *_SHARED_CHOICES,
        ),
        description="BIG-Bench Hard as instruct-eval, 3-shot",
        **bbh.SHARED,
    )
)
