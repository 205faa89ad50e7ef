"""Starting from somebody's checkpoint: ours, T5X's or Hugging Face's, found out by its files."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flan_jax.checkpoints import detect, own
from flan_jax.checkpoints.assignment import Key, assign, keys_of
from flan_jax.checkpoints.detect import checkpoint_format
from flan_jax.checkpoints.manager import RestoreCheckpointConfig
from flan_jax.checkpoints.merged import MergedReader
from flan_jax.checkpoints.placing import place
from flan_jax.checkpoints.plan import key as key_of
from flan_jax.checkpoints.plan import listing
from flan_jax.checkpoints.source import Source, open_source
from flan_jax.checkpoints.tensors import CheckpointError, Part
from flan_jax.checkpoints.vocabulary_record import vocabulary_difference
from flan_jax.locate import locate
from flan_jax.models.architecture import differences
from flan_jax.models.language_model import LanguageModel
from flan_jax.models.lora import is_adapter
from flan_jax.sharding import PjitPartitioner, logical_axes, named_leaves, with_shardings
from flan_jax.train.state import TrainState

__all__ = [
    "check_initial",
    "checkpoint_format",
    "resolve_path",
    "restore_initial",
    "restore_params",
]

# Takes names of a train state's leaves; makes them as a run from scratch would.
Fresh = Callable[[Collection[str]], Mapping[str, jax.Array]]


def resolve_path(config: RestoreCheckpointConfig | None) -> str | None:
    """The one path to start from, None for none; relative ones may lie in the package.

    A folder that holds one checkpoint stands for that; of several, `mode="latest"` takes the last.

    Raises:
      CheckpointError: several paths, or one that does not exist and must, or cannot be read.
    """
    if config is None or not config.path:
        return None
    paths = [config.path] if isinstance(config.path, str) else list(config.path)
    if len(paths) > 1:
        raise CheckpointError(
            f"utils.RestoreCheckpointConfig.path: one checkpoint is needed, found {len(paths)}"
        )
    path = paths[0]
    if "://" not in path:
        path = str(locate(path) or path)
    if detect.exists(path):
        return detect.find_checkpoint(path, latest=config.mode == "latest")
    if config.fallback_to_scratch:
        return None
    raise CheckpointError(_missing(path))


def _missing(path: str) -> str:
    folder = Path(path).parent
    local = "://" not in path
    there = sorted(p.name for p in folder.iterdir()) if local and folder.is_dir() else []
    beside = f"; {folder} holds {', '.join(there[:10])}" if there else ""
    return f"checkpoint {path} does not exist (INITIAL_CHECKPOINT_PATH, CHECKPOINT_PATH){beside}"


def restore_initial(
    path: str,
    model: LanguageModel,
    abstract: TrainState,
    restore: RestoreCheckpointConfig | None = None,
    fresh: Fresh | None = None,
) -> dict[str, Any]:
    """What a checkpoint holds of a train state.

    Args:
      path: a checkpoint's folder, `gs://…` or `hf://…`.
      model: the model, whose dimensions the checkpoint must have.
      abstract: ShapeDtypeStructs with shardings.
      restore: its assignment_map, strict, fallback_to_scratch and dtype.
      fresh: makes what the checkpoint does not give; without, it must have all parameters.

    Returns:
      `params`, `step` and `opt_state`, the latter two only if the checkpoint has them and they fit
      or `fresh` makes them; laid out as `abstract`. Each process reads what its devices hold, one
      tensor at a time.

    Raises:
      CheckpointError: nothing readable is there, or it does not fit the model.
    """
    settings = restore or RestoreCheckpointConfig()
    with contextlib.closing(_open(path, model, settings)) as source:
        held = {key_of(part): part for part in source.layout}
        shapes = {name: tuple(leaf.shape) for name, leaf in named_leaves(abstract).items()}
        chosen = _choose(source, shapes, held, settings, fresh is not None)
        found: dict[str, Any] = {
            "params": _restore(source, abstract.params, own.PARAMS, chosen, held, settings, fresh)
        }
        if abstract.step is not None:
            found |= _progress(source, abstract, shapes, chosen, held, fresh)
    return found


def check_initial(
    path: str,
    model: LanguageModel,
    abstract: TrainState,
    restore: RestoreCheckpointConfig | None = None,
) -> None:
    """Compares a checkpoint's headers with a train state that can be made freshly.

    Raises:
      CheckpointError: `restore_initial` would not take it.
    """
    settings = restore or RestoreCheckpointConfig()
    with contextlib.closing(_open(path, model, settings)) as source:
        held = {key_of(part): part for part in source.layout}
        shapes = {name: tuple(leaf.shape) for name, leaf in named_leaves(abstract).items()}
        _choose(source, shapes, held, settings, can_make=True)


def _choose(
    source: Source,
    shapes: Mapping[str, tuple[int, ...]],
    held: Mapping[Key, Part],
    settings: RestoreCheckpointConfig,
    can_make: bool,
) -> dict[Key, Key | None]:
    """Where each tensor of a train state comes from (`assign`), checked to fit."""
    chosen = assign(
        keys_of(shapes),
        {each: part.theirs for each, part in held.items()},
        settings.assignment_map,
        path=source.path,
    )
    _check_fits(source, shapes, chosen, held, settings, can_make)
    return chosen


def _progress(
    source: Source,
    abstract: TrainState,
    shapes: Mapping[str, tuple[int, ...]],
    chosen: Mapping[Key, Key | None],
    held: Mapping[Key, Part],
    fresh: Fresh | None,
) -> dict[str, Any]:
    """`step` and `opt_state`: the checkpoint's where it has them and they fit, else fresh ones."""
    found: dict[str, Any] = {}
    origin = chosen.get((own.STEP, None))
    if origin is not None:
        found["step"] = _load(source, abstract.step, [origin], held)
    elif fresh is not None:
        found["step"] = fresh([own.STEP])[own.STEP]
    problem = _optimizer_problem(shapes, chosen, held)
    if problem is not None:
        chosen = {key: each for key, each in chosen.items() if key[0].startswith(own.PARAMS)}
        if any(name.startswith(own.OPT_STATE) for name, _ in held) and jax.process_index() == 0:
            print(
                f"flan-jax: the optimizer's state in {source.path} is not restored, it begins "
                f"anew: {problem}",
                file=sys.stderr,
            )
    if problem is None or fresh is not None:
        settings = RestoreCheckpointConfig()
        found["opt_state"] = _restore(
            source, abstract.opt_state, own.OPT_STATE, chosen, held, settings, fresh
        )
    return found


