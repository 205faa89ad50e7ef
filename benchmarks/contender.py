"""Implementations of one T5 against each other: what all are given, and how they are asked.

A contender is a command, to which a folder with the model in Hugging Face's format is added, and
what it will be asked for:

    python benchmarks/contender_ours.py FOLDER --threads 1 --for decode train

Any command that speaks what follows can join by `--contender NAME="COMMAND"`, from an environment
of its own. It prints `READY` on a line of its own when it has loaded, compiled and done everything
once. Then it reads commands from standard input, one a line, and answers each by one line of JSON:

    decode     greedy decoding of `Problem.inputs`, `Problem.targets_length` tokens, no EOS:
               {"wall_s": 1.02, "cpu_s": 1.01, "tokens": 1024, "ids": [[...], ...]}
    train N    N further training steps on `Problem.inputs` and `Problem.targets`, dropout off:
               {"wall_s": 4.1, "cpu_s": 4.0, "steps": 2, "losses": [10.7, 10.6],
               "initial_loss": 10.8} (that of the very first step, before any update)

and ends with standard input. `wall_s` and `cpu_s` (of all threads) are of the work alone.
Contenders run on the same CPUs (the first `--threads` of those allowed), in float32, and work one
at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# The file of each in this folder, and the package without which it stays away.
CONTENDERS = {
    "ours": ("contender_ours.py", "flan_jax"),
    "hf": ("contender_hf.py", "transformers"),
    "t5x": ("contender_t5x.py", "t5x"),
}
LEARNING_RATE = 1e-3
Answer = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Dimensions of the model (T5 v1.1: gated GELU, separate head) and of the batch."""

    d_model: int = 256
    d_ff: int = 1024
    num_heads: int = 4
    d_kv: int = 64
    num_layers: int = 4  # of the encoder, and of the decoder
    vocab_size: int = 32128
    batch_size: int = 16
    inputs_length: int = 256
    targets_length: int = 64

    def _tokens(self, seed: int, length: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.integers(2, self.vocab_size, (self.batch_size, length)).astype(np.int32)

    @property
    def inputs(self) -> np.ndarray:
        """Int32 [batch_size, inputs_length], without padding."""
        return self._tokens(1, self.inputs_length)

    @property
    def targets(self) -> np.ndarray:
        """Int32 [batch_size, targets_length], without padding."""
        return self._tokens(2, self.targets_length)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Shape and scale of every tensor, by Hugging Face's names; scale 0: ones."""
        d, inner = self.d_model, self.num_heads * self.d_kv
        found: dict[str, tuple[tuple[int, ...], float]] = {
            "shared.weight": ((self.vocab_size, d), 1.0),
            "lm_head.weight": ((self.vocab_size, d), d**-0.5),
        }
        for stack, blocks in (("encoder", ("SelfAttention",)), ("decoder", _DECODER_BLOCKS)):
            found[f"{stack}.final_layer_norm.weight"] = ((d,), 0.0)
            bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            found[bias] = ((32, self.num_heads), d**-0.5)
            for i in range(self.num_layers):
                for j, block in enumerate((*blocks, "DenseReluDense")):
                    layer = f"{stack}.block.{i}.layer.{j}"
                    found[f"{layer}.layer_norm.weight"] = ((d,), 0.0)
                    parts = self._mlp() if block == "DenseReluDense" else self._attention(inner)
                    found |= {f"{layer}.{block}.{name}.weight": part for name, part in parts}
        return found

    def _attention(self, inner: int) -> list[tuple[str, tuple[tuple[int, int], float]]]:
        d = self.d_model
        parts = [("q", (inner, d), (d * self.d_kv) ** -0.5), ("k", (inner, d), d**-0.5)]
        parts += [("v", (inner, d), d**-0.5), ("o", (d, inner), inner**-0.5)]
        return [(name, (shape, scale)) for name, shape, scale in parts]

    def _mlp(self) -> list[tuple[str, tuple[tuple[int, int], float]]]:
        up, down = ((self.d_ff, self.d_model), self.d_model**-0.5), (self.d_model, self.d_ff)
        return [("wi_0", up), ("wi_1", up), ("wo", (down, self.d_ff**-0.5))]

    def hf_config(self) -> dict[str, Any]:
        """Content of config.json."""
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "dropout_rate": 0.0,
            "layer_norm_epsilon": 1e-6,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_ff": self.d_ff,
            "d_kv": self.d_kv,
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "num_decoder_layers": self.num_layers,
        }

    def write(self, folder: Path) -> None:
        """Writes the problem and a random model in Hugging Face's format."""
        from safetensors.numpy import save_file

        rng = np.random.default_rng(0)
        tensors = {
            name: (
                np.ones(shape, np.float32)
                if scale == 0.0
                else (scale * rng.standard_normal(shape)).astype(np.float32)
            )
            for name, (shape, scale) in self.shapes().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.hf_config()))
        (folder / "problem.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Problem:
        """The problem that `write` wrote."""
        return cls(**json.loads((folder / "problem.json").read_text()))


_DECODER_BLOCKS = ("SelfAttention", "EncDecAttention")

# ----------------------------------------------------------------------------- a contender's side


def contender_arguments() -> argparse.Namespace:
    """The arguments of a contender; limits this process to its CPUs. Call it before all imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--for", dest="commands", nargs="+", choices=("decode", "train"))
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    return args


def serve(commands: Mapping[str, Callable[[int], Answer]]) -> None:
    """Does everything once, says READY, then answers commands until standard input ends.

    Args:
      commands: what to call for `decode` and `train`, with the number after the command (1 if
        there is none); gives the answer without its times.
    """
    for work in commands.values():
        work(1)
    print("READY", flush=True)
    for line in sys.stdin:
        name, *count = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        answer = commands[name](int(count[0]) if count else 1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall_s": wall, "cpu_s": cpu, **answer}), flush=True)


# ------------------------------------------------------------------------------- the asking side


class Contender:
    """A contender's process, which is ready when this is made.

    Attributes:
      name: what it is called in the figures.
      start_wall_s, start_cpu_s: from the start of the process to READY; CPU time of all threads.
    """

    def __init__(self, name: str, command: list[str], folder: Path, threads: int, kinds: list[str]):
        self.name = name
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, str(folder), "--threads", str(threads), "--for", *kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        )
        while (line := self._line()) != "READY":
            print(f"{name}: {line}", file=sys.stderr)
        self.start_wall_s = time.perf_counter() - begun
        self.start_cpu_s = _cpu_seconds(self._process.pid)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"contender {self.name} ended with exit code {code}; see above")
        return line.strip()

    def ask(self, command: str) -> Answer:
        """Sends a command, waits for its answer."""
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used so far, in user and in kernel mode; NaN off Linux."""
    try:
        # After the name, which is in brackets and may hold spaces: proc(5), fields 14 and 15.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def installed_contenders() -> dict[str, list[str]]:
    """Commands of the contenders of this folder whose package is installed here."""
    return {
        name: [sys.executable, str(ROOT / "benchmarks" / file)]
        for name, (file, package) in CONTENDERS.items()
        if importlib.util.find_spec(package) is not None
    }


def named_contender(text: str) -> tuple[str, list[str]]:
    """The name and the command of `NAME=COMMAND`; for argparse."""
    name, found, command = text.partition("=")
    if not found or not name or not shlex.split(command):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=COMMAND, as in t5x='/path/to/python benchmarks/contender_t5x.py'"
        )
    return name, shlex.split(command)


