"""Where our tensors lie among those of transformers' T5, UMT5 and (for PaLM) Cohere.

PaLM has no class of its own in transformers. `CohereForCausalLM` computes the same: attention and a
gated MLP in parallel from one LayerNorm without bias, rotations of interleaved pairs, tied
embeddings with scaled logits; one key and value head makes it PaLM. Two things to know there:

- Prompts begin with id 0, as the inputs of our decoder-only models do (they are the targets shifted
  by one). The tokenizer that we write beside such a model puts it there.
- A prompt sees only what is before it, so a model that was trained with bidirectional inputs
  (prefix LM) is computed otherwise than here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from flan_jax.checkpoints.hf.config import EMBEDDING, HEAD, Head
from flan_jax.checkpoints.tensors import CheckpointError, Layout, Part, TensorInfo
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config

# Written by old versions of transformers, and used by none: the T5 of 2020 saved a relative bias
# for cross-attention, Cohere the rotations' frequencies.
_IGNORED = (
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    ".rotary_emb.inv_freq",
)
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}


@dataclass(frozen=True)
class ScaledPart(Part):
    """A part whose values theirs are ours divided by `scale`; read as float32."""

    scale: float = 1.0

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        scaled = np.asarray(value, np.float32) * np.float32(self.scale)
        return super().to_ours(scaled)

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        return super().to_theirs(np.asarray(value, np.float32) / np.float32(self.scale))


def hf_layout(config: T5Config | PalmConfig, head: Head | None = None) -> Layout:
    """A part for each of our parameters, or each layer of it.

    Args:
      config: of the model, without LoRA.
      head: where a checkpoint has its head (`config_from_hf`); None for the files that we write,
        where a head that is not tied is `lm_head.weight`.

    Raises:
      CheckpointError: the configuration has LoRA factors.
    """
    if getattr(config, "lora", None) is not None:
        raise CheckpointError(
            "a model with LoRA factors has no Hugging Face layout: merge them into the kernels"
            " first."
        )
    if head is None:
        palm = isinstance(config, PalmConfig)
        head = Head(config.logits_via_embedding, EMBEDDING["cohere"] if palm else HEAD)
        head = head if head.tied else Head(False, HEAD)
    parts = _palm(config) if isinstance(config, PalmConfig) else _t5(config)
    layout = list(parts)
    if not head.tied:
        shape = (config.emb_dim, config.vocab_size)
        layout.append(
            ScaledPart(
                "params/decoder/logits_dense/kernel",
                shape,
                head.tensor,
                shape[::-1],
                transpose=True,
                scale=head.scale,
            )
            if head.scale != 1.0
            else _matrix("decoder/logits_dense/kernel", head.tensor, shape)
        )
    return layout


def _matrix(ours: str, theirs: str, shape: tuple[int, int], layer: int | None = None) -> Part:
    """A kernel: torch's Linear and Embedding have its axes the other way round."""
    return Part(f"params/{ours}", shape, theirs, shape[::-1], layer, transpose=True)


def _same(ours: str, theirs: str, shape: tuple[int, ...], layer: int | None = None) -> Part:
    return Part(f"params/{ours}", shape, theirs, shape, layer)


def _t5(config: T5Config) -> Iterator[Part]:
    embed = config.emb_dim
    yield _same("token_embedder/embedding", EMBEDDING["t5"], (config.vocab_size, embed))
    for stack, layers in (
        ("encoder", config.num_encoder_layers),
        ("decoder", config.num_decoder_layers),
    ):
        yield from _relative_bias(config, stack, layers)
        for layer in range(layers):
            yield from _t5_layer(config, stack, layer)
        yield _same(f"{stack}/{stack}_norm/scale", f"{stack}.final_layer_norm.weight", (embed,))


def _relative_bias(config: T5Config, stack: str, layers: int) -> Iterator[Part]:
    """The first layer's, which all share; or, in UMT5, one a layer."""
    shape = (config.num_heads, config.relative_attention_num_buckets)
    theirs = f"{stack}.block.{{}}.layer.0.SelfAttention.relative_attention_bias.weight"
    if config.relative_attention_per_layer:
        for layer in range(layers):
            ours = f"{stack}/layers/relpos_bias/rel_embedding"
            yield _matrix(ours, theirs.format(layer), shape, layer)
    else:
        yield _matrix(f"{stack}/relpos_bias/rel_embedding", theirs.format(0), shape)


