"""Where arrays live: one device mesh, T5X's logical axis names, and the rules between them.

Every parameter names its dimensions (`embed`, `mlp`, `vocab`, ...), every activation does so where
it is produced, and one table of rules says which mesh axes a name is split over:

    data     copies of the model, each with its share of the batch
    fsdp     the batch is split here too, and so are parameters and optimizer state; a parameter is
             gathered just before use (`gather_fsdp`) and its gradient scattered back
    tensor   heads, MLP width and vocabulary are split, Megatron style

The mesh has Explicit axis types: shardings are part of array types, so a wrong layout is a type
error at trace time (docs/adr/003-mesh-axis-types.md). Without a mesh every helper is a no-op and
the model is ordinary single-device JAX.

    partitioner = PjitPartitioner(data=-1, fsdp=2, tensor=2)
    with partitioner.use(partitioner.make_mesh()) as mesh:
        abstract = jax.eval_shape(init, key)
        shardings = partitioner.shardings(logical_axes(abstract), mesh, abstract)
        model = jax.jit(init, out_shardings=shardings)(key)
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gin
import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

MESH_AXES = ("data", "fsdp", "tensor")

# A logical name maps to a mesh axis, to several (split over their product), or to None.
MeshAxes = str | tuple[str, ...] | None
LogicalAxisRules = tuple[tuple[str, MeshAxes], ...]

# Names are those of T5X's `standard_logical_axis_rules`.
_STANDARD_RULES: LogicalAxisRules = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("joined_kv", "tensor"),
    ("kv", None),
    ("relpos_buckets", None),
    ("lora_rank", None),
    ("length", None),
    ("layers", None),
)
_rules: contextvars.ContextVar[LogicalAxisRules] = contextvars.ContextVar(
    "logical_axis_rules", default=_STANDARD_RULES
)


class PartitioningError(UserError, ValueError):
    """The mesh does not fit the devices, the model or the batch, or a rule is missing."""


@gin.configurable(module="partitioning")
def standard_logical_axis_rules(
    additional_rules: Sequence[tuple[str, MeshAxes]] = (),
) -> LogicalAxisRules:
    """The default rules, after `additional_rules`, which therefore win.

    For example `additional_rules=(("vocab", None),)` keeps the embedding table and the logits
    whole along the vocabulary. T5X's two-dimensional activation partitioning (activations split
    along `embed` too) is not supported: `fsdp` takes its place.
    """
    return (*((name, axes) for name, axes in additional_rules), *_STANDARD_RULES)


def partition_spec(
    axes: Sequence[str | None], rules: LogicalAxisRules | None = None
) -> PartitionSpec:
    """Mesh axes of an array with these logical axes.

    Dimensions are served from left to right; each takes the first rule for its name whose mesh
    axes this array does not use yet (one array cannot use a mesh axis twice), else it stays whole.

    Raises:
      PartitioningError: for a name that no rule mentions.
    """
    rules = _rules.get() if rules is None else rules
    used: set[str] = set()
    spec: list[MeshAxes] = []
    for name in axes:
        candidates = [mesh_axes for rule, mesh_axes in rules if rule == name]
        if name is not None and not candidates:
            raise PartitioningError(
                f"no partitioning rule for the logical axis {name!r} of {tuple(axes)} (add one to"
                " partitioning.PjitPartitioner.logical_axis_rules)"
                + did_you_mean(name, [rule for rule, _ in rules])
            )
        chosen: MeshAxes = None
        for mesh_axes in candidates:
            if mesh_axes is None or not used.intersection(as_tuple(mesh_axes)):
                chosen = mesh_axes
                break
        used.update(as_tuple(chosen))
        spec.append(chosen)
    return PartitionSpec(*spec)


def as_tuple(mesh_axes: MeshAxes) -> tuple[str, ...]:
    """Mesh axes of a dimension as a tuple: () for None, of one element for a name."""
    if mesh_axes is None:
        return ()
    return (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)


# --- Trees -----------------------------------------------------------------------------------


def logical_axes(tree: Any) -> Any:
    """The tree with each array replaced by a PartitionSpec of its logical axis names.

    Args:
      tree: a module (or any tree) whose arrays are `nnx.Variable`s with a `logical_axes` entry;
        the values may be arrays or shapes (`jax.eval_shape`).

    Raises:
      ValueError: for a parameter that carries no logical axes.
    """
    _, treedef = jax.tree.flatten(tree)
    variables = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: isinstance(node, nnx.Variable)
    )
    axes = []
    for path, variable in variables:
        names = getattr(variable, "logical_axes", None)
        if names is None:
            raise ValueError(f"{parameter_name(path)} has no logical axes: create it by `param`.")
        axes.append(PartitionSpec(*names))
    return jax.tree.unflatten(treedef, axes)


def parameter_name(path: tuple[Any, ...]) -> str:
    """`encoder/layers/mlp/wo/kernel` for the key path of a leaf (T5X's way of naming)."""
    parts = [jax.tree_util.keystr((key,), simple=True) for key in path]
    if len(parts) > 1 and parts[-1] == "value":  # the array inside an nnx.Variable
        parts.pop()
    return "/".join(parts)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by `parameter_name`."""
    return {parameter_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """The tree `shapes` (of arrays or ShapeDtypeStructs) as ShapeDtypeStructs with `shardings`."""

    def laid_out(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(laid_out, shapes, shardings)


@gin.configurable(module="partitioning")
@dataclass(frozen=True)
class PjitPartitioner:
    """Sizes of the mesh and the rules; the name and the gin module are T5X's.

    Attributes:
      data, fsdp, tensor: sizes of the mesh axes; one of them may be -1: whatever is left.
      num_partitions: T5X's name for `tensor`.
      logical_axis_rules: see `standard_logical_axis_rules`, which is the default.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    num_partitions: int | None = None
    logical_axis_rules: LogicalAxisRules | None = None

    def __post_init__(self) -> None:
        if self.num_partitions is not None:
            if self.tensor not in (1, self.num_partitions):
                raise ValueError(
                    f"num_partitions={self.num_partitions} is another name for tensor, which is"
                    f" {self.tensor}: set only one of them."
                )
            object.__setattr__(self, "tensor", self.num_partitions)
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        if any(size == 0 or size < -1 for size in sizes.values()):
            raise ValueError(f"mesh sizes must be positive or -1 (what is left), found {sizes}.")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"only one mesh size may be -1, found {sizes}.")
        for name, mesh_axes in self.rules:
            for axis in as_tuple(mesh_axes):
                if axis not in MESH_AXES:
                    raise ValueError(
                        f"the rule for {name!r} names the mesh axis {axis!r}, which is not one of"
                        f" {MESH_AXES}{did_you_mean(axis, MESH_AXES)}"
                    )

    @property
    def rules(self) -> LogicalAxisRules:
        if self.logical_axis_rules is None:
            return _STANDARD_RULES
        return tuple((name, axes) for name, axes in self.logical_axis_rules)

    def make_mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """A mesh over all devices (of all processes), or over those given.

        Raises:
          PartitioningError: if the sizes do not multiply to the number of devices.
        """
        devices = list(jax.devices() if devices is None else devices)
        sizes = [self.data, self.fsdp, self.tensor]
        fixed = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and len(devices) % fixed == 0:
            sizes[sizes.index(-1)] = len(devices) // fixed
        if math.prod(sizes) != len(devices):
            raise PartitioningError(
                f"a mesh of data={self.data}, fsdp={self.fsdp}, tensor={self.tensor} does not fit"
                f" {len(devices)} devices: the sizes must multiply to that, and one may be -1."
            )
        return jax.make_mesh(
            tuple(sizes), MESH_AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices
        )

    @contextlib.contextmanager
    def use(self, mesh: Mesh) -> Iterator[Mesh]:
        """Makes the mesh and the rules current. Trace and run everything inside.

        The rules are read while tracing and are not part of JIT's cache key: do not run one jitted
        function under two different rule sets with the same mesh.
        """
        token = _rules.set(self.rules)
        try:
            with jax.set_mesh(mesh):
                yield mesh
        finally:
            _rules.reset(token)

    def shardings(self, axes: Any, mesh: Mesh, shapes: Any = None) -> Any:
        """NamedShardings for a tree of logical axes (PartitionSpecs of names).

        Args:
          axes: from `logical_axes`, or the optimizer's `state_axes`.
          mesh: from `make_mesh`.
          shapes: a tree of arrays or ShapeDtypeStructs like `axes`; if given, checks that every
            split dimension is divisible.

        Raises:
          PartitioningError: naming each parameter with a dimension that cannot be split evenly.
        """
        specs = jax.tree.map(lambda names: partition_spec(names, self.rules), axes)
        if shapes is not None:
            _check_divisible(axes, specs, shapes, mesh)
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    def batch_sharding(self, mesh: Mesh, batch_size: int | None = None) -> NamedSharding:
        """Sharding of any array whose leading dimension is the global batch.

        Raises:
          PartitioningError: if `batch_size` is given and cannot be split evenly.
        """
        spec = partition_spec(("batch",), self.rules)
        parts = _parts(spec[0], mesh)
        if batch_size is not None and batch_size % parts:
            raise PartitioningError(
                f"a batch of {batch_size} cannot be split over {spec[0]} = {parts} parts of the"
                f" mesh {dict(mesh.shape)}: make the batch size a multiple of {parts}."
            )
        return NamedSharding(mesh, spec)


def _parts(mesh_axes: MeshAxes, mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in as_tuple(mesh_axes))


def _check_divisible(axes: Any, specs: Any, shapes: Any, mesh: Mesh) -> None:
    problems = []
    names, all_specs, all_axes = named_leaves(shapes), jax.tree.leaves(specs), jax.tree.leaves(axes)
    for (name, leaf), spec, logical in zip(names.items(), all_specs, all_axes, strict=True):
        for dim, mesh_axes in enumerate(spec):
            if leaf.shape[dim] % _parts(mesh_axes, mesh):
                problems.append(
                    f"  {name} {tuple(leaf.shape)}: dimension {dim} ({logical[dim]!r}) of size"
                    f" {leaf.shape[dim]} over mesh axis {mesh_axes!r} of size"
                    f" {_parts(mesh_axes, mesh)}"
                )
    if problems:
        raise PartitioningError(
            "these parameters cannot be split evenly over the mesh:\n"
            + "\n".join(problems)
            + "\nChoose mesh sizes that divide these dimensions, or keep a dimension whole by"
            " a rule (name, None) put first in partitioning.PjitPartitioner.logical_axis_rules."
        )
