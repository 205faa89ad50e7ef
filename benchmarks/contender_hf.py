"""Hugging Face's transformers with PyTorch as a contender; see contender.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import LEARNING_RATE, Answer, Problem, contender_arguments, serve  # noqa: E402


def load(folder: Path) -> Any:
    """The model with its own output head: transformers 5 ties it to the embedding, and scales."""
    import torch
    from safetensors.torch import load_file
    from transformers import T5ForConditionalGeneration

    model: Any = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    head = load_file(folder / "model.safetensors")["lm_head.weight"]
    model.lm_head.weight = torch.nn.Parameter(head.clone())
    model.config.tie_word_embeddings = model.config.scale_decoder_outputs = False
    return model


def make_decode(problem: Problem, folder: Path) -> Any:
    import torch

    model = load(folder).eval()
    inputs = torch.from_numpy(problem.inputs).long()
    # Without EOS all rows have the full length.
    options: dict[str, Any] = {"max_new_tokens": problem.targets_length, "eos_token_id": None}
    model.generation_config.eos_token_id = None

    def decode(_: int) -> Answer:
        with torch.inference_mode():
            ids = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, num_beams=1,
                **options,
            )[:, 1:]  # fmt: skip
        return {"tokens": ids.numel(), "ids": ids.tolist()}

    return decode


def make_train(problem: Problem, folder: Path) -> Any:
    import torch
    from transformers.optimization import Adafactor

    model = load(folder).train()
    optimizer = Adafactor(
        model.parameters(), lr=LEARNING_RATE, relative_step=False, warmup_init=False
    )
    inputs, labels = (torch.from_numpy(x).long() for x in (problem.inputs, problem.targets))
    mask = torch.ones_like(inputs)

    initial: list[float] = []

    def train(steps: int) -> Answer:
        losses = []
        for _ in range(steps):
            loss = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        initial.extend(losses[: 1 - len(initial)])
        return {"steps": steps, "losses": losses, "initial_loss": initial[0]}

    return train


def main() -> None:
    args = contender_arguments()
    import torch

    torch.set_num_threads(args.threads)
    problem = Problem.read(args.folder)
    make = {"decode": make_decode, "train": make_train}
    serve({name: make[name](problem, args.folder) for name in args.commands})


if __name__ == "__main__":
    main()
