"""Cycles of compiled code: its scalar program is run, and the bundles that run are counted.

Every fusion and every Pallas kernel is a small program. The grid of a kernel, the blocks that its
causal mask skips, the first and last steps of its accumulation: all of that is scalar arithmetic of
the grid's indices, which can be run here without its vectors. What depends on data is unknown: such
a branch is counted as if its body ran. Scalars that a kernel prefetches (which blocks a packed row
needs, say) are data too, unless the kernel says what to count with:
`pl.pallas_call(metadata={"typical_scalars": "0,1,0,2"})`, repeated as often as needed. Waiting for
memory is not counted, the bytes copied are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flan_jax.plan.bundles import Kernel, Operand, Operation, parse_bundles
from flan_jax.plan.hlo import Instruction, Module

MAX_STEPS = 4_000_000  # scalar operations run before giving up
_DUMPED = re.compile(r"^\d+-(.+?)-\d+-final_bundles\.txt$")
Value = int | bool | None


@dataclass(frozen=True)
class KernelCost:
    """What a core, or a device, runs of a kernel.

    Attributes:
      cycles: bundles run, by the core that runs most.
      bytes_copied: between HBM and the memory of the cores.
      unknown_branches: branches, of those run, that depend on data; their bodies are counted.
    """

    cycles: int
    bytes_copied: int
    unknown_branches: int


class TooLongError(Exception):
    """The scalar program runs too long to be followed, or loops on data."""


def bundle_costs(folder: Path, module: Module, cores: int) -> dict[str, KernelCost]:
    """Costs of the instructions that libtpu has dumped into a folder, by name, kernels and others.

    Kernels that are the same have the same cost; libtpu may dump only one of them. What has no
    dump, or is too long to follow, is left out.

    Args:
      folder: where `*final_bundles.txt` are.
      module: the program.
      cores: in a device; 2 for a megacore.
    """
    dumped = {}
    for path in sorted(folder.iterdir()):
        found = _DUMPED.match(path.name)
        if found:
            dumped[found[1]] = path
    costs: dict[str, KernelCost] = {}
    alike: dict[tuple[str, tuple[int, ...]], KernelCost] = {}
    kernels = []
    for instruction in (i for c in module.computations.values() for i in c.instructions):
        scalars = typical_scalars(instruction) if is_kernel(instruction) else ()
        path = dumped.get(_file_name(instruction.name))
        cost = _cost(path, cores, scalars) if path else None
        if cost is not None:
            costs[instruction.name] = cost
        if is_kernel(instruction):
            config = instruction.backend_config.get("custom_call_config", {})
            kernels.append((instruction.name, (config.get("body", instruction.name), scalars)))
    for name, key in kernels:
        if name in costs:
            alike[key] = costs[name]
    return costs | {name: alike[key] for name, key in kernels if key in alike}


def is_kernel(instruction: Instruction) -> bool:
    """Whether this is a Pallas (Mosaic) kernel."""
    target = instruction.attribute("custom_call_target") if _is_call(instruction) else None
    return target == '"tpu_custom_call"'


def _is_call(instruction: Instruction) -> bool:
    return instruction.opcode == "custom-call"


def typical_scalars(kernel: Instruction) -> tuple[int, ...]:
    """What a kernel says its prefetched scalars typically are; () if it does not."""
    found = re.search(r'"typical_scalars":\s*"([-\d,\s]*)"', kernel.attributes)
    return tuple(int(word) for word in found[1].split(",") if word.strip()) if found else ()


def _cost(path: Path, cores: int, scalars: tuple[int, ...]) -> KernelCost | None:
    """Of all cores: cycles of the slowest, bytes of all."""
    kernel = parse_bundles(path.read_text(encoding="utf-8", errors="replace"))
    try:
        runs = [run_kernel(kernel, core, scalars) for core in range(cores)]
    except TooLongError:
        return None
    return KernelCost(
        cycles=max(run.cycles for run in runs),
        bytes_copied=sum(run.bytes_copied for run in runs),
        unknown_branches=max(run.unknown_branches for run in runs),
    )


def _file_name(instruction: str) -> str:
    return re.sub(r"[^\w.\-]", "_", instruction)


def run_kernel(
    kernel: Kernel, core: int = 0, scalars: Sequence[int] = (), max_steps: int = MAX_STEPS
) -> KernelCost:
    """Runs the scalar program of a kernel.

    Args:
      kernel: its bundles.
      core: which core runs it.
      scalars: what it finds in the array of scalars that it prefetches, again and again.
      max_steps: scalar operations to run at most.

    Raises:
      TooLongError: after `max_steps` scalar operations, or where the end of a loop depends on data.
    """
    return _Machine(kernel, core, scalars, max_steps).run()


class _Machine:
    def __init__(self, kernel: Kernel, core: int, scalars: Sequence[int], max_steps: int) -> None:
        self._kernel = kernel
        self._core = core
        self._scalars = scalars
        self._steps_left = max_steps
        self._registers: dict[str, Value] = {}
        self._memory: dict[str, Value] = {}
        self._came_back = False  # whether this bundle was reached by a branch backwards
        self._bytes = self._unknown = 0
        self._operations = relevant_operations(kernel)
        self._next = _next_with_operations(self._operations)

    def run(self) -> KernelCost:
        position = cycles = 0
        bundles = self._kernel.bundles
        jump: int | None = None
        while position < len(bundles):
            if jump is None and not self._operations[position]:
                cycles += self._next[position] - position
                position, self._came_back = self._next[position], False
                continue
            cycles += 1
            target = self._bundle(self._operations[position], position)
            self._came_back = False
            jump = target if target is not None else jump
            # A branch takes effect after the bundle that ends its region (its delay slots).
            if jump is not None and bundles[position].ends_region:
                self._came_back = jump <= position
                position, jump = jump, None
            else:
                position += 1
        return KernelCost(cycles, self._bytes, self._unknown)

    def _bundle(self, operations: list[Operation], position: int) -> int | None:
        """Runs a bundle; the position branched to, if any."""
        self._steps_left -= len(operations)
        if self._steps_left < 0:
            raise TooLongError
        for operation in operations:
            if operation.code == "sphi":
                self._phi(operation)
        jump = None
        for operation in operations:
            if operation.code == "branch":
                jump = self._branch(operation, position)
            elif operation.code == "copy":
                if self._happens(operation) is not False:
                    self._bytes += operation.num_bytes
            elif operation.code != "sphi":
                self._scalar(operation)
        return jump

    def _phi(self, operation: Operation) -> None:
        chosen = operation.operands[1 if self._came_back and len(operation.operands) > 1 else 0]
        self._registers[operation.target] = self._value(chosen)

    def _branch(self, operation: Operation, position: int) -> int | None:
        # A region without bundles is the end of the kernel.
        target = self._kernel.regions.get(operation.region, len(self._kernel.bundles))
        happens = self._happens(operation)
        if happens is None:
            if target <= position:  # a loop whose end depends on data
                raise TooLongError
            self._unknown += 1
            return None
        return target if happens else None

    def _happens(self, operation: Operation) -> bool | None:
        if not operation.predicate:
            return True
        value = self._registers.get(operation.predicate)
        return None if value is None else bool(value) != operation.negated

    def _scalar(self, operation: Operation) -> None:
        happens = self._happens(operation)
        values = [self._value(operand) for operand in operation.operands]
        if operation.code == "sst":
            known = values[0] if happens and len(values) == 1 else None
            if happens is not False:
                self._memory[operation.memory] = known
            return
        if operation.code == "sld":
            value = self._load(operation, values)
        else:
            value = evaluate(operation.code, values)
        if operation.predicate and operation.otherwise is not None:
            other = self._value(operation.otherwise)
            value = value if happens else (other if happens is False else None)
        self._registers[operation.target] = value

    def _load(self, operation: Operation, index: list[Value]) -> Value:
        if operation.core_id:
            return self._core
        if not index:
            return self._memory.get(operation.memory)
        if operation.memory in self._memory or not self._scalars or index[0] is None:
            return None
        return self._scalars[int(index[0]) % len(self._scalars)]

    def _value(self, operand: Operand) -> Value:
        return self._registers.get(operand) if isinstance(operand, str) else operand


def relevant_operations(kernel: Kernel) -> list[list[Operation]]:
    """Of each bundle, what branches and copies depend on, directly or not."""
    everything = [operation for bundle in kernel.bundles for operation in bundle.operations]
    by_target: dict[str, list[Operation]] = {}
    for operation in everything:
        for key in (operation.target, f"[{operation.memory}]"):
            if operation.code == "sst" or key == operation.target:
                by_target.setdefault(key, []).append(operation)
    kept = {id(op) for op in everything if op.code in ("branch", "copy")}
    pending = [op for op in everything if id(op) in kept]
    while pending:
        operation = pending.pop()
        read = [
            word for word in (*operation.operands, operation.otherwise) if isinstance(word, str)
        ]
        read += [operation.predicate] if operation.predicate else []
        read += [f"[{operation.memory}]"] if operation.code == "sld" else []
        for source in (source for word in read for source in by_target.get(word, ())):
            if id(source) not in kept:
                kept.add(id(source))
                pending.append(source)
    return [[op for op in bundle.operations if id(op) in kept] for bundle in kernel.bundles]


def _next_with_operations(operations: list[list[Operation]]) -> list[int]:
    """For each position the first from there on that has operations, or the end."""
    following = [len(operations)] * (len(operations) + 1)
    for position in range(len(operations) - 1, -1, -1):
        following[position] = position if operations[position] else following[position + 1]
    return following


def evaluate(code: str, values: list[Value]) -> Value:
    """A scalar operation on 32-bit integers; None where a value is unknown that matters."""
    if code == "scalar_select":
        predicate, yes, no = values[:3]
        return None if predicate is None else (yes if predicate else no)
    if code in ("por", "pand", "pnand", "pnor"):
        decisive = code in ("por", "pnor")
        if any(value is not None and bool(value) == decisive for value in values):
            return decisive != code.startswith("pn")
        if any(value is None for value in values):
            return None
        return (not decisive) != code.startswith("pn")
    if any(value is None for value in values) or not values:
        return None
    numbers = [int(value) for value in values if value is not None]
    if code == "pneg":
        return not numbers[0]
    name, _, kind = code.partition(".")
    if name == "scmp":
        return _compare(kind, numbers)
    function = _ARITHMETIC.get(name)
    return None if function is None else _wrapped(function(*numbers[:2]))


_ARITHMETIC: dict[str, Callable[..., int]] = {
    "sadd": lambda a, b: a + b,
    "ssub": lambda a, b: a - b,
    "smul": lambda a, b: a * b,
    "sand": lambda a, b: a & b,
    "sor": lambda a, b: a | b,
    "sxor": lambda a, b: a ^ b,
    "pxor": lambda a, b: a ^ b,
    "sshll": lambda a, b: a << (b & 31),
    "sshrl": lambda a, b: (a & 0xFFFFFFFF) >> (b & 31),
    "sshra": lambda a, b: a >> (b & 31),
    "smin": min,
    "smax": max,
    "smov": lambda a, *_: a,
    "pmov": lambda a, *_: a,
}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def _compare(kind: str, numbers: list[int]) -> bool | None:
    relation, _, rest = kind.partition(".")
    function = _COMPARISONS.get(relation)
    if function is None:
        return None
    a, b = numbers[:2]
    if rest.startswith("u32"):
        a, b = a & 0xFFFFFFFF, b & 0xFFFFFFFF
    return function(a, b)


def _wrapped(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - 2**32 if number >= 2**31 else number
