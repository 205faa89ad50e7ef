"""Converts a checkpoint: checked before anything is written, compared after, whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.checkpoints import detect, own, remote
from flan_jax.checkpoints.merged import MergedReader
from flan_jax.checkpoints.plan import Plan, make_plan
from flan_jax.checkpoints.source import Source, open_source
from flan_jax.checkpoints.staging import stage_folder
from flan_jax.checkpoints.target import FORMATS, Target, hf_target, own_target, t5x_target
from flan_jax.checkpoints.tensors import CheckpointError, Layout
from flan_jax.checkpoints.transfer import Transferred, transfer, verify
from flan_jax.checkpoints.vocabulary_record import (
    describe_vocabulary,
    open_of_hf,
    open_recorded,
    recorded_vocabulary,
    vocabulary_difference,
)
from flan_jax.models.architecture import ModelConfig
from flan_jax.suggestions import did_you_mean

# Run document entries that stay true of a converted checkpoint of ours.
_KEPT = ("initial_checkpoint", "config", "mixture_hash", "missing_tasks", "stream", "vocabulary")


@dataclass(frozen=True)
class Options:
    """How to convert.

    Attributes:
      to: `orbax` (our own format), `hf` or `t5x`.
      t5x_format: `orbax` or `legacy`.
      layout: of T5X: `unscanned` or `scanned`.
      tile_bias: copy a shared relative position bias to each layer, for T5X's scanned layout.
      dtype: of parameters: `float32` or `bfloat16`; None: as the source has them.
      with_optimizer: keep the optimizer's state where the target can hold it.
      keep_adapters: keep LoRA adapters apart (our own format only); else they are merged.
      vocabulary: a Vocabulary to write tokenizer files of, or to note; None: the source's.
      overwrite: replace a checkpoint at the target.
      dry_run: check everything, write nothing.
    """

    to: str
    t5x_format: str = "orbax"
    layout: str = "unscanned"
    tile_bias: bool = False
    dtype: str | None = None
    with_optimizer: bool = True
    keep_adapters: bool = False
    vocabulary: Any = None
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("to", FORMATS),
            ("t5x_format", ("orbax", "legacy")),
            ("layout", ("unscanned", "scanned")),
            ("dtype", (None, "float32", "bfloat16")),
        ):
            value = getattr(self, name)
            if value not in known:
                names = [each for each in known if each]
                raise CheckpointError(
                    f"{name} must be one of {', '.join(names)}, found {value!r}"
                    f"{did_you_mean(str(value), names)}"
                )


@dataclass(frozen=True)
class Conversion:
    """A conversion that was planned, and what came of it.

    Attributes:
      source: what is read, its adapters merged.
      target: what is written.
      plan: the pieces.
      notes: for the user.
      merged: kernels that adapters were merged into.
      done: what was written; None before, and in a dry run.
    """

    source: Source
    target: Target
    plan: Plan
    notes: Sequence[str]
    merged: Sequence[str] = ()
    done: Transferred | None = None


def convert(
    source: str,
    target: str,
    options: Options,
    progress: Callable[[str, int, int], None] | None = None,
) -> Conversion:
    """Converts one checkpoint.

    Args:
      source: a checkpoint of ours, T5X or Hugging Face: a folder, `gs://…` or `hf://…`.
      target: the folder to be made, a local one; it becomes the checkpoint itself.
      options: how.
      progress: called with the phase ("writing", "verifying"), bytes done and bytes in all.

    Raises:
      CheckpointError: something does not fit, found before anything was written; or reading,
        writing or comparing failed. The target does not exist then.
    """
    place = _check_place(source, target, options)
    conversion = plan_conversion(source, options)
    with contextlib.closing(conversion.source):
        if options.dry_run:
            return conversion
        _check_space(place, conversion.plan)
        return _write(conversion, place, options.overwrite, progress)


def _check_place(source: str, target: str, options: Options) -> Path:
    """Where to write. Raises CheckpointError if that is no place for a new checkpoint."""
    if "://" in target:
        raise CheckpointError(
            f"{target}: conversions are written to local folders; copy the result from there"
        )
    place = Path(target).expanduser().absolute()
    if not (detect.is_hub(source) or remote.is_remote(source)):
        here, there = Path(source).expanduser().resolve(), place.resolve()
        if here == there or here in there.parents:
            raise CheckpointError(f"{target} lies inside the source {source}: name another place")
        if there in here.parents:
            raise CheckpointError(f"{target} holds the source {source}: name another place")
    if not place.exists() and not place.is_symlink():
        return place
    if not options.overwrite:
        raise CheckpointError(
            f"{target} exists already: name a new folder, or replace it by --overwrite"
        )
    if not place.is_dir() or place.is_symlink() or detect.find_format(place) is None:
        raise CheckpointError(f"{target} is no checkpoint: --overwrite replaces only those")
    return place


def _check_space(place: Path, plan: Plan) -> None:
    folder = next(each for each in place.parents if each.exists())
    free = shutil.disk_usage(folder).free
    if plan.num_bytes > free:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.2f} GB free, {plan.num_bytes / 1e9:.2f} GB are needed: make"
            " room, or take --dtype bfloat16 or --no_optimizer"
        )


def plan_conversion(path: str, options: Options) -> Conversion:
    """Opens the source and checks names, shapes and dtypes of source and target.

    Raises:
      CheckpointError: listing what does not fit.
    """
    opened = open_source(path)
    try:
        source, merged, notes = _merge(opened, options)
        layout, dropped = _choose(source, options)
        vocabulary, more = _vocabulary(source, options)
        target = _make_target(source, layout, options, vocabulary)
        dtype = None if options.dtype is None else _as_dtype(options.dtype)
        if dtype is None and target.one_dtype:
            dtype = _common_dtype(source)
        plan = make_plan(source.reader.infos, layout, target.layout, dtype=dtype)
    except BaseException:
        opened.close()
        raise
    plan = dataclasses.replace(plan, dropped=[*dropped, *plan.dropped])
    return Conversion(source, target, plan, [*opened.notes, *notes, *more], merged)


def _merge(source: Source, options: Options) -> tuple[Source, Sequence[str], list[str]]:
    """The source without adapters, the kernels that they went into, notes."""
    lora = getattr(source.config, "lora", None)
    if lora is None or (options.keep_adapters and options.to == "orbax"):
        return source, (), []
    notes = ["adapters merged into their kernels; optimizer state left out, which is theirs"]
    if options.keep_adapters:
        notes.append("--keep_adapters is for our own format (orbax): others have no adapters")
    reader = MergedReader(source.reader, lora.scale)
    config = own.without_adapters(source.config)
    layout = [
        part for part in own.own_layout(reader.infos) if not part.ours.startswith(own.OPT_STATE)
    ]
    merged = dataclasses.replace(source, reader=reader, layout=layout, config=config)
    return merged, reader.adapted, notes


def _choose(source: Source, options: Options) -> tuple[Layout, list[str]]:
    """Parts to convert, and names of tensors of ours that are left out."""
    keep = options.with_optimizer and options.to != "hf"
    if options.to == "t5x":
        keep = keep and _has_adafactor(source.layout)
    kept = [part for part in source.layout if keep or not part.ours.startswith(own.OPT_STATE)]
    left = {part.ours for part in source.layout} - {part.ours for part in kept}
    return kept, sorted(left)


def _has_adafactor(layout: Layout) -> bool:
    return any(part.ours.startswith(f"{own.OPT_STATE}v_row/") for part in layout)


def _vocabulary(source: Source, options: Options) -> tuple[Any, list[str]]:
    """The vocabulary to write, and notes on it."""
    recorded = recorded_vocabulary(source.run)
    if options.vocabulary is not None:
        different = vocabulary_difference(recorded, options.vocabulary)
        if different:
            raise CheckpointError(
                f"{source.path} was trained with the vocabulary {different}: name that one by"
                " --vocabulary"
            )
        if options.vocabulary.vocab_size > source.config.vocab_size:
            raise CheckpointError(
                f"{options.vocabulary!r} has {options.vocabulary.vocab_size} ids, the model only"
                f" {source.config.vocab_size}: name the one it was trained with by --vocabulary"
            )
        return options.vocabulary, []
    if source.format == detect.HF:
        return open_of_hf(source.path), []
    found = open_recorded(recorded)
    if found is None and recorded and options.to == "hf":
        return None, [f"the vocabulary {recorded.get('file')} is not here: name it by --vocabulary"]
    return found, []


def _make_target(source: Source, layout: Layout, options: Options, vocabulary: Any) -> Target:
    config: ModelConfig = source.config
    if options.to == "hf":
        copied = source.format == detect.HF and options.vocabulary is None
        tokenizer_source = source.path if copied else None
        return hf_target(config, vocabulary, tokenizer_source)
    if options.to == "t5x":
        return t5x_target(
            config,
            form=options.t5x_format,
            scanned=options.layout == "scanned",
            optimizer=_has_adafactor(layout),
            momentum=_has_momentum(layout),
            tile_bias=options.tile_bias,
        )
    run: dict[str, Any] = {name: source.run[name] for name in _KEPT if name in source.run}
    run |= {"start_step": source.step or 0, "converted_from": source.path}
    if vocabulary is not None:
        run["vocabulary"] = describe_vocabulary(vocabulary)
    return own_target(layout, config, run)


def _has_momentum(layout: Layout) -> bool:
    """Whether Adafactor's first moments are kept: slots that are not (1,) zeros."""
    prefix = f"{own.OPT_STATE}m/"
    shapes = {
        part.ours.removeprefix(prefix): part.shape
        for part in layout
        if part.ours.startswith(prefix)
    }
    return any(math.prod(shape) > 1 for shape in shapes.values())


