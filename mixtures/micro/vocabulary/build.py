"""Trains the micro collection's vocabulary on its own text; the same text gives the same file.

python -m flan_jax.mixtures.micro.vocabulary.build --out mixtures/micro/vocabulary/micro.model
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

import flan_jax.mixtures.micro  # noqa: F401 (registers the tasks)
from flan_jax.mixing import get_mixture
from flan_jax.prompts.render import render
from flan_jax.tasks import get_task

SIZE = 2048 - 100  # with T5's 100 sentinels the model's table has 2,048 rows


def sentences(per_variant: int) -> Iterator[str]:
    """Inputs and targets of rows that training may see, held-out tasks left out."""
    for task in get_mixture("micro").tasks():
        for variant in task.variants():
            for index in range(per_variant):
                example = render(task, "train", index, seed=0, variant=variant)
                yield from example.inputs.split("\n")
                yield example.targets
    corpus = get_task("micro_corpus")
    for index in range(20 * per_variant):
        yield from corpus.fields("train", index)["text"].split("\n")


def build(per_variant: int) -> bytes:
    """The serialised model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(per_variant),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        character_coverage=1.0,
        # Digits one by one: numbers are few pieces in many combinations.
        split_digits=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Trains the vocabulary and writes it to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per_variant", type=int, default=100)
    args = parser.parse_args()
    args.out.write_bytes(build(args.per_variant))


if __name__ == "__main__":
    main()