def _t5_layer(config: T5Config, stack: str, layer: int) -> Iterator[Part]:
    ours, theirs = f"{stack}/layers", f"{stack}.block.{layer}.layer"
    embed, inner = config.emb_dim, config.num_heads * config.head_dim
    attentions = [("attention", "pre_attention_layer_norm", "SelfAttention")]
    if stack == "decoder":
        attentions = [
            ("self_attention", "pre_self_attention_layer_norm", "SelfAttention"),
            ("encoder_decoder_attention", "pre_cross_attention_layer_norm", "EncDecAttention"),
        ]
    for position, (module, norm, their_module) in enumerate(attentions):
        their_norm = f"{theirs}.{position}.layer_norm.weight"
        yield _same(f"{ours}/{norm}/scale", their_norm, (embed,), layer)
        for kernel, letter in _ATTENTION.items():
            shape = (inner, embed) if kernel == "out" else (embed, inner)
            their_kernel = f"{theirs}.{position}.{their_module}.{letter}.weight"
            yield _matrix(f"{ours}/{module}/{kernel}/kernel", their_kernel, shape, layer)
    mlp = f"{theirs}.{len(attentions)}"
    yield _same(f"{ours}/pre_mlp_layer_norm/scale", f"{mlp}.layer_norm.weight", (embed,), layer)
    count = len(config.mlp_activations)
    wi = ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]
    for kernel in (*wi, "wo"):
        shape = (config.mlp_dim, embed) if kernel == "wo" else (embed, config.mlp_dim)
        their_kernel = f"{mlp}.DenseReluDense.{kernel}.weight"
        yield _matrix(f"{ours}/mlp/{kernel}/kernel", their_kernel, shape, layer)


def _palm(config: PalmConfig) -> Iterator[Part]:
    embed, kv = config.emb_dim, config.head_dim
    inner = config.num_heads * kv
    kernels = {
        "attention/query": ("self_attn.q_proj", (embed, inner)),
        "attention/key": ("self_attn.k_proj", (embed, kv)),
        "attention/value": ("self_attn.v_proj", (embed, kv)),
        "attention/out": ("self_attn.o_proj", (inner, embed)),
        "mlp/wi_0": ("mlp.gate_proj", (embed, config.mlp_dim)),
        "mlp/wi_1": ("mlp.up_proj", (embed, config.mlp_dim)),
        "mlp/wo": ("mlp.down_proj", (config.mlp_dim, embed)),
    }
    yield _same("token_embedder/embedding", EMBEDDING["cohere"], (config.vocab_size, embed))
    for layer in range(config.num_layers):
        ours, theirs = "decoder/layers", f"model.layers.{layer}"
        their_norm = f"{theirs}.input_layernorm.weight"
        yield _same(f"{ours}/layer_norm/scale", their_norm, (embed,), layer)
        for name, (their_name, shape) in kernels.items():
            yield _matrix(f"{ours}/{name}/kernel", f"{theirs}.{their_name}.weight", shape, layer)
    yield _same("decoder/decoder_norm/scale", "model.norm.weight", (embed,))


def hf_infos(layout: Layout, dtype: np.dtype | str = "float32") -> dict[str, TensorInfo]:
    """Headers of the tensors that a layout writes."""
    return {part.theirs: TensorInfo(part.their_shape, np.dtype(dtype)) for part in layout}


def check_layout(layout: Layout, infos: Mapping[str, TensorInfo], path: str) -> list[str]:
    """Compares a checkpoint's tensors with what the layout wants.

    Returns:
      Names of tensors that are there and not needed: copies of the embedding, leftovers.

    Raises:
      CheckpointError: listing missing and unexpected tensors, wrong shapes and dtypes.
    """
    problems = []
    for part in layout:
        info = infos.get(part.theirs)
        if info is None:
            problems.append(f"  missing: {part.theirs} {part.their_shape}")
        elif info.shape != part.their_shape:
            problems.append(
                f"  wrong shape: {part.theirs} is {info.shape}, config.json makes it"
                f" {part.their_shape}"
            )
        elif info.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
            problems.append(f"  wrong dtype: {part.theirs} is {info.dtype}, expected floats")
    wanted = {part.theirs for part in layout}
    spare = sorted(infos.keys() - wanted)
    known = [name for name in spare if name in (*_COPIES, HEAD) or name.endswith(_IGNORED)]
    problems += [f"  unexpected: {name} {infos[name].shape}" for name in spare if name not in known]
    if problems:
        shown = problems if len(problems) <= 40 else [*problems[:40], "  …"]
        raise CheckpointError(
            f"{path} does not fit its config.json ({len(problems)} problems):\n" + "\n".join(shown)
        )
    return known
