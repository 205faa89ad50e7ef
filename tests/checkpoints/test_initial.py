"""Starting from a checkpoint of ours, of T5X, of Hugging Face; and what is said when one cannot."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from flan_jax.checkpoints.initial import checkpoint_format, resolve_path
from flan_jax.checkpoints.manager import CheckpointError, RestoreCheckpointConfig
from tests.tiny_runs import Runner, checkpoint_steps, rows

# The sizes of the foreign checkpoints among the test data.
FOREIGN = {
    "network.T5Config.emb_dim": 128,
    "network.T5Config.num_heads": 4,
    "network.T5Config.num_encoder_layers": 2,
    "network.T5Config.num_decoder_layers": 2,
    "network.T5Config.mlp_dim": 192,
    "EVAL_PERIOD": 0,
    "DROPOUT_RATE": 0.05,  # not the files'
    "LEARNING_RATE": 1e-9,  # leaves the parameters as they are
}


def test_formats(tmp_path: Path, test_data: Path):
    assert checkpoint_format(str(test_data / "hf_tiny_t5")) == "hf"
    assert checkpoint_format(str(test_data / "t5x_tiny/t5_legacy/checkpoint_20")) == "t5x"
    for part in ("run", "state"):
        (tmp_path / "checkpoint_1" / part).mkdir(parents=True)
    assert checkpoint_format(str(tmp_path / "checkpoint_1")) == "flan_jax"
    with pytest.raises(CheckpointError, match="holds the checkpoints of steps 1: name one of them"):
        checkpoint_format(str(tmp_path))
    (tmp_path / "else").mkdir()
    with pytest.raises(
        CheckpointError, match=r"is no checkpoint .* \(it holds nothing\): expected"
    ):
        checkpoint_format(str(tmp_path / "else"))


def test_missing_checkpoint_says_what_is_there(tmp_path: Path):
    for name in ("checkpoint_100", "checkpoint_200", "config.gin"):
        (tmp_path / name).mkdir()
    path = f"{tmp_path}/checkpoint_150"
    message = (
        f"checkpoint {path} does not exist (INITIAL_CHECKPOINT_PATH, CHECKPOINT_PATH); {tmp_path} "
        "holds checkpoint_100, checkpoint_200, config.gin"
    )
    with pytest.raises(CheckpointError, match=re.escape(message)):
        resolve_path(RestoreCheckpointConfig(path))
    assert resolve_path(RestoreCheckpointConfig(path, fallback_to_scratch=True)) is None


def test_nothing_to_resolve():
    assert resolve_path(None) is None
    assert resolve_path(RestoreCheckpointConfig()) is None
    assert resolve_path(RestoreCheckpointConfig([])) is None
    with pytest.raises(CheckpointError, match="one checkpoint is needed, found 2"):
        resolve_path(RestoreCheckpointConfig(["a", "b"]))


@pytest.mark.slow
def test_latest_of_a_folder(trained: Path):
    path = resolve_path(RestoreCheckpointConfig(str(trained), mode="latest"))
    assert path == f"{trained}/checkpoint_6"
    exact = f"{trained}/checkpoint_2"
    assert resolve_path(RestoreCheckpointConfig([exact], mode="latest")) == exact


@pytest.mark.exhaustive
@pytest.mark.slow
def test_another_runs_checkpoint_brings_step_and_optimizer(
    runner: Runner, trained: Path, tmp_path: Path
):
    initial = f"{trained}/checkpoint_4"
    ended = runner.train(
        tmp_path / "new",
        INITIAL_CHECKPOINT_PATH=initial,
        TRAIN_STEPS_RELATIVE=3,
        EVAL_PERIOD=0,
        SAVE_PERIOD=2,
    )
    assert ended.code == 0, ended.err
    assert "finished at step 7" in ended.err
    assert [row["step"] for row in rows(tmp_path / "new")] == [5, 6, 7]
    # Run again, "relative" still counts from step 4.
    again = runner.train(
        tmp_path / "new", INITIAL_CHECKPOINT_PATH=initial, TRAIN_STEPS_RELATIVE=4, EVAL_PERIOD=0
    )
    assert again.code == 0, again.err
    assert "finished at step 8" in again.err
    assert [row["step"] for row in rows(tmp_path / "new")] == [5, 6, 7, 8]


@pytest.mark.slow
def test_too_few_steps(runner: Runner, trained: Path, tmp_path: Path):
    initial = f"{trained}/checkpoint_6"
    ended = runner.train(tmp_path / "new", INITIAL_CHECKPOINT_PATH=initial)
    assert ended.code == 2
    assert (
        "flan-jax: error: TRAIN_STEPS 6 is not beyond step 6 of the initial checkpoint" in ended.err
    )
    assert checkpoint_steps(tmp_path / "new") == []


@pytest.mark.slow
def test_t5x_checkpoint_goes_on_at_its_step_with_its_optimizer(
    runner: Runner, test_data: Path, tmp_path: Path
):
    checkpoint = test_data / "t5x_tiny/t5_legacy/checkpoint_20"
    bindings = FOREIGN | {"INITIAL_CHECKPOINT_PATH": str(checkpoint), "TRAIN_STEPS": 22}
    ended = runner.train(tmp_path / "run", **bindings)
    assert ended.code == 0, ended.err
    assert [row["step"] for row in rows(tmp_path / "run")] == [21, 22]
    assert "finished at step 22" in ended.err
    assert read(tmp_path / "run" / "checkpoint_22", "opt_state/count") == 22
    dry = runner.train(tmp_path / "dry", "--dry_run", **bindings)
    assert f"starts from {checkpoint} (t5x)" in dry.out
    assert not (tmp_path / "dry").exists()
    other = bindings | {"network.T5Config.mlp_dim": 64}
    wrong = runner.train(tmp_path / "dry", "--dry_run", **other)
    assert wrong.code == 2 and "mlp_dim: 192 in the checkpoint, 64 in the model" in wrong.err


def read(checkpoint: Path, name: str) -> np.ndarray:
    """One array of a checkpoint of ours."""
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointer().restore(checkpoint / "state")
    for part in name.split("/"):
        tree = tree[part]
    return np.asarray(tree)


@pytest.mark.slow
def test_hugging_face_checkpoint_starts_at_step_0(runner: Runner, test_data: Path, tmp_path: Path):
    checkpoint = str(test_data / "hf_tiny_t5")
    bindings = FOREIGN | {
        "INITIAL_CHECKPOINT_PATH": checkpoint,
        "TRAIN_STEPS": 1,
        "SAVE_PERIOD": 1,
    }
    ended = runner.train(tmp_path, **bindings)
    assert ended.code == 0, ended.err
    assert [row["step"] for row in rows(tmp_path)] == [1]
    # With a learning rate of next to nothing the parameters are still those of the file.
    from flan_jax.checkpoints import hf
    from flan_jax.sharding import named_leaves

    _, params = hf.load_hf(checkpoint, dtype="float32")
    embedding = named_leaves(params)["token_embedder/embedding"]
    saved = read(tmp_path / "checkpoint_1", "params/token_embedder/embedding")
    np.testing.assert_allclose(saved, embedding, rtol=0, atol=1e-4)
    assert float(np.abs(saved).mean()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "t5x", "hf"])
def test_checkpoint_of_another_size(
    runner: Runner, trained: Path, test_data: Path, tmp_path: Path, kind: str
):
    path = {
        "ours": trained / "checkpoint_6",
        "t5x": test_data / "t5x_tiny/t5_legacy/checkpoint_20",
        "hf": test_data / "hf_tiny_t5",
    }[kind]
    ended = runner.train(
        tmp_path / "run",
        INITIAL_CHECKPOINT_PATH=str(path),
        TRAIN_STEPS=30,
        **{"network.T5Config.mlp_dim": 48},
    )
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    assert str(path) in ended.err
    assert (
        f"mlp_dim: {32 if kind == 'ours' else 192} in the checkpoint, 48 in the model" in ended.err
    )