def restore_params(
    path: str,
    model: LanguageModel,
    partitioner: PjitPartitioner,
    restore: RestoreCheckpointConfig | None = None,
) -> Any:
    """The parameters of any readable checkpoint, laid out over the current mesh.

    A checkpoint with LoRA adapters is read by a model without as what merging them gives.

    Raises:
      CheckpointError: see `restore_initial`.
    """
    mesh = jax.sharding.get_mesh()
    params = jax.eval_shape(model.init, jax.random.key(0))
    shardings = partitioner.shardings(logical_axes(params), mesh, params)
    params = with_shardings(params, shardings)
    abstract = TrainState(None, params, None)  # pyright: ignore[reportArgumentType]
    return restore_initial(path, model, abstract, restore)["params"]


def _open(path: str, model: LanguageModel, settings: RestoreCheckpointConfig) -> Source:
    """The checkpoint, if it is of the configured model; adapters merged if the model has none."""
    source = open_source(path)
    try:
        lora = getattr(source.config, "lora", None)
        if lora is not None and getattr(model.module, "lora", None) is None:
            reader = MergedReader(source.reader, lora.scale)
            layout = [
                part
                for part in own.own_layout(reader.infos)
                if not part.ours.startswith(own.OPT_STATE)
            ]
            source = dataclasses.replace(source, reader=reader, layout=layout)
        different = differences(source.config, model.module)
        if different and not settings.assignment_map:
            raise CheckpointError(
                f"{path} does not fit the configured model:\n{listing(different)}\n"
                "Use the gin file of the model that wrote it, or an assignment_map to take parts"
            )
        vocabulary = vocabulary_difference(source.run.get("vocabulary"), model.input_vocabulary)
        if vocabulary and settings.strict:
            raise CheckpointError(
                f"{path} was trained with the vocabulary {vocabulary}: bind VOCABULARY to that one"
                " (utils.RestoreCheckpointConfig.strict = False accepts another)"
            )
    except BaseException:
        source.close()
        raise
    return source


