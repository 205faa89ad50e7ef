"""Dialog tasks of Flan 2022: WikiDialog, QReCC and Taskmaster.

A conversation is cut at a turn drawn anew for each example: prompts show what came before, in a
drawn shape, and ask for the turn; inverted, they show the turn and ask for what came before. The
conversations that look something up are cut before an answer, the others anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flan_jax.draws import Draws
from flan_jax.prompts.dialog import PLAIN, drawn_dialog
from flan_jax.sources.base import Row, SourceError
from flan_jax.sources.taskmaster import TaskmasterSource
from flan_jax.sources.tfds import TfdsSource
from flan_jax.tasks import TaskDefinition, register_task

_TEMPLATES = Path(__file__).parent / "templates"
# Most examples a task counts as in proportional mixing (google-research/FLAN, v2 mixtures).
CAP = 200_000
# Most turns of history. Ten turns from each side leave a prompt well below 2048 tokens; the oldest
# go first.
MAX_HISTORY = 20
# Flan leaves out QReCC's rows up to this turn; their conversations begin later rows too.
_QRECC_TURN = 6


def conversation(turns: Sequence[str], *, first: int = 0) -> Row:
    """Fields of a whole conversation, to be cut by `cut_anywhere` or `cut_before_answer`.

    Args:
      turns: what two speakers say in turn.
      first: who begins: 0 for the one who asks, 1 for the one who answers.

    Raises:
      SourceError: there are fewer than two turns.
    """
    if len(turns) < 2:
        raise SourceError(f"a conversation needs at least two turns, found {list(turns)!r}")
    return {"turns": tuple(turns), "first": first}


def cut_anywhere(fields: Row, draws: Draws) -> Row:
    """The conversation cut before a turn drawn from all but the first: see `_cut`."""
    return _cut(fields, draws.between(1, len(fields["turns"]) - 1), draws)


def cut_before_answer(fields: Row, draws: Draws) -> Row:
    """The conversation cut before a drawn turn of the one who answers: see `_cut`."""
    begin = 1 if fields["first"] == 0 else 2
    points = range(begin, len(fields["turns"]), 2)
    return _cut(fields, draws.choice(points) if points else 1, draws)


def _cut(fields: Row, point: int, draws: Draws) -> Row:
    """Fields of the templates.

    They are `answer`, the turn at `point`; `dialog`, the turns before it in a drawn style;
    `history`, the same in the plain style, where whoever begins is A; `speaker`, A or B, whose
    `answer` is; and `count`, the number of turns in the history.
    """
    begin = max(0, point - MAX_HISTORY)
    begin += begin % 2  # so that the same speaker begins
    history = fields["turns"][begin:point]
    return {
        "answer": fields["turns"][point],
        "dialog": drawn_dialog(history, draws, first=fields["first"]),
        "history": PLAIN.render(history),
        "speaker": "AB"[len(history) % 2],
        "count": len(history),
    }


def wiki_dialog_fields(row: Row) -> Row:
    """WikiDialog: every conversation begins with the same greeting by the one who answers."""
    turns = [_one_line(turn) for turn in row["utterances"]]
    greeting, rest = turns[:1], turns[1:]
    return conversation(rest) if len(rest) > 1 else conversation(greeting + rest, first=1)


def qrecc_fields(row: Row) -> Row:
    """QReCC: questions and answers in turn; an answer that was not found is empty."""
    texts = [_one_line(text) for text in row["context"]]
    pairs = zip(texts[::2], texts[1::2], strict=False)
    return conversation([text for pair in pairs if all(pair) for text in pair])


def keep_qrecc(row: Row) -> bool:
    """Whether a row is late in its conversation, and some question there has an answer."""
    texts = [text.strip() for text in row["context"]]
    answered = any(all(pair) for pair in zip(texts[::2], texts[1::2], strict=False))
    return row["turn_id"] > _QRECC_TURN and answered


def taskmaster_fields(row: Row) -> Row:
    """Taskmaster: a user and an assistant; either may begin."""
    return conversation(row["turns"], first=0 if row["speakers"][0] == "USER" else 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _register(
    name: str,
    *,
    source: TfdsSource | TaskmasterSource,
    to_fields: Callable[[Row], Row],
    cut: Callable[[Row, Draws], Row],
    templates: str,
    cluster: str,
    licence: str,
    num_train: int,
    homepage: str,
    description: str,
    tags: tuple[str, ...] = (),
) -> None:
    register_task(
        TaskDefinition(
            name=name,
            group="dialog",
            cluster=cluster,
            source=source,
            template_file=_TEMPLATES / f"{templates}.yaml",
            licence=licence,
            styles=("direct", "inverted"),
            to_fields=to_fields,
            draw_fields=cut,
            metrics=("rougeL", "exact_match"),
            tags=("dialog", *tags),
            cap=CAP,
            num_train=num_train,
            homepage=homepage,
            description=description,
        )
    )


_register(
    "wiki_dialog",
    source=TfdsSource("wiki_dialog/OQ:1.0.0", read={"train": "train", "validation": "validation"}),
    to_fields=wiki_dialog_fields,
    cut=cut_before_answer,
    templates="information_seeking",
    cluster="conversational_question_answering",
    licence="CC-BY-SA-3.0",
    # Flan's count (google-research/FLAN, v2).
    num_train=11_264_000,
    homepage="https://github.com/google-research/dialog-inpainting",
    description="WikiDialog: passages of Wikipedia as conversations",
)
_register(
    "qrecc",
    source=TfdsSource("q_re_cc:1.0.0", read={"train": "train", "test": "test"}, keep=keep_qrecc),
    to_fields=qrecc_fields,
    cut=cut_before_answer,
    templates="information_seeking",
    cluster="conversational_question_answering",
    licence="CC-BY-SA-3.0",
    # Flan's count (google-research/FLAN, v2).
    num_train=10_170,
    homepage="https://github.com/apple/ml-qrecc",
    description="QReCC: open-domain questions in context",
)
_register(
    "task_master",
    source=TaskmasterSource(),
    to_fields=taskmaster_fields,
    cut=cut_anywhere,
    templates="task_master",
    cluster="dialog_next_turn_prediction",
    licence="CC-BY-4.0",
    # 13,215 of Taskmaster-1 and 17,289 of Taskmaster-2 (their READMEs), less 5% for validation.
    num_train=28_979,
    homepage="https://github.com/google-research-datasets/Taskmaster",
    description="Taskmaster 1 and 2: orders, bookings and recommendations",
    tags=("not_in_public_flan",),
)
