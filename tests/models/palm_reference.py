"""PaLM's forward pass in NumPy, float64, one row and one position at a time, from the paper.

Chowdhery et al. 2022 (arXiv:2204.02311), section 2, and the papers that it names: SwiGLU (Shazeer
2020), multi-query attention (Shazeer 2019), RoPE (Su et al. 2021), prefix language models (Raffel
et al. 2019, section 3.2.1). Nothing here is shared with the model.
"""

from __future__ import annotations

import numpy as np

ACTIVATIONS = {
    "swish": lambda x: x / (1.0 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))),
    "linear": lambda x: x,
}


def normalised(x, scale, kind, epsilon):
    centre = x.mean() if kind == "layer" else 0.0
    return (x - centre) / np.sqrt(((x - centre) ** 2).mean() + epsilon) * scale


def turned(x, position, max_timescale):
    """Each pair as a complex number, times exp(i * position * theta)."""
    pairs = x[0::2] + 1j * x[1::2]
    theta = max_timescale ** (-np.arange(len(pairs)) * 2.0 / len(x))
    pairs = pairs * np.exp(1j * position * theta)
    return np.stack([pairs.real, pairs.imag], axis=1).reshape(-1)


def visible(row, query, key):
    """Whether the position `query` of a row may look at `key`."""
    real = row["decoder_target_tokens"] != 0
    segments = row.get("decoder_segment_ids", real.astype(int))
    if not real[query] or not real[key] or segments[query] != segments[key]:
        return False
    prefix = row.get("decoder_causal_attention", np.zeros(len(real)))
    return key <= query or bool(prefix[query] and prefix[key])


def attention(layer, states, row, positions, heads, max_timescale):
    keys = [
        turned(y @ layer["key"], p, max_timescale) for y, p in zip(states, positions, strict=True)
    ]
    values = [y @ layer["value"] for y in states]
    size = len(values[0])
    added = np.zeros_like(states)
    for q, y in enumerate(states):
        seen = [k for k in range(len(states)) if visible(row, q, k)]
        if not seen:  # padding: nobody reads what is here
            continue
        mixed = []
        for head in range(heads):
            query = (y @ layer["query"])[head * size : (head + 1) * size]
            query = turned(query, positions[q], max_timescale)
            weights = np.array([np.exp(query @ keys[k] / np.sqrt(size)) for k in seen])
            weights /= weights.sum()
            mixed.append(sum(w * values[k] for w, k in zip(weights, seen, strict=True)))
        added[q] = np.concatenate(mixed) @ layer["out"]
    return added


def feed_forward(layer, y, activations):
    hidden = np.ones(layer["wo"].shape[0])
    for i, name in enumerate(activations):
        hidden = hidden * ACTIVATIONS[name](y @ layer["wi" if len(activations) == 1 else f"wi_{i}"])
    return hidden @ layer["wo"]


def logits_of_row(parameters, config, row):
    """Logits [length, vocab] of one row, from parameters by name (any float dtype)."""
    p = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    length = len(row["decoder_target_tokens"])
    positions = row.get("decoder_positions", np.arange(length))
    x = np.stack([p["token_embedder/embedding"][token] for token in row["decoder_input_tokens"]])
    for i in range(config.num_layers):
        layer = {
            name.split("/")[-2]: value[i]
            for name, value in p.items()
            if name.startswith("decoder/layers/")
        }
        states = np.stack(
            [normalised(v, layer["layer_norm"], config.norm, config.norm_epsilon) for v in x]
        )
        attended = attention(layer, states, row, positions, config.num_heads, config.max_timescale)
        fed = np.stack([feed_forward(layer, y, config.mlp_activations) for y in states])
        x = x + fed + attended
    scale = p["decoder/decoder_norm/scale"]
    x = np.stack([normalised(v, scale, config.norm, config.norm_epsilon) for v in x])
    if config.logits_via_embedding:
        return x @ p["token_embedder/embedding"].T / np.sqrt(config.emb_dim)
    return x @ p["decoder/logits_dense/kernel"]
