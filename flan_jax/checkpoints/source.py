"""An opened checkpoint of any format: its tensors, its model, and where ours are among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flan_jax.checkpoints import detect, own
from flan_jax.checkpoints.plan import check_source
from flan_jax.checkpoints.tensors import CheckpointError, Layout, TensorReader
from flan_jax.models.architecture import ModelConfig, abstract_parameters

_T5X_STEP, _T5X_STATES = "state/step", "state/param_states"


@dataclass(frozen=True)
class Source:
    """A checkpoint whose headers were read and checked.

    Attributes:
      path: of the checkpoint.
      format: `flan_jax`, `t5x` or `hf`.
      kind: the format in words.
      reader: of its tensors.
      layout: where tensors of ours lie among them.
      config: its model.
      step: steps done, None if it does not say.
      run: the run document of one of ours, else empty.
      unused: its tensors that are of no use.
      notes: what was decided while reading it, for the user.
    """

    path: str
    format: str
    kind: str
    reader: TensorReader
    layout: Layout
    config: ModelConfig
    step: int | None
    run: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Frees files."""
        self.reader.close()


def open_source(path: str | Path) -> Source:
    """Opens a checkpoint of ours, of T5X or of Hugging Face; reads headers only.

    Args:
      path: its folder, `gs://…` or `hf://…`.

    Raises:
      CheckpointError: it is none, is damaged, or its tensors do not fit the model.
    """
    if not detect.exists(path):
        raise CheckpointError(f"checkpoint {path} does not exist")
    where = detect.find_checkpoint(str(path))
    kind = detect.checkpoint_format(where)
    opened = {detect.FLAN_JAX: _open_own, detect.T5X: _open_t5x, detect.HF: _open_hf}[kind](where)
    try:
        shapes = {
            f"{own.PARAMS}{name}": tuple(leaf.shape)
            for name, leaf in abstract_parameters(opened.config).items()
        }
        infos = opened.reader.infos
        check_source(opened.path, infos, opened.layout, shapes, opened.unused)
    except BaseException:
        opened.close()
        raise
    return opened


def _open_own(path: str) -> Source:
    run = own.read_run(path)
    reader = own.open_own(path)
    found, note = own.config_of(run, reader.infos, path)
    return Source(
        path=path,
        format=detect.FLAN_JAX,
        kind="flan_jax (Orbax)",
        reader=reader,
        layout=own.own_layout(reader.infos),
        config=found,
        step=_read_step(reader, own.STEP, path),
        run=run,
        notes=() if note is None else (note,),
    )


def _open_hf(path: str) -> Source:
    from flan_jax.checkpoints.hf import open_hf_model

    model = open_hf_model(path)
    used = {part.theirs for part in model.layout}
    return Source(
        path=path,
        format=detect.HF,
        kind=f"Hugging Face ({model.hf['model_type']})",
        reader=model.reader,
        layout=model.layout,
        config=model.config,
        step=None,
        unused=tuple(name for name in model.reader.infos if name not in used),
        # It speaks of training, which is in float32; tensors are kept as they are here.
        notes=tuple(note for note in model.notes if " cast from " not in note),
    )


def _open_t5x(path: str) -> Source:
    from flan_jax.checkpoints import t5x

    reader = t5x.open_t5x(path)
    if any(name.startswith(own.PARAMS) for name in reader.infos):
        raise CheckpointError(
            f"checkpoint {path} is damaged: its folder {own.RUN} is missing. It was not copied"
            " completely"
        )
    found, notes = t5x.read_t5x_config(path, reader.infos)
    problem = t5x.optimizer_problem(found, reader.infos)
    layout = t5x.t5x_layout(found, reader.infos, optimizer=problem is None)
    used = {part.theirs for part in layout}
    scanned = t5x.is_scanned(reader.infos)
    # That there is no optimizer state is no news of one that was left out.
    has_state = any(name.startswith(f"{_T5X_STATES}/") for name in reader.infos)
    left_out = (f"optimizer state left out: {problem}",) if problem and has_state else ()
    return Source(
        path=path,
        format=detect.T5X,
        kind=f"T5X ({_in_words(t5x.t5x_format(path))}, {'' if scanned else 'un'}scanned)",
        reader=reader,
        layout=layout,
        config=found,
        step=_read_step(reader, _T5X_STEP, path),
        unused=tuple(n for n in reader.infos if n not in used and not n.startswith("target/")),
        notes=(*notes, *left_out),
    )


def _in_words(form: str | None) -> str:
    return "Orbax" if form == "orbax" else "legacy format"


def _read_step(reader: TensorReader, name: str, path: str) -> int | None:
    """The step tensor, whatever dtype it has, or the step in the folder's name."""
    return int(reader.read(name)) if name in reader.infos else detect.step_of(path)
