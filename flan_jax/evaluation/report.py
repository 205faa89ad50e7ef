"""The report: one HTML file with everything in it, and a table for the terminal.

Every sentence about the results is made from the numbers, and says what the numbers do not show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from flan_jax import __version__
from flan_jax.draws import Draws
from flan_jax.evaluation import charts
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.charts import Estimate, IntervalGroup, IntervalRow, percent
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scores import (
    HELD_IN,
    HELD_OUT,
    OVERALL,
    UNKNOWN,
    Comparison,
    Difference,
    Score,
    Scores,
    compare,
)
from flan_jax.files import write_atomically

# Curves are shown in this order, the first name of each that the rows hold.
_CURVES: tuple[tuple[str, tuple[str, ...], bool, bool], ...] = (
    ("Loss per target token", ("loss", "train/loss", "cross_ent_loss"), False, False),
    ("Token accuracy", ("accuracy", "train/accuracy"), True, True),
    (
        "Tokens per second, inputs and targets, without padding",
        ("tokens_per_second",),
        False,
        True,
    ),
    ("Sequences per second", ("sequences_per_second", "timing/seqs_per_second"), False, True),
    ("Steps per second", ("steps_per_second", "timing/steps_per_second"), False, True),
    ("Learning rate", ("learning_rate",), False, True),
)
_ACCURACIES = ("exact_match", "number", "squad_em")


@dataclasses.dataclass(frozen=True)
class Run:
    """One protocol's results.

    Attributes:
      title: such as `Zero-shot`.
      after: the scores to report.
      before: scores of the same requests to compare with, such as those before finetuning.
      protocol: described below the title.
    """

    title: str
    after: Scores
    before: Scores | None = None
    protocol: EvalProtocol | BenchmarkProtocol | None = None

    def comparison(self) -> Comparison | None:
        """After against before, item by item; None without a before."""
        return None if self.before is None else compare(self.before, self.after)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One question with the answers given; None where there is none, or no verdict on it."""

    run: str
    task: str
    held_out: bool
    prompt: str
    target: str
    after: str
    after_correct: bool | None
    before: str | None = None
    before_correct: bool | None = None


def pick_samples(
    run: Run,
    requests: Sequence[Request],
    after: Mapping[str, str],
    before: Mapping[str, str] | None = None,
    *,
    per_task: int = 1,
    most: int = 24,
    seed: int = 0,
) -> list[Sample]:
    """Samples drawn at random, not by how good they look: `per_task` of at most `most` in all.

    Args:
      run: their protocol's results.
      requests: to draw from.
      after: predictions by request id.
      before: predictions by request id.
      per_task: samples per task; held-out tasks come first.
      most: samples in all.
      seed: of the draw.
    """
    by_task: dict[str, list[Request]] = {}
    for request in sorted(requests, key=lambda request: request.id):
        by_task.setdefault(request.task, []).append(request)
    order = Draws(seed, "report tasks").shuffled(sorted(by_task))
    order.sort(key=lambda name: not by_task[name][0].held_out)
    samples = []
    for name in order:
        members = by_task[name]
        chosen = Draws(seed, "report samples", name).sample(members, min(per_task, len(members)))
        for request in chosen:
            has_before = before is not None and run.before is not None
            samples.append(
                Sample(
                    run=run.title,
                    task=name,
                    held_out=request.held_out is True,
                    prompt=request.prompt,
                    target=request.target,
                    after=after[request.id],
                    after_correct=_verdict_of(run.after, request.id),
                    before=before[request.id] if has_before and before else None,
                    before_correct=_verdict_of(run.before, request.id) if run.before else None,
                )
            )
    return samples[:most]


def _verdict_of(scores: Scores, item: str) -> bool | None:
    value = scores.items[item].value
    return None if value is None else value >= 1.0


# ---------------------------------------------------------------------------------------- wording


def _noun(score: Score) -> str:
    return "accuracy" if score.metric in _ACCURACIES else "score"


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def points(share: float) -> str:
    """A difference in percentage points, with its sign."""
    text = percent(abs(share))
    return text if float(text) == 0 else ("+" if share > 0 else "−") + text


def interval_text(low: float, high: float) -> str:
    """An interval in percent."""
    return f"{percent(low)} to {percent(high)}"


