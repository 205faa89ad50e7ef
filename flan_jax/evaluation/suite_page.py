"""A suite's report as one HTML page that needs no other file and asks for none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from flan_jax.evaluation import charts
from flan_jax.evaluation.charts import Estimate, IntervalGroup, IntervalRow
from flan_jax.evaluation.run_files import Result
from flan_jax.evaluation.statistics import Interval
from flan_jax.evaluation.suite_report import Document
from flan_jax.evaluation.suite_samples import SampleTable

# What befell prompts and outputs: key in a result's counts, heading, meaning.
ACCOUNTS = (
    ("unparsed", "No answer", "outputs in which no answer was found; they count as wrong"),
    ("truncated", "Question cut", "prompts whose question lost its end, as it alone was too long"),
    ("dropped_exemplars", "Fewer exemplars", "prompts that lost exemplars to fit"),
    ("unknown_tokens", "Unknown pieces", "prompts with text that the vocabulary cannot write"),
    ("length_limited", "Length limit", "outputs that ended because they were too long"),
    ("unrepresentable", "Unwritable answer", "items whose answer the vocabulary cannot write"),
)


def number(value: float | None, digits: int = 1) -> str:
    """A score in percent, with a true minus; `–` for none."""
    return "–" if value is None else charts.percent(value / 100, digits)


def signed(value: float) -> str:
    """A difference in percentage points, with its sign."""
    text = number(abs(value))
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def render_page(document: Document, samples: SampleTable) -> str:
    """The page of `suite_report`'s document with `samples`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed}
    labels = [checkpoint["label"] for checkpoint in document["checkpoints"]]
    return environment.get_template("suite.html.j2").render(
        document=document,
        labels=labels,
        overview=_overview(document),
        protocols=[_view(protocol, place) for place, protocol in enumerate(document["protocols"])],
        curves=_curves(document),
        accounts=ACCOUNTS,
        samples=samples,
        samples_json=Markup(samples.as_json()),
    )


def _row(label: str, part: Mapping[str, Any], published: float | None) -> IntervalRow:
    low, high = part["low"] / 100, part["high"] / 100
    estimate = Estimate(part["score"] / 100, Interval(low, high))
    point = None if published is None else published / 100
    return IntervalRow(label, estimate, baseline=part["chance"] / 100, published=point)


def _overview(document: Document) -> Markup:
    """All protocols on one axis: a row for each, or a row a checkpoint below its name."""
    several = len(document["checkpoints"]) > 1
    groups = []
    for protocol in document["protocols"]:
        published = protocol["reference"]
        score = published and published["score"]
        rows = [
            _row(label if several else protocol["name"], result, score)
            for label, result in protocol["results"].items()
        ]
        groups.append(IntervalGroup(protocol["name"] if several else "", rows))
    return charts.interval_chart(groups, "Scores of all protocols", "overview")


def _view(protocol: Mapping[str, Any], place: int) -> dict[str, Any]:
    """One protocol for its section of the page."""
    published = protocol["reference"]
    subtasks = {} if published is None else _with_groups(published["subtasks"], protocol)
    return {
        **protocol,
        "id": f"protocol-{place}",
        "views": [
            {
                "label": label,
                "result": result,
                "chart": _chart(result, subtasks, f"chart-{place}-{i}"),
                "rows": _rows(result, subtasks),
                "verdict": verdict(result, published),
                "accounts": [account for account in ACCOUNTS if result["counts"].get(account[0])],
            }
            for i, (label, result) in enumerate(protocol["results"].items())
        ],
    }


def _with_groups(published: Mapping[str, float], protocol: Mapping[str, Any]) -> dict[str, float]:
    """Published scores of subtasks, and the means of groups of which all are published."""
    found = dict(published)
    for result in protocol["results"].values():
        for name, group in result["groups"].items():
            scores = [published[member] for member in group["subtasks"] if member in published]
            if len(scores) == len(group["subtasks"]):
                found[name] = sum(scores) / len(scores)
    return found


def _chart(result: Result, published: Mapping[str, float], ident: str) -> Markup:
    details = result["subtask_details"]

    def rows(parts: Mapping[str, Any]) -> list[IntervalRow]:
        ranked = sorted(parts, key=lambda name: (-parts[name]["score"], name))
        return [_row(_short(name), parts[name], published.get(name)) for name in ranked]

    groups = [IntervalGroup("Groups", rows(result["groups"]))] if result["groups"] else []
    groups.append(IntervalGroup("Subtasks" if groups else "", rows(details)))
    return charts.interval_chart(groups, f"{result['name']} by subtask", ident)


def _short(name: str, most: int = 32) -> str:
    text = name.replace("_", " ")
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _rows(result: Result, published: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of the table: groups, then subtasks."""
    parts = [(name, part, True) for name, part in result["groups"].items()]
    parts += [(name, part, False) for name, part in result["subtask_details"].items()]
    return [
        {"name": name, "part": part, "group": group, "published": published.get(name)}
        for name, part, group in parts
    ]


def verdict(result: Result, published: Mapping[str, Any] | None) -> str:
    """What the score says against guessing and the published one, in words that follow from it."""
    score, low, high = (result[key] for key in ("score", "low", "high"))
    floor = max(result["chance"], result["majority"])
    what = f"the better of chance and each subtask's most frequent answer ({number(floor)}%)"
    if low > floor:
        told = f"At {number(score)}% it is above {what}."
    elif high < floor:
        told = f"At {number(score)}% it is below {what}: its outputs do less than guesses would."
    else:
        told = f"At {number(score)}% it is not told apart from {what}."
    if published is not None:
        gap = score - published["score"]
        # The published score has noise of its own, as large as this one's if it is of these items.
        noise = result["noise"]["unpaired"]
        clear = "" if abs(gap) > noise else f", within the noise of two systems ({number(noise)})"
        told += f" {published['model']} is published with {number(published['score'])}%: "
        told += f"{signed(gap)} points{clear}."
    if result["missing"]:
        told += f" {result['missing']:,} items are missing and do not count."
    return told


def _curves(document: Document) -> list[tuple[str, Markup]]:
    """Scores by step of checkpoints in one folder, where there are several."""
    folders: dict[str, dict[str, int]] = {}
    for checkpoint in document["checkpoints"]:
        folder = checkpoint["label"].partition(" @ ")[0]
        folders.setdefault(folder, {})[checkpoint["label"]] = checkpoint["step"]
    curves: list[tuple[str, Markup]] = []
    for folder, steps in folders.items():
        for protocol in document["protocols"]:
            found = {
                steps[label]: result["score"] / 100
                for label, result in protocol["results"].items()
                if label in steps
            }
            if len(found) > 1:
                title = protocol["name"] + (f", {folder}" if len(folders) > 1 else "")
                ident = f"steps-{len(curves)}"
                scores = list(found.values())
                curve = charts.line_chart(list(found), scores, title, ident, as_percent=True)
                curves.append((title, curve))
    return curves
