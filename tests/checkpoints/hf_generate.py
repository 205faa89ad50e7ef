"""Run by tests in a process of its own: what transformers makes of model folders.

    python tests/checkpoints/hf_generate.py jobs.json

A job is a map: `folder`; `inputs`, an .npz with input_ids [batch, length] (0 is padding for an
encoder-decoder) and, for such a model, decoder_input_ids; `output`, the .npz to write: logits,
`greedy` (new tokens only, of `max_new_tokens` at most, padded with 0); `texts` to be tokenised,
whose ids go to `<output>.json`; `save_as`, a folder to save the loaded model in again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import transformers


def load(folder: str) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def run(job: dict[str, Any]) -> None:
    model = load(job["folder"])
    with np.load(job["inputs"]) as file:
        arrays = {name: torch.from_numpy(file[name]).long() for name in file.files}
    prompt = 0 if model.config.is_encoder_decoder else arrays["input_ids"].shape[1]
    # A decoder's 0 is the token that begins every sequence, and its prompts are of one length.
    arrays["attention_mask"] = (arrays["input_ids"] != (-1 if prompt else 0)).long()
    with torch.no_grad():
        logits = model(**arrays).logits.numpy()
        tokens = model.generate(
            input_ids=arrays["input_ids"],
            attention_mask=arrays["attention_mask"],
            max_new_tokens=job["max_new_tokens"],
            do_sample=False,
            num_beams=1,
        ).numpy()
    tokens = tokens[:, prompt or 1 :]
    greedy = np.zeros((tokens.shape[0], job["max_new_tokens"]), np.int32)
    greedy[:, : tokens.shape[1]] = tokens
    np.savez(job["output"], logits=logits, greedy=greedy)
    if "save_as" in job:
        model.save_pretrained(job["save_as"], max_shard_size=job.get("max_shard_size", "5GB"))
    if "texts" in job:
        tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
        ids = [tokenizer(text).input_ids for text in job["texts"]]
        with open(job["output"] + ".json", "w", encoding="utf-8") as file:
            json.dump({"class": type(tokenizer).__name__, "ids": ids}, file)


def main() -> None:
    torch.set_num_threads(1)
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        run(job)
    print(transformers.__version__)


if __name__ == "__main__":
    main()
