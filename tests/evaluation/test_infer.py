"""How free prompts are batched and answers written; the command is tested in tests/cli."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flan_jax.data.reader import DatasetConfig
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.evaluation import infer

VOCABULARY = ByteVocabulary()
MODEL = SimpleNamespace(input_vocabulary=VOCABULARY, output_vocabulary=VOCABULARY)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_free_prompts_are_answered_in_order_whatever_their_number(count: int):
    dataset = DatasetConfig("any", {"inputs": 12, "targets": 4}, batch_size=3)
    batches = []

    def echo(tokens: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        batches.append((tokens.copy(), item_ids.copy()))
        return tokens

    prompts = [f"prompt {i}" for i in range(count)]
    prompts[-1] = "far too long to fit"
    answers = infer._answer(prompts, echo, MODEL, dataset)
    assert answers == [*prompts[:-1], "far too lon"]
    for tokens, _ in batches:
        assert tokens.shape == (3, 12)
        # No row is padding alone: attention over nothing may be NaN.
        assert (tokens[:, 0] != 0).all()
        assert ((tokens == 1).sum(axis=1) == 1).all()
    ids = np.concatenate([item_ids for _, item_ids in batches])
    assert ids.tolist() == list(range(3 * len(batches)))


def test_files(tmp_path: Path):
    def request(task: str, index: int):
        return SimpleNamespace(
            id=f"{task}/{index}", task=task, prompt=f"Frage {index}: ä?", target="ß"
        )

    requests = [request("one", 0), request("two", 0), request("one", 1)]
    infer._write(tmp_path, requests, {request.id: f"to {request.id}" for request in requests})
    names = {
        f"{task}-predict.jsonl-00000-of-00001{end}"
        for task in ("one", "two")
        for end in ("", ".COMPLETED")
    }
    assert {path.name for path in tmp_path.iterdir()} == names
    text = (tmp_path / "one-predict.jsonl-00000-of-00001").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [
        {
            "inputs": {"inputs_pretokenized": f"Frage {i}: ä?", "targets_pretokenized": "ß"},
            "prediction": f"to one/{i}",
        }
        for i in range(2)
    ]
    assert "ä" in text
