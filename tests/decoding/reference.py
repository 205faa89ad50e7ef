"""Tiny models, and decoding without caches: the whole forward pass for each token, rows by rows."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flan_jax.models.palm import Palm, PalmConfig
from flan_jax.models.t5 import T5, T5Config
from flan_jax.sharding import named_leaves

VOCAB, LENGTH = 24, 8
T5_CONFIG = T5Config(
    vocab_size=VOCAB,
    emb_dim=32,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=48,
    dtype="float32",
)
PALM_CONFIG = PalmConfig(
    vocab_size=VOCAB,
    emb_dim=32,
    num_heads=2,
    num_layers=2,
    head_dim=8,
    mlp_dim=48,
    dtype="float32",
)
# Of a continuation's tokens so far, [rows, step], the logits of the next, [rows, vocab].
NextLogits = Callable[[np.ndarray], np.ndarray]


# By the end of their names, what random parameters are multiplied by, besides 1 / sqrt(inputs):
# attention is to matter, and a tied head not to repeat the token that was read.
_GAINS = {"query/kernel": 2.0, "key/kernel": 2.0, "out/kernel": 2.0, "embedding": 6.0}


@functools.cache
def make(config: T5Config | PalmConfig, seed: int = 4) -> T5 | Palm:
    """A random model whose continuations differ."""
    kind = T5 if isinstance(config, T5Config) else Palm
    shapes = jax.eval_shape(lambda: kind(config, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    leaves = []
    for name, leaf in named_leaves(shapes).items():
        if name.endswith("scale"):
            leaves.append(1.0 + 0.2 * rng.standard_normal(leaf.shape))
            continue
        gain = next((gain for end, gain in _GAINS.items() if name.endswith(end)), 1.0)
        gain /= np.sqrt(leaf.shape[-1 if name.endswith("embedding") else -2])
        leaves.append(gain * rng.standard_normal(leaf.shape))
    leaves = [jnp.asarray(leaf, jnp.float32) for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def prompts(lengths: list[int], seed: int = 0) -> np.ndarray:
    """Rows of random tokens, right-padded by 0."""
    tokens = np.random.default_rng(seed).integers(2, VOCAB, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = 0
    return tokens.astype(np.int32)


@jax.jit
def _forward(model: T5 | Palm, batch: dict[str, np.ndarray]) -> jax.Array:
    return model(batch)


def t5_next_logits(model: T5, inputs: np.ndarray) -> NextLogits:
    def next_logits(tokens: np.ndarray) -> np.ndarray:
        rows, step = tokens.shape
        read = np.zeros((rows, LENGTH), np.int32)
        read[:, 1 : step + 1] = tokens[:, : LENGTH - 1]
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": read,
            "decoder_target_tokens": np.ones_like(read),  # no padding mask while generating
        }
        return np.asarray(_forward(model, batch))[:, step]

    return next_logits


def palm_next_logits(model: Palm, inputs: np.ndarray, bidirectional: bool) -> NextLogits:
    """Rows as SeqIO's DecoderFeatureConverter lays them out."""
    lengths = (inputs > 0).sum(1)

    def next_logits(tokens: np.ndarray) -> np.ndarray:
        rows, step = tokens.shape
        shape = (rows, inputs.shape[1] + LENGTH)
        read, real, prefix = (np.zeros(shape, np.int32) for _ in range(3))
        for i, n in enumerate(lengths):
            read[i, 1 : n + step + 1] = [*inputs[i, :n], *tokens[i]]
            real[i, : n + step + 1] = 1
            prefix[i, : n + 1] = 1
        batch = {"decoder_input_tokens": read, "decoder_target_tokens": real}
        if bidirectional:
            batch["decoder_causal_attention"] = prefix
        logits = np.asarray(_forward(model, batch))
        return logits[np.arange(rows), lengths + step]

    return next_logits


def greedy(next_logits: NextLogits, rows: int, eos_id: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Int32 [rows, LENGTH]: argmax until EOS, then 0; and the sums of log-probabilities [rows]."""
    output, total = np.zeros((rows, LENGTH), np.int32), np.zeros(rows)
    ended = np.zeros(rows, bool)
    for step in range(LENGTH):
        logprobs = log_softmax(next_logits(output[:, :step]))
        output[:, step] = np.where(ended, 0, logprobs.argmax(-1))
        total += np.where(ended, 0.0, logprobs.max(-1))
        ended |= output[:, step] == eos_id
    return output, total


def frequent(ids: np.ndarray) -> int:
    """Any token may play the end of sequence; one that occurs at various places tests most."""
    return int(np.bincount(ids.ravel()).argmax())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
