"""T5X's gin flags for argparse: --gin_file, --gin_bindings, --gin.NAME=VALUE, --gin_search_paths.

A command uses them so:

    add_gin_arguments(parser)
    args = parser.parse_args(rewrite_gin_arguments(sys.argv[1:]))
    flags = gin_flags(args)
    load(flags.gin_files, flags.bindings, flags.search_paths, required=("train",))
"""

from __future__ import annotations

import argparse
import io
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from flan_jax.config.errors import ConfigError, Problem, command_line
from flan_jax.config.installed import config_parser
from flan_jax.config.statements import ParserDelegate

_FLAG = "--gin."

_DESCRIPTION = """\
--gin.NAME=VALUE binds one value: NAME is a macro (TRAIN_STEPS), a parameter (train.total_steps)
or a scoped parameter (train/DatasetConfig.batch_size). VALUE is a Python literal, a reference
(@configurable or @configurable()) or a macro (%NAME); anything else is taken as a string, so
--gin.MODEL_DIR=/tmp/x and T5X's --gin.MODEL_DIR="'/tmp/x'" mean the same. A string that looks
like a literal needs the inner quotes: --gin.NAME="'2024'". Later files and flags override earlier
ones, and bindings override files.
"""


@dataclass(frozen=True)
class GinFlags:
    """The gin flags of a command line, in the order given.

    Attributes:
      gin_files: names of gin files; later ones override earlier ones.
      bindings: gin statements such as `train.total_steps = 5`; they override the files.
      search_paths: folders to look for gin files in; '.' if none was given.
    """

    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = (".",)


def add_gin_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the gin flags to `parser`, in a group that documents them."""
    group = parser.add_argument_group("gin configuration", _DESCRIPTION)
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file, absolute or along the search paths; repeatable",
    )
    group.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="STATEMENT",
        help="a gin statement as in a file, such as 'train.total_steps = 5'; repeatable",
    )
    group.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="FOLDER[,FOLDER...]",
        help="folders to look for gin files in (default '.'); the current folder and flan_jax's "
        "own gin folder always follow",
    )


def rewrite_gin_arguments(argv: Sequence[str]) -> list[str]:
    """`argv` with every `--gin.NAME=VALUE` rewritten to `--gin_bindings=NAME = VALUE`.

    Raises:
      ConfigError: for `--gin.NAME` without `=`.
    """
    rewritten: list[str] = []
    for index, argument in enumerate(argv):
        if argument == "--":
            return [*rewritten, *argv[index:]]
        if not argument.startswith(_FLAG):
            rewritten.append(argument)
            continue
        name, equals, value = argument.removeprefix(_FLAG).partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                [
                    Problem(
                        command_line(argument, index),
                        f"expected {_FLAG}{name or 'NAME'}=VALUE, with '=' and no spaces around it",
                    )
                ]
            )
        rewritten.append(f"--gin_bindings={name.strip()} = {quote_if_bare(value)}")
    return rewritten


def gin_flags(args: argparse.Namespace) -> GinFlags:
    """The gin flags among parsed arguments."""
    folders = [folder.strip() for each in args.gin_search_paths for folder in each.split(",")]
    return GinFlags(
        gin_files=tuple(args.gin_file),
        bindings=tuple(args.gin_bindings),
        search_paths=tuple(folder for folder in folders if folder) or (".",),
    )


def quote_if_bare(value: str) -> str:
    """`value` as gin text: unchanged if gin can read it, else quoted as a string.

    What begins like a container, a string, a reference or a macro is never quoted: when it cannot
    be read, it is a mistake to report. Empty text is left for the parser to report, too.
    """
    text = value.strip()
    if not text or text[0] in "@%[({'\"" or _is_one_value(text):
        return text
    return repr(value)


def _is_one_value(text: str) -> bool:
    """Whether gin reads `text` as one value and nothing is left over."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        parser = config_parser.ConfigParser(text, ParserDelegate())
        parser.parse_value()
    except (SyntaxError, tokenize.TokenError, ValueError, TypeError):
        return False
    ended = parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER)
    return ended and not any(token.type == tokenize.COMMENT for token in tokens)