def _as_dtype(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _common_dtype(source: Source) -> np.dtype | None:
    """Float32 if the parameters have several dtypes, None if they have one."""
    names = {part.theirs for part in source.layout if part.ours.startswith(own.PARAMS)}
    dtypes = {source.reader.infos[name].dtype for name in names}
    return None if len(dtypes) == 1 else np.dtype(np.float32)


def _write(
    conversion: Conversion,
    place: Path,
    overwrite: bool,
    progress: Callable[[str, int, int], None] | None,
) -> Conversion:
    plan, reader = conversion.plan, conversion.source.reader
    with stage_folder(place, replace=overwrite) as partial:
        writer = conversion.target.create(partial, plan.infos)
        done = transfer(plan, reader, writer, _counter("writing", plan, progress))
        writer.close()
        with contextlib.closing(conversion.target.open(partial)) as written:
            verify(plan, done, written, _counter("verifying", plan, progress))
    notes = [*conversion.notes, *getattr(writer, "notes", [])]
    if done.not_finite:
        notes.append(f"NaN or infinity in {', '.join(done.not_finite)}: written as in the source")
    return dataclasses.replace(conversion, done=done, notes=notes)


def _counter(
    phase: str, plan: Plan, progress: Callable[[str, int, int], None] | None
) -> Callable[[int], None] | None:
    if progress is None:
        return None
    total, done = plan.num_bytes, [0]

    def count(added: int) -> None:
        done[0] += added
        progress(phase, done[0], total)

    return count
