"""GSM8K in its original files: `gsm8k` asks for the number alone, `gsm8k_cot` for a solution first.

`test` is the official test split. There is no official validation split: 5% of train are carved
out by a hash of the question.
"""

from __future__ import annotations

import re
from pathlib import Path

from flan_jax.sources.base import Row, SourceError
from flan_jax.sources.files import HashSplits
from flan_jax.sources.jsonl import JsonlSource
from flan_jax.tasks import TaskDefinition, register_task

_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_GOLD = re.compile(r"^#### (?P<number>.*\S)\s*$", re.MULTILINE)


def to_fields(row: Row) -> Row:
    """Fields `question`, `reasoning` (without calculator marks) and `answer` (the gold number).

    Thousands separators are left out of the number, as evaluation leaves them out.

    Raises:
      SourceError: the solution has no line `#### number`.
    """
    solution = row["answer"]
    gold = _GOLD.search(solution)
    if gold is None:
        raise SourceError(
            f"GSM8K: field 'answer' has no line '#### <number>': {solution[-80:]!r} "
            f"(question: {row['question'][:60]!r})"
        )
    return {
        "question": row["question"].strip(),
        "reasoning": _CALCULATION.sub("", solution[: gold.start()]).strip(),
        "answer": gold["number"].replace(",", ""),
    }


SOURCE = JsonlSource(
    files={"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
    carve=HashSplits("question", validation=0.05),
    texts=("question", "answer"),
)

for _style, _name, _description in (
    ("direct", "gsm8k", "grade-school mathematics, the number alone"),
    ("cot", "gsm8k_cot", "grade-school mathematics, a worked solution first"),
):
    register_task(
        TaskDefinition(
            name=_name,
            group="gsm8k",
            cluster="mathematics",
            source=SOURCE,
            template_file=Path(__file__).parent / "gsm8k.yaml",
            styles=(_style,),
            to_fields=to_fields,
            licence="MIT",
            metrics=("number", "exact_match"),
            tags=("cot",) if _style == "cot" else (),
            description=_description,
        )
    )
