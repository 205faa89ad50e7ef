"""`flan-jax eval report`: what finished evaluations say, as a page, a table and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Reads the output folders of evaluation jobs. Several folders, or several checkpoints in one, are put
side by side and compared item by item with the first one.

Writes report.html (one page that needs no network), report.md, report.json, and TensorBoard's
scalars in tensorboard/.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    built = argparse.ArgumentParser(
        prog="flan-jax eval report",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    built.add_argument("folders", nargs="+", metavar="FOLDER", help="an EVAL_OUTPUT_DIR")
    built.add_argument("--out", required=True, metavar="DIR", help="folder to write to")
    built.add_argument("--against", metavar="MODEL", help="a published result, such as Flan-T5-XL")
    built.add_argument("--title", default="Evaluation", help="of the report")
    built.add_argument(
        "--samples", type=int, default=6, help="items a subtask on the page (default: 6)"
    )
    return built


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    built = parser()
    arguments = built.parse_args(argv)
    if arguments.samples < 1:
        built.error(f"--samples must be at least 1, found {arguments.samples}")
    from flan_jax.evaluation.run_files import read_folders
    from flan_jax.evaluation.suite_page import render_page
    from flan_jax.evaluation.suite_report import markdown, suite_report
    from flan_jax.evaluation.suite_samples import draw_samples
    from flan_jax.files import write_atomically
    from flan_jax.mixtures.benchmarks.suites import FLAN

    checkpoints = read_folders(arguments.folders)
    document = suite_report(checkpoints, FLAN, title=arguments.title, against=arguments.against)
    samples = draw_samples(checkpoints, per_subtask=arguments.samples)
    out = Path(arguments.out)
    text = markdown(document)
    write_atomically(out / "report.json", json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    write_atomically(out / "report.md", text)
    write_atomically(out / "report.html", render_page(document, samples))
    _write_scalars(document, out / "tensorboard")
    print(text)
    print(f"wrote {out / 'report.html'}")
    return 0


def _write_scalars(document: dict[str, Any], folder: Path) -> None:
    """A folder for each evaluated folder, a step for each checkpoint in it."""
    from flan_jax.train.writers import MetricsWriter

    rows: dict[str, dict[int, dict[str, float]]] = {}
    for checkpoint in document["checkpoints"]:
        label, step = checkpoint["label"], checkpoint["step"]
        values: dict[str, float] = {}
        for protocol in document["protocols"]:
            result = protocol["results"].get(label)
            if result is not None:
                values[f"eval/{protocol['name']}"] = result["score"]
                for subtask, score in result["subtasks"].items():
                    values[f"eval/{protocol['name']}/{subtask}"] = score
        average = document["averages"][label]["value"]
        if average is not None:
            values["eval/normalized_average"] = average
        rows.setdefault(label.partition(" @ ")[0], {})[step] = values
    for label, by_step in rows.items():
        # Anew each time: what an earlier report wrote there is dropped.
        writer = MetricsWriter(folder / label.replace("/", "-"), resume_step=-1)
        for step, values in sorted(by_step.items()):
            writer.write(step, values)
        writer.close()
