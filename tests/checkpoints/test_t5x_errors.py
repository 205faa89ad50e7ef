"""What is wrong with a T5X checkpoint is said, whatever it is; nothing is read as zeros."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from flax import serialization

from flan_jax.checkpoints import t5x
from flan_jax.checkpoints.source import open_source
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from tests.checkpoints.fake_bucket import bucket_server
from tests.checkpoints.t5x_samples import SHARED, write_sample

EMBEDDING = "target/token_embedder/embedding"
ARRAY = "target.token_embedder.embedding"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Path]:
    """A sound checkpoint of each format."""
    root = tmp_path_factory.mktemp("samples")
    folders = {form: root / form / "checkpoint_7" for form in ("legacy", "orbax")}
    for form, folder in folders.items():
        write_sample(folder, form=form)
    return folders


@pytest.fixture
def legacy(samples, tmp_path) -> Path:
    return Path(shutil.copytree(samples["legacy"].parent, tmp_path / "legacy")) / "checkpoint_7"


@pytest.fixture
def orbax(samples, tmp_path) -> Path:
    return Path(shutil.copytree(samples["orbax"].parent, tmp_path / "orbax")) / "checkpoint_7"


def edit_index(folder: Path, change) -> None:
    file = folder / "checkpoint"
    index = serialization.msgpack_restore(file.read_bytes())
    change(index)
    file.write_bytes(serialization.msgpack_serialize(index))


def read_all(path) -> None:
    reader = t5x.open_t5x(path)
    for name in reader.infos:
        reader.read(name)


def fails(path, *messages: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    for message in messages:
        assert message in str(caught.value)


def test_truncated_index(legacy):
    file = legacy / "checkpoint"
    size = file.stat().st_size
    for kept in (size - 1, size // 2, 3, 0):
        file.write_bytes(file.read_bytes()[:kept])
        fails(legacy, f"{file} is truncated or damaged ({kept} bytes", "copy it again")


def test_index_of_something_else(legacy):
    (legacy / "checkpoint").write_bytes(serialization.msgpack_serialize({"params": {}}))
    fails(legacy, "is no index of a T5X checkpoint")


@pytest.mark.parametrize("version", [2, 4, None])
def test_unknown_version(legacy, version):
    edit_index(legacy, lambda index: index.update(version=version))
    fails(legacy, f"format version {version!r}, known is 3")


def test_missing_array(legacy):
    shutil.rmtree(legacy / ARRAY)
    fails(legacy, f"refers to '{ARRAY}/'", "not copied completely")


def test_missing_header(legacy):
    (legacy / ARRAY / ".zarray").unlink()
    fails(legacy, "is damaged", EMBEDDING)


def test_header_and_index_differ(legacy):
    def retype(index):
        index["optimizer"]["target"]["token_embedder"]["embedding"]["dtype"] = "bfloat16"

    edit_index(legacy, retype)
    fails(legacy, f"{EMBEDDING} is float32 (24, 16) in its array, bfloat16 (24, 16) in the file")


def test_array_of_another_driver(legacy):
    def change(index):
        index["optimizer"]["target"]["token_embedder"]["embedding"]["driver"] = "n5"

    edit_index(legacy, change)
    fails(legacy, EMBEDDING, "driver 'n5'")


def test_truncated_chunk(legacy):
    chunk = legacy / ARRAY / "0.0"
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    fails(legacy, "is damaged", EMBEDDING)


def test_missing_chunk_of_a_parameter_is_no_zeros(legacy):
    (legacy / ARRAY / "0.0").unlink()
    fails(legacy, "is damaged", EMBEDDING, "missing")


def test_missing_chunk_of_the_optimizer_is_zeros(legacy):
    """T5X leaves out chunks of zeros; there they are real."""
    name = "state/param_states/encoder/encoder_norm/scale/v"
    (legacy / name.replace("/", ".") / "0").unlink()
    np.testing.assert_array_equal(t5x.open_t5x(legacy).read(name), np.zeros(16))


def test_orbax_without_its_list(orbax):
    (orbax / "state" / "_METADATA").unlink()
    fails(orbax, "_METADATA is missing", "completely")


@pytest.mark.parametrize("text", ["", '{"tree_metadata": ', "[]", '{"tree_metadata": {"a": 1}}'])
def test_orbax_with_a_damaged_list(orbax, text):
    (orbax / "state" / "_METADATA").write_text(text)
    fails(orbax, "is damaged", "_METADATA")


def test_orbax_with_an_array_that_is_not_there(orbax):
    file = orbax / "state" / "_METADATA"
    metadata = json.loads(file.read_text())
    entries = metadata["tree_metadata"]
    entry = json.loads(json.dumps(next(iter(entries.values()))))
    entry["key_metadata"][-1]["key"] = "other"
    entries["other"] = entry
    file.write_text(json.dumps(metadata))
    fails(orbax, "is damaged", "other")


def test_orbax_without_its_store(orbax):
    (orbax / "state" / "manifest.ocdbt").unlink()
    fails(orbax, "manifest.ocdbt is missing")


def test_orbax_with_truncated_data(orbax):
    # All of them: an index that a later write replaced may fill half of any one.
    for file in (orbax / "state" / "d").iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    fails(orbax, "is damaged")


def test_a_folder_of_checkpoints(legacy):
    for step in (3, 20, 100):
        (legacy.parent / f"checkpoint_{step}").mkdir()
    fails(legacy.parent, "holds checkpoints but is none itself", f"{legacy.parent}/checkpoint_100")


def test_other_folders(tmp_path):
    fails(tmp_path / "nowhere", "does not exist or is empty")
    (tmp_path / "model.safetensors").touch()
    fails(tmp_path, "is no T5X checkpoint", "found model.safetensors")


LAST = ("target", "decoder", "layers_2", "mlp", "wo", "kernel")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (None, f"missing: {'/'.join(LAST)}"),
        (np.zeros((13, 16), np.float32), f"wrong shape: {'/'.join(LAST)} is (13, 16), the model"),
        (np.zeros((12, 16), np.int8), f"wrong dtype: {'/'.join(LAST)} is int8, expected floats"),
    ],
    ids=["missing", "shape", "dtype"],
)
def test_misfits(legacy, change, problem):
    def put(index):
        node = index["optimizer"]
        for name in LAST[:-1]:
            node = node[name]
        node[LAST[-1]] = change

    edit_index(legacy, put)
    with pytest.raises(CheckpointError, match="does not fit its model") as caught:
        open_source(legacy)
    assert problem in str(caught.value)


def test_an_extra_tensor(legacy):
    extra = np.zeros(3, np.float32)
    edit_index(legacy, lambda index: index["optimizer"]["target"]["encoder"].update(extra=extra))
    with pytest.raises(CheckpointError, match=r"unexpected: target/encoder/extra \(3,\)"):
        open_source(legacy)


def test_statistics_of_a_flax_model_are_let_be(legacy):
    counts = {"counter": np.zeros(3, np.int32)}
    edit_index(legacy, lambda index: index["optimizer"].update(flax_mutables=counts))
    source = open_source(legacy)
    assert "flax_mutables/counter" in source.unused
    source.close()


def test_the_other_architecture(samples):
    infos = t5x.open_t5x(samples["legacy"]).infos
    config = dataclasses.replace(SHARED, relative_attention_per_layer=True)
    with pytest.raises(CheckpointError, match=r"relative_attention_per_layer = False"):
        t5x.t5x_layout(config, infos, optimizer=False)


@pytest.mark.parametrize("form", ["legacy", "orbax"])
def test_full_disk(tmp_path, form):
    """The limit of a file's size stands for it: the system refuses to write likewise."""
    info = TensorInfo((512, 1024), np.dtype(np.float32))
    create = t5x.create_t5x_legacy if form == "legacy" else t5x.create_t5x_orbax
    value = np.random.default_rng(0).standard_normal(info.shape).astype(np.float32)

    def write() -> None:
        writer = create(tmp_path / "checkpoint_1", {EMBEDDING: info})
        writer.write(EMBEDDING, value)
        writer.close()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", ["legacy", "orbax"])
