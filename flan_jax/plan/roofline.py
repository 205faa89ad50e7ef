"""Bytes that an instruction moves and FLOPs of its matrix products: floors under its time."""

from __future__ import annotations

import math
import re

from flan_jax.plan.hlo import HBM, Computation, Instruction, Module

_LABELS = re.compile(r"^\w+_(\w+)->\w+$")


def hbm_bytes(module: Module, instruction: Instruction, computation: Computation) -> int:
    """Bytes that an instruction moves between HBM and the chip, at most.

    Of an operand that a fusion only slices, the slices count; of one that it updates in place, the
    update does, twice (read and written).
    """
    result = sum(b.num_bytes for b in instruction.buffers if b.memory_space == HBM)
    body = None
    if instruction.opcode == "fusion" and instruction.all_called:
        body = module.computations[instruction.all_called[0]]
        result -= _updated_in_place(body)
    total = result
    for number, name in enumerate(instruction.operands):
        operand = computation.by_name.get(name)
        if operand is None:
            continue
        size = sum(b.num_bytes for b in operand.buffers if b.memory_space == HBM)
        total += size if body is None else min(size, _bytes_read(body, number, size))
    return max(total, 0)


def _updated_in_place(body: Computation) -> int:
    """Bytes of the results of a fusion that are left as they were."""
    roots = body.root.operands if body.root.opcode == "tuple" else (body.root.name,)
    saved = 0
    for name in roots:
        root = body.by_name.get(name)
        while root is not None and root.opcode == "bitcast":
            root = body.by_name.get(root.operands[0])
        if root is not None and root.opcode == "dynamic-update-slice":
            update = body.by_name[root.operands[1]]
            saved += root.buffers[0].num_bytes - update.buffers[0].num_bytes
    return saved


def _bytes_read(body: Computation, number: int, size: int) -> int:
    parameter = body.parameters.get(number)
    if parameter is None:
        return size
    read = 0
    for user in body.instructions:
        if parameter.name not in user.operands:
            continue
        if user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            read += body.by_name[user.operands[1]].buffers[0].num_bytes
        elif user.opcode in ("dynamic-slice", "slice", "gather"):
            read += user.buffers[0].num_bytes
        else:
            return size
    return read


def product_flops(module: Module, instruction: Instruction) -> float:
    """FLOPs of the matrix products of a fusion on one device, or less.

    Products that XLA writes as convolutions over a window (those with batch dimensions) do not
    count: how much of the window is padding is not worked out here.
    """
    inner = [instruction]
    for called in instruction.all_called:
        inner += module.reachable(called)
    return float(sum(_convolution_flops(module, i) for i in inner if i.opcode == "convolution"))


def _convolution_flops(module: Module, convolution: Instruction) -> int:
    labels = _LABELS.match(convolution.attribute("dim_labels") or "")
    sizes = re.search(r"size=([\dx]+)", convolution.attribute("window") or "")
    if not labels or (sizes and set(sizes[1].split("x")) != {"1"}):
        return 0
    kernel = _operand_dims(module, convolution, 1)
    if len(kernel) != len(labels[1]):
        return 0
    contracted = kernel[labels[1].index("i")]
    return 2 * math.prod(convolution.buffers[0].dims) * contracted


def _operand_dims(module: Module, instruction: Instruction, number: int) -> tuple[int, ...]:
    name = instruction.operands[number]
    for computation in module.computations.values():
        if computation.by_name.get(instruction.name) is instruction:
            return computation.by_name[name].buffers[0].dims
    return ()
