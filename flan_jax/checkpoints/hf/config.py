"""Hugging Face's config.json to our configurations and back.

The output head of a T5 is told by the tensors and `scale_decoder_outputs`, not by
`tie_word_embeddings`: transformers 5 sets that flag for all T5, and saves it so even where the head
is a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.hf.hub import resolve
from flan_jax.checkpoints.hf.weights import HfReader
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config
from flan_jax.suggestions import did_you_mean

T5_TYPES = ("t5", "mt5", "umt5")
COHERE = "cohere"
MODEL_TYPES = (*T5_TYPES, COHERE)
EMBEDDING = {**dict.fromkeys(T5_TYPES, "shared.weight"), COHERE: "model.embed_tokens.weight"}
HEAD = "lm_head.weight"
# transformers' names of activations -> ours. Its "gelu" is the exact one, which we have not; of
# "gated-gelu" alone it makes the tanh approximation, "gelu_new", which is our "gelu".
_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu", "silu": "silu", "swish": "swish"}
_EPSILON = 1e-6


class Head(NamedTuple):
    """How the logits of a checkpoint are made of decoder states.

    Attributes:
      tied: by the embedding, scaled by emb_dim**-0.5: our `logits_via_embedding`.
      tensor: else, the tensor that is the head's kernel (transposed).
      scale: by which that tensor is to be multiplied.
    """

    tied: bool
    tensor: str
    scale: float = 1.0


def read_hf_config(path: str | Path) -> dict[str, Any]:
    """A folder's config.json.

    Raises:
      CheckpointError: there is none, or it is not JSON.
    """
    folder = Folder(resolve(path))
    if not folder.has("config.json"):
        raise CheckpointError(
            f"{folder.path} has no config.json: it is no Hugging Face model folder (found"
            f" {', '.join(folder.names()[:20]) or 'nothing'}). Copy the file from the model that"
            " was finetuned."
        )
    found = folder.json("config.json")
    if not isinstance(found, dict):
        raise CheckpointError(f"{folder.path}/config.json must be a map, found {found!r:.60}.")
    return found


def config_from_hf(
    hf: Mapping[str, Any], reader: HfReader, *, dtype: str = "float32"
) -> tuple[T5Config | PalmConfig, Head, list[str]]:
    """Our configuration for a checkpoint.

    Args:
      hf: its config.json.
      reader: its tensors, which are compared where the file leaves a choice.
      dtype: of activations, for the result.

    Returns:
      The configuration, where the head is, and lines on what was decided, for the user.

    Raises:
      CheckpointError: another architecture than T5's (or PaLM's, as Cohere).
    """
    kind = hf.get("model_type")
    if kind not in MODEL_TYPES:
        raise CheckpointError(
            f"{reader.path}/config.json: model_type {kind!r} is not supported, known are"
            f" {', '.join(MODEL_TYPES)}{did_you_mean(str(kind), MODEL_TYPES)}"
        )
    if EMBEDDING[kind] not in reader.infos:
        raise CheckpointError(
            f"{reader.path} has no tensor {EMBEDDING[kind]}: it is no {kind} model with a language"
            f" head{did_you_mean(EMBEDDING[kind], reader.infos)}"
        )
    try:
        head, notes = find_head(hf, reader)
        config = (_palm if kind == COHERE else _t5)(hf, reader.path, head, dtype)
    except KeyError as error:
        raise CheckpointError(f"{reader.path}/config.json has no {error}.") from error
    except (TypeError, ValueError, AttributeError) as error:  # other types than JSON's of a model
        raise CheckpointError(f"{reader.path}/config.json: {error}") from error
    return config, head, notes


def find_head(hf: Mapping[str, Any], reader: HfReader) -> tuple[Head, list[str]]:
    """Where the output head is, and what to tell the user about it."""
    embedding = EMBEDDING[hf["model_type"]]
    own = HEAD in reader.infos and not reader.equal(HEAD, embedding)
    scale = _head_scale(hf, tied=not own)
    tensor = HEAD if HEAD in reader.infos else embedding
    notes = []
    if own and hf.get("tie_word_embeddings", hf["model_type"] != "mt5"):
        notes.append(f"{HEAD} differs from {embedding}: read as a head of its own, though")
        notes[-1] += " config.json says tie_word_embeddings (transformers 5 writes that always)"
    if not own and scale == hf["hidden_size" if hf["model_type"] == COHERE else "d_model"] ** -0.5:
        return Head(True, embedding), [*notes, f"head: tied to {embedding}"]
    if not own:
        notes.append(f"head: a copy of {embedding} (tied there, with logits scaled by {scale:g})")
    elif scale != 1.0:
        notes.append(f"head: {HEAD} multiplied by {scale:g}, as its logits are scaled")
    return Head(False, tensor, scale), notes


def _head_scale(hf: Mapping[str, Any], *, tied: bool) -> float:
    """What decoder states are multiplied by before the head.

    Where transformers 4 wrote the file, exactly the logits of tied heads are scaled, which
    `scale_decoder_outputs` of transformers 5 says outright; but its MT5 never scales.
    """
    if hf["model_type"] == COHERE:
        return float(hf.get("logit_scale", 0.0625) or 1.0)
    if hf["model_type"] == "mt5":
        by_version_4 = not str(hf.get("transformers_version", "")).startswith("5.")
        scaled = by_version_4 and hf.get("tie_word_embeddings", False)
    else:
        scaled = hf.get("tie_word_embeddings", True)
    scaled = hf.get("scale_decoder_outputs", tied and scaled)
    return hf["d_model"] ** -0.5 if scaled else 1.0


def _t5(hf: Mapping[str, Any], path: str, head: Head, dtype: str) -> T5Config:
    epsilon = hf.get("layer_norm_epsilon", _EPSILON)
    if not isinstance(epsilon, float) or abs(epsilon - _EPSILON) > 1e-12:
        raise CheckpointError(
            f"{path}/config.json: layer_norm_epsilon must be {_EPSILON} (T5's), found {epsilon}."
        )
    default_mlp = "relu" if hf["model_type"] == "t5" else "gated-gelu"
    return T5Config(
        vocab_size=hf["vocab_size"],
        emb_dim=hf["d_model"],
        num_heads=hf["num_heads"],
        num_encoder_layers=hf["num_layers"],
        num_decoder_layers=hf.get("num_decoder_layers") or hf["num_layers"],
        head_dim=hf["d_kv"],
        mlp_dim=hf["d_ff"],
        mlp_activations=_mlp_activations(str(hf.get("feed_forward_proj", default_mlp)), path),
        dropout_rate=hf.get("dropout_rate", 0.1),
        dtype=dtype,
        logits_via_embedding=head.tied,
        relative_attention_num_buckets=hf.get("relative_attention_num_buckets", 32),
        relative_attention_max_distance=hf.get("relative_attention_max_distance", 128),
        relative_attention_per_layer=hf["model_type"] == "umt5",
    )


def _mlp_activations(kind: str, path: str) -> tuple[str, ...]:
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    if name not in _ACTIVATIONS:
        raise CheckpointError(
            f"{path}/config.json: activation {kind!r} of feed_forward_proj is not supported, known"
            f" are {', '.join(_ACTIVATIONS)}, each also as gated-…, and gated-gelu"
            f"{did_you_mean(name, _ACTIVATIONS)}"
        )
    ours = _ACTIVATIONS[name]
    return (ours, "linear") if kind.startswith("gated-") else (ours,)


def _palm(hf: Mapping[str, Any], path: str, head: Head, dtype: str) -> PalmConfig:
    found = {
        "num_key_value_heads": hf.get("num_key_value_heads"),
        "use_qk_norm": bool(hf.get("use_qk_norm", False)),
        "attention_bias": bool(hf.get("attention_bias", False)),
        "rope_scaling": (hf.get("rope_parameters") or {}).get("rope_type", "default"),
    }
    scaling = hf.get("rope_scaling") or {}
    found["rope_scaling"] = scaling.get("rope_type", scaling.get("type", found["rope_scaling"]))
    wanted = {
        "num_key_value_heads": 1,
        "use_qk_norm": False,
        "attention_bias": False,
        "rope_scaling": "default",
    }
    wrong = [f"{name} {value!r}" for name, value in found.items() if value != wanted[name]]
    if wrong:
        raise CheckpointError(
            f"{path}/config.json: this Cohere model is no PaLM: {', '.join(wrong)}; expected one"
            " key and value head, no norms of queries and keys, no biases, unscaled rotations."
        )
    activation = hf.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{path}/config.json: hidden_act {activation!r} is not supported, known are"
            f" {', '.join(_ACTIVATIONS)}{did_you_mean(activation, _ACTIVATIONS)}"
        )
    theta = (hf.get("rope_parameters") or {}).get("rope_theta") or hf.get("rope_theta", 10_000.0)
    ours = "swish" if activation == "silu" else _ACTIVATIONS[activation]
    return PalmConfig(
        vocab_size=hf["vocab_size"],
        emb_dim=hf["hidden_size"],
        num_heads=hf["num_attention_heads"],
        num_layers=hf["num_hidden_layers"],
        head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
        mlp_dim=hf["intermediate_size"],
        mlp_activations=(ours, "linear"),
        dropout_rate=hf.get("attention_dropout") or 0.0,
        dtype=dtype,
        norm="layer",
        norm_epsilon=hf.get("layer_norm_eps", 1e-5),
        max_timescale=theta,
        logits_via_embedding=head.tied,
    )


def config_to_hf(config: T5Config | PalmConfig, dtype: str = "float32") -> dict[str, Any]:
    """A config.json from which transformers 4 and 5 make the same model as ours.

    Args:
      config: ours.
      dtype: of the tensors.

    Raises:
      CheckpointError: no class of transformers computes this model.
    """
    return _to_cohere(config, dtype) if isinstance(config, PalmConfig) else _to_t5(config, dtype)


def _to_t5(config: T5Config, dtype: str) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    first = config.mlp_activations[0]
    gated = len(config.mlp_activations) == 2 and config.mlp_activations[1] == "linear"
    if first not in names or not (gated or len(config.mlp_activations) == 1):
        raise CheckpointError(
            f"mlp_activations {config.mlp_activations} cannot be exported: transformers' T5 knows"
            f" one of {', '.join(names)}, alone or followed by 'linear'."
        )
    kind = f"gated-{'gelu' if first == 'gelu' else names[first]}" if gated else names[first]
    umt5 = config.relative_attention_per_layer
    return {
        "architectures": ["UMT5ForConditionalGeneration" if umt5 else "T5ForConditionalGeneration"],
        "model_type": "umt5" if umt5 else "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": _EPSILON,
        "feed_forward_proj": kind,
        "dense_act_fn": "gelu_new" if first == "gelu" else names[first],
        "is_gated_act": gated,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "use_cache": _can_cache(config),
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        # transformers 4 goes by the first, transformers 5 by the second.
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.logits_via_embedding,
        "torch_dtype": dtype,
    }


def _to_cohere(config: PalmConfig, dtype: str) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    gate, *rest = config.mlp_activations
    if config.norm != "layer" or rest != ["linear"] or gate not in names:
        raise CheckpointError(
            f"a PaLM with norm={config.norm!r} and mlp_activations={config.mlp_activations} cannot"
            " be exported: transformers' Cohere, the one class of this architecture, has"
            " norm='layer' and two activations of which the second is 'linear'."
        )
    return {
        "architectures": ["CohereForCausalLM"],
        "model_type": COHERE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.emb_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": 1,
        "head_dim": config.head_dim,
        "hidden_act": "silu" if gate == "swish" else names[gate],
        "layer_norm_eps": config.norm_epsilon,
        "max_position_embeddings": 8192,
        # transformers 4 reads the first, transformers 5 the second.
        "rope_theta": config.max_timescale,
        "rope_parameters": {"rope_theta": config.max_timescale, "rope_type": "default"},
        "logit_scale": config.emb_dim**-0.5 if config.logits_via_embedding else 1.0,
        "tie_word_embeddings": config.logits_via_embedding,
        "attention_bias": False,
        "attention_dropout": config.dropout_rate,
        "use_qk_norm": False,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": dtype,
    }


def generation_config(config: T5Config | PalmConfig) -> dict[str, Any]:
    """A generation_config.json: our special ids."""
    found: dict[str, Any] = {"eos_token_id": 1, "pad_token_id": 0}
    if isinstance(config, PalmConfig):
        return {"bos_token_id": 0, **found}
    return {"decoder_start_token_id": 0, "use_cache": _can_cache(config), **found}


def _can_cache(config: T5Config) -> bool:
    """Whether transformers can decode with a cache.

    Its `generate` makes room for as many layers as the encoder has, and fails (4.57, 5.24) where
    the decoder has more.
    """
    return config.num_decoder_layers <= config.num_encoder_layers
