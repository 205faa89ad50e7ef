"""A model's configuration as a JSON document, kept in checkpoints; and the model it describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from flan_jax.errors import UserError
from flan_jax.models.lora import LoraConfig
from flan_jax.models.palm import Palm, PalmConfig
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import named_leaves
from flan_jax.suggestions import did_you_mean

ModelConfig = T5Config | PalmConfig
_TYPES: dict[str, type[T5Config] | type[PalmConfig]] = {"t5": T5Config, "palm": PalmConfig}
# How a model is run, which a checkpoint does not fix.
_RUNNING = ("dropout_rate", "dtype", "float32_attention_logits", "attention", "remat_policy")


class ArchitectureError(UserError, ValueError):
    """A document does not describe a model of ours."""


def to_document(config: ModelConfig) -> dict[str, Any]:
    """`{"type": "t5" | "palm", "config": {field: value}}`, to be written as JSON."""
    kind = next(name for name, each in _TYPES.items() if isinstance(config, each))
    return {"type": kind, "config": _plain(dataclasses.asdict(config))}


def _plain(value: Any) -> Any:
    """JSON's own types: what is read back equals what was written."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def from_document(document: Mapping[str, Any]) -> ModelConfig:
    """The configuration that `to_document` wrote; fields that it lacks have their defaults.

    Raises:
      ArchitectureError: an unknown type or field, or a value that the model refuses.
    """
    kind, fields = document.get("type"), document.get("config")
    if kind not in _TYPES or not isinstance(fields, Mapping):
        raise ArchitectureError(
            f"the architecture must be of type {' or '.join(map(repr, _TYPES))} with a config, "
            f"found type {kind!r}{did_you_mean(str(kind), _TYPES)}"
        )
    values = dict(fields)
    lora = values.get("lora")
    if lora is not None:
        if not isinstance(lora, Mapping):
            raise ArchitectureError(f"the architecture {kind}.lora must be a map, found {lora!r}")
        values["lora"] = _make(LoraConfig, lora, f"{kind}.lora")
    return _make(_TYPES[kind], values, kind)


def _make(kind: Any, values: Mapping[str, Any], what: str) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ArchitectureError(
            f"the architecture {what} has unknown fields: "
            + ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
            + ". It was written by another version of flan_jax"
        )
    try:
        return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ArchitectureError(f"the architecture {what} is not valid: {error}") from error


def initialise(config: ModelConfig, key: Any) -> T5 | Palm:
    """Fresh float32 parameters of the model; traceable."""
    return T5(config, key) if isinstance(config, T5Config) else Palm(config, key)


def abstract_parameters(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the model's parameters by name (without `params/`); nothing is allocated."""
    return named_leaves(jax.eval_shape(lambda: initialise(config, jax.random.key(0))))


def differences(found: ModelConfig, wanted: ModelConfig, ignored: Iterable[str] = ()) -> list[str]:
    """Lines that say where two architectures differ: not in how they are run.

    One may have adapters and the other none; if both do, they must weigh alike.
    """
    if type(found) is not type(wanted):
        kinds = {each: name for name, each in _TYPES.items()}
        return [f"type: {kinds[type(found)]} in the checkpoint, {kinds[type(wanted)]} in the model"]
    skipped = {*_RUNNING, "lora", *ignored}
    lines = [
        f"{field.name}: {getattr(found, field.name)} in the checkpoint, "
        f"{getattr(wanted, field.name)} in the model"
        for field in dataclasses.fields(found)
        if field.name not in skipped and getattr(found, field.name) != getattr(wanted, field.name)
    ]
    if found.lora and wanted.lora and found.lora.scale != wanted.lora.scale:
        lines.append(
            f"lora: alpha / rank is {found.lora.scale} in the checkpoint, "
            f"{wanted.lora.scale} in the model"
        )
    return lines
