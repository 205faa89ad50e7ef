"""A model's dimensions from the `config.gin` beside a T5X checkpoint, or from its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flan_jax.checkpoints import remote
from flan_jax.checkpoints.t5x.layout import has_bias_per_layer, is_scanned
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from flan_jax.config.errors import Location
from flan_jax.config.statements import Assignment, Include, read_statements
from flan_jax.config.values import Macro, Reference, Unreadable, format_statement, map_leaves
from flan_jax.models.t5 import T5Config

CONFIG_FILE = "config.gin"
_CLASS = "T5Config"
# Fields of T5X's network.T5Config that ours has too.
_FIELDS = (
    "vocab_size",
    "dtype",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "mlp_activations",
    "dropout_rate",
    "logits_via_embedding",
    "float32_attention_logits",
)
# What only a config.gin says, and T5X's defaults otherwise.
_ASSUMED = {"dropout_rate": 0.1, "dtype": "float32"}
_ACTIVATIONS = {1: ("relu",), 2: ("gelu", "linear")}


class T5XConfig(NamedTuple):
    """A checkpoint's architecture.

    Attributes:
      config: all of it.
      notes: sentences that say where it comes from and what was assumed.
    """

    config: T5Config
    notes: tuple[str, ...]


def read_t5x_config(path: str | Path, infos: Mapping[str, TensorInfo]) -> T5XConfig:
    """The architecture of a T5X checkpoint.

    Args:
      path: the folder `checkpoint_<step>`; `config.gin` is looked for in it, then beside it.
      infos: its tensors; sizes that config.gin says are compared with theirs, those that it does
        not say are theirs.

    Raises:
      CheckpointError: config.gin contradicts the tensors, or the tensors are not a T5's.
    """
    measured = _measure(path, infos)
    file, text = _find(path)
    said, notes = _bindings(text, file) if text is not None else ({}, [])
    wrong = [
        f"  {name} is {said[name]!r} in {file}, {value!r} in the tensors"
        for name, value in measured.items()
        if name in said and said[name] != value and name != "mlp_activations"
    ]
    count = len(measured["mlp_activations"])
    if "mlp_activations" in said and len(said["mlp_activations"]) != count:
        names = said["mlp_activations"]
        wrong.append(f"  mlp_activations are {names!r} in {file}, {count} in the tensors")
    if wrong:
        raise CheckpointError(f"{path} and its configuration differ:\n" + "\n".join(wrong))
    notes.insert(0, f"sizes from {file}" if said else _without_config(path, file))
    assumed = {**_ASSUMED, "mlp_activations": measured.pop("mlp_activations")}
    for name, value in assumed.items():
        if name not in said:
            notes.append(f"{name} = {value!r} is assumed: only a config.gin would say it")
    try:
        return T5XConfig(T5Config(**(measured | assumed | said)), tuple(notes))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _without_config(path: str | Path, file: str | None) -> str:
    if file is not None:
        return f"{file} binds no {_CLASS}: sizes from the tensors"
    return f"no {CONFIG_FILE} in {path} or beside it: sizes from the tensors"


def _find(path: str | Path) -> tuple[str | None, str | None]:
    """The name and text of the checkpoint's config.gin."""
    folder = remote.absolute(path)
    for place in (folder, folder.rpartition("/")[0]):
        text = remote.read_file(place, CONFIG_FILE) if place else None
        if text is not None:
            return remote.join(place, CONFIG_FILE), text.decode(errors="replace")
    return None, None


def _bindings(text: str, file: str | None) -> tuple[dict[str, Any], list[str]]:
    """Fields of T5Config that a gin text binds to values, and notes.

    Nothing is imported or looked up: a T5X config names classes that need not be installed here.
    """
    statements = read_statements(text, lambda line: Location(0, line, str(file))).statements
    assignments = [each for each in statements if isinstance(each, Assignment)]
    macros = _macros(assignments)
    scope = _config_scope(assignments, macros)
    said: dict[str, Any] = {}
    notes = [
        f"{each.location}: include {each.filename!r} was not followed"
        for each in statements
        if isinstance(each, Include)
    ]
    for wanted in ("", scope) if scope else ("",):
        for each in assignments:
            if each.selector.rpartition(".")[2] != _CLASS or each.scope != wanted:
                continue
            if each.parameter not in _FIELDS:
                continue
            value = _plain(each.parameter, _resolve(each.value, macros))
            if value is None:
                shown = str(each.value)
                notes.append(f"{each.location}: {each.parameter} = {shown} is not a plain value")
            else:
                said[each.parameter] = value
    return said, notes


def _macros(assignments: Iterable[Assignment]) -> dict[str, Any]:
    macros = {}
    for each in assignments:
        if not each.parameter:
            macros["/".join(filter(None, (each.scope, each.selector)))] = each.value
        elif each.selector == "macro" and each.parameter == "value":  # NAME/macro.value = …
            macros[each.scope] = each.value
    return macros