def test_from_a_bucket(samples, monkeypatch, form):
    local = t5x.open_t5x(samples[form])
    with bucket_server(samples["legacy"].parents[1]) as address:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        path = f"gs://bucket/{form}/checkpoint_7"
        reader = t5x.open_t5x(path)
        assert reader.infos == local.infos
        for name in (EMBEDDING, "state/step", "target/decoder/layers_2/mlp/wo/kernel"):
            np.testing.assert_array_equal(reader.read(name), local.read(name))
        config, notes = t5x.read_t5x_config(path, reader.infos)
        assert config == SHARED
        assert notes == (f"sizes from gs://bucket/{form}/config.gin",)
        fails(f"gs://bucket/{form}", "holds checkpoints", f"{path}")
        fails("gs://bucket/other", "does not exist or is empty")


def test_index_that_names_t5x_s_dummy_bucket(samples, legacy, monkeypatch):
    """As T5X writes it to a bucket: read where it lies now, be that a bucket or a disk."""

    def change(index):
        embedding = index["optimizer"]["target"]["token_embedder"]["embedding"]
        embedding["kvstore"] = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
        embedding["path"] = f"old/place/checkpoint_7/{ARRAY}/"

    edit_index(legacy, change)
    expected = t5x.open_t5x(samples["legacy"]).read(EMBEDDING)
    np.testing.assert_array_equal(t5x.open_t5x(legacy).read(EMBEDDING), expected)
    with bucket_server(legacy.parents[1]) as address:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        reader = t5x.open_t5x("gs://mine/legacy/checkpoint_7")
        np.testing.assert_array_equal(reader.read(EMBEDDING), expected)


def test_unreachable_bucket(monkeypatch):
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")  # nobody listens
    began = time.monotonic()
    fails("gs://bucket/flan/checkpoint_1", "gs://bucket/flan/checkpoint_1", "credentials")
    assert time.monotonic() - began < 60
