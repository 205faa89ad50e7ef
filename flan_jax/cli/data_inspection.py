"""What `flan-jax data show` and `data stats` share: which stream they read."""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING

from flan_jax.cli.content import load_content
from flan_jax.cli.tables import FORMATS
from flan_jax.errors import UserError

if TYPE_CHECKING:
    from flan_jax.data.examples import ExampleMaker
    from flan_jax.data.reader import DatasetConfig
    from flan_jax.data.seqio_reader import SeqioExamples
    from flan_jax.data.vocabulary import Vocabulary

# Flan's lengths in tokens (google-research/FLAN, v2).
INPUTS_LENGTH = 2048
TARGETS_LENGTH = 512
EXTRA_IDS = 100  # sentinels of T5's vocabulary


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {number}")
    return number


def from_zero(text: str) -> int:
    """A whole number from 0, for argparse."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, found {number}")
    return number


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names the stream; the defaults are those of training with Flan's lengths."""
    parser.add_argument("name", help="a mixture or task")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--seed", type=int, default=0, help="the run's seed (default: 0)")
    parser.add_argument(
        "--batch_size", type=positive, default=128, metavar="ROWS", help="of a step"
    )
    parser.add_argument("--inputs_length", type=positive, default=INPUTS_LENGTH, metavar="TOKENS")
    parser.add_argument("--targets_length", type=positive, default=TARGETS_LENGTH, metavar="TOKENS")
    parser.add_argument(
        "--vocabulary",
        help="a SentencePiece model (default: t5_vocab/spiece.model of the data folder, else the "
        "micro collection's)",
    )
    parser.add_argument(
        "--pack",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="several examples a row, as in training (default), or one",
    )
    parser.add_argument(
        "--allow_missing",
        action="store_true",
        help="go on without the tasks whose data are not on this machine",
    )
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="a store of `flan-jax data build` to take the rows from (default: the data folder)",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page, too")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="a module of yours that registers mixtures; may be given several times",
    )
    parser.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else data)")


def open_stream(
    arguments: argparse.Namespace,
) -> tuple[DatasetConfig, ExampleMaker | SeqioExamples, str]:
    """The stream that the arguments name: its config, its examples, its vocabulary's name.

    Raises:
      UserError: unknown names, missing data, a vocabulary that is none; each says how to fix it.
    """
    if arguments.data_dir:
        from flan_jax.sources.folder import use_data_folder

        use_data_folder(arguments.data_dir)
    load_content(arguments.module)
    from flan_jax.data.reader import DatasetConfig
    from flan_jax.realised import MixtureMissingError

    vocabulary, name = find_vocabulary(arguments.vocabulary)
    config = DatasetConfig(
        mixture_or_task_name=arguments.name,
        task_feature_lengths={
            "inputs": arguments.inputs_length,
            "targets": arguments.targets_length,
        },
        split=arguments.split,
        batch_size=arguments.batch_size,
        pack=arguments.pack,
        allow_missing=arguments.allow_missing,
        store=arguments.store,
    )
    try:
        return config, config.example_maker(vocabulary, vocabulary, arguments.seed), name
    except MixtureMissingError as error:
        # The message names training's switch.
        text = str(error).replace("--gin.ALLOW_MISSING=True", "--allow_missing")
        raise MixtureMissingError(text) from error


def find_vocabulary(name: str | None) -> tuple[Vocabulary, str]:
    """The vocabulary called `name`, or T5's, or the micro collection's; and its file's name.

    Raises:
      UserError: the model that was named is missing or unusable.
    """
    from flan_jax.cli.task_sampling import T5_VOCABULARY
    from flan_jax.data.vocabulary import SentencePieceVocabulary
    from flan_jax.sources.folder import locate

    if name is None:
        micro = importlib.resources.files("flan_jax.mixtures.micro") / "vocabulary"
        candidates = [locate(T5_VOCABULARY), *sorted(Path(str(micro)).glob("*.model"))]
        path = next(path for path in candidates if path.is_file())
    else:
        path = Path(name).expanduser()
    return SentencePieceVocabulary(str(path), EXTRA_IDS), path.name


def write_page(path: str, page: str) -> None:
    """Writes a page whole or not at all. Raises UserError if the folder cannot be written to."""
    from flan_jax.files import write_atomically

    try:
        write_atomically(Path(path).expanduser(), page)
    except OSError as error:
        raise UserError(f"--html {path}: the page cannot be written: {error}") from error
