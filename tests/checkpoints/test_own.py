"""Our own checkpoints written and read a piece at a time: Orbax restores them; what they say."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.checkpoints import orbax_arrays, own
from flan_jax.checkpoints.manager import (
    CheckpointManager,
    SaveCheckpointConfig,
    from_names,
    to_names,
)
from flan_jax.checkpoints.orbax_arrays import OrbaxReader, OrbaxWriter, chunk_shape, pieces
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from flan_jax.sharding import named_leaves
from tests.checkpoints.tiny_models import CONFIG, assert_same, make_arrays, read_all, write_own


def nested(arrays):
    tree: dict = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def test_orbax_restores_what_is_written_layer_by_layer(tmp_path: Path):
    arrays = make_arrays()
    write_own(tmp_path / "checkpoint_7", arrays, note="ä")
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nested(arrays),
    )
    with contextlib.closing(CheckpointManager(tmp_path, None)) as manager:
        assert manager.all_steps() == [7]
        restored, run = manager.restore(7, abstract)
        assert manager.restore_run(7) == run
    assert run["note"] == "ä"
    assert_same({n: np.asarray(x) for n, x in named_leaves(restored).items()}, arrays)


def test_what_orbax_saved_is_read_whole_and_by_layers(tmp_path: Path):
    arrays = make_arrays()
    config = SaveCheckpointConfig()
    with contextlib.closing(CheckpointManager(tmp_path, config)) as manager:
        manager.save(7, jax.tree.map(jax.numpy.asarray, nested(arrays)), {"a": 1}, wait=True)
    path = tmp_path / "checkpoint_7"
    assert own.is_own(path)
    assert own.read_run(path) == {"a": 1}
    assert_same(read_all(own.open_own(path)), arrays)
    reader = own.open_own(path)
    for part in own.own_layout(reader.infos):
        value = part.to_ours(reader.read(part.theirs, part.their_index, part.their_axis))
        whole = arrays[part.ours]
        np.testing.assert_array_equal(value, whole if part.layer is None else whole[part.layer])


def test_dtypes_survive(tmp_path: Path):
    arrays = {
        "params/a/layers/x": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
        "params/b": np.asarray([np.nan, -0.0, np.inf], np.float32),
        "params/c": np.asarray([[1e-300]], np.float64),
        "step": np.asarray(2**31 - 1, np.int32),
    }
    assert_same(read_all(own.open_own(write_own(tmp_path / "c", arrays, None))), arrays)


def test_large_arrays_are_written_and_read_in_pieces(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(orbax_arrays, "_PIECE_BYTES", 300)
    monkeypatch.setattr(orbax_arrays, "CHUNK_BYTES", 100)
    rng = np.random.default_rng(0)
    arrays = {"params/a": rng.normal(size=(17, 13)), "params/b/layers/x": rng.normal(size=(3, 29))}
    path = write_own(tmp_path / "c", arrays, None)
    assert_same(read_all(own.open_own(path)), arrays)
    metadata = own.open_own(path)._stores["params/a"].chunk_layout.read_chunk.shape
    assert math.prod(metadata) * 8 <= 100


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 9), max_size=4),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 500),
    st.data(),
)
def test_pieces_cover_an_array_once(shape, itemsize, limit, data):
    stacked = data.draw(st.sampled_from([None, *range(len(shape))]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orbax_arrays, "_PIECE_BYTES", limit)
        patch.setattr(orbax_arrays, "CHUNK_BYTES", limit)
        chunks = chunk_shape(tuple(shape), itemsize, stacked)
        counts = np.zeros(shape, np.int32)
        for box in pieces(tuple(shape), chunks, itemsize):
            counts[box] += 1
            covered = [each.indices(size) for each, size in zip(box, shape, strict=True)]
            assert all(
                start % chunk == 0 for (start, *_), chunk in zip(covered, chunks, strict=True)
            )
    assert np.all(counts == 1)
    assert math.prod(chunks) * itemsize <= max(limit, itemsize)
    assert stacked is None or chunks[stacked] == 1


def test_an_array_that_was_not_written_is_noticed(tmp_path: Path):
    infos = {"a": TensorInfo((2,), np.dtype(np.float32)), "b": TensorInfo((), np.dtype(np.int32))}
    writer = OrbaxWriter(tmp_path / "state", infos)
    writer.write("a", np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="not written: b"):
        writer.close()
    with pytest.raises(ValueError, match=r"a: \(3,\) given, \(2,\) declared"):
        writer.write("a", np.zeros(3, np.float32))


def damage(path: Path, kind: str) -> None:
    if kind == "truncated":
        for file in sorted((path / "state" / "d").iterdir()):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind == "metadata":
        (path / "state" / "_METADATA").write_text("{")
    elif kind == "run":
        (path / "run" / "metadata").write_text('{"a": ')
    else:
        (path / "state" / kind).unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "is damaged: the array .* is missing or cannot be read"),
        ("metadata", "_METADATA is not Orbax's list of arrays"),
        ("_METADATA", "_METADATA is missing, the list of its arrays"),
        ("manifest.ocdbt", "manifest.ocdbt is missing"),
        ("run", "metadata is not JSON"),
    ],
)
def test_damage_is_named(tmp_path: Path, kind: str, message: str):
    path = write_own(tmp_path / "checkpoint_7", make_arrays())
    damage(path, kind)
    read = own.read_run if kind == "run" else lambda path: read_all(own.open_own(path))
    with pytest.raises(CheckpointError, match=message) as raised:
        read(path)
    assert f"checkpoint {path} is damaged" in str(raised.value)


def test_no_checkpoint(tmp_path: Path):
    assert not own.is_own(tmp_path / "none")
    with pytest.raises(CheckpointError, match="_METADATA is missing"):
        OrbaxReader(tmp_path)


def test_the_architecture_is_what_the_run_document_says(tmp_path: Path):
    path = write_own(tmp_path / "c", make_arrays())
    infos = own.open_own(path).infos
    assert own.config_of(own.read_run(path), infos, str(path)) == (CONFIG, None)


def test_else_what_its_gin_config_binds(tmp_path: Path):
    root = Path(__file__).resolve().parents[2]
    path = root / "mixtures/micro/base/checkpoint_1500"
    run = own.read_run(path)
    assert "model" not in run  # written before the document was
    config, note = own.config_of(run, own.open_own(path).infos, str(path))
    assert (config.vocab_size, config.emb_dim, config.head_dim) == (2048, 128, 32)
    assert (config.num_encoder_layers, config.dtype) == (3, "float32")  # a macro's value
    assert note is not None and "gin config" in note


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_activations": ("relu",), "logits_via_embedding": True},
        {"relative_attention_per_layer": True},
    ],
)
def test_else_what_the_shapes_say(tmp_path: Path, changes):
    import dataclasses

    expected = dataclasses.replace(CONFIG, dtype="bfloat16", **changes)
    path = write_own(tmp_path / "c", make_arrays(expected), None)
    infos = own.open_own(path).infos
    config, note = own.config_of(own.read_run(path), infos, str(path))
    assert config == expected
    assert note is not None and "inferred from shapes" in note
    with pytest.raises(CheckpointError, match="does not say its architecture"):
        own.config_of({}, {"params/x": TensorInfo((1,), np.dtype(np.float32))}, "p")


def test_an_architecture_of_another_version_is_refused():
    run = {"model": {"type": "t5", "config": {"vocab_size": 8, "emb_dims": 3}}}
    with pytest.raises(CheckpointError, match=r"checkpoint p: .* emb_dims; did you mean 'emb_dim'"):
        own.config_of(run, {}, "p")


def test_run_document_is_json(tmp_path: Path):
    path = write_own(tmp_path / "c", make_arrays())
    assert json.loads((path / "run" / "metadata").read_text())["model"]["type"] == "t5"
    assert from_names(to_names({"a": 1}), {"a": 0}) == {"a": 1}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "must be a map"),
        ("3", "must be a map"),
        ('{"model": 3}', "'model' in .* must be a map, found 3"),
        ('{"vocabulary": 3}', "'vocabulary' in .* must be a map, found 3"),
        ('{"config": 3}', "'config' in .* must be a text, found 3"),
    ],
)
def test_run_document_of_wrong_types(tmp_path: Path, document: str, message: str):
    write_own(tmp_path / "checkpoint_7", make_arrays())
    (tmp_path / "checkpoint_7/run/metadata").write_text(document)
    with pytest.raises(CheckpointError, match=message):
        own.read_run(tmp_path / "checkpoint_7")
