"""Run by test_distributed.py, several at once: joins the others and adds numbers with them.

    joined_process.py ADDRESS COUNT INDEX STEPS [FAILS_AT_STEP]    (ADDRESS "-": ask the machine)

Prints a line a step. Reports errors as the command line does.
"""

from __future__ import annotations

import sys
import time

from flan_jax.distributed import barrier, compile_together, joined
from flan_jax.errors import UserError


def work(steps: int, fails_at: int | None) -> None:
    import jax
    import numpy as np
    from jax.sharding import PartitionSpec

    from flan_jax.sharding import PjitPartitioner

    partitioner = PjitPartitioner()
    with partitioner.use(partitioner.make_mesh()) as mesh:
        rows = partitioner.batch_sharding(mesh)
        numbers = jax.make_array_from_callback(
            (jax.device_count(),), rows, lambda index: np.arange(jax.device_count())[index]
        )

        @jax.jit
        def add(numbers: jax.Array) -> jax.Array:
            return jax.sharding.reshard(numbers, PartitionSpec(None)).sum()

        compile_together(add, numbers)
        for step in range(steps):
            if step == fails_at:
                raise UserError("the disk of this one is full")
            print(step, jax.process_index(), jax.process_count(), int(add(numbers)), flush=True)
            time.sleep(0.05)
        barrier("all steps")


def main(argv: list[str]) -> int:
    """Returns the exit status."""
    address, count, index, steps = argv[0], int(argv[1]), int(argv[2]), int(argv[3])
    flags = (None, None, None) if address == "-" else (address, count, index)
    try:
        with joined(*flags, initialization_timeout=20):
            work(steps, int(argv[4]) if len(argv) > 4 else None)
    except UserError as error:
        print(f"flan-jax: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
