"""A suite's report as data: finished evaluations side by side, and against published results.

Scores and differences in percent; `schemas/suite_report.json` describes `suite_report`'s result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from flan_jax import __version__
from flan_jax.errors import UserError
from flan_jax.evaluation.benchmarks import ProtocolDefinition, known_protocols
from flan_jax.evaluation.normalized_average import Suite, normalized_average
from flan_jax.evaluation.paired import compare_items
from flan_jax.evaluation.paper_results import (
    Reference,
    find_model,
    published_average,
    recompute_averages,
    reference,
)
from flan_jax.evaluation.run_files import EvaluatedCheckpoint, ProtocolFiles, Result

FORMAT = 1
Document = dict[str, Any]


def suite_report(
    checkpoints: Sequence[EvaluatedCheckpoint],
    suite: Suite,
    *,
    title: str = "Evaluation",
    against: str | None = None,
) -> Document:
    """Everything that a report states, for JSON.

    Args:
      checkpoints: what was evaluated; the others are compared with the first one, item by item.
      suite: whose average is given where all of its protocols are there.
      title: of the report.
      against: a model with published results.

    Raises:
      UserError: no checkpoints, no such model, or files are damaged.
    """
    if not checkpoints:
        raise UserError("a report needs the results of one evaluation at least")
    model = None if against is None else find_model(against)
    names = list(dict.fromkeys(name for c in checkpoints for name in c.protocols))
    order = {name: place for place, name in enumerate(suite.components)}
    names.sort(key=lambda name: (order.get(name, len(order)), name))
    return {
        "format": FORMAT,
        "title": title,
        "flan_jax": __version__,
        "against": model,
        "checkpoints": [
            {
                "label": checkpoint.label,
                "folder": str(checkpoint.folder),
                "step": checkpoint.step,
                "trained_on": checkpoint.trained_on,
            }
            for checkpoint in checkpoints
        ],
        "protocols": [_protocol(name, checkpoints, model) for name in names],
        "averages": {c.label: _average(c, suite) for c in checkpoints},
        "published_average": None if model is None else _published(model, suite),
    }


def _protocol(
    name: str, checkpoints: Sequence[EvaluatedCheckpoint], model: str | None
) -> dict[str, Any]:
    """One protocol's results, one entry a checkpoint that has them."""
    having = [c for c in checkpoints if name in c.protocols]
    first = having[0].protocols[name].result
    published = None if model is None else _reference(first, model)
    return {
        "name": name,
        **{key: first[key] for key in ("protocol", "benchmark", "variant", "split", "metric")},
        "mean": first["mean"],
        "description": _description(first),
        "reference": None if published is None else dataclasses.asdict(published),
        "results": {c.label: c.protocols[name].result for c in having},
        "comparisons": _comparisons(having[0], having[1:], name),
    }


def _definition(result: Result) -> ProtocolDefinition | None:
    """The definition that a result names; None for tasks of a mixture."""
    return known_protocols().get(result["protocol"], {}).get(result["variant"])


def _description(result: Result) -> str:
    definition = _definition(result)
    return "" if definition is None else definition.description


def _reference(result: Result, model: str) -> Reference | None:
    definition = _definition(result)
    settings = result.get("settings") or {}
    # Several paths or fewer shots are another setting than the published one; a random draw of
    # items is the same one, with a wider interval.
    other = settings.get("paths", 1) > 1 or settings.get("shots") is not None
    if definition is None or result["missing"] or other:
        return None
    return reference(definition, result["split"], model)


def _comparisons(
    base: EvaluatedCheckpoint, others: Sequence[EvaluatedCheckpoint], name: str
) -> list[dict[str, Any]]:
    """Each checkpoint against the first one that has this protocol."""
    found = []
    before = item_values(base.protocols[name]) if others else {}
    for other in others:
        entry: dict[str, Any] = {"before": base.label, "after": other.label}
        refused = _refusal(base.protocols[name].result, other.protocols[name].result)
        after = {} if refused else item_values(other.protocols[name])
        if not refused and (before is None or after is None):
            refused = f"{base.protocols[name].result['metric']} has no scores of single items"
        if refused or before is None or after is None:
            found.append(entry | {"refused": refused})
            continue
        comparison = compare_items(before, after, base.protocols[name].result["mean"])
        found.append(entry | {"refused": None} | dataclasses.asdict(comparison))
    return found


def _refusal(before: Result, after: Result) -> str:
    """Why two results cannot be compared item by item; empty if they can."""
    hashes = before["protocol_hash"], after["protocol_hash"]
    if hashes[0] != hashes[1] or None in hashes:
        return f"they answered other prompts or items (protocol hashes {hashes[0]}, {hashes[1]})"
    return ""


