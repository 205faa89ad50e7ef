"""A small benchmark with real prompts, and folders of finished evaluations of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flan_jax.draws import Draws
from flan_jax.evaluation import benchmarks
from flan_jax.evaluation.benchmarks import (
    BenchmarkItem,
    BenchmarkProtocol,
    Choice,
    ProtocolDefinition,
)
from flan_jax.evaluation.planning import plan
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.results import write_results
from flan_jax.evaluation.scores import score
from flan_jax.evaluation.store import Generation
from flan_jax.evaluation.voting import settle

COLOURS = ("red", "green", "blue", "yellow")
SIZES = {"apples": 12, "birds": 30, "clouds": 7}


def read(subtask: str, split: str) -> list[BenchmarkItem]:
    items = []
    for index in range(SIZES[subtask]):
        right = Draws(3, split, subtask, index).below(len(COLOURS))
        labels = tuple(f"({'ABCD'[i]})" for i in range(len(COLOURS)))
        shown = " ".join(f"{a} {b}" for a, b in zip(labels, COLOURS, strict=True))
        question = f"Which colour has number {index} of the {subtask}? <b>&amp; {shown}"
        items.append(
            BenchmarkItem(index, question, labels[right], options=labels, option_texts=COLOURS)
        )
    return items


def colours(name: str = "colours_direct", **changes) -> ProtocolDefinition:
    """Four options, three subtasks of unequal sizes, two exemplars."""
    attributes = {
        "name": name,
        "benchmark": "colours",
        "subtasks": tuple(SIZES),
        "read": read,
        "ask": lambda item: f"Q: {item.question}\nA:",
        "exemplars": lambda subtask, item, seed: (f"Q: One {subtask}?\nA: (A)", "Q: Two?\nA: (B)"),
        "metrics": ("phrase_match",),
        "chance": dict.fromkeys(SIZES, 25.0),
        "groups": {"flying": ("birds", "clouds")},
        "aliases": {"cumuli": "clouds"},
        "choices": (Choice("mean", "of three", "made up"),),
        "max_decode_len": 8,
    }
    return ProtocolDefinition(**attributes | changes)


def answers_of(
    requests: Sequence[Request], skill: float, salt: str
) -> tuple[dict[str, str], dict[str, str]]:
    """(outputs, how they ended): right with probability `skill`, now and then no answer at all."""
    outputs, ended = {}, {}
    for request in requests:
        draws = Draws(5, salt, request.id)
        wrong = [option for option in request.options if option != request.answer]
        output = request.answer if draws.chance(skill) else draws.choice([*wrong, ""])
        outputs[request.id] = output
        ended[request.id] = "length" if draws.chance(0.1) else "eos"
    return outputs, ended


def write_run(
    folder: Path,
    step: int,
    names: Sequence[str],
    vocabulary,
    *,
    skill: float = 0.6,
    inputs_length: int = 130,
    settings: Mapping[str, Any] | None = None,
    answer: Callable[[Sequence[Request]], tuple[dict[str, str], dict[str, str]]] | None = None,
) -> Path:
    """Writes what a job would leave of protocols; returns the folder."""
    for name in names:
        protocol = BenchmarkProtocol(name, **(settings or {}))
        requests = plan(protocol, vocabulary, inputs_length)
        outputs, ended = answer(requests) if answer else answers_of(requests, skill, f"{step}")
        settled = {
            r.id: settle(r, [Generation(outputs[r.id], ended=ended[r.id])]) for r in requests
        }
        scores = score(requests, outputs, resamples=200)
        write_results(folder, step, protocol, requests, outputs, scores, None, settled)
    return folder


@contextlib.contextmanager
def registered(*definitions: ProtocolDefinition) -> Iterator[None]:
    """Within it these protocols are known, too."""
    known = {name: dict(variants) for name, variants in benchmarks.known_protocols().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "_DEFINITIONS", known)
        for definition in definitions:
            benchmarks.register_protocol(definition)
        yield
