"""`flan-jax quickstart`: the whole way on one machine in minutes.

Finetunes a tiny pre-trained T5 on the micro collection, examines it before and after, on tasks it
was trained on and on tasks it never saw, and writes a report.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flan_jax.cli.gin_command import GinCommand, load_gin_command, run_configured

if TYPE_CHECKING:
    from flan_jax.evaluation.generation import Outcome

HELP = "finetune a tiny model on the micro mixture and score it"
_DESCRIPTION = """\
Finetunes a tiny T5 on the micro collection (no download, minutes on a CPU), evaluates tasks it was
trained on and tasks it was not, zero- and few-shot, before and after, and writes report.html.

The configuration is gin/runs/quickstart.gin; gin flags override it, as for `flan-jax train`.
Interrupted, it goes on where it was when started again.
"""
_GIN_FILE = "runs/quickstart.gin"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir", type=Path, default=Path("quickstart"), help="default: ./quickstart"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    folder = _output_dir(argv)
    given = [f"--gin_file={_GIN_FILE}", f"--gin.MODEL_DIR={folder / 'model'!s}"]
    given.append(f"--gin.EVAL_OUTPUT_DIR={folder / 'evaluation'!s}")
    command = load_gin_command(
        [*given, *argv], "quickstart", _DESCRIPTION, "train", _add_arguments, also=("evaluate",)
    )
    return 0 if command is None else _run(command)


def _output_dir(argv: Sequence[str]) -> Path:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_arguments(parser)
    return parser.parse_known_args(argv)[0].output_dir.resolve()


def _run(command: GinCommand) -> int:
    """Evaluates, trains, evaluates, reports."""
    from flan_jax.checkpoints.manager import RestoreCheckpointConfig
    from flan_jax.evaluation.evaluate import evaluate
    from flan_jax.train.loop import train

    started = time.monotonic()
    folder = command.args.output_dir.resolve()
    initial = command.config.resolve(command.config.values()["INITIAL_CHECKPOINT_PATH"])
    print("1/3  The base model answers", flush=True)
    base = RestoreCheckpointConfig(initial)
    # Both are judged by what the second was trained on, so that they can be compared.
    mixture = command.config.resolve(command.config.values()["MIXTURE_OR_TASK_NAME"])
    before = run_configured(evaluate, restore_checkpoint_cfg=base, trained_on=mixture, show=False)
    print("2/3  Finetuning", flush=True)
    result = run_configured(train)
    if not result.finished:
        print("stopped; run the same command to go on")
        return 0
    print("3/3  The finetuned model answers", flush=True)
    finetuned = RestoreCheckpointConfig(result.checkpoint)
    after = run_configured(
        evaluate, restore_checkpoint_cfg=finetuned, trained_on=mixture, show=False
    )
    facts = _facts(command, result.parameter_hash, time.monotonic() - started)
    report = _report(folder, before, after, command.text, facts)
    _print_table(before, after)
    print(f"report: {report}")
    return 0


def _report(
    folder: Path,
    before: Sequence[Outcome],
    after: Sequence[Outcome],
    config_text: str,
    facts: dict[str, Any],
) -> Path:
    from flan_jax.evaluation import report
    from flan_jax.train.writers import read_rows

    runs, samples = [], []
    for old, new in zip(before, after, strict=True):
        run = report.Run(_title(new), new.scores, old.scores, new.protocol)
        runs.append(run)
        samples += report.pick_samples(
            run, new.requests, new.predictions, old.predictions, per_task=1, most=16
        )
    return report.write_report(
        folder / "report.html",
        title="flan_jax quickstart",
        runs=runs,
        curves=read_rows(folder / "model" / "train" / "metrics.jsonl"),
        samples=samples,
        config_text=config_text,
        facts=facts,
    )


def _title(outcome: Outcome) -> str:
    shots = outcome.protocol.shots
    return f"{shots}-shot" if shots else "Zero-shot"


def _print_table(before: Sequence[Outcome], after: Sequence[Outcome]) -> None:
    """Accuracy before and after, held in and held out, for each protocol."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="accuracy in %, mean over tasks", title_justify="left")
    table.add_column("")
    for name in ("tasks", "before", "after", "95% CI", "baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    for old, new in zip(before, after, strict=True):
        for name, score in new.scores.summary().items():
            if name == "overall":
                continue
            table.add_row(
                f"{_title(new)}, {name}",
                str(score.tasks),
                f"{100 * old.scores.summary()[name].value:.1f}",
                f"{100 * score.value:.1f}",
                f"{100 * score.low:.1f} to {100 * score.high:.1f}",
                f"{100 * score.baseline:.1f}",
            )
    Console().print(table)
    print("baseline: per task the better of chance and always giving the most frequent answer")


def _facts(command: GinCommand, parameter_hash: str, seconds: float) -> dict[str, Any]:
    import jax

    values = command.config.values()
    devices = jax.devices()
    return {
        "mixture": command.config.resolve(values["MIXTURE_OR_TASK_NAME"]),
        "seed": command.config.resolve(values["RANDOM_SEED"]),
        "parameters (SHA-256)": parameter_hash,
        "devices": f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores",
        "time for training and evaluation": f"{seconds / 60:.1f} minutes",
        "Python": platform.python_version(),
        "JAX": jax.__version__,
    }
