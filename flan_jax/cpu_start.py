"""What a process that trains on CPUs does before JAX is imported, to take its first step sooner.

XLA compiles a training step into some 200 different kernels, each by itself, and that takes longer
than anything else before the first step (docs/benchmarks.md).
"""

from __future__ import annotations

import gc
import os

from flan_jax.host_memory import keep_freed_memory, trains_on_cpu

# Objects that Python makes between two looks for cycles: imports and tracing make a million, hardly
# any of them garbage, and each look goes over what is there. Python's own 700 cost half a second.
_OBJECTS = 50_000

# None changes the time of a step. The tree rewriter makes two further kernels of each small sum;
# LLVM's SLP vectorizer and unrolling, and XLA's tiled emitter, take long and find nothing here.
_XLA_FLAGS = {
    "--xla_disable_hlo_passes": "tree_reduction_rewriter",
    "--xla_backend_extra_options": (
        "xla_cpu_disable_slp_vectorizer,xla_cpu_disable_loop_unrolling,"
        "xla_cpu_disable_tiled_emitter"
    ),
}


def prepare_to_train() -> None:
    """Settings of Python's collector; where there are CPUs alone, of XLA and malloc as well.

    Flags that XLA_FLAGS has already are left as they are.
    """
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
    if trains_on_cpu():
        keep_freed_memory()
        os.environ["XLA_FLAGS"] = with_flags(os.environ.get("XLA_FLAGS", ""))


def with_flags(flags: str) -> str:
    """XLA_FLAGS with those that make CPUs start sooner, besides what is given."""
    given = {word.partition("=")[0] for word in flags.split()}
    ours = (f"{name}={value}" for name, value in _XLA_FLAGS.items() if name not in given)
    return " ".join((*flags.split(), *ours))