def compare(
    problem: Problem,
    folder: Path,
    threads: int,
    command: str,
    repeats: int,
    contenders: Mapping[str, list[str]],
) -> dict[str, list[Answer]]:
    """The answers of all contenders, who take turns, `repeats` times each; keyed by name."""
    problem.write(folder)
    running: list[Contender] = []
    try:
        kind = command.split()[0]
        for name, argv in contenders.items():
            running.append(Contender(name, argv, folder, threads, [kind]))
        answers: dict[str, list[Answer]] = {contender.name: [] for contender in running}
        for _ in range(repeats):
            for contender in running:
                answers[contender.name].append(contender.ask(command))
        return answers
    finally:
        for contender in running:
            contender.close()


def ratios(better: Mapping[str, list[float]], kind: str) -> dict[str, Any]:
    """How many times as good ours is as each other: the median of the turns, and their range.

    Args:
      better: of each contender a number for each turn; more is better.
      kind: of what clock; ends the names of the figures.
    """
    found: dict[str, Any] = {}
    for name in better:
        if name != "ours":
            pairs = [ours / other for ours, other in zip(better["ours"], better[name], strict=True)]
            found[f"ours_over_{name}_{kind}"] = statistics.median(pairs)
            found[f"ours_over_{name}_{kind}_range"] = [min(pairs), max(pairs)]
    return found
