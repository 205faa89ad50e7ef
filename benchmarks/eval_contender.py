"""Who answers benchmark items in eval_throughput.py: our job, or transformers' `generate`.

    python benchmarks/eval_contender.py --who ours FOLDER --threads 1 --for mmlu mgsm

Speaks the protocol of contender.py. FOLDER has the model (`Problem.write`) and `asked.json`: by
command, how the items are asked and their token ids.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import Answer, serve  # noqa: E402


def make_ours(folder: Path, asked: dict[str, Any]) -> Callable[[int], Answer]:
    """The whole job but for planning: batches, answers, the store on disk, scores, result files."""
    import jax

    from flan_jax.checkpoints.hf import load_hf
    from flan_jax.data.vocabulary import SentencePieceVocabulary
    from flan_jax.evaluation.benchmarks import BenchmarkProtocol
    from flan_jax.evaluation.generation import GenerationEvaluator
    from flan_jax.models.encoder_decoder import EncoderDecoderModel
    from flan_jax.sharding import PjitPartitioner

    config, params = load_hf(folder)
    vocabulary = SentencePieceVocabulary(asked["vocabulary"], 100)
    model = EncoderDecoderModel(config, vocabulary, vocabulary)  # pyright: ignore[reportArgumentType]
    evaluator = GenerationEvaluator(
        [BenchmarkProtocol(**asked["protocol"])], asked["inputs_length"], asked["batch_size"]
    )
    plans = evaluator.plan(vocabulary)
    assert [list(r.tokens) for r in plans[0].requests] == [
        item["tokens"] for item in asked["items"]
    ]
    partitioner = PjitPartitioner(num_partitions=1).for_decoding()
    mesh = partitioner.make_mesh(jax.devices()[:1])
    turns = itertools.count()
    output = tempfile.TemporaryDirectory()

    def answer(_: int) -> Answer:
        with partitioner.use(mesh):
            sharding = partitioner.batch_sharding(mesh, asked["batch_size"])
            # A folder of its own: what a turn finds in the store it would not answer again.
            where = Path(output.name) / str(next(turns))
            (found,) = evaluator.run(
                model, jax.device_put(params), sharding, "model", 0, where, plans=plans
            )
        settled = [found.settled[name] for name in _ids(asked)]
        texts = [[path.output for path in each.paths] or [each.output] for each in settled]
        return {"items": len(texts), "texts": texts}

    return answer


def make_hf(folder: Path, asked: dict[str, Any]) -> Callable[[int], Answer]:
    """Items sorted by length, `generate` on batches padded to their longest, ids back to text."""
    import torch

    from benchmarks.contender_hf import load
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    model = load(folder).eval()
    model.generation_config.eos_token_id = None
    vocabulary = SentencePieceVocabulary(asked["vocabulary"], 100)
    protocol = asked["protocol"]
    paths = protocol["paths"]
    options: dict[str, Any] = {"max_new_tokens": protocol["max_decode_len"], "eos_token_id": None}
    if paths > 1:
        options |= {"do_sample": True, "num_return_sequences": paths}
        options |= {"temperature": protocol["temperature"], "top_k": protocol["topk"]}
    else:
        options |= {"do_sample": False, "num_beams": 1}
    rows = max(1, asked["batch_size"] // paths)
    order = sorted(asked["items"], key=lambda item: -len(item["tokens"]))

    def answer(_: int) -> Answer:
        found: dict[str, list[str]] = {}
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            longest = len(batch[0]["tokens"])
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, item in zip(ids, batch, strict=True):
                row[: len(item["tokens"])] = torch.tensor(item["tokens"])
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=(ids > 0).long(), **options)[:, 1:]
            for i, item in enumerate(batch):
                several = out[i * paths : (i + 1) * paths].tolist()
                found[item["id"]] = [vocabulary.decode(each) for each in several]
        return {"items": len(found), "texts": [found[name] for name in _ids(asked)]}

    return answer


def _ids(asked: dict[str, Any]) -> list[str]:
    return [item["id"] for item in asked["items"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--who", choices=("ours", "hf"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--for", dest="commands", nargs="+")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    if args.who == "hf":
        import torch

        torch.set_num_threads(args.threads)
    asked = json.loads((args.folder / "asked.json").read_text(encoding="utf-8"))
    make = {"ours": make_ours, "hf": make_hf}[args.who]
    serve({name: make(args.folder, asked[name]) for name in args.commands})


if __name__ == "__main__":
    main()
