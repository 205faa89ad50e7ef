"""Reads Hugging Face T5 checkpoints: config.json and safetensors (no torch, no transformers).

The output head is decided by what the file holds, not by `tie_word_embeddings`: transformers 5
forces that flag on for T5 even where the head is a tensor of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import named_leaves

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}
# transformers' ACT2FN names -> ours; "gelu_new" is the tanh approximation.
_FEED_FORWARD = {"gated-gelu": ("gelu", "linear"), "gated-silu": ("silu", "linear")}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def read_safetensors(file: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a .safetensors file, memory-mapped (8-byte header size, JSON header, raw data)."""
    path = Path(file)
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}, known: {list(_DTYPES)}.")
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        start, end = entry["data_offsets"]
        raw = np.memmap(path, np.uint8, "r", offset=8 + size + start, shape=(end - start,))
        arrays[name] = raw.view(dtype).reshape(shape)
    return arrays


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    elif single.is_file():
        files = [single.name]
    else:
        raise FileNotFoundError(
            f"{folder} has neither {single.name} nor {index.name}; found"
            f" {sorted(p.name for p in folder.iterdir())}. Other formats (pytorch_model.bin) must"
            " be saved again by transformers with safe_serialization=True."
        )
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        tensors.update(read_safetensors(folder / file))
    return tensors


