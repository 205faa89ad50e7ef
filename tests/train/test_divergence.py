"""Divergence stops the run, keeps the evidence, and keeps no checkpoint of what diverged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flan_jax.data.decoder_only import build_decoder_only_row
from flan_jax.data.packing import TokenizedExample, build_row
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.train.divergence import TrainingDivergedError, check_finite
from tests.tiny_runs import Runner, checkpoint_steps

VOCABULARY = ByteVocabulary()


def encoded(text: str) -> np.ndarray:
    return np.array([*VOCABULARY.encode(text), 1], np.int32)


def setup():
    return SimpleNamespace(
        maker=SimpleNamespace(
            task_names=("first_task", "second_task"),
            inputs_vocabulary=VOCABULARY,
            targets_vocabulary=VOCABULARY,
        )
    )


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    one = TokenizedExample(encoded("2 + 2"), encoded("four"), 0)
    other = TokenizedExample(encoded("Überall?"), encoded("ja"), 1)
    rows = [build_row([one, other], (32, 16)), build_row([], (32, 16)), build_row([one], (32, 16))]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def metrics(**changed: float) -> dict[str, np.float32]:
    values = {"loss": 2.0, "grad_norm": 1.0, "update_norm": 0.5, "correct": 3.0} | changed
    return {name: np.float32(value) for name, value in values.items()}


def test_finite_metrics_pass(tmp_path: Path, batch):
    left = check_finite(3, metrics(), batch, setup(), str(tmp_path))
    assert left == {"grad_norm": 1.0, "correct": 3.0}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["loss", "grad_norm", "update_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_each_kind_is_noticed(tmp_path: Path, batch, name, value):
    with pytest.raises(TrainingDivergedError, match=rf"step 3: .*norm .*{tmp_path}") as caught:
        check_finite(3, metrics(**{name: value}), batch, setup(), str(tmp_path))
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, RuntimeError)


def test_the_batch_is_kept_as_arrays_and_text(tmp_path: Path, batch):
    with pytest.raises(TrainingDivergedError):
        check_finite(7, metrics(loss=np.nan), batch, setup(), str(tmp_path))
    with np.load(tmp_path / "diverged_step_7" / "batch-0.npz") as kept:
        assert set(kept) == set(batch)
        for name, array in batch.items():
            np.testing.assert_array_equal(kept[name], array)
    text = (tmp_path / "diverged_step_7" / "batch-0.txt").read_text(encoding="utf-8")
    assert text == (
        "row 0 segment 1 first_task\n  inputs:  2 + 2\n  targets: four\n"
        "row 0 segment 2 second_task\n  inputs:  Überall?\n  targets: ja\n"
        "row 2 segment 1 first_task\n  inputs:  2 + 2\n  targets: four\n"
    )


def test_rows_that_are_not_packed(tmp_path: Path):
    one = TokenizedExample(encoded("2 + 2"), encoded("four"), 1)
    row = build_row([one], (32, 16), packed=False)
    batch = {name: array[None] for name, array in row.items()}
    with pytest.raises(TrainingDivergedError):
        check_finite(7, metrics(loss=np.nan), batch, setup(), str(tmp_path))
    text = (tmp_path / "diverged_step_7" / "batch-0.txt").read_text(encoding="utf-8")
    assert text == "row 0 segment 1 second_task\n  inputs:  2 + 2\n  targets: four\n"


@pytest.mark.parametrize("packed", [True, False])
def test_rows_of_a_decoder_only_model(tmp_path: Path, packed: bool):
    one = TokenizedExample(encoded("2 + 2"), encoded("four"), 1)
    row = build_decoder_only_row([one], 32, packed=packed)
    batch = {name: array[None] for name, array in row.items()}
    with pytest.raises(TrainingDivergedError):
        check_finite(7, metrics(loss=np.nan), batch, setup(), str(tmp_path))
    text = (tmp_path / "diverged_step_7" / "batch-0.txt").read_text(encoding="utf-8")
    assert text == "row 0 segment 1 second_task\n  inputs:  2 + 2\n  targets: four\n"


@pytest.mark.slow
def test_a_run_that_diverges(runner: Runner, trained: Path, tmp_path: Path):
    """A learning rate beyond all bounds makes the update infinite while the loss is still finite:
    nothing is saved, though a checkpoint was due after that very step.
    """
    model = tmp_path / "model"
    ended = runner.train(model, LEARNING_RATE=1e39, SAVE_PERIOD=1, EVAL_PERIOD=0)
    assert ended.code == 2
    assert "flan-jax: error: training diverged at step 1: loss " in ended.err
    assert "update norm inf" in ended.err or "update norm nan" in ended.err
    assert "Traceback" not in ended.err
    assert "In call to configurable" not in ended.err
    assert checkpoint_steps(model) == []
    text = (model / "diverged_step_1" / "batch-0.txt").read_text(encoding="utf-8")
    assert text.startswith("row 0 segment 1 micro_")
    with np.load(model / "diverged_step_1" / "batch-0.npz") as kept:
        assert kept["encoder_input_tokens"].shape == (8, 128)
