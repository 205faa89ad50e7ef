"""Program synthesis tasks of Flan 2022: four formats of DrRepair, and CodeContests in Python.

Flan describes them but does not publish its data; we start from the datasets as their authors
publish them. Inverted prompts ask for the broken program, given the one that compiles, and for the
problem, given its solution.

T5's vocabulary has neither line breaks nor braces, so that programs do not survive it: train these
tasks with a vocabulary that has them, such as the one of bytes.
"""

from __future__ import annotations

import functools
from pathlib import Path

from flan_jax.draws import Draws
from flan_jax.mixtures.program_synthesis.programs import (
    FORMATS,
    can_be_broken,
    drawn_repair,
    program_fields,
)
from flan_jax.sources.base import Row
from flan_jax.sources.drrepair import DrRepairSource
from flan_jax.sources.filtered import FilteredSource
from flan_jax.sources.huggingface import HuggingFaceSource
from flan_jax.tasks import TaskDefinition, register_task

_TEMPLATES = Path(__file__).parent / "templates"
# Most examples a task counts as in proportional mixing: Muffin's (Chung et al., 2022, Table 23).
CAP = 30_000
# CodeContests' numbers of languages (its contest_problem.proto): 1 is Python 2, 2 is C++, 4 Java.
_PYTHON_3 = 3
_DESCRIPTIONS = {
    "error_comments": "the compiler's message as a comment",
    "line_numbers": "numbered lines, and the compiler's message",
    "no_errors": "numbered lines, no message",
    "plain_code": "the program alone",
}


def python_solutions(row: Row) -> list[str]:
    """The correct solutions in Python 3, without those that are blank."""
    solutions = row["solutions"]
    pairs = zip(solutions["language"], solutions["solution"], strict=True)
    return [code.strip() for language, code in pairs if language == _PYTHON_3 and code.strip()]


def can_be_solved(row: Row) -> bool:
    """Whether the problem is all text, and has a solution in Python 3."""
    problem = row["description"]
    return bool(problem.strip()) and "<image>" not in problem and bool(python_solutions(row))


def contest_fields(row: Row) -> Row:
    """The problem, and its solutions to be drawn from."""
    return {"problem": row["description"].strip(), "solutions": python_solutions(row)}


def draw_solution(fields: Row, draws: Draws) -> Row:
    """One of the solutions as `answer`."""
    return {"problem": fields["problem"], "answer": draws.choice(fields["solutions"])}


for _format in FORMATS:
    register_task(
        TaskDefinition(
            name=f"dr_repair_{_format}",
            group="program_synthesis",
            cluster="code_repair",
            source=FilteredSource(DrRepairSource(), can_be_broken),
            template_file=_TEMPLATES / f"dr_repair_{_format}.yaml",
            licence="MIT; programs of SPoC: CC-BY-4.0",
            styles=("direct", "inverted"),
            to_fields=program_fields,
            draw_fields=functools.partial(drawn_repair, _format),
            metrics=("exact_match", "bleu"),
            tags=("code", "not_in_public_flan"),
            cap=CAP,
            homepage="https://github.com/michiyasunaga/DrRepair",
            aliases=(f"program_synthesis_dr_repair_{_format}",),
            description=f"DrRepair: C++ programs to repair, {_DESCRIPTIONS[_format]}",
        )
    )

register_task(
    TaskDefinition(
        name="dmcc_python",
        group="program_synthesis",
        cluster="code_generation",
        # The Hub converts datasets this large in part: about the first 5 GB of train.
        source=FilteredSource(
            HuggingFaceSource(
                "deepmind/code_contests",
                read={"train": "partial-train", "validation": "partial-valid"},
                shards={"partial-train": 7},
                columns=("description", "solutions"),
            ),
            can_be_solved,
        ),
        template_file=_TEMPLATES / "dmcc_python.yaml",
        licence="CC-BY-4.0",
        styles=("direct", "inverted"),
        to_fields=contest_fields,
        draw_fields=draw_solution,
        metrics=("bleu", "exact_match"),
        tags=("code", "not_in_public_flan"),
        cap=CAP,
        homepage="https://github.com/google-deepmind/code_contests",
        aliases=("program_synthesis_dmcc_python",),
        description="CodeContests: contest problems, solved in Python 3",
    )
)
