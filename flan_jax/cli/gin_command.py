"""What the commands configured by gin share: flags, loading, showing the configuration."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flan_jax.config import (
    LoadedConfig,
    add_gin_arguments,
    gin_flags,
    load,
    resolved_config_text,
    rewrite_gin_arguments,
)
from flan_jax.errors import UserError

# Modules whose configurables gin files may name.
CONFIGURABLE_MODULES = (
    "flan_jax.data.configurables",
    "flan_jax.data.reader",
    "flan_jax.objectives",
    "flan_jax.models.lora",
    "flan_jax.models.t5",
    "flan_jax.models.palm",
    "flan_jax.models.encoder_decoder",
    "flan_jax.models.decoder_only",
    "flan_jax.decoding.config",
    "flan_jax.decoding.t5x_names",
    "flan_jax.sharding",
    "flan_jax.train.optimizer",
    "flan_jax.train.schedule",
    "flan_jax.train.step",
    "flan_jax.train.loop",
    "flan_jax.checkpoints.manager",
    "flan_jax.evaluation.protocol",
    "flan_jax.evaluation.generation",
    "flan_jax.evaluation.evaluate",
    "flan_jax.evaluation.infer",
)


@dataclass(frozen=True)
class GinCommand:
    """A loaded configuration and the flags beside it.

    Attributes:
      args: parsed flags.
      config: the configuration; its bindings are in force.
      text: the configuration as a gin file, to be kept beside results.
    """

    args: argparse.Namespace
    config: LoadedConfig
    text: str


def load_gin_command(
    argv: Sequence[str],
    name: str,
    description: str,
    root: str,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    *,
    also: Sequence[str] = (),
) -> GinCommand | None:
    """Parses flags, registers configurables and tasks, and loads the configuration.

    Args:
      argv: the command's arguments.
      name: the command.
      description: for its help.
      root: the configurable that the command calls.
      add_arguments: adds flags of the command's own.
      also: further configurables that it calls.

    Returns:
      None if only the configuration was to be printed.

    Raises:
      ConfigError: listing all mistakes in files and flags.
    """
    parser = argparse.ArgumentParser(
        prog=f"flan-jax {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_gin_arguments(parser)
    parser.add_argument(
        "--module", action="append", default=[], help="module that registers tasks; repeatable"
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the configuration in force and stop"
    )
    if add_arguments is not None:
        add_arguments(parser)
    args = parser.parse_args(rewrite_gin_arguments(argv))
    if not args.gin_file:
        parser.error("--gin_file is required: one gin file or more (gin/runs holds ready ones)")
    # Notes of XLA, TensorFlow and Orbax that are no concern of a user's.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.ERROR)
    for module in CONFIGURABLE_MODULES:
        importlib.import_module(module)
    from flan_jax.cli.content import load_content

    load_content(args.module)
    flags = gin_flags(args)
    config = load(flags.gin_files, flags.bindings, flags.search_paths, required=(root, *also))
    text = resolved_config_text(config)
    if args.print_config:
        print(text, end="")
        return None
    return GinCommand(args, config, text)


_GIN_NOTE = re.compile(r"\n\s*In call to configurable '([^']*)'[^\n]*")


def run_configured(function: Callable[..., Any], **arguments: Any) -> Any:
    """Calls a configurable with what gin binds and `arguments`.

    Raises:
      UserError: a value that is bound was refused by what it was meant for (a ValueError in the
        constructor of another configurable).
    """
    try:
        return function(**arguments)
    except UserError:
        raise
    except ValueError as error:
        # gin notes the configurables under way, innermost first.
        under_way = _GIN_NOTE.findall(str(error))
        if not under_way or under_way[0] == function.__name__:
            raise
        message = _GIN_NOTE.sub("", str(error))
        raise UserError(f"{under_way[0]}: {message}") from error
