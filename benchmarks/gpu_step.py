"""A training step of T5 on one GPU: ours with each attention, and transformers with PyTorch.

Run: python benchmarks/gpu_step.py [--size large] [--batch 32] [--lengths 512 128] [--repeats 5]
     [--json FILE]

Contenders run one after another, each in a process of its own, in turns (`--repeats` of them), on
the same batch without padding: parameters in float32, activations in bfloat16 (autocast in
PyTorch), Adafactor with the same settings, dropout off, weights random. Medians of seconds a step
are printed, the ratio to the first contender of each turn, and the peak memory of the device. A
first check compares attention by cuDNN with the plain one, values and gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Layers of each stack, width, heads, MLP width: T5 v1.1.
SIZES = {
    "small": (8, 512, 6, 1024),
    "base": (12, 768, 12, 2048),
    "large": (24, 1024, 16, 2816),
    "xl": (24, 2048, 32, 5120),
}
CONTENDERS = ("ours-cudnn", "ours-plain", "hf-sdpa", "hf-eager")
LEARNING_RATE = 1e-3
STEPS = 10


def batch_of(args: argparse.Namespace) -> tuple[Any, Any]:
    """Token ids of inputs and of targets."""
    import numpy as np

    rng = np.random.default_rng(0)
    return tuple(
        rng.integers(2, 32000, (args.batch, length)).astype(np.int32) for length in args.lengths
    )


def time_ours(args: argparse.Namespace, attention: str) -> dict[str, Any]:
    """Seconds a step, losses and peak memory of our step."""
    import jax
    import numpy as np
    from jax import numpy as jnp

    from flan_jax.models.encoder_decoder import EncoderDecoderModel
    from flan_jax.models.t5 import T5Config
    from flan_jax.sharding import PjitPartitioner, logical_axes
    from flan_jax.train.optimizer import Adafactor
    from flan_jax.train.state import TrainState
    from flan_jax.train.step import Trainer, make_train_step

    layers, width, heads, mlp = SIZES[args.size]
    config = T5Config(
        vocab_size=32128,
        emb_dim=width,
        num_heads=heads,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        mlp_dim=mlp,
        dropout_rate=0.0,
        attention=attention,
        remat_policy=args.remat_policy,
    )
    definition = Adafactor(learning_rate=LEARNING_RATE)
    model = EncoderDecoderModel(
        config,
        optimizer_def=definition,
        z_loss=0.0,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    )
    inputs, targets = batch_of(args)
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_task_ids": np.zeros_like(targets),
    }
    partitioner = PjitPartitioner(data=1)
    with partitioner.use(partitioner.make_mesh(jax.devices()[:1])) as mesh:
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        shardings = partitioner.shardings(logical_axes(shapes), mesh, shapes)
        params = jax.jit(model.init, out_shardings=shardings)(jax.random.key(0))
        batch = jax.device_put(batch, partitioner.batch_sharding(mesh))
        optimizer = definition.create(None, logical_axes(params))
        state = TrainState(jnp.zeros((), jnp.int32), params, jax.jit(optimizer.init)(params))
        step = make_train_step(model, optimizer, Trainer(), jax.random.key(0), num_tasks=1)
        begun = time.perf_counter()
        step = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        compile_s = time.perf_counter() - begun
        losses = []

        def run(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state, metrics = step(state, batch)
                losses.append(metrics["loss"])
            jax.block_until_ready(state)

        run(3)
        begun = time.perf_counter()
        run(STEPS)
        seconds = (time.perf_counter() - begun) / STEPS
    stats = jax.devices()[0].memory_stats() or {}
    analysis: Any = step.memory_analysis()
    used = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    return {
        "seconds": seconds,
        "peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "planned_gib": used / 2**30,
        "compile_s": compile_s,
        "losses": [float(losses[0]), float(losses[-1])],
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
    }


def time_hf(args: argparse.Namespace, attention: str) -> dict[str, Any]:
    """Seconds a step, losses and peak memory of transformers."""
    import torch
    import transformers
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.optimization import Adafactor

    layers, width, heads, mlp = SIZES[args.size]
    config: Any = T5Config(  # pyright: ignore[reportCallIssue]
        vocab_size=32128,
        d_model=width,
        d_kv=64,
        d_ff=mlp,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        use_cache=False,
    )
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    begun = time.perf_counter()
    model: Any = T5ForConditionalGeneration(config)
    model.set_attn_implementation(attention)
    model = model.cuda().train()
    optimizer = Adafactor(
        model.parameters(), lr=LEARNING_RATE, relative_step=False, warmup_init=False
    )
    inputs, labels = (torch.from_numpy(x).long().cuda() for x in batch_of(args))
    mask = torch.ones_like(inputs)
    losses = []

    def run(count: int) -> None:
        for _ in range(count):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        torch.cuda.synchronize()

    run(3)
    compile_s = time.perf_counter() - begun
    begun = time.perf_counter()
    run(STEPS)
    seconds = (time.perf_counter() - begun) / STEPS
    return {
        "seconds": seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "compile_s": compile_s,
        "losses": [float(losses[0]), float(losses[-1])],
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def check_attention() -> dict[str, float]:
    """Largest differences, relative to the largest value, between cuDNN's attention and ours.

    In bfloat16, of packed rows with a bias, a causal and a multi-query case among them.
    """
    import jax
    import numpy as np
    from jax import numpy as jnp

    from flan_jax.models.dot_product import Visibility, dot_product_attention

    found = {}
    rng = np.random.default_rng(0)
    for name, heads, key_heads, causal, biased in (
        ("t5-encoder", 8, 8, False, True),
        ("t5-decoder", 8, 8, True, True),
        ("palm", 8, 1, True, False),
    ):
        batch, length, kv = 2, 512, 64
        segments = jnp.asarray(np.repeat([[1] * 200 + [2] * 250 + [0] * 62], batch, axis=0))
        seen = Visibility(segments, segments, causal=causal)
        shapes = [(batch, length, heads, kv), *[(batch, length, key_heads, kv)] * 2]
        draws = [jnp.asarray(rng.standard_normal(s) * kv**-0.25, jnp.bfloat16) for s in shapes]
        bias = jnp.asarray(rng.standard_normal((heads, length, length)), jnp.bfloat16)
        weights = jnp.where(segments[..., None, None] > 0, rng.standard_normal(shapes[0]), 0.0)

        def loss(operands: Any, implementation: str, seen: Any = seen, weights: Any = weights):
            mixed = dot_product_attention(
                *operands[:3], seen, operands[3], None, implementation=implementation
            )
            return jnp.sum(mixed.astype(jnp.float32) * weights)

        operands = (*draws, bias if biased else None)
        grads = {
            kind: jax.jit(jax.value_and_grad(loss), static_argnums=1)(operands, kind)
            for kind in ("plain", "cudnn")
        }
        pairs = zip(*(jax.tree.leaves(grads[kind]) for kind in ("plain", "cudnn")), strict=True)
        found[name] = max(
            float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(a)))
            for a, b in pairs
        )
    return found


def _child(args: argparse.Namespace) -> None:
    if args.contender == "check":
        answer: dict[str, Any] = check_attention()
    else:
        kind, attention = args.contender.split("-")
        answer = (time_ours if kind == "ours" else time_hf)(args, attention)
    print("ANSWER " + json.dumps(answer), flush=True)


def _ask(contender: str) -> dict[str, Any]:
    """What a child process answers; {"error": ...} if it fails."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contender", contender]
    # PyTorch and JAX each want the whole card: they never run at once.
    env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("ANSWER "):
            return json.loads(line.removeprefix("ANSWER "))
    return {"error": (done.stdout + done.stderr)[-1500:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lengths", type=int, nargs=2, default=(512, 128))
    parser.add_argument("--remat_policy", default="none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        _child(args)
        return
    report: dict[str, Any] = {"attention": _ask("check"), "turns": []}
    print("cuDNN's attention against ours:", report["attention"], flush=True)
    contenders = list(args.contenders)
    for _ in range(args.repeats):
        turn = {name: _ask(name) for name in contenders}
        report["turns"].append(turn)
        for name, answer in turn.items():
            print(name, answer, flush=True)
        contenders = [name for name in contenders if "error" not in turn[name]]
    first = contenders[0]
    for name in contenders:
        seconds = [turn[name]["seconds"] for turn in report["turns"]]
        ratio = statistics.median(
            turn[name]["seconds"] / turn[first]["seconds"] for turn in report["turns"]
        )
        print(f"{name}: {statistics.median(seconds):.4f} s a step, {ratio:.3f} times {first}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
