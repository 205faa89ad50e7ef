"""How often a loop of a compiled program runs: from the compiler's notes, or from its condition.

JAX's `scan` and `fori_loop` count an integer from a constant by a constant up to a constant, and
compare it in the loop's condition. Scheduling moves those numbers through tuples, copies and
fusions, which are followed here.
"""

from __future__ import annotations

import math

from flan_jax.plan.hlo import Computation, Instruction, Module

_SAME = ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start", "optimization-barrier")
_FLIPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "EQ": "EQ", "NE": "NE"}


def trip_count(module: Module, loop: Instruction, within: Computation) -> int | None:
    """Runs of a `while` instruction of the computation `within`; None if that cannot be told."""
    known = loop.backend_config.get("known_trip_count", {}).get("n")
    if known is not None:
        return int(known)
    condition, body = loop.called("condition"), loop.called("body")
    if condition not in module.computations or body not in module.computations:
        return None
    compare = _comparison(module, module.computations[condition])
    if compare is None:
        return None
    direction, left, right = compare
    if isinstance(left, int):  # constant on the left
        left, right, direction = right, left, _FLIPPED[direction]
    index = _element(left)
    if index is None:
        return None
    start = _initial(module, within, loop, index)
    bound = right if isinstance(right, int) else None
    if bound is None and (bound_index := _element(right)) is not None:
        bound = _initial(module, within, loop, bound_index)
    step = _step(module, module.computations[body], index)
    if start is None or bound is None or not step:
        return None
    return _count(start, bound, step, direction)


def _count(start: int, bound: int, step: int, direction: str) -> int | None:
    if direction in ("LT", "GT"):
        return max(0, math.ceil((bound - start) / step))
    if direction in ("LE", "GE"):
        return max(0, math.floor((bound - start) / step) + 1)
    if direction == "NE" and (bound - start) % step == 0:
        return max(0, (bound - start) // step)
    return None


Value = int | tuple[str, int] | None  # a constant, or ("element", i) of the loop's state


def _element(value: Value) -> int | None:
    return value[1] if isinstance(value, tuple) else None


def _comparison(module: Module, condition: Computation) -> tuple[str, Value, Value] | None:
    root, scope, arguments = condition.root, condition, {}
    while root.opcode in ("fusion", "call", *_SAME):
        if root.opcode in _SAME:
            root = scope.by_name[root.operands[0]]
            continue
        inner = module.computations[root.all_called[0]]
        arguments = {
            i: _value(module, scope, operand, arguments) for i, operand in enumerate(root.operands)
        }
        root, scope = inner.root, inner
    if root.opcode != "compare":
        return None
    left, right = (_value(module, scope, operand, arguments) for operand in root.operands)
    return root.attribute("direction") or "", left, right


def _value(
    module: Module, scope: Computation, name: str, arguments: dict[int, Value] | None = None
) -> Value:
    """A constant or an element of the state, followed through copies and fusions."""
    instruction = scope.by_name.get(name)
    if instruction is None:
        return None
    if instruction.opcode == "constant":
        return _integer(instruction.literal)
    if instruction.opcode == "parameter":
        return (arguments or {}).get(int(instruction.literal))
    if instruction.opcode == "get-tuple-element":
        source = scope.by_name.get(instruction.operands[0])
        if source is not None and source.opcode == "parameter":
            return "element", int(instruction.attribute("index") or -1)
        return None
    if instruction.opcode in _SAME and instruction.operands:
        return _value(module, scope, instruction.operands[0], arguments)
    return None


def _integer(literal: str) -> int | None:
    try:
        return int(literal)
    except ValueError:
        return None


def _initial(module: Module, scope: Computation, loop: Instruction, index: int) -> int | None:
    """The number that element `index` of the state begins with."""
    state = scope.by_name.get(loop.operands[0])
    while state is not None and state.opcode in _SAME:
        state = scope.by_name.get(state.operands[0])
    if state is None or state.opcode != "tuple" or index >= len(state.operands):
        return None
    value = _value(module, scope, state.operands[index])
    return value if isinstance(value, int) else None


def _step(module: Module, body: Computation, index: int) -> int | None:
    """By how much a run changes element `index` of the state."""
    root = body.root
    if root.opcode != "tuple" or index >= len(root.operands):
        return None
    return _added(module, body, root.operands[index], index, {})


def _added(
    module: Module, scope: Computation, name: str, index: int, arguments: dict[int, Value]
) -> int | None:
    instruction = scope.by_name.get(name)
    while instruction is not None and instruction.opcode in _SAME and instruction.operands:
        instruction = scope.by_name.get(instruction.operands[0])
    if instruction is None:
        return None
    if instruction.opcode == "get-tuple-element":
        source = scope.by_name.get(instruction.operands[0])
        if source is not None and source.opcode == "fusion":
            inner = module.computations[source.all_called[0]]
            outer = {
                i: _value(module, scope, operand, arguments)
                for i, operand in enumerate(source.operands)
            }
            position = int(instruction.attribute("index") or -1)
            if inner.root.opcode == "tuple" and 0 <= position < len(inner.root.operands):
                return _added(module, inner, inner.root.operands[position], index, outer)
        return None
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.all_called[0]]
        outer = {
            i: _value(module, scope, operand, arguments)
            for i, operand in enumerate(instruction.operands)
        }
        return _added(module, inner, inner.root.name, index, outer)
    if instruction.opcode not in ("add", "subtract"):
        return None
    left, right = (_value(module, scope, operand, arguments) for operand in instruction.operands)
    if left == ("element", index) and isinstance(right, int):
        return right if instruction.opcode == "add" else -right
    if right == ("element", index) and isinstance(left, int) and instruction.opcode == "add":
        return left
    return None