def change_sentence(difference: Difference, noun: str, where: str, level: float) -> str:
    """What happened between before and after."""
    interval = f"{level:.0%} CI {points(difference.low)} to {points(difference.high)}"
    if difference.gained == 0 and difference.lost == 0:
        return f"On {where}, no answer changed from right to wrong or back."
    if difference.low > 0:
        return f"On {where}, {noun} rose by {percent(difference.value)} points ({interval})."
    if difference.high < 0:
        return f"On {where}, {noun} fell by {percent(-difference.value)} points ({interval})."
    return (
        f"On {where}, {noun} did not change measurably: {points(difference.value)} points "
        f"({interval})."
    )


def baseline_sentence(score: Score, level: float) -> str:
    """How the score stands to what needs no understanding."""
    what = (
        f"the baseline of {percent(score.baseline)}% (per task the better of chance and always "
        "giving the most frequent answer)"
    )
    interval = f"{level:.0%} CI {points(score.edge_low)} to {points(score.edge_high)}"
    head = f"At {percent(score.value)}% it is"
    if score.edge_low > 0:
        return f"{head} above {what}, by {percent(score.edge)} points ({interval})."
    if score.edge_high < 0:
        return f"{head} below {what}, by {percent(-score.edge)} points ({interval})."
    return f"{head} not distinguishable from {what}: {points(score.edge)} points ({interval})."


def held_out_verdict(run: Run) -> str:
    """What the held-out tasks show, in words that follow from the intervals."""
    score = run.after.held_out
    if score is None and run.after.unknown is not None:
        return (
            "It is not known what the model was trained on, so no task is called held out: these "
            "numbers may be of tasks that it has seen."
        )
    if score is None:
        return (
            "No held-out task was evaluated, so these numbers say nothing about tasks the model "
            "was not trained on."
        )
    level, where = run.after.level, f"the {_tasks(score.tasks)} held out from training"
    sentences = []
    comparison = run.comparison()
    if comparison is not None:
        difference = comparison.summary[HELD_OUT]
        sentences.append(change_sentence(difference, _noun(score), where, level))
    else:
        sentences.append(f"On {where}, {_noun(score)} is {percent(score.value)}%.")
    sentences.append(baseline_sentence(score, level))
    if score.tasks > 1:
        members = [run.after.tasks[name] for name in score.members]
        above = sum(member.edge_low > 0 for member in members)
        below = sum(member.edge_high < 0 for member in members)
        sentences.append(
            f"Taken one by one, against their own baselines: {above} of {score.tasks} above, "
            f"{below} below, {score.tasks - above - below} not distinguishable."
        )
    return " ".join(sentences)


# ----------------------------------------------------------------------------------------- charts


def _estimate(score: Score) -> Estimate:
    return Estimate(score.value, score.interval)


def _row(name: str, after: Score, before: Score | None) -> IntervalRow:
    return IntervalRow(name, _estimate(after), before and _estimate(before), after.baseline)


def _groups(after: Mapping[str, Score], before: Mapping[str, Score] | None) -> list[IntervalGroup]:
    """Held-in rows, then held-out rows, then unknown ones, each by falling score."""
    groups = []
    for standing in (HELD_IN, HELD_OUT, UNKNOWN):
        chosen = [score for score in after.values() if score.standing == standing]
        chosen.sort(key=lambda score: (-score.value, score.name))
        if chosen:
            rows = [_row(s.name, s, before[s.name] if before else None) for s in chosen]
            groups.append(IntervalGroup(standing.capitalize(), rows))
    return groups


def _chart_pairs(run: Run, prefix: str) -> list[tuple[str, Markup]]:
    """(caption, chart) by cluster and by task."""
    kinds = (
        ("By cluster", run.after.clusters, run.before.clusters if run.before else None),
        ("By task", run.after.tasks, run.before.tasks if run.before else None),
    )
    return [
        (
            caption,
            charts.interval_chart(
                _groups(after, before), f"{run.title}: scores {caption.lower()}", f"{prefix}-{i}"
            ),
        )
        for i, (caption, after, before) in enumerate(kinds)
    ]


def _curve_charts(rows: Iterable[Mapping[str, object]]) -> list[tuple[str, Markup]]:
    curves = charts.curves_of(rows)
    drawn = []
    for title, names, as_percent, from_zero in _CURVES:
        name = next((name for name in names if name in curves), None)
        if name is not None:
            steps, values = curves[name]
            chart = charts.line_chart(
                steps, values, title, f"curve-{len(drawn)}",
                as_percent=as_percent, from_zero=from_zero,
            )  # fmt: skip
            drawn.append((title, chart))
    return drawn


# ----------------------------------------------------------------------------------------- report


