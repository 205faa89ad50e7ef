"""Run by tests in a process of its own: `generate` of transformers with several options.

    python tests/decoding/hf_searches.py MODEL FOLDER MAX_NEW_TOKENS SEARCHES

FOLDER has prompts.npy (int32 [batch, length], padded by 0); outputs.npz is written there: `ids_N`
[batch * num_beams, MAX_NEW_TOKENS], padded by 0, all beams of a prompt from the best to the worst,
and for beams `scores_N`. SEARCHES is a JSON list of options.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contender_hf import load


def search(model: Any, prompts: torch.Tensor, length: int, options: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model.generate(
            prompts,
            attention_mask=(prompts > 0).long(),
            max_new_tokens=length,
            do_sample=False,
            num_return_sequences=options["num_beams"],
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )


def main() -> None:
    folder, length = Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    model = load(Path(sys.argv[1])).eval()
    prompts = torch.from_numpy(np.load(folder / "prompts.npy")).long()
    outputs = {}
    for number, options in enumerate(json.loads(sys.argv[4])):
        found = search(model, prompts, length, options)
        ids = np.zeros((found.sequences.shape[0], length), np.int64)
        new = found.sequences[:, 1:].numpy()
        ids[:, : new.shape[1]] = new
        outputs[f"ids_{number}"] = ids
        if options["num_beams"] > 1:
            outputs[f"scores_{number}"] = found.sequences_scores.numpy()
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    main()
