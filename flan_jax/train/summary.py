"""What a run would do, for `--dry_run`."""

from __future__ import annotations

import math

import jax

from flan_jax.checkpoints import detect
from flan_jax.checkpoints.initial import check_initial, checkpoint_format, resolve_path
from flan_jax.checkpoints.manager import CheckpointConfig, CheckpointManager
from flan_jax.data.packing import padding_fractions
from flan_jax.data.reader import DatasetConfig, train_dataset
from flan_jax.sharding import named_leaves
from flan_jax.train.setup import Setup


def describe(
    setup: Setup,
    dataset: DatasetConfig,
    model_dir: str,
    checkpoints: CheckpointConfig | None,
    total_steps: int,
    relative_steps: int | None = None,
) -> str:
    """A summary of config, data, shapes, shardings and paths; reads one batch, trains nothing."""
    return "\n".join(
        [
            *_data_lines(setup, dataset),
            *_mesh_lines(setup),
            *_parameter_lines(setup),
            *_checkpoint_lines(setup, model_dir, checkpoints),
            _end_line(total_steps, relative_steps),
        ]
    )


def _data_lines(setup: Setup, dataset: DatasetConfig) -> list[str]:
    maker = setup.maker
    batch = next(iter(train_dataset(dataset, setup.maker)))
    padding = ", ".join(
        f"{name.removesuffix('padding').rstrip('_')} {share:.1%}".strip()
        for name, share in padding_fractions(batch).items()
    )
    return [
        f"data        {dataset.mixture_or_task_name}: {len(maker.task_names)} tasks, split "
        f"{dataset.split}, seed {maker.seed}",
        *(f"            {name} {list(rows.shape)} {rows.dtype}" for name, rows in batch.items()),
        f"            padding in the first batch: {padding}",
    ]


def _mesh_lines(setup: Setup) -> list[str]:
    devices = setup.mesh.devices.flatten()
    shape = ", ".join(f"{name} {size}" for name, size in setup.mesh.shape.items())
    return [
        f"mesh        {shape}: {len(devices)} x {devices[0].device_kind}, "
        f"{jax.process_count()} process(es)",
    ]


def _parameter_lines(setup: Setup) -> list[str]:
    state = setup.abstract_state
    params, optimizer = named_leaves(state.params), named_leaves(state.opt_state)
    chosen = setup.trainer.select(state.params).names
    trained = [leaf for name, leaf in params.items() if name in chosen]
    frozen = [leaf for name, leaf in params.items() if name not in chosen]
    total = _count(trained) + _count(frozen)
    share = f": {_count(trained):,} trained ({_count(trained) / total:.2%})" if frozen else ""
    share += f", {_count(frozen):,} frozen" if frozen else ""
    width = max(map(len, params))
    return [
        f"parameters  {total:,}{share}",
        *(
            f"            {name:{width}}  {list(leaf.shape)} {leaf.dtype} {leaf.sharding.spec}"
            f"{'' if name in chosen else ' frozen'}"
            for name, leaf in params.items()
        ),
        f"per device  parameters {_mebibytes(trained)} trained, {_mebibytes(frozen)} frozen; "
        f"gradients {_mebibytes(trained)}, optimizer {_mebibytes(optimizer.values())}",
    ]


def _count(leaves: list[jax.ShapeDtypeStruct]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _mebibytes(leaves: object) -> str:
    return f"{_bytes_per_device(leaves) / 2**20:,.1f} MiB"


def _bytes_per_device(leaves: object) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in leaves  # type: ignore[attr-defined]
    )


def _checkpoint_lines(
    setup: Setup, model_dir: str, checkpoints: CheckpointConfig | None
) -> list[str]:
    latest = CheckpointManager(model_dir, None).latest_step() if detect.exists(model_dir) else None
    restore = checkpoints.restore if checkpoints else None
    initial = resolve_path(restore)
    save = checkpoints.save if checkpoints else None
    if latest is not None:
        origin = f"{model_dir}/checkpoint_{latest}"
    elif initial is not None:
        origin = f"{initial} ({checkpoint_format(initial)})"
        if detect.is_hub(initial):
            origin += ", not downloaded and not checked yet"
        else:
            check_initial(initial, setup.model, setup.abstract_state, restore)
    else:
        origin = "random weights"
    every = f"every {save.period} steps to {model_dir}/checkpoint_<step>" if save else "never"
    return [
        f"starts from {origin}",
        f"saves       {every}",
    ]


def _end_line(total_steps: int, relative_steps: int | None) -> str:
    if relative_steps is None:
        return f"ends at     step {total_steps}"
    return f"ends        {relative_steps} steps after the step of the initial checkpoint"
