"""Benchmark items answered in a second: our evaluation job, and transformers with PyTorch.

Run: FLAN_JAX_DATA=… python benchmarks/eval_throughput.py [--threads 1] [--repeats 3] [--json FILE]
     [--quick]

Both answer the same items with the same weights, a random T5 of contender.py's dimensions:
MMLU 5-shot (greedy, 2 tokens, prompts up to 1,024 tokens) and MGSM with reasoning and
self-consistency (8 samples, temperature 0.7, top-k 40, 64 tokens each). The prompts are the
benchmarks' own, from the data folder, in T5's vocabulary. Ours is the whole job, with the store on
disk, scores and result files; theirs is `generate` on batches sorted by length. They take turns on
the same CPUs; the ratio of each turn's pair is the figure, for on a shared machine only ratios mean
something. `agree` is the share of items with the same greedy text.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.contender import Answer, Contender, Problem, ratios  # noqa: E402

COMMANDS = ("mmlu", "mgsm")
VOCABULARY = "t5_vocab/spiece.model"
TINY = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "num_layers": 1}


def settings(quick: bool) -> dict[str, dict[str, Any]]:
    """By command: the protocol, and how it is run."""
    subjects = ("abstract_algebra", "astronomy", "marketing", "world_religions")
    languages = ("de", "es", "fr", "sw")
    return {
        "mmlu": {
            "protocol": {
                "benchmark": "mmlu_direct",
                "subtasks": subjects[: 1 if quick else None],
                "num_examples": 2 if quick else 4,
                "max_decode_len": 2,
                "paths": 1,
            },
            "inputs_length": 256 if quick else 1024,
            "batch_size": 2 if quick else 8,
        },
        "mgsm": {
            "protocol": {
                "benchmark": "mgsm_cot",
                "subtasks": languages[: 1 if quick else None],
                "num_examples": 2 if quick else 1,
                "max_decode_len": 4 if quick else 64,
                "paths": 2 if quick else 8,
                "temperature": 0.7,
                "topk": 40,
            },
            "inputs_length": 256 if quick else 1024,
            "batch_size": 4 if quick else 32,
        },
    }


def ask(quick: bool) -> dict[str, dict[str, Any]]:
    """`settings` with the items: id and token ids of each."""
    from flan_jax.data.vocabulary import SentencePieceVocabulary
    from flan_jax.evaluation.benchmark_requests import plan_benchmark
    from flan_jax.evaluation.benchmarks import BenchmarkProtocol

    vocabulary = SentencePieceVocabulary(VOCABULARY, 100)
    asked = settings(quick)
    for each in asked.values():
        requests = plan_benchmark(
            BenchmarkProtocol(**each["protocol"]), vocabulary, each["inputs_length"]
        )
        each["vocabulary"] = vocabulary.sentencepiece_model_file
        each["items"] = [{"id": r.id, "tokens": list(r.tokens)} for r in requests]
    return asked


def figures(command: str, answers: dict[str, list[Answer]]) -> dict[str, Any]:
    """Items per second of wall and of CPU time, and ours over theirs."""
    found: dict[str, Any] = {}
    for clock in ("wall_s", "cpu_s"):
        kind = clock.removesuffix("_s")
        rates = {name: [a["items"] / a[clock] for a in each] for name, each in answers.items()}
        found |= {
            f"{command}_{name}_items_per_{kind}_s": statistics.median(rates[name]) for name in rates
        }
        found |= {f"{command}_{name}": value for name, value in ratios(rates, kind).items()}
    if command == "mmlu" and "hf" in answers:
        pairs = zip(answers["ours"][0]["texts"], answers["hf"][0]["texts"], strict=True)
        found["mmlu_agree"] = statistics.mean(ours == theirs for ours, theirs in pairs)
    return found


def compare(folder: Path, names: Sequence[str], threads: int, repeats: int) -> dict[str, Any]:
    """Figures of all commands; contenders take turns."""
    program = [sys.executable, str(ROOT / "benchmarks" / "eval_contender.py"), "--who"]
    running: list[Contender] = []
    found: dict[str, Any] = {}
    try:
        for name in names:
            command = [*program, name]
            running.append(Contender(name, command, folder, threads, list(COMMANDS)))
        for command in COMMANDS:
            answers: dict[str, list[Answer]] = {name: [] for name in names}
            for _ in range(repeats):
                for contender in running:
                    answers[contender.name].append(contender.ask(command))
            found |= figures(command, answers)
    finally:
        for contender in running:
            contender.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPUs that each may use")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run at all?")
    args = parser.parse_args()
    names = ["ours", *(["hf"] if importlib.util.find_spec("transformers") else [])]
    with tempfile.TemporaryDirectory() as name:
        folder, asked = Path(name), ask(args.quick)
        Problem(**(TINY if args.quick else {})).write(folder)
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        found = compare(folder, names, args.threads, args.repeats)
    lengths = {c: [len(item["tokens"]) for item in asked[c]["items"]] for c in COMMANDS}
    about = {f"{c}_items": len(lengths[c]) for c in COMMANDS}
    about |= {f"{c}_median_prompt_tokens": statistics.median(lengths[c]) for c in COMMANDS}
    found = {"threads": args.threads, "repeats": args.repeats, **about, **found}
    for key, value in found.items():
        print(f"{key:36} {value:.3f}" if isinstance(value, float) else f"{key:36} {value}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
