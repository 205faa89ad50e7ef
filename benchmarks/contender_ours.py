"""flan_jax as a contender; see contender.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import LEARNING_RATE, Answer, Problem, contender_arguments, serve  # noqa: E402
from flan_jax.cpu_start import prepare_to_train  # noqa: E402


def make_decode(problem: Problem, folder: Path) -> Any:
    import jax
    import numpy as np

    from flan_jax.checkpoints.hf import load_hf
    from flan_jax.decoding import generate

    model = jax.device_put(load_hf(folder)[1])
    inputs = jax.device_put(problem.inputs)

    def decode(_: int) -> Answer:
        ids = generate(model, inputs, max_decode_len=problem.targets_length, eos_id=-1)
        return {"tokens": ids.size, "ids": np.asarray(ids).tolist()}

    return decode


def make_train(problem: Problem, folder: Path) -> Any:
    import jax
    import numpy as np

    from flan_jax.checkpoints.hf import load_hf
    from flan_jax.models.encoder_decoder import EncoderDecoderModel
    from flan_jax.models.t5 import T5Config
    from flan_jax.sharding import logical_axes
    from flan_jax.train.optimizer import Adafactor
    from flan_jax.train.state import TrainState
    from flan_jax.train.step import Trainer, make_train_step

    config, params = load_hf(folder)
    assert isinstance(config, T5Config)
    definition = Adafactor(learning_rate=LEARNING_RATE)
    model = EncoderDecoderModel(
        config,
        optimizer_def=definition,
        z_loss=0.0,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    )
    optimizer = definition.create(None, logical_axes(params))
    step = make_train_step(model, optimizer, Trainer(), jax.random.key(0), num_tasks=1)
    step = jax.jit(step, donate_argnums=0)
    params = jax.device_put(params)
    slots = jax.jit(optimizer.init)(params)
    state = TrainState(jax.numpy.zeros((), jax.numpy.int32), params, slots)
    targets = problem.targets
    batch = jax.device_put(
        {
            "encoder_input_tokens": problem.inputs,
            "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": targets,
            "decoder_task_ids": np.zeros_like(targets),
        }
    )

    initial: list[float] = []

    def train(steps: int) -> Answer:
        nonlocal state
        losses = []
        for _ in range(steps):
            state, metrics = step(state, batch)
            losses.append(metrics["loss"])
        losses = [float(loss) for loss in losses]
        jax.block_until_ready(state)
        initial.extend(losses[: 1 - len(initial)])
        return {"steps": steps, "losses": losses, "initial_loss": initial[0]}

    return train


def main() -> None:
    args = contender_arguments()
    if "train" in args.commands:  # as `flan-jax train` does
        prepare_to_train()
    problem = Problem.read(args.folder)
    make = {"decode": make_decode, "train": make_train}
    serve({name: make[name](problem, args.folder) for name in args.commands})


if __name__ == "__main__":
    main()
