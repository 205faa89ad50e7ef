"""`flan-jax data render`: renders and tokenises a mixture once, to train from the token ids.

flan-jax data render flan2022 --store ~/stores/flan2022 --out ~/stores/flan2022_tokens --jobs 8
flan-jax train … --gin.TOKEN_STORE='"/home/me/stores/flan2022_tokens"'
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_jax.cli.data_build import STYLES, _Progress
from flan_jax.cli.data_inspection import (
    EXTRA_IDS,
    INPUTS_LENGTH,
    TARGETS_LENGTH,
    find_vocabulary,
    from_zero,
    positive,
)
from flan_jax.cli.tables import FORMATS, print_json, print_table

if TYPE_CHECKING:
    from flan_jax.data.vocabulary import Vocabulary
    from flan_jax.store import TaskOutcome
    from flan_jax.store.token_manifest import TokenManifest

HELP = "render and tokenise a mixture once, to train from token ids"
_MIB = 2**20
# Beyond this many tasks that went well, a terminal shows only those that failed.
_MANY = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `flan-jax data render`."""
    parser.add_argument("mixture", metavar="MIXTURE", help="a mixture or task")
    parser.add_argument("--out", required=True, metavar="DIR", help="the token store's folder")
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="a store of `flan-jax data build` to take the rows from (default: the data folder)",
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=1,
        help="epochs to render, each with prompts of its own; a run's later ones are these again "
        "(default: 1)",
    )
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--seed", type=int, default=0, help="the run's RANDOM_SEED (default: 0)")
    parser.add_argument(
        "--inputs_length", type=positive, default=INPUTS_LENGTH, metavar="TOKENS",
        help=f"as in TASK_FEATURE_LENGTHS (default: {INPUTS_LENGTH})",
    )  # fmt: skip
    parser.add_argument(
        "--targets_length", type=positive, default=TARGETS_LENGTH, metavar="TOKENS",
        help=f"as in TASK_FEATURE_LENGTHS (default: {TARGETS_LENGTH})",
    )  # fmt: skip
    parser.add_argument(
        "--vocabulary",
        help="a SentencePiece model (default: t5_vocab/spiece.model of the data folder, else the "
        "micro collection's)",
    )
    parser.add_argument(
        "--extra_ids", type=from_zero, default=EXTRA_IDS, help=f"sentinels (default: {EXTRA_IDS})"
    )
    parser.add_argument("--min_shots", type=positive, help="as prompts.FewShotPolicy.min_shots")
    parser.add_argument("--max_shots", type=positive, help="as prompts.FewShotPolicy.max_shots")
    parser.add_argument("--jobs", type=positive, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="go on without the tasks whose rows are missing or that failed",
    )
    parser.add_argument(
        "--shard_size", type=positive, default=512, metavar="MIB",
        help="size that shards should have, in MiB (default: 512)",
    )  # fmt: skip
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="a module of yours that registers tasks; may be given several times",
    )
    parser.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else ./data)")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")


def run(arguments: argparse.Namespace) -> int:
    """Renders, prints what became of each task, and tells by the exit code if all are stored."""
    from flan_jax.cli.content import load_content
    from flan_jax.data.examples import ExampleMaker
    from flan_jax.data.reader import DatasetConfig
    from flan_jax.errors import UserError
    from flan_jax.prompts.fewshot import FewShotPolicy
    from flan_jax.sources import folder
    from flan_jax.store.token_build import build_token_store

    if arguments.data_dir:
        folder.use_data_folder(arguments.data_dir)
    load_content(arguments.module)
    shots = {
        name: value
        for name in ("min_shots", "max_shots")
        if (value := getattr(arguments, name)) is not None
    }
    vocabulary = _vocabulary(arguments.vocabulary, arguments.extra_ids)
    config = DatasetConfig(
        arguments.mixture,
        {"inputs": arguments.inputs_length, "targets": arguments.targets_length},
        split=arguments.split,
        few_shot=FewShotPolicy(**shots),
        store=arguments.store,
        allow_missing=arguments.allow_missing,
    )
    maker = config.example_maker(vocabulary, vocabulary, arguments.seed)
    if not isinstance(maker, ExampleMaker):
        raise UserError(f"{arguments.mixture!r} is SeqIO's, whose examples cannot be rendered here")
    progress = _Progress(len(maker.task_names))
    outcomes, manifest = build_token_store(
        maker,
        arguments.out,
        mixture_name=arguments.mixture,
        epochs=arguments.epochs,
        jobs=arguments.jobs,
        allow_missing=arguments.allow_missing,
        shard_bytes=arguments.shard_size * _MIB,
        tell=progress.tell,
    )
    show(arguments.out, outcomes, manifest, arguments.format)
    return int(manifest is None)


def _vocabulary(name: str | None, extra_ids: int) -> Vocabulary:
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    found, _ = find_vocabulary(name)
    if isinstance(found, SentencePieceVocabulary) and found.extra_ids != extra_ids:
        return SentencePieceVocabulary(found.sentencepiece_model_file, extra_ids)
    return found


def show(
    path: str, outcomes: Sequence[TaskOutcome], manifest: TokenManifest | None, format: str
) -> None:
    """Prints the outcomes on standard output, and a summary on standard error."""
    if format == "json":
        print_json(
            {
                "store": path,
                "written": manifest is not None,
                "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
                "tasks": {
                    name: {
                        "rows": task.rows,
                        "tokens": task.tokens,
                        "inputs_cut": task.inputs_cut,
                        "targets_cut": task.targets_cut,
                    }
                    for name, task in (manifest.tasks if manifest else {}).items()
                },
            }
        )
        return
    shown = outcomes
    if sys.stdout.isatty() and format == "auto" and len(outcomes) > _MANY:
        shown = [outcome for outcome in outcomes if outcome.status == "failed"]
    table = [(o.status, o.name, f"{o.rows:,}", f"{o.size:,}", o.detail) for o in shown]
    print_table(("status", "task", "rows", "bytes", "detail"), table, format=format, styles=STYLES)
    if manifest is None:
        print(
            "the token store was not written, because tasks failed; what was rendered is kept: run "
            "the command again when they are mended, or with --allow_missing",
            file=sys.stderr,
        )
        return
    tasks = manifest.tasks.values()
    print(
        f"{path}: {sum(t.rows for t in tasks):,} rows of {len(manifest.tasks):,} tasks in "
        f"{manifest.rendering.epochs} epochs, {sum(t.tokens for t in tasks):,} tokens; truncated: "
        f"inputs of {sum(t.inputs_cut for t in tasks):,} examples, targets of "
        f"{sum(t.targets_cut for t in tasks):,}",
        file=sys.stderr,
    )
