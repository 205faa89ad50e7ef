"""Our checkpoints: bits in, the same bits out; whole or not there."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.checkpoints.manager import (
    CheckpointError,
    CheckpointManager,
    RestoreCheckpointConfig,
    SaveCheckpointConfig,
    from_names,
    parameter_hash,
    split_step,
    to_names,
)
from flan_jax.errors import UserError
from flan_jax.sharding import named_leaves
from flan_jax.train.state import TrainState

RUN = {
    "start_step": 3,
    "initial_checkpoint": None,
    "data_state": {"window": 4, "nested": {"position": [1, 2]}},
    "config": "A = 'ä'\n",
}


def state(step: int = 1, width: int = 4) -> TrainState:
    rng = np.random.default_rng(step)
    params = {
        "encoder": {"kernel": rng.normal(size=(3, width)), "scale": rng.normal(size=(width,))},
        "embedding": rng.normal(size=(5, width)) * 1e-30,
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    slots = {"count": jnp.int32(step), "v": jax.tree.map(lambda leaf: leaf * 2, params)}
    return TrainState(jnp.int32(step), params, slots)


def abstract(like: TrainState):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
    )


def save(folder: Path, *steps: int, **config) -> None:
    manager = CheckpointManager(folder, SaveCheckpointConfig(**config))
    with contextlib.closing(manager):
        for step in steps:
            manager.save(step, state(step), RUN | {"saved_at": step}, wait=True)


def reader(folder: Path):
    return contextlib.closing(CheckpointManager(folder, None))


def test_round_trip_is_bit_identical(tmp_path: Path):
    save(tmp_path / "run", 7)
    with reader(tmp_path / "run") as manager:
        restored, run = manager.restore(7, abstract(state()))
        assert manager.restore_run(7) == run
    assert run == RUN | {"saved_at": 7}
    expected = named_leaves(state(7))
    assert jax.tree.structure(restored) == jax.tree.structure(state(7))
    for name, leaf in named_leaves(restored).items():
        assert leaf.dtype == expected[name].dtype, name
        assert np.asarray(leaf).tobytes() == np.asarray(expected[name]).tobytes(), name
    assert parameter_hash(restored) == parameter_hash(state(7))


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"keep": None}, [2, 4, 6, 8, 9]),
        ({"keep": 2}, [8, 9]),
        ({"keep": 2, "keep_period": 4}, [4, 8, 9]),
    ],
)
def test_keep_policy(tmp_path: Path, config, kept):
    save(tmp_path, 2, 4, 6, 8, 9, **config)
    with reader(tmp_path) as manager:
        assert manager.all_steps() == kept
        assert manager.latest_step() == 9
    assert sorted(path.name for path in tmp_path.glob("checkpoint_*")) == [
        f"checkpoint_{step}" for step in kept
    ]


def test_due_every_period(tmp_path: Path):
    with contextlib.closing(CheckpointManager(tmp_path, SaveCheckpointConfig(period=4))) as manager:
        assert [step for step in range(1, 10) if manager.is_due(step)] == [4, 8]


def test_a_saved_step_is_left_alone(tmp_path: Path):
    save(tmp_path, 2)
    with contextlib.closing(CheckpointManager(tmp_path, SaveCheckpointConfig())) as manager:
        manager.save(2, state(99), {}, wait=True)
        assert manager.restore(2, abstract(state()))[1]["saved_at"] == 2


def test_a_checkpoint_cut_short_is_ignored_and_swept_up(tmp_path: Path):
    save(tmp_path, 2, 4)
    # As a crash leaves it: some of the files, under the name that is used while writing.
    torn = tmp_path / "checkpoint_6.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoint_4", torn)
    (torn / "_CHECKPOINT_METADATA").unlink(missing_ok=True)
    shutil.rmtree(torn / "state" / "d")
    with reader(tmp_path) as manager:
        assert manager.latest_step() == 4
        assert torn.exists()  # a reader deletes nothing: somebody may be writing it
    save(tmp_path, 6)
    with reader(tmp_path) as manager:
        assert manager.all_steps() == [2, 4, 6]
        restored, _ = manager.restore(6, abstract(state()))
    assert parameter_hash(restored) == parameter_hash(state(6))
    assert not torn.exists()


def test_reading_makes_no_folder(tmp_path: Path):
    with reader(tmp_path / "nothing") as manager:
        assert manager.latest_step() is None
    assert not (tmp_path / "nothing").exists()


def test_another_model_is_told_apart_parameter_by_parameter(tmp_path: Path):
    save(tmp_path, 2)
    other = state(width=8)
    other.params["decoder"] = other.params.pop("encoder")
    with reader(tmp_path) as manager, pytest.raises(CheckpointError) as caught:
        manager.restore(2, abstract(other))
    lines = str(caught.value).splitlines()
    assert lines[0] == (f"checkpoint {tmp_path}/checkpoint_2 does not fit the configured model:")
    assert "  params/decoder/kernel is missing in the checkpoint" in lines
    assert "  params/encoder/kernel is not in the model" in lines
    assert "  params/embedding: (5, 4) in the checkpoint, (5, 8) in the model" in lines
    assert lines[-1] == "Use the gin file of the model (and optimizer) that wrote it."
    # Parameters come first, the optimizer's state only repeats them.
    first_slot = next(i for i, line in enumerate(lines) if line.startswith("  opt_state/"))
    assert not any(line.startswith("  params/") for line in lines[first_slot:])


def test_long_lists_are_cut(tmp_path: Path):
    save(tmp_path, 2)
    other = state()
    other.params["new"] = {str(i): jnp.zeros(1) for i in range(40)}
    with reader(tmp_path) as manager, pytest.raises(CheckpointError, match="… and 20 more"):
        manager.restore(2, abstract(other))


def test_hash_tells_any_bit_and_any_name():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.int32)}
    seen = {parameter_hash(base)}
    for change in (
        {"a": np.full((2, 3), -0.0, np.float32)},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"b": np.array([1, 1, 1, 2], np.int32)},
        {"c": np.ones(0)},
    ):
        seen.add(parameter_hash(base | change))
    bits = base["a"].copy()
    bits.view(np.uint32)[1, 2] = 1  # the smallest number there is
    seen.add(parameter_hash(base | {"a": bits}))
    assert len(seen) == 7
    assert parameter_hash(dict(reversed(base.items()))) == parameter_hash(base)


def test_names_round_trip():
    nested = to_names(state(3))
    assert set(nested) == {"step", "params", "opt_state"}
    assert set(nested["params"]["encoder"]) == {"kernel", "scale"}
    back = from_names(nested, state(1))
    assert parameter_hash(back) == parameter_hash(state(3))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/checkpoint_100", ("a", 100)),
        ("checkpoint_7/", (".", 7)),
        ("a/checkpoint_x", None),
        ("a/model_5", None),
        ("a/checkpoint_5/state", None),
    ],
)
def test_split_step(path, expected):
    assert split_step(path) == expected


def test_settings_are_checked():
    with pytest.raises(UserError, match="period must be >= 1, found 0"):
        SaveCheckpointConfig(period=0)
    with pytest.raises(UserError, match="'specific' or 'latest', found 'newest'"):
        RestoreCheckpointConfig(mode="newest")


def halve(folder: Path) -> None:
    """Cuts all data files below a folder short, as an interrupted copy does."""
    for file in folder.rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_checkpoint_is_named_with_those_that_are_whole(tmp_path: Path):
    save(tmp_path, 2, 4)
    halve(tmp_path / "checkpoint_4" / "state")
    with reader(tmp_path) as manager:
        with pytest.raises(CheckpointError) as raised:
            manager.restore(4, abstract(state()))
        assert f"checkpoint {tmp_path}/checkpoint_4 is damaged: " in str(raised.value)
        assert "Remove it to go on from step 2" in str(raised.value)
        manager.restore(2, abstract(state()))
    shutil.rmtree(tmp_path / "checkpoint_2")
    (tmp_path / "checkpoint_4" / "state" / "_METADATA").unlink()
    with (
        reader(tmp_path) as manager,
        pytest.raises(
            CheckpointError,
            match=r"checkpoint_4 is damaged: state/_METADATA, the list .*\s.*no other one",
        ),
    ):
        manager.restore(4, abstract(state()))


def test_an_unreadable_bucket(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="gs://no-such-bucket/run cannot be read"):
        CheckpointManager("gs://no-such-bucket/run", SaveCheckpointConfig())