def item_values(files: ProtocolFiles) -> dict[str, float] | None:
    """Scores in [0, 1] by item that is in the mean; None for a metric that has none."""
    extra = files.result.get("extra_subtasks", ())
    values = {row["id"]: row["correct"] for subtask, row in files.rows() if subtask not in extra}
    return None if None in values.values() else values


def _average(checkpoint: EvaluatedCheckpoint, suite: Suite) -> dict[str, Any]:
    results = {
        files.result["protocol"]: files.result
        for name, files in checkpoint.protocols.items()
        if name in suite.components and not files.result["missing"]
    }
    missing = [name for name in suite.components if name not in results]
    if missing:
        return {"value": None, "missing": missing, "parts": {}, "components": {}, "limited": False}
    normalized = {name: result["normalized"] for name, result in results.items()}
    average = normalized_average(suite, normalized)
    limited = [r for r in results.values() if (r.get("settings") or {}).get("num_examples")]
    return {
        "value": average.value,
        "missing": [],
        "parts": dict(average.parts),
        "components": dict(average.components),
        "limited": bool(limited),
    }


def _published(model: str, suite: Suite) -> dict[str, Any] | None:
    """The published normalized average and, where its parts are published, the recomputed one."""
    printed = published_average(model)
    if printed is None:
        return None
    known = known_protocols()
    definitions = {name: known[name]["paper"] for name in suite.components if name in known}
    if len(definitions) < len(suite.components):
        return {"value": printed, "recomputed": None, "parts": {}, "flags": []}
    rows = {row.model: row for row in recompute_averages(suite, definitions)}
    row = rows.get(model)
    return {
        "value": printed,
        "recomputed": None if row is None else row.recomputed.value,
        "parts": {} if row is None else dict(row.recomputed.parts),
        "flags": [] if row is None else list(row.flags),
    }


# --------------------------------------------------------------------------------------- Markdown


_LEGEND = (
    "Scores in percent with 95% intervals. Noise: smaller differences between two systems are not "
    "told apart, unless they answered the same items."
)


def markdown(document: Document) -> str:
    """The scores as a table in Markdown, with the averages below."""
    labels = [c["label"] for c in document["checkpoints"]]
    model = document["against"]
    head = ["protocol", *labels, *([model] if model else []), "chance", "noise", "held out"]
    lines = [f"# {document['title']}", "", _line(head), _line(["---"] * len(head))]
    for protocol in document["protocols"]:
        first = next(iter(protocol["results"].values()))
        noise = first["noise"]
        published = protocol["reference"]
        cells = [protocol["name"]]
        cells += [_cell(protocol["results"].get(label)) for label in labels]
        cells += [f"{published['score']:.1f}" if published else "–"] if model else []
        cells += [
            f"{first['chance']:.1f}",
            f"{noise['unpaired']:.1f}" if noise else "–",
            first["exposure"]["label"],
        ]
        lines.append(_line(cells))
    averages = [document["averages"][label] for label in labels]
    if any(average["value"] is not None for average in averages):
        cells = ["**normalized average**"]
        cells += ["–" if a["value"] is None else f"**{a['value']:.1f}**" for a in averages]
        published = document["published_average"]
        cells += [f"{published['value']:.1f}" if published else "–"] if model else []
        lines.append(_line([*cells, "0", "–", "–"]))
    lines += [
        "",
        "Scores in percent with 95% intervals. Noise: differences between two systems on ",
    ]
    lines[-1] += "other items that are smaller than this are not told apart."
    lines += [*_average_notes(document["averages"]), *_comparison_lines(document), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    return f"{result['score']:.1f} ({result['low']:.1f}–{result['high']:.1f})"


def _average_notes(averages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for label, average in averages.items():
        if average["missing"]:
            notes.append(
                f"{label}: no normalized average, as it lacks {', '.join(average['missing'])}."
            )
        elif average["limited"]:
            notes.append(f"{label}: the normalized average is of a part of the items only.")
    return ["", *notes] if notes else []


def _comparison_lines(document: Document) -> list[str]:
    lines = []
    for protocol in document["protocols"]:
        for found in protocol["comparisons"]:
            pair = f"{protocol['name']}: {found['before']} → {found['after']}"
            if found["refused"]:
                lines.append(f"- {pair}: not compared; {found['refused']}")
                continue
            whole = found["overall"]
            lines.append(
                f"- {pair}: {whole['value']:+.1f} ({whole['low']:+.1f} to {whole['high']:+.1f}), "
                f"{whole['gained']:,} items gained, {whole['lost']:,} lost"
            )
    return ["", "Paired differences on the same items:", "", *lines] if lines else []