def _headline(run: Run) -> list[dict[str, Any]]:
    """A card for held-in, held-out and unknown tasks, as there are such."""
    comparison = run.comparison()
    summary = run.after.summary()
    names = [name for name in (HELD_IN, HELD_OUT, UNKNOWN) if name in summary]
    before = run.before.summary() if run.before else {}
    return [
        {
            "name": name,
            "after": summary[name],
            "before": before.get(name),
            "difference": comparison.summary[name] if comparison else None,
            "noun": _noun(summary[name]),
        }
        for name in names
    ]


def _task_rows(run: Run) -> list[dict[str, Any]]:
    cluster_of = {
        task: cluster.name for cluster in run.after.clusters.values() for task in cluster.members
    }
    comparison = run.comparison()
    rows = [
        {
            "after": score,
            "before": run.before.tasks[name] if run.before else None,
            "difference": comparison.tasks[name] if comparison else None,
            "cluster": cluster_of[name],
        }
        for name, score in run.after.tasks.items()
    ]
    rows.sort(key=lambda row: (row["after"].standing, row["cluster"], row["after"].name))
    return rows


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "points": points}
    environment.globals |= {"interval": interval_text, "count_tasks": _tasks}
    return environment


def write_report(
    path: Path | str,
    *,
    title: str,
    runs: Sequence[Run],
    curves: Iterable[Mapping[str, object]] = (),
    samples: Sequence[Sample] = (),
    config_text: str = "",
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Writes the report, one HTML file that needs no other; returns its path.

    Args:
      path: of the file to write.
      title: of the report.
      runs: results, one for each protocol (zero-shot, few-shot …).
      curves: rows of metrics.jsonl: `step` and numbers by name.
      samples: see `pick_samples`.
      config_text: the operative configuration.
      facts: versions, hardware, times, seeds and the like, by name.

    Raises:
      UserError: a run's before and after are of different items.
    """
    views = [
        {
            "run": run,
            "cards": _headline(run),
            "verdict": held_out_verdict(run),
            "charts": _chart_pairs(run, f"run-{i}"),
            "rows": _task_rows(run),
            "paired": run.before is not None,
        }
        for i, run in enumerate(runs)
    ]
    page = _environment().get_template("report.html.j2").render(
        title=title,
        views=views,
        curves=_curve_charts(curves),
        samples=samples,
        config_text=config_text,
        facts=dict(facts or {}),
        version=__version__,
    )  # fmt: skip
    write_atomically(path, page)
    return Path(path)


# --------------------------------------------------------------------------------------- terminal


def scores_table(
    scores: Scores, before: Scores | None = None, *, title: str = "", by: str = "cluster"
) -> Table:
    """A table for the terminal: clusters (or, `by="task"`, tasks), then the means.

    Raises:
      ValueError: `by` is neither.
    """
    if by not in ("cluster", "task"):
        raise ValueError(f"by must be 'cluster' or 'task', found {by!r}")
    table = Table(title=title or None, title_justify="left")
    table.add_column(by)
    table.add_column("n", justify="right")
    if before is not None:
        table.add_column("before", justify="right")
    table.add_column("score" if before is None else "after", justify="right", style="bold")
    table.add_column(f"{scores.level:.0%} CI", justify="right")
    if before is not None:
        table.add_column("change", justify="right")
    table.add_column("baseline", justify="right")
    table.add_column("unparsed", justify="right")
    body, means = (scores.clusters if by == "cluster" else scores.tasks), scores.summary()
    comparison = compare(before, scores) if before is not None else None
    changes: Mapping[str, Difference] = {}
    if comparison is not None:
        changes = comparison.clusters if by == "cluster" else comparison.tasks
    for name, score in body.items():
        _add_row(table, score, changes.get(name))
    table.add_section()
    for name, score in means.items():
        _add_row(table, score, comparison.summary[name] if comparison is not None else None)
    return table


def _add_row(table: Table, score: Score, difference: Difference | None) -> None:
    name = Text(score.name)
    if score.held_out and score.name != HELD_OUT:
        name.append(" (held out)", style="dim")
    elif score.held_out is None and score.name not in (UNKNOWN, OVERALL):
        name.append(" (unknown whether held out)", style="dim")
    cells: list[str | Text] = [name, f"{score.n:,}"]
    if difference is not None:
        cells.append(percent(difference.before))
    cells += [percent(score.value), interval_text(score.low, score.high)]
    if difference is not None:
        mark = "" if difference.clear else "?"
        cells.append(points(difference.value) + mark)
    cells += [percent(score.baseline), f"{score.unparsed:,}" if score.unparsed else "–"]
    table.add_row(*cells)
