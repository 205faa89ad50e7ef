"""T5X's minimal T5 (`t5x.examples.t5.network`) as a contender, where T5X is installed.

See contender.py. Model, optimizer, step and decoding are T5X's own, called as its trainer calls
them, with the options its gin files set: one-hot embedding look-ups and parameters that are not
stacked. Nothing of this repository but the protocol is imported. Greedy decoding is its
temperature sampling with topk=1, not the one-beam search that its scripts run.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import LEARNING_RATE, Answer, Problem, contender_arguments, serve  # noqa: E402

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
_NORMS = {
    "encoder": ("pre_attention_layer_norm", "pre_mlp_layer_norm"),
    "decoder": (
        "pre_self_attention_layer_norm",
        "pre_cross_attention_layer_norm",
        "pre_mlp_layer_norm",
    ),
}


def their_name(name: str) -> tuple[str, ...]:
    """The path of T5X's parameter for Hugging Face's name of a tensor."""
    stack, *rest = name.removesuffix(".weight").split(".")
    if stack == "shared":
        return ("token_embedder", "embedding")
    if stack == "lm_head":
        return ("decoder", "logits_dense", "kernel")
    if rest == ["final_layer_norm"]:
        return (stack, f"{stack}_norm", "scale")
    _, layer, _, place, block, *part = rest
    if part == ["relative_attention_bias"]:
        return (stack, "relpos_bias", "rel_embedding")
    layer = f"layers_{layer}"
    if block == "layer_norm":
        return (stack, layer, _NORMS[stack][int(place)], "scale")
    if block == "DenseReluDense":
        return (stack, layer, "mlp", part[0], "kernel")
    kind = "attention" if stack == "encoder" else "self_attention"
    kind = "encoder_decoder_attention" if block == "EncDecAttention" else kind
    return (stack, layer, kind, _ATTENTION[part[0]], "kernel")


def load(folder: Path) -> dict[str, Any]:
    """The tree of T5X's parameters from Hugging Face's file."""
    import jax
    import numpy as np
    from safetensors.numpy import load_file

    tree: dict[str, Any] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        *path, leaf = their_name(name)
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        # Kernels and the table of biases are the other way round; embeddings are not.
        transposed = leaf in ("kernel", "rel_embedding")
        place[leaf] = jax.device_put(np.ascontiguousarray(tensor.T) if transposed else tensor)
    return tree


def make_model(problem: Problem, **options: Any) -> Any:
    import seqio
    from t5x import adafactor, models
    from t5x.examples.t5 import network

    config = network.T5Config(
        vocab_size=problem.vocab_size,
        dtype="float32",
        emb_dim=problem.d_model,
        num_heads=problem.num_heads,
        num_encoder_layers=problem.num_layers,
        num_decoder_layers=problem.num_layers,
        head_dim=problem.d_kv,
        mlp_dim=problem.d_ff,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
    )
    vocabulary = seqio.PassThroughVocabulary(problem.vocab_size)
    optimizer = adafactor.Adafactor(
        decay_rate=0.8,
        step_offset=0,
        logical_factor_rules=adafactor.standard_logical_factor_rules(),
    )
    return models.EncoderDecoderModel(
        module=network.Transformer(config=config),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=optimizer,
        **options,
    )


def make_decode(problem: Problem, folder: Path) -> Any:
    import jax
    import numpy as np
    from t5x import decoding

    greedy = functools.partial(decoding.temperature_sample, topk=1)
    model = make_model(problem, decode_fn=greedy)
    params = load(folder)
    batch = jax.device_put(
        {
            "encoder_input_tokens": problem.inputs,
            "decoder_input_tokens": np.zeros_like(problem.targets),
        }
    )

    @jax.jit
    def predict(params: Any, batch: Any) -> Any:
        options = {"eos_id": -1}  # without EOS all rows have the full length
        rng = jax.random.PRNGKey(0)
        return model.predict_batch_with_aux(params, batch, rng, decoder_params=options)[0]

    def decode(_: int) -> Answer:
        ids = np.asarray(predict(params, batch))
        return {"tokens": ids.size, "ids": ids.tolist()}

    return decode


def make_train(problem: Problem, folder: Path) -> Any:
    import flax
    import jax
    import numpy as np
    from t5x import train_state, trainer

    model = make_model(problem, z_loss=0.0, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    targets = problem.targets
    batch = {
        "encoder_input_tokens": problem.inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }
    shapes = {name: rows.shape for name, rows in batch.items()}
    # Their axes come with the variables; the shapes suffice, as the weights are read from the file.
    axes: dict[str, Any] = {}

    def variables() -> Any:
        found = flax.core.unfreeze(model.get_initial_variables(jax.random.PRNGKey(0), shapes))
        axes.update(found.pop("params_axes"))
        return found

    expected = jax.eval_shape(variables)["params"]
    params = load(folder)
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
        raise RuntimeError("the weights are not those of this T5X model")
    frozen = flax.core.freeze({"params": params, "params_axes": axes})
    state = train_state.FlaxOptimTrainState.create(model.optimizer_def, frozen)

    def one_step(state: Any, batch: Any) -> Any:
        rate, rng = jax.numpy.float32(LEARNING_RATE), jax.random.PRNGKey(0)
        return trainer.train_with_lr(state, batch, rate, rng, model, num_microbatches=None)

    step = jax.jit(one_step, donate_argnums=0)
    batch = jax.device_put(batch)
    initial: list[float] = []

    def train(steps: int) -> Answer:
        nonlocal state
        losses = []
        for _ in range(steps):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"].compute())
        losses = [float(loss) for loss in losses]
        jax.block_until_ready(state)
        initial.extend(losses[: 1 - len(initial)])
        return {"steps": steps, "losses": losses, "initial_loss": initial[0]}

    return train


def main() -> None:
    args = contender_arguments()
    try:
        import t5x  # noqa: F401
        from absl import logging
    except ImportError as error:
        message = f"T5X (github.com/google-research/t5x) cannot be imported: {error}"
        raise SystemExit(message) from None
    logging.set_verbosity(logging.ERROR)  # it warns of every parameter
    problem = Problem.read(args.folder)
    make = {"decode": make_decode, "train": make_train}
    serve({name: make[name](problem, args.folder) for name in args.commands})


if __name__ == "__main__":
    main()
