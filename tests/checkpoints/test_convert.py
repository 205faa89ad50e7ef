"""Conversions: round trips, what is checked before writing, and that failures leave nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flan_jax.checkpoints import own, transfer
from flan_jax.checkpoints.convert import Options, convert
from flan_jax.checkpoints.hf import open_hf
from flan_jax.checkpoints.t5x import open_t5x
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.models.architecture import from_document
from flan_jax.models.lora import LoraConfig
from flan_jax.models.palm import PalmConfig
from tests.checkpoints.tiny_models import (
    CONFIG,
    assert_same,
    fingerprint,
    make_arrays,
    read_all,
    write_own,
)

ORBAX, HF = Options("orbax"), Options("hf")
PER_LAYER = dataclasses.replace(CONFIG, relative_attention_per_layer=True)


def run(source: Path, target: Path, options: Options = ORBAX):
    return convert(str(source), str(target), options)


def parameters(path: Path) -> dict[str, np.ndarray]:
    arrays = read_all(own.open_own(path))
    return {name: array for name, array in arrays.items() if name.startswith("params/")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_own(tmp_path / "checkpoint_7", make_arrays())


@pytest.mark.parametrize(
    ("config", "t5x"),
    [
        (CONFIG, Options("t5x", t5x_format="legacy")),
        (CONFIG, Options("t5x", t5x_format="orbax")),
        (PER_LAYER, Options("t5x", t5x_format="legacy", layout="scanned")),
        (PER_LAYER, Options("t5x", t5x_format="orbax", layout="scanned")),
        (dataclasses.replace(CONFIG, logits_via_embedding=True), Options("t5x")),
        (dataclasses.replace(CONFIG, mlp_activations=("relu",)), Options("t5x")),
    ],
)
def test_round_trip_is_bit_identical(tmp_path: Path, config, t5x):
    arrays = make_arrays(config)
    begin = write_own(tmp_path / "checkpoint_7", arrays, config)
    first = run(begin, tmp_path / "t5x", t5x)
    run(tmp_path / "t5x", tmp_path / "ours")
    run(tmp_path / "ours", tmp_path / "hf", HF)
    run(tmp_path / "hf", tmp_path / "ours_again")
    last = run(tmp_path / "ours_again", tmp_path / "t5x_again", t5x)
    expected = {name: array for name, array in arrays.items() if name != "step"}
    assert_same(parameters(tmp_path / "ours"), expected)
    assert_same(parameters(tmp_path / "ours_again"), expected)
    one, other = read_all(open_t5x(tmp_path / "t5x")), read_all(open_t5x(tmp_path / "t5x_again"))
    assert (int(one.pop("state/step")), int(other.pop("state/step"))) == (7, 0)
    assert_same(other, one)
    found = from_document(own.read_run(tmp_path / "ours_again")["model"])
    assert dataclasses.replace(found, dropout_rate=0.1, dtype="float32") == config
    assert (first.source.step, last.source.step) == (7, 0)


def test_palm_to_hugging_face_and_back(tmp_path: Path):
    config = PalmConfig(vocab_size=32, emb_dim=8, num_heads=2, num_layers=2, head_dim=4, mlp_dim=12)
    arrays = make_arrays(config)
    begin = write_own(tmp_path / "checkpoint_7", arrays, config)
    run(begin, tmp_path / "hf", HF)
    run(tmp_path / "hf", tmp_path / "ours")
    arrays.pop("step")
    assert_same(parameters(tmp_path / "ours"), arrays)
    with pytest.raises(CheckpointError, match="T5X's public code has no PaLM"):
        run(begin, tmp_path / "t5x", Options("t5x"))


def test_optimizer_state_goes_to_t5x_and_back(tmp_path: Path, test_data: Path):
    begin = test_data / "t5x_tiny/t5_legacy/checkpoint_20"
    before = fingerprint(begin)
    there = run(begin, tmp_path / "ours")
    assert there.source.step == 20
    assert not there.plan.dropped
    run(tmp_path / "ours", tmp_path / "t5x", Options("t5x", t5x_format="orbax"))
    assert_same(read_all(open_t5x(tmp_path / "t5x")), read_all(open_t5x(begin)))
    assert fingerprint(begin) == before
    bare = run(tmp_path / "ours", tmp_path / "bare", Options("orbax", with_optimizer=False))
    assert "opt_state/v/token_embedder/embedding" in bare.plan.dropped
    assert sorted(own.open_own(tmp_path / "bare").infos) == sorted(
        ["step", *(name for name in own.open_own(tmp_path / "ours").infos if "params/" in name)]
    )


def test_a_shared_bias_in_the_scanned_layout(tmp_path: Path, source: Path):
    scanned = Options("t5x", layout="scanned")
    with pytest.raises(CheckpointError, match="copy the bias to each layer"):
        run(source, tmp_path / "t5x", scanned)
    run(source, tmp_path / "t5x", dataclasses.replace(scanned, tile_bias=True))
    run(tmp_path / "t5x", tmp_path / "ours")
    found = parameters(tmp_path / "ours")["params/decoder/layers/relpos_bias/rel_embedding"]
    shared = make_arrays()["params/decoder/relpos_bias/rel_embedding"]
    assert found.shape == (3, *shared.shape)
    assert all(np.array_equal(layer, shared) for layer in found)


def test_casting_says_how_far_off_it_is(tmp_path: Path, source: Path):
    done = run(source, tmp_path / "hf", Options("hf", dtype="bfloat16"))
    name = "params/token_embedder/embedding"
    exact = make_arrays()[name]
    cast = exact.astype(ml_dtypes.bfloat16)
    assert_same({name: open_hf(tmp_path / "hf").read("shared.weight")}, {name: cast})
    assert done.done is not None
    assert done.done.cast_errors[name] == np.abs(cast.astype(np.float64) - exact).max() > 0
    assert json.loads((tmp_path / "hf/config.json").read_text())["torch_dtype"] == "bfloat16"
    back = run(tmp_path / "hf", tmp_path / "ours", Options("orbax", dtype="float32"))
    assert back.done is not None and set(back.done.cast_errors.values()) == {0.0}
    assert_same({name: parameters(tmp_path / "ours")[name]}, {name: cast.astype(np.float32)})


def test_adapters_are_merged_or_kept(tmp_path: Path):
    config = dataclasses.replace(CONFIG, lora=LoraConfig(rank=2, alpha=3.0))
    arrays = make_arrays(config)
    begin = write_own(tmp_path / "checkpoint_7", arrays, config)
    done = run(begin, tmp_path / "merged")
    kernel = "params/decoder/layers/self_attention/query/kernel"
    a, b = (arrays[kernel.replace("kernel", each)] for each in ("lora_a", "lora_b"))
    expected = arrays[kernel].astype(np.float64) + 1.5 * a.astype(np.float64) @ b
    found = parameters(tmp_path / "merged")
    np.testing.assert_allclose(found[kernel], expected, rtol=0, atol=1e-5)
    plain = "params/decoder/layers/self_attention/key/kernel"
    assert_same({plain: found[plain]}, {plain: arrays[plain]})
    assert not any("lora" in name for name in found)
    assert kernel in done.merged and plain not in done.merged
    assert from_document(own.read_run(tmp_path / "merged")["model"]) == CONFIG
    # Only adapters are trained, so only they have an optimizer's state.
    for name, array in list(arrays.items()):
        if "lora_" in name:
            for slot in ("v_row", "v_col", "v", "m"):
                arrays[f"opt_state/{slot}/{name.removeprefix('params/')}"] = array * 2
    begin = write_own(tmp_path / "checkpoint_8", arrays, config)
    run(begin, tmp_path / "kept", Options("orbax", keep_adapters=True))
    assert_same(read_all(own.open_own(tmp_path / "kept")), arrays)
    run(begin, tmp_path / "hf", HF)
    np.testing.assert_array_equal(
        open_hf(tmp_path / "hf").read("decoder.block.2.layer.0.SelfAttention.q.weight"),
        found[kernel][2].T,
    )


def test_what_t5x_cannot_say_is_refused(tmp_path: Path):
    config = dataclasses.replace(CONFIG, relative_attention_max_distance=64)
    begin = write_own(tmp_path / "checkpoint_7", make_arrays(config), config)
    with pytest.raises(CheckpointError, match="this model of 32 up to 64"):
        run(begin, tmp_path / "t5x", Options("t5x"))


def test_the_run_document_is_carried_over(tmp_path: Path):
    vocabulary = {"type": "bytes", "extra_ids": 100}
    begin = write_own(
        tmp_path / "checkpoint_7",
        make_arrays(),
        mixture_hash="abc",
        data_state={"window": 3},
        vocabulary=vocabulary,
    )
    run(begin, tmp_path / "ours", Options("orbax", dtype="bfloat16"))
    document = own.read_run(tmp_path / "ours")
    assert document["mixture_hash"] == "abc" and document["vocabulary"] == vocabulary
    assert document["converted_from"] == str(begin) and document["start_step"] == 7
    assert "data_state" not in document  # a position in data is of its run alone


def test_another_vocabulary_is_refused(tmp_path: Path):
    record = {"type": "sentencepiece", "file": "/x/a.model", "sha256": "0" * 64, "extra_ids": 100}
    begin = write_own(tmp_path / "checkpoint_7", make_arrays(), vocabulary=record)
    with pytest.raises(CheckpointError, match="trained with the vocabulary of sentencepiece"):
        run(begin, tmp_path / "hf", Options("hf", vocabulary=ByteVocabulary(100)))
    done = run(begin, tmp_path / "hf", HF)
    assert any("/x/a.model is not here: name it by --vocabulary" in note for note in done.notes)


def damaged(tmp_path: Path, change) -> Path:
    arrays: dict[str, Any] = make_arrays()
    change(arrays)
    return write_own(tmp_path / "checkpoint_7", arrays)


def narrow(arrays, name: str = "params/encoder/layers/mlp/wo/kernel") -> None:
    arrays[name] = arrays[name][:, :-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("params/encoder/encoder_norm/scale"), "missing: params/encoder/encoder_n"),
        (lambda a: a.update({"params/extra": np.zeros(3)}), "unexpected: params/extra"),
        (narrow, r"wrong shape: params/encoder/layers/mlp/wo/kernel is \(2, 23, 16\), the model"),
        (
            lambda a: a.update(
                {"params/decoder/decoder_norm/scale": np.zeros(CONFIG.emb_dim, np.int64)}
            ),
            "wrong dtype: params/decoder/decoder_norm/scale is int64, expected floats",
        ),
    ],
    ids=["missing tensor", "extra tensor", "wrong size", "wrong dtype"],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path: Path, change, message):
    begin = damaged(tmp_path, change)
    check_refused(begin, tmp_path, message)


def test_all_problems_are_listed_at_once(tmp_path: Path):
    def change(arrays):
        narrow(arrays)
        arrays.pop("params/encoder/encoder_norm/scale")
        arrays["params/encoder/encoder_norms/scale"] = np.zeros(3, np.float32)

    message = check_refused(damaged(tmp_path, change), tmp_path, "does not fit its model")
    for line in ("missing: params/encoder/encoder_norm/scale", "wrong shape", "unexpected"):
        assert line in message
    assert "did you mean 'params/encoder/encoder_norm/scale'" in message


def check_refused(begin: Path, tmp_path: Path, message: str) -> str:
    """The error of a conversion that leaves its source as it was and no target."""
    before, there = fingerprint(begin), sorted(os.listdir(tmp_path))
    with pytest.raises(CheckpointError, match=message) as raised:
        run(begin, tmp_path / "target", HF)
    assert fingerprint(begin) == before
    assert sorted(os.listdir(tmp_path)) == there
    return str(raised.value)


def test_a_truncated_file(tmp_path: Path, source: Path):
    run(source, tmp_path / "hf", HF)
    file = tmp_path / "hf" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    check_refused(tmp_path / "hf", tmp_path, "is truncated")
    for file in (source / "state" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    check_refused(source, tmp_path, "is damaged: the array .* cannot be read")


def test_a_disk_that_gives_back_other_values(tmp_path: Path, source: Path, monkeypatch):
    write = own.OwnWriter.write

    def corrupt(self, name, value, index=None, axis=0):
        if name == "params/encoder/layers/mlp/wi_0/kernel" and index == 1:
            value = np.array(value)
            value[3, 2] = np.nextafter(value[3, 2], np.float32(9))
        write(self, name, value, index, axis)

    monkeypatch.setattr(own.OwnWriter, "write", corrupt)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(CheckpointError, match="wi_0/kernel was read back with other values"):
        run(source, tmp_path / "target")
    assert sorted(os.listdir(tmp_path)) == before


def test_places_that_are_refused(tmp_path: Path, source: Path):
    (tmp_path / "there").mkdir()
    for target, message in (
        (tmp_path / "there", "exists already: name a new folder, or replace it by --overwrite"),
        (source, "lies inside the source"),
        (source / "state" / "x", "lies inside the source"),
        (tmp_path, "holds the source"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(source, target)
    with pytest.raises(CheckpointError, match="written to local folders"):
        convert(str(source), "gs://bucket/x", ORBAX)
    with pytest.raises(CheckpointError, match=r"checkpoint .*/absent does not exist"):
        run(tmp_path / "absent", tmp_path / "new")
    over = dataclasses.replace(ORBAX, overwrite=True)
    with pytest.raises(CheckpointError, match="is no checkpoint: --overwrite replaces only those"):
        run(source, tmp_path / "there", over)
    run(source, tmp_path / "new")
    run(source, tmp_path / "new", dataclasses.replace(over, dtype="bfloat16"))
    assert {array.dtype.name for array in parameters(tmp_path / "new").values()} == {"bfloat16"}
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_7", "new", "there"]


def test_too_little_room_is_said_before_writing(tmp_path: Path, source: Path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(CheckpointError, match=r"GB free, .* GB are needed: make room"):
        run(source, tmp_path / "target")


def test_a_dry_run_writes_nothing(tmp_path: Path, source: Path):
    done = run(source, tmp_path / "target", dataclasses.replace(HF, dry_run=True))
    assert done.done is None and done.plan.num_bytes > 0
    assert os.listdir(tmp_path) == ["checkpoint_7"]


def test_a_folder_of_one_checkpoint_stands_for_it(tmp_path: Path):
    write_own(tmp_path / "model" / "checkpoint_7", make_arrays())
    done = run(tmp_path / "model", tmp_path / "hf", HF)
    assert done.source.path == f"{tmp_path}/model/checkpoint_7"
    write_own(tmp_path / "model" / "checkpoint_9", make_arrays())
    with pytest.raises(CheckpointError, match="of steps 7, 9: name one of them"):
        run(tmp_path / "model", tmp_path / "hf2", HF)


def test_options_are_checked():
    with pytest.raises(CheckpointError, match=re.escape("found 'hff'; did you mean 'hf'?")):
        Options("hff")
    with pytest.raises(CheckpointError, match="dtype must be one of float32, bfloat16"):
        Options("hf", dtype="float16")


def test_values_that_are_not_finite_are_said(tmp_path: Path, recwarn):
    arrays = make_arrays()
    name = "params/token_embedder/embedding"
    arrays[name][3, 4], arrays[name][5, 6] = np.nan, np.inf
    begin = write_own(tmp_path / "checkpoint_7", arrays)
    done = run(begin, tmp_path / "hf", Options("hf", dtype="bfloat16"))
    assert f"NaN or infinity in {name}: written as in the source" in done.notes
    found = open_hf(tmp_path / "hf").read("shared.weight")
    assert_same({name: found}, {name: arrays[name].astype(ml_dtypes.bfloat16)})
    finite = np.isfinite(arrays[name])
    error = np.abs(found.astype(np.float64)[finite] - arrays[name][finite]).max()
    assert done.done is not None and done.done.cast_errors[name] == error > 0
    assert not [each for each in recwarn if issubclass(each.category, RuntimeWarning)]


def test_transposed_and_cast_values_hash_like_copies():
    value = np.random.default_rng(0).normal(size=(37, 11)).astype(np.float32)
    copy = np.ascontiguousarray(value.T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_BLOCK_BYTES", 100)
        small = transfer._digest(value.T, np.dtype(np.float32))
    assert small == transfer._digest(copy, np.dtype(np.float32)) == (small[0], 0.0, True)
    half = np.dtype(ml_dtypes.bfloat16)
    assert transfer._digest(value, half)[0] == transfer._digest(value.astype(half), half)[0]


def test_a_vocabulary_with_more_ids_than_the_model_is_refused(tmp_path: Path, source: Path):
    with pytest.raises(CheckpointError, match="has 359 ids, the model only 48"):
        run(source, tmp_path / "hf", Options("hf", vocabulary=ByteVocabulary(100)))
    assert not (tmp_path / "hf").exists()


def test_a_named_vocabulary_goes_before_the_sources_tokenizer(tmp_path: Path):
    config = dataclasses.replace(CONFIG, vocab_size=400)
    begin = write_own(tmp_path / "checkpoint_7", make_arrays(config), config)
    run(begin, tmp_path / "hf", Options("hf", vocabulary=ByteVocabulary(10)))
    run(tmp_path / "hf", tmp_path / "copied", HF)
    run(tmp_path / "hf", tmp_path / "named", Options("hf", vocabulary=ByteVocabulary(20)))
    found = [
        json.loads((tmp_path / name / "tokenizer_config.json").read_text())["extra_ids"]
        for name in ("copied", "named")
    ]
    assert found == [10, 20]


def test_one_of_ours_without_its_run_document_is_said(tmp_path: Path, source: Path):
    shutil.rmtree(source / "run")
    with pytest.raises(CheckpointError, match="damaged: its folder run is missing"):
        run(source, tmp_path / "hf", HF)