def _check_fits(
    source: Source,
    shapes: Mapping[str, tuple[int, ...]],
    chosen: Mapping[Key, Key | None],
    held: Mapping[Key, Part],
    settings: RestoreCheckpointConfig,
    can_make: bool,
) -> None:
    """Raises CheckpointError, listing missing, misshapen and spare parameters."""
    problems = []
    wanted = [key for key in keys_of(shapes) if key[0].startswith(own.PARAMS)]
    for key in wanted:
        origin = chosen.get(key)
        if origin is not None:
            found, shape = tuple(held[origin].shape), _shape(shapes, key)
            if found != shape:
                problems.append(f"{_say(key)}: {found} in the checkpoint, {shape} in the model")
        elif not can_make:
            problems.append(f"{_say(key)} is missing in the checkpoint")
        elif key not in chosen and not (settings.fallback_to_scratch or is_adapter(key[0])):
            problems.append(
                f"{_say(key)} is missing in the checkpoint (an assignment_map to None, or"
                " fallback_to_scratch, leaves it freshly initialised)"
            )
    if settings.strict:
        taken = {origin for origin in chosen.values() if origin is not None} | chosen.keys()
        problems += [
            f"{_say(key)} is not in the model (strict = False leaves it out)"
            for key in held
            if key[0].startswith(own.PARAMS) and key not in taken
        ]
    if problems:
        raise CheckpointError(
            f"checkpoint {source.path} does not fit the configured model:\n{listing(problems)}"
        )


def _say(key: Key) -> str:
    name = key[0].removeprefix(own.PARAMS)
    return name if key[1] is None else f"{name} (layer {key[1]})"


def _shape(shapes: Mapping[str, tuple[int, ...]], key: Key) -> tuple[int, ...]:
    return shapes[key[0]] if key[1] is None else shapes[key[0]][1:]


def _optimizer_problem(
    shapes: Mapping[str, tuple[int, ...]],
    chosen: Mapping[Key, Key | None],
    held: Mapping[Key, Part],
) -> str | None:
    """Why the optimizer's state cannot be restored: all of it goes on, or none."""
    wanted = [key for key in keys_of(shapes) if key[0].startswith(own.OPT_STATE)]
    for key in wanted:
        origin = chosen.get(key)
        if origin is None and _shape(shapes, key) != (1,):  # slots that are not used are zeros
            return f"it has no {key[0].removeprefix(own.OPT_STATE)}"
        if origin is not None and tuple(held[origin].shape) != _shape(shapes, key):
            return (
                f"{key[0].removeprefix(own.OPT_STATE)} is {tuple(held[origin].shape)} there, "
                f"{_shape(shapes, key)} in the configured optimizer"
            )
    return None if wanted else "the configured optimizer has none"


def _restore(
    source: Source,
    abstract: Any,
    prefix: str,
    chosen: Mapping[Key, Key | None],
    held: Mapping[Key, Part],
    settings: RestoreCheckpointConfig,
    fresh: Fresh | None,
) -> Any:
    """A tree like `abstract`, whose names begin with `prefix` in the train state."""
    leaves = {f"{prefix}{name}": leaf for name, leaf in named_leaves(abstract).items()}
    origins = {
        name: [chosen.get(key) for key in keys_of({name: tuple(leaf.shape)})]
        for name, leaf in leaves.items()
    }
    partial = [name for name, each in origins.items() if None in each]
    made = fresh(partial) if fresh is not None and partial else {}
    rounded = settings.dtype if prefix == own.PARAMS else None
    values = [
        made[name]
        if name in made and not any(origins[name])
        else _load(source, leaf, origins[name], held, made.get(name), rounded)
        for name, leaf in leaves.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), values)


def _load(
    source: Source,
    leaf: Any,
    origins: list[Key | None],
    held: Mapping[Key, Part],
    fresh: jax.Array | None = None,
    rounded: str | None = None,
) -> jax.Array:
    """One array, from a part of the checkpoint or from one a layer."""

    def read(origin: Key) -> np.ndarray:
        part = held[origin]
        value = part.to_ours(source.reader.read(part.theirs, part.their_index, part.their_axis))
        return value if rounded is None else value.astype(jax.numpy.dtype(rounded))

    stacked = len(leaf.shape) > 0 and (len(origins) > 1 or _is_layered(origins))
    return place(
        leaf, [each and (lambda each=each: read(each)) for each in origins], stacked, fresh
    )


def _is_layered(origins: list[Key | None]) -> bool:
    return any(origin is not None and origin[1] is not None for origin in origins)
