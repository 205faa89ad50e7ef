"""Where arrays live: one device mesh, T5X's logical axis names, and the rules between them.

Every parameter names its dimensions (`embed`, `mlp`, `vocab`, ...), every activation does so where
it is produced, and one table of rules says which mesh axes a name is split over:

    replica  slices of TPUs, each with a copy of the model and its share of the batch
    data     copies of the model within a slice
    fsdp     the batch is split here too, and so are parameters and optimizer state; a parameter is
             gathered just before use (`layout.gather_fsdp`) and its gradient scattered back
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
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gin
import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from flan_jax.device_mesh import PartitioningError, Submesh, arrange, slices
from flan_jax.suggestions import did_you_mean

MESH_AXES = ("replica", "data", "fsdp", "tensor")

# A logical name maps to a mesh axis, to several (split over their product), or to None.
MeshAxes = str | tuple[str, ...] | None
LogicalAxisRules = tuple[tuple[str, MeshAxes], ...]


def _standard_rules(activation_dims: int, parameter_dims: int) -> LogicalAxisRules:
    rules: list[tuple[str, MeshAxes]] = [
        ("batch", ("replica", "data", "fsdp")),
        ("vocab", "tensor"),
        ("mlp", "tensor"),
        ("heads", "tensor"),
        ("joined_kv", "tensor"),
    ]
    if activation_dims == 2:
        rules.append(("length", "tensor"))
    if parameter_dims == 2:
        rules.append(("embed", "fsdp"))
    whole = ("embed", "length", "kv", "relpos_buckets", "lora_rank", "layers")
    return (*rules, *((name, None) for name in whole))


_DEFAULT_RULES = _standard_rules(activation_dims=1, parameter_dims=2)
_rules: contextvars.ContextVar[LogicalAxisRules] = contextvars.ContextVar(
    "logical_axis_rules", default=_DEFAULT_RULES
)


@gin.configurable(module="partitioning")
def standard_logical_axis_rules(
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 2,
    additional_rules: Sequence[tuple[str, MeshAxes]] | None = None,
) -> LogicalAxisRules:
    """The rules, in order of priority; name, arguments and logical axes are T5X's.

    Args:
      activation_partitioning_dims: 1: activations are split along the batch and, inside a layer,
        along heads, MLP width or vocabulary. 2: between layers, where no such dimension is left,
        the residual stream [batch, length, embed] is split over `tensor` along `length` too
        (sequence parallelism: Korthikanti et al. 2022, arXiv:2205.05198). T5X splits `embed`
        there; along `length` the same bytes move, and norms need no collective.
      parameter_partitioning_dims: 2: parameters and optimizer state are split along `embed` over
        `fsdp`, besides `tensor` (ZeRO-3: Rajbhandari et al. 2020, arXiv:1910.02054). 1: they are
        whole along `embed`, and `fsdp` splits only the batch. T5X's default is 1, ours 2.
      additional_rules: put first, and therefore win: `(("vocab", None),)` keeps the embedding
        table and the logits whole along the vocabulary.

    Raises:
      ValueError: if a number of dimensions is neither 1 nor 2.
    """
    dims = {
        "activation_partitioning_dims": activation_partitioning_dims,
        "parameter_partitioning_dims": parameter_partitioning_dims,
    }
    for name, value in dims.items():
        if value not in (1, 2):
            raise ValueError(f"{name} must be 1 or 2, found {value!r}.")
    standard = _standard_rules(activation_partitioning_dims, parameter_partitioning_dims)
    return (*((name, axes) for name, axes in additional_rules or ()), *standard)


def partition_spec(
    axes: Sequence[str | None], rules: LogicalAxisRules | None = None
) -> PartitionSpec:
    """Mesh axes of an array with these logical axes.

    Rules are served in order of priority, as in T5X, whatever the order of the dimensions. Each
    gives its mesh axes to the first dimension of its name that has none yet, unless this array
    uses one of them already (no array can use a mesh axis twice). A rule to None settles all
    dimensions of its name: what they have not got by then, they do not get.

    Raises:
      PartitioningError: for a name that no rule mentions.
    """
    rules = _rules.get() if rules is None else rules
    known = {name for name, _ in rules}
    for name in axes:
        if name is not None and name not in known:
            raise PartitioningError(
                f"no partitioning rule for the logical axis {name!r} of {tuple(axes)} (add one to"
                " partitioning.PjitPartitioner.logical_axis_rules)" + did_you_mean(name, known)
            )
    spec: list[MeshAxes] = [None] * len(axes)
    open_dims = {dim for dim, name in enumerate(axes) if name is not None}
    used: set[str] = set()
    for rule, mesh_axes in rules:
        dims = [dim for dim in sorted(open_dims) if axes[dim] == rule]
        if mesh_axes is None:
            open_dims.difference_update(dims)
        elif dims and used.isdisjoint(as_tuple(mesh_axes)):
            spec[dims[0]] = mesh_axes
            used.update(as_tuple(mesh_axes))
            open_dims.remove(dims[0])
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
    """Sizes of the mesh and the rules; the name, the gin module and the arguments are T5X's.

    Attributes:
      data, fsdp, tensor: sizes of the mesh axes; one may be -1: whatever is left.
      replica: copies of the model, one or more a slice where there are several slices (TPU slices
        joined by the data-centre network); -1: one a slice. On CPUs a process plays a slice.
      num_partitions: T5X's name for `tensor`.
      model_parallel_submesh: (x, y, z, cores), the block of the TPU torus that `tensor`, their
        product, takes; not together with `num_partitions`. Other devices only see the product.
      ici_mesh_shape, dcn_mesh_shape: sizes of (replica, data, fsdp, tensor) within a slice and
        across slices, in place of all sizes above. Three numbers are T5X's (replica, data, model):
        its `data`, along which parameters may be split, is `fsdp` here.
      params_on_devices: must be True: parameters are never kept by the host.
      backend: platform whose devices are used; None for JAX's default.
      logical_axis_rules: see `standard_logical_axis_rules`, which is the default.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    replica: int = 1
    num_partitions: int | None = None
    model_parallel_submesh: Submesh | None = None
    ici_mesh_shape: tuple[int, ...] | None = None
    dcn_mesh_shape: tuple[int, ...] | None = None
    params_on_devices: bool = True
    backend: str | None = None
    logical_axis_rules: LogicalAxisRules | None = None

    def __post_init__(self) -> None:
        if not self.params_on_devices:
            raise ValueError("params_on_devices=False is not supported: set it to True.")
        self._take_t5x_names()
        self._check_sizes()
        for name, mesh_axes in self.rules:
            for axis in as_tuple(mesh_axes):
                if axis not in MESH_AXES:
                    hint = did_you_mean(axis, MESH_AXES)
                    if axis == "model":
                        hint = "; T5X's 'model' is 'tensor' here"
                    raise ValueError(
                        f"the rule for {name!r} names the mesh axis {axis!r}, which is not one of"
                        f" {MESH_AXES}{hint}"
                    )

    def _take_t5x_names(self) -> None:
        """Sets `tensor` by its other names, and the mesh shapes to four numbers."""
        tensor = self.num_partitions
        if self.model_parallel_submesh is not None:
            submesh = tuple(self.model_parallel_submesh)
            if len(submesh) != 4 or any(length < 1 for length in submesh):
                raise ValueError(
                    "model_parallel_submesh must be four positive numbers (x, y, z, cores), found"
                    f" {submesh}."
                )
            if tensor not in (None, math.prod(submesh)):
                raise ValueError(
                    f"num_partitions={tensor} and model_parallel_submesh={submesh}, of"
                    f" {math.prod(submesh)} devices, are two sizes of one axis: set only one."
                )
            tensor = math.prod(submesh)
            object.__setattr__(self, "model_parallel_submesh", submesh)
        if tensor is not None:
            if self.tensor not in (1, tensor):
                raise ValueError(
                    f"num_partitions={tensor} is another name for tensor, which is"
                    f" {self.tensor}: set only one of them."
                )
            object.__setattr__(self, "tensor", tensor)
        for name in ("ici_mesh_shape", "dcn_mesh_shape"):
            shape = getattr(self, name)
            if shape is not None:
                if len(shape) not in (3, 4) or any(size < 1 for size in shape):
                    raise ValueError(
                        f"{name} must be the positive sizes of {MESH_AXES}, or T5X's three of"
                        f" (replica, data, model), found {tuple(shape)}."
                    )
                replica, *rest = shape
                object.__setattr__(self, name, (replica, *(1,) * (3 - len(rest)), *rest))

    def _check_sizes(self) -> None:
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        if any(size == 0 or size < -1 for size in sizes.values()):
            raise ValueError(f"mesh sizes must be positive or -1 (what is left), found {sizes}.")
        if [self.data, self.fsdp, self.tensor].count(-1) > 1:
            raise ValueError(f"only one mesh size may be -1, found {sizes}.")
        if self.ici_mesh_shape is None:
            if self.dcn_mesh_shape is not None:
                raise ValueError("dcn_mesh_shape needs ici_mesh_shape, the sizes within a slice.")
        elif (self.data, self.fsdp, self.replica) != (-1, 1, 1) or self.tensor not in (
            1,
            self.ici_mesh_shape[-1],
        ):
            raise ValueError(
                f"ici_mesh_shape={self.ici_mesh_shape} says all sizes: leave the others at their"
                f" defaults, found {sizes}."
            )

    @property
    def rules(self) -> LogicalAxisRules:
        if self.logical_axis_rules is None:
            return standard_logical_axis_rules()
        return tuple((name, axes) for name, axes in self.logical_axis_rules)

    def for_decoding(self) -> PjitPartitioner:
        """The same without splitting `length`: decoding goes token by token, rows of length 1."""
        return dataclasses.replace(self, logical_axis_rules=(("length", None), *self.rules))

    def mesh_shape(self, num_devices: int, num_slices: int = 1) -> dict[str, int]:
        """Sizes of the mesh axes over so many devices, in so many slices of one size.

        Raises:
          PartitioningError: if the sizes do not multiply to the number of devices.
        """
        within, across = self._shapes(num_devices, num_slices)
        return {a: w * c for a, w, c in zip(MESH_AXES, within, across, strict=True)}

    def _shapes(self, num_devices: int, num_slices: int) -> tuple[list[int], list[int]]:
        """Sizes of the mesh axes within a slice and across slices."""
        if self.ici_mesh_shape is not None:
            within, across = list(self.ici_mesh_shape), list(self.dcn_mesh_shape or (1,) * 4)
            sizes = {"ici_mesh_shape": tuple(within), "dcn_mesh_shape": tuple(across)}
        else:
            sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
            replica = num_slices if self.replica == -1 else self.replica
            if replica % num_slices:
                raise PartitioningError(
                    f"the devices are in {num_slices} slices, joined by the data-centre network:"
                    f" replica={replica} must be a multiple of that. Set REPLICA={num_slices}, or"
                    " take gin/mesh/multislice.gin."
                )
            within = [replica // num_slices, self.data, self.fsdp, self.tensor]
            across = [num_slices, 1, 1, 1]
            fixed = num_slices * math.prod(size for size in within if size != -1)
            within = [num_devices // fixed if size == -1 else size for size in within]
        if math.prod(within) * math.prod(across) != num_devices:
            raise PartitioningError(
                "a mesh of "
                + ", ".join(f"{axis}={size}" for axis, size in sizes.items())
                + f" does not fit {num_devices} devices: the sizes must multiply to that, and one"
                " may be -1."
            )
        return within, across

    def abstract_mesh(self, num_devices: int, num_slices: int = 1) -> AbstractMesh:
        """The mesh without its devices: enough for shardings and bytes per device.

        Raises:
          PartitioningError: if the sizes do not multiply to the number of devices.
        """
        shape = self.mesh_shape(num_devices, num_slices)
        return AbstractMesh(
            tuple(shape.values()), tuple(shape), axis_types=(AxisType.Explicit,) * len(shape)
        )

    def make_mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """A mesh over all devices (of all processes), or over those given.

        Raises:
          PartitioningError: if the sizes do not multiply to the number of devices, or cannot be
            laid on their torus.
        """
        devices = list(jax.devices(self.backend) if devices is None else devices)
        groups = self._slices(devices)
        within, across = self._shapes(len(devices), len(groups))
        placed = arrange(groups, within, across, self.model_parallel_submesh)
        return Mesh(placed, MESH_AXES, axis_types=(AxisType.Explicit,) * len(MESH_AXES))

    def _slices(self, devices: Sequence[Any]) -> list[list[Any]]:
        across = self.dcn_mesh_shape is not None and math.prod(self.dcn_mesh_shape) > 1
        groups = slices(devices, by_process=across or self.replica == -1)
        if devices[0].platform != "tpu" and self.replica != -1 and not across:
            # Hosts of GPUs count as slices, but any axis may cross their network.
            return [list(devices)] if self.replica % len(groups) else groups
        return groups

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

    def shardings(self, axes: Any, mesh: Mesh | AbstractMesh, shapes: Any = None) -> Any:
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

    def batch_sharding(
        self, mesh: Mesh | AbstractMesh, batch_size: int | None = None
    ) -> NamedSharding:
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


def _parts(mesh_axes: MeshAxes, mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[axis] for axis in as_tuple(mesh_axes))


def _check_divisible(axes: Any, specs: Any, shapes: Any, mesh: Mesh | AbstractMesh) -> None:
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