def read_hf_config(folder: str | Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
      FileNotFoundError: without one.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: {folder} is not a Hugging Face model folder.")
    return json.loads(file.read_text())


def _convert_config(hf: Mapping[str, Any], logits_via_embedding: bool, dtype: str) -> T5Config:
    if hf.get("model_type") not in ("t5", "mt5"):
        raise ValueError(f"model_type must be 't5' or 'mt5', found {hf.get('model_type')!r}.")
    epsilon = hf.get("layer_norm_epsilon", 1e-6)
    if abs(epsilon - 1e-6) > 1e-12:
        raise ValueError(f"layer_norm_epsilon must be 1e-6 (T5's), found {epsilon}.")
    kind = hf.get("feed_forward_proj", "relu")
    return T5Config(
        vocab_size=hf["vocab_size"],
        emb_dim=hf["d_model"],
        num_heads=hf["num_heads"],
        num_encoder_layers=hf["num_layers"],
        num_decoder_layers=hf.get("num_decoder_layers") or hf["num_layers"],
        head_dim=hf["d_kv"],
        mlp_dim=hf["d_ff"],
        mlp_activations=_FEED_FORWARD.get(kind, (kind,)),
        dropout_rate=hf.get("dropout_rate", 0.1),
        dtype=dtype,
        logits_via_embedding=logits_via_embedding,
        relative_attention_num_buckets=hf.get("relative_attention_num_buckets", 32),
        relative_attention_max_distance=hf.get("relative_attention_max_distance", 128),
    )


def _head(hf: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Our logits kernel [embed, vocab], or None to use the scaled embedding (T5 v1.0).

    `scale_decoder_outputs` (transformers 5) says whether decoder states are scaled by
    d_model**-0.5 before the head. Where it is absent (transformers 4), exactly a tied head is.
    """
    shared, head = tensors["shared.weight"], tensors.get("lm_head.weight")
    tied = head is None or (hf.get("tie_word_embeddings", True) and np.array_equal(head, shared))
    scaled = hf.get("scale_decoder_outputs", tied)
    if tied and scaled:
        return None
    kernel = np.asarray(shared if head is None else head, np.float32).T
    return kernel * hf["d_model"] ** -0.5 if scaled else kernel


def _hf_names(activations: tuple[str, ...]) -> dict[str, str]:
    """Our names -> theirs; `{i}` is the layer. All matrices but embeddings are transposed."""
    names = {"token_embedder/embedding": "shared.weight"}
    wi = ["wi"] if len(activations) == 1 else [f"wi_{i}" for i in range(len(activations))]
    attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
    blocks = {
        "encoder": [("attention", "pre_attention_layer_norm", "SelfAttention")],
        "decoder": [
            ("self_attention", "pre_self_attention_layer_norm", "SelfAttention"),
            ("encoder_decoder_attention", "pre_cross_attention_layer_norm", "EncDecAttention"),
        ],
    }
    for stack, attentions in blocks.items():
        ours, theirs = f"{stack}/layers", f"{stack}.block.{{i}}.layer"
        for position, (module, norm, hf_module) in enumerate(attentions):
            names[f"{ours}/{norm}/scale"] = f"{theirs}.{position}.layer_norm.weight"
            for kernel, letter in attention.items():
                hf_name = f"{theirs}.{position}.{hf_module}.{letter}.weight"
                names[f"{ours}/{module}/{kernel}/kernel"] = hf_name
        mlp = f"{theirs}.{len(attentions)}"
        names[f"{ours}/pre_mlp_layer_norm/scale"] = f"{mlp}.layer_norm.weight"
        for kernel in (*wi, "wo"):
            names[f"{ours}/mlp/{kernel}/kernel"] = f"{mlp}.DenseReluDense.{kernel}.weight"
        names[f"{stack}/relpos_bias/rel_embedding"] = (
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        )
        names[f"{stack}/{stack}_norm/scale"] = f"{stack}.final_layer_norm.weight"
    return names


def _convert(
    tensors: Mapping[str, np.ndarray], name: str, hf_name: str, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, list[str], list[str]]:
    """One of our arrays, the tensors it used, and problems."""
    stacked = "/layers/" in name
    expected = shape[1:] if stacked else shape
    parts, used, problems = [], [], []
    for i in range(shape[0] if stacked else 1):
        source = hf_name.format(i=i)
        used.append(source)
        if source not in tensors:
            problems.append(f"  missing: {source}")
            continue
        tensor = np.asarray(tensors[source], np.float32)
        part = tensor if name == "token_embedder/embedding" else tensor.T
        if part.shape != expected:
            problems.append(f"  wrong shape: {source} gives {part.shape}, expected {expected}")
        parts.append(part)
    if problems:
        return None, used, problems
    return (np.stack(parts) if stacked else parts[0]), used, []


def load_hf(folder: str | Path, *, dtype: str = "float32") -> tuple[T5Config, T5]:
    """Config and parameters (NumPy leaves, float32) of a Hugging Face T5 folder.

    Args:
      folder: with config.json and model.safetensors (or its shards and index).
      dtype: `T5Config.dtype` of the result.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: for an unsupported configuration, or listing missing and unexpected tensors and
        wrong shapes.
    """
    hf, tensors = read_hf_config(folder), _read_tensors(Path(folder))
    if "shared.weight" not in tensors:
        raise ValueError(f"{folder} has no tensor shared.weight: not a T5 model.")
    head = _head(hf, tensors)
    config = _convert_config(hf, head is None, dtype)
    abstract = jax.eval_shape(lambda: T5(config, jax.random.key(0)))
    names = _hf_names(config.mlp_activations)
    values, problems, used = [], [], {"shared.weight", "lm_head.weight", *_COPIES}
    for name, leaf in named_leaves(abstract).items():
        if name == "decoder/logits_dense/kernel":
            assert head is not None
            values.append(np.ascontiguousarray(head))
            continue
        value, sources, wrong = _convert(tensors, name, names[name], leaf.shape)
        values.append(value)
        used.update(sources)
        problems += wrong
    problems += [f"  unexpected: {name}" for name in sorted(tensors.keys() - used)]
    problems += [
        f"  {copy} differs from shared.weight: separate embeddings are not supported"
        for copy in _COPIES
        if copy in tensors and not np.array_equal(tensors[copy], tensors["shared.weight"])
    ]
    if problems:
        raise ValueError(f"{folder} is not a T5 that we can read:\n" + "\n".join(problems))
    return config, jax.tree.unflatten(jax.tree.structure(abstract), values)