def _config_scope(assignments: Iterable[Assignment], macros: Mapping[str, Any]) -> str:
    """The scope in `network.Transformer.config = @scope/network.T5Config()`, "" if none."""
    scope = ""
    for each in assignments:
        value = _resolve(each.value, macros)
        if isinstance(value, Reference) and value.selector.rpartition(".")[2] == _CLASS:
            scope = value.scope
    return scope


def _resolve(value: Any, macros: Mapping[str, Any]) -> Any:
    """The value with macros replaced; those not set, or defined by themselves, stay."""
    for _ in range(len(macros) + 1):
        resolved = map_leaves(
            lambda leaf: macros.get(leaf.name, leaf) if isinstance(leaf, Macro) else leaf, value
        )
        if resolved == value:
            break
        value = resolved
    return value


def _plain(name: str, value: Any) -> Any:
    """The value as T5Config takes it; None if it is not a plain one."""
    if name == "dtype":
        # 'float32', @jnp.float32, %jax.numpy.float32
        if isinstance(value, Reference):
            value = value.selector
        value = value.name if isinstance(value, Macro) else value
        return value.rpartition(".")[2] if isinstance(value, str) else None
    if name == "mlp_activations":
        names = [value] if isinstance(value, str) else value
        is_names = isinstance(names, list | tuple) and all(isinstance(x, str) for x in names)
        return tuple(names) if is_names else None
    return None if isinstance(value, Macro | Reference | Unreadable) else value


def _measure(path: str | Path, infos: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Fields of T5Config that the tensors' shapes say.

    The number of heads is that of the relative position bias; the activations are T5 v1.1's, or T5
    v1.0's if there is but one matrix `wi`.
    """
    scanned = is_scanned(infos)

    def shape(name: str) -> tuple[int, ...]:
        info = infos.get(f"target/{name}")
        if info is None:
            raise CheckpointError(f"{path} is not a T5's checkpoint: it has no target/{name}")
        return info.shape

    def layers(stack: str) -> int:
        if scanned:
            return shape(f"{stack}/{stack}/mlp/wo/kernel")[1]
        prefix = f"target/{stack}/layers_"
        return len({x[len(prefix) :].partition("/")[0] for x in infos if x.startswith(prefix)})

    first = "decoder/decoder" if scanned else "decoder/layers_0"
    per_layer = has_bias_per_layer(infos)
    bias = shape(f"{first if per_layer else 'decoder'}/relpos_bias/rel_embedding")
    out: tuple[int, ...] = shape(f"{first}/self_attention/out/kernel")
    gates = sum(f"target/{first}/mlp/wi_{i}/kernel" in infos for i in range(8)) or 1
    vocab_size, emb_dim = shape("token_embedder/embedding")
    num_heads = bias[0]
    head_dim = out[0] // num_heads if len(out) == 2 else out[-2]
    return {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "num_encoder_layers": layers("encoder"),
        "num_decoder_layers": layers("decoder"),
        "head_dim": head_dim,
        "mlp_dim": shape(f"{first}/mlp/wo/kernel")[0],
        "mlp_activations": _ACTIVATIONS.get(gates, ("gelu", *["linear"] * (gates - 1))),
        "logits_via_embedding": "target/decoder/logits_dense/kernel" not in infos,
        "relative_attention_num_buckets": bias[-1],
        "relative_attention_per_layer": per_layer,
    }


def t5x_config_text(config: T5Config, *, scanned: bool) -> str:
    """A `config.gin` in T5X's syntax that binds the architecture to its network.

    Args:
      config: the architecture.
      scanned: for T5X's examples/scalable_t5 rather than examples/t5.
    """
    example = "scalable_t5" if scanned else "t5"
    bindings = {name: getattr(config, name) for name in _FIELDS}
    if scanned:
        del bindings["float32_attention_logits"]  # which scalable_t5 does not know
        bindings["scan_layers"] = True
    lines = [
        "from __gin__ import dynamic_registration",
        f"from t5x.examples.{example} import network",
        "",
        f"# Parameters for network.{_CLASS}:",
        "# " + "=" * 78,
        *(
            format_statement(f"network.{_CLASS}.{name}", value)
            for name, value in sorted(bindings.items())
        ),
        "",
        "# Parameters for network.Transformer:",
        "# " + "=" * 78,
        f"network.Transformer.config = @network.{_CLASS}()",
        "",
    ]
    return "\n".join(lines)


def write_t5x_config(folder: str | Path, config: T5Config, *, scanned: bool) -> None:
    """Writes `config.gin` into a folder: a checkpoint's, or the one that checkpoints lie in.

    Raises:
      CheckpointError: it cannot be written.
    """
    file = Path(folder) / CONFIG_FILE
    try:
        file.write_text(t5x_config_text(config, scanned=scanned), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error.strerror}") from error
