"""The largest arrays that a traced step names: where to look when it does not fit.

Some come to be and some are fused away: what the compiler allocates is known only when it succeeds
or fails late. Its early refusal ("HLO temporaries") names nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from flan_jax.plan.topologies import GIB
from flan_jax.sharding import as_tuple

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr")


def largest_arrays(jaxpr: Any, count: int = 10) -> list[dict[str, Any]]:
    """The largest results of a jaxpr's operations, one for each shape.

    Args:
      jaxpr: traced under a mesh of Explicit axes, so that its types say how arrays are split.
      count: how many.

    Returns:
      `gib` of one device and `name`: dtype and whole shape, the operation, JAX's name stack.
    """
    largest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for equation, aval in _results(jaxpr):
        size = _device_bytes(aval)
        key = (aval.dtype, aval.shape)
        if size > largest.get(key, {"bytes": 0})["bytes"]:
            stack = str(equation.source_info.name_stack)
            shape = ",".join(map(str, aval.shape))
            where = f" in {stack}" if stack else ""
            name = f"{aval.dtype}[{shape}] {equation.primitive.name}{where}"
            largest[key] = {"bytes": size, "name": name}
    ordered = sorted(largest.values(), key=lambda found: -found["bytes"])[:count]
    return [{"gib": found["bytes"] / GIB, "name": found["name"]} for found in ordered]


def _results(jaxpr: Any) -> Iterator[tuple[Any, Any]]:
    """Every operation with each array it makes, inner programs first."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        inner = [equation.params[key] for key in _INNER if key in equation.params]
        if equation.primitive.name != "pallas_call":  # what a kernel makes stays on the chip
            for each in (*inner, *equation.params.get("branches", ())):
                yield from _results(each)
        for variable in equation.outvars:
            if hasattr(variable.aval, "shape") and variable.aval.size:
                yield equation, variable.aval


def _device_bytes(aval: Any) -> int:
    """Of one device; within `shard_map` shapes are those of a device already."""
    sharding = getattr(aval, "sharding", None)
    parts = 1
    if sharding is not None and not sharding.mesh.empty:
        for axes in sharding.spec.partitions:
            parts *= math.prod(sharding.mesh.shape[axis] for axis in as_tuple(axes))
    # Keys have dtypes that NumPy does not know.
    return math.ceil(aval.size / parts) * getattr(aval.dtype, "itemsize", 4)
