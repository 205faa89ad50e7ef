"""Model FLOPs: multiplications and additions of the matrix products that a model asks for.

Counted from a jaxpr, so from shapes before partitioning and before any recomputation: 2 m n k for
each product, times the runs of the scans around it. For training, three times the forward pass
(the gradient of a product is two products of its size). By the convention of PaLM (Chowdhery et
al. 2022, appendix B) attention counts in full, though a causal mask would let half be skipped, and
neither softmax, norms nor embedding look-ups count. Nor do products with constants of 0, 1 and -1
that only move numbers, which models mark by `jax.named_scope(PERMUTATION)`.

MFU = model FLOPs / (peak x seconds).
"""

from __future__ import annotations

import math
from typing import Any

PERMUTATION = "permutation"  # also in flan_jax/models/palm.py
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr")


def jaxpr_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr (open or closed), all devices."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return float(sum(_equation_flops(equation) for equation in jaxpr.eqns))


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if PERMUTATION in str(equation.source_info.name_stack):
        return 0.0
    if name in ("dot_general", "ragged_dot", "ragged_dot_general"):
        return _dot_flops(equation) if name == "dot_general" else _ragged_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name == "scan":
        return params["length"] * jaxpr_flops(params["jaxpr"])
    if name == "cond":
        return max((jaxpr_flops(branch) for branch in params["branches"]), default=0.0)
    if name == "while":  # how often is not known here: once
        return jaxpr_flops(params["body_jaxpr"])
    if name == "pallas_call":
        return _kernel_flops(params)
    if name == "shard_map":
        mesh = params["mesh"]
        manual = params.get("manual_axes", mesh.axis_names)
        return math.prod(mesh.shape[axis] for axis in manual) * jaxpr_flops(params["jaxpr"])
    return sum(jaxpr_flops(params[key]) for key in _INNER if key in params)


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[d] for d in contracted)


def _ragged_flops(equation: Any) -> float:
    rows, width = equation.invars[0].aval.shape[-2:]
    return 2.0 * rows * width * equation.outvars[0].aval.shape[-1]


def _convolution_flops(equation: Any) -> float:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    per_output = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * per_output


def _kernel_flops(params: Any) -> float:
    """Products of the kernel's body times its grid; its stated cost if it has loops inside."""
    grid = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    counted = grid * jaxpr_flops(params["jaxpr"])
    stated = getattr(params.get("cost_estimate"), "flops", 0) or 0
    return float(stated) if stated and _has_while(params["jaxpr"]) else counted


def _has_while(jaxpr: Any) -> bool:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            return True
        inner = [equation.params[key] for key in _INNER if key in equation.params]
        if any(map(_has_while, [*inner, *equation.params.get("branches", ())])):
            return True
    return False
