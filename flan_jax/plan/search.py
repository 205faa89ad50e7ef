"""Which meshes, microbatches, policies and compiler options to try, and which was best."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

# Compiler options worth trying, by name.
#
# The windowed einsum overlaps a matrix product with the all-gather of its operand, step by step; on
# large meshes it unrolls into thousands of collective-permutes and costs more than it hides.
# Collectives of v4 are synchronous unless asked: the other options let all-gathers run within the
# products beside them.
_NO_WINDOWED_EINSUM = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
_ASYNC = (
    "xla_enable_async_all_gather",
    "xla_tpu_enable_async_collective_fusion",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
    "xla_tpu_enable_async_collective_fusion_multiple_steps",
    "xla_tpu_overlap_compute_collective_tc",
)
XLA_SETS: dict[str, dict[str, str]] = {
    "default": {},
    "no_windowed_einsum": _NO_WINDOWED_EINSUM,
    "async_collectives": _NO_WINDOWED_EINSUM | dict.fromkeys(_ASYNC, "true"),
}
MOST_TENSOR = 16


@dataclass(frozen=True)
class Candidate:
    """One way to run a step.

    Attributes:
      bindings: gin macros or parameters, and values as gin files write them.
      xla_options: options of the compiler.
      xla_name: how the options were asked for.
    """

    bindings: Mapping[str, str] = field(default_factory=dict)
    xla_options: Mapping[str, str] = field(default_factory=dict)
    xla_name: str = "default"

    @property
    def label(self) -> str:
        """Such as `FSDP=8 TENSOR=2 xla=no_windowed_einsum`; parameters by their last names."""
        parts = [f"{name.rpartition('.')[2]}={value}" for name, value in self.bindings.items()]
        return " ".join([*parts, f"xla={self.xla_name}"])


def parse_grid(texts: Iterable[str]) -> dict[str, list[str]]:
    """`FSDP=8,16 NUM_MICROBATCHES=None,2` as values by name, in the order given.

    Raises:
      UserError: something is not NAME=VALUE,VALUE, or a name comes twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        listed = [value.strip() for value in split_outside_brackets(values)]
        if not equals or not name.strip() or not all(listed):
            raise UserError(
                f"--search {text!r}: expected NAME=VALUE,VALUE such as FSDP=8,16 or "
                "NUM_MICROBATCHES=None,2; NAME is a macro or a parameter of the gin files"
            )
        if name in grid:
            raise UserError(f"--search names {name} twice: list all its values in one place")
        grid[name.strip()] = list(dict.fromkeys(listed))
    return grid


def split_outside_brackets(text: str) -> list[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def default_grid(num_devices: int) -> list[dict[str, str]]:
    """Sizes of `fsdp` and `tensor` for so many devices: all powers of two for `tensor`, up to 16.

    The rest is fsdp, which costs no memory where data parallelism would repeat the parameters.
    """
    sizes = (2**power for power in range(MOST_TENSOR.bit_length()))
    return [
        {"fsdp": str(num_devices // tensor), "tensor": str(tensor)}
        for tensor in sizes
        if num_devices % tensor == 0
    ]


def parse_xla(texts: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` texts, or names of `XLA_SETS`, as options of the compiler.

    Raises:
      UserError: neither an option nor a known set.
    """
    options: dict[str, str] = {}
    for text in texts:
        for part in split_outside_brackets(text):
            name, equals, value = part.strip().lstrip("-").partition("=")
            if equals and name:
                options[name] = value
            elif name in XLA_SETS:
                options |= XLA_SETS[name]
            else:
                raise UserError(
                    f"--xla {part!r}: expected OPTION=VALUE or one of {', '.join(XLA_SETS)}"
                    f"{did_you_mean(name, XLA_SETS)}"
                )
    return options


def candidates(
    meshes: Sequence[Mapping[str, str]],
    grid: Mapping[str, Sequence[str]],
    xla_sets: Mapping[str, Mapping[str, str]],
) -> list[Candidate]:
    """All combinations: every mesh with every choice of the grid and every set of options.

    In the order given, options varying fastest, so that the first results compare them.
    """
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [
        Candidate({**mesh, **choice}, options, name)
        for mesh in meshes
        for choice in choices
        for name, options in xla_sets.items()
    ]


def ranked(results: Iterable[tuple[Candidate, Mapping[str, Any]]]) -> list[tuple[Candidate, Any]]:
    """Best first: what fits, by step time with communication counted in full; then by memory.

    The pessimistic step time, because how much communication hides is what is known least.
    """

    def order(result: tuple[Candidate, Mapping[str, Any]]) -> tuple[bool, float, float]:
        report = result[1]
        time = report.get("step_time_serial_s")
        memory = report.get("hbm_gib_per_chip")
        infinity = float("inf")
        return (
            not report["fits"],
            infinity if time is None or not report["fits"] else time,
            infinity if memory is None else memory,
        )

    return sorted(results, key=order)


def gin_text(best: Candidate, report: Mapping[str, Any], topology: str) -> str:
    """A gin file of the best candidate, to be given to `train` after the others."""
    seconds, gib = report["step_time_serial_s"], report["hbm_gib_per_chip"]
    lines = [
        f"# The best of a search for {topology}: {seconds:.3f} s a step (no communication hidden),",
        f"# {gib:.1f} GiB a chip. Give it to `train` after the other gin files.",
    ]
    if best.xla_options:
        flags = " ".join(f"--{name}={value}" for name, value in best.xla_options.items())
        lines += ["# The compiler's options, to be set in the environment of `train`:"]
        lines += [f"#   LIBTPU_INIT_ARGS='{flags}'"]
    lines += [f"{name} = {value}" for name, value in best.bindings.items()]
    return "\n".join(lines) + "\n"
