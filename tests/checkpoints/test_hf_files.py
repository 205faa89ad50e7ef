"""Files of tensors: safetensors and PyTorch's, one or many, whole and damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.checkpoints.hf import create_hf, hf_infos, hf_layout, open_hf, read_safetensors
from flan_jax.checkpoints.hf import writer as writer_module
from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.hf.safetensors_files import DTYPES, SafetensorsReader, SafetensorsWriter
from flan_jax.checkpoints.hf.writer import plan_shards
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from tests.checkpoints.hf_exports import CONFIGS, export, random_model

Tensors = dict[str, np.ndarray]


def write(file: Path, tensors: Tensors) -> None:
    infos = {name: TensorInfo(value.shape, value.dtype) for name, value in tensors.items()}
    writer = SafetensorsWriter(file, infos, {"format": "pt"})
    for name, value in tensors.items():
        writer.write(name, value)
    writer.close()


def some_tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.normal(size=(5, 3)).astype(np.float32),
        "half": rng.normal(size=(2, 3, 4)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4), np.float32),
        "number": np.asarray(2.5, np.float64),
    }


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from(sorted(DTYPES)),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read(tmp_path_factory, shapes, dtype, seed):
    rng = np.random.default_rng(seed)
    tensors = {
        f"t{i}": rng.integers(0, 2, shape).astype(DTYPES[dtype]) for i, shape in enumerate(shapes)
    }
    file = tmp_path_factory.mktemp("written") / "model.safetensors"
    write(file, tensors)
    reader = SafetensorsReader(Folder(file.parent), file.name)
    for name, value in tensors.items():
        assert reader.infos[name] == TensorInfo(value.shape, value.dtype)
        np.testing.assert_array_equal(reader.read(name), value)
        for axis in range(value.ndim):
            for index in range(value.shape[axis]):
                found = reader.read(name, index, axis)
                np.testing.assert_array_equal(found, np.take(value, index, axis))
    reader.close()


def test_the_library_reads_what_we_write_and_writes_what_we_read(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="safetensors: make transformers")
    tensors = {name: value for name, value in some_tensors().items() if name != "half"}
    write(tmp_path / "ours.safetensors", tensors)
    library.save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    theirs = library.load_file(tmp_path / "ours.safetensors")
    ours = read_safetensors(tmp_path / "theirs.safetensors")
    for name, value in tensors.items():
        assert theirs[name].dtype == ours[name].dtype == value.dtype
        np.testing.assert_array_equal(theirs[name], value)
        np.testing.assert_array_equal(ours[name], value)


def test_slices_casts_and_transposes(tmp_path):
    value = np.arange(12, dtype=np.float32).reshape(3, 4)
    info = TensorInfo((4, 3), np.dtype(ml_dtypes.bfloat16))
    writer = SafetensorsWriter(tmp_path / "a.safetensors", {"t": info}, {})
    for index in (2, 0, 3, 1):
        writer.write("t", value.T[index], index)
    assert writer.complete
    writer.close()
    found = read_safetensors(tmp_path / "a.safetensors")["t"]
    np.testing.assert_array_equal(found, value.T.astype(ml_dtypes.bfloat16))


def test_a_transposed_tensor_is_copied_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("flan_jax.checkpoints.hf.safetensors_files._CHUNK_BYTES", 1 << 20)
    value = np.random.default_rng(0).normal(size=(2000, 3000)).astype(np.float32)
    info = TensorInfo((3000, 2000), np.dtype(np.float32))
    writer = SafetensorsWriter(tmp_path / "a.safetensors", {"t": info}, {})
    tracemalloc.start()
    writer.write("t", value.T)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.close()
    assert peak < 4 << 20 < value.nbytes
    np.testing.assert_array_equal(read_safetensors(tmp_path / "a.safetensors")["t"], value.T)


def test_rows_are_read_alone(tmp_path):
    value = np.random.default_rng(0).normal(size=(3000, 1000)).astype(np.float32)
    write(tmp_path / "a.safetensors", {"t": value})
    reader = SafetensorsReader(Folder(tmp_path), "a.safetensors")
    tracemalloc.start()
    found = reader.read_rows("t", 10, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < value.nbytes / 50
    np.testing.assert_array_equal(found, value[10:20])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("b", np.zeros(3, np.float32), "tensor b was not declared"),
        ("a", np.zeros(4, np.float32), r"with shape \(4,\), declared is \(3,\)"),
    ],
)
def test_only_what_was_declared_is_written(tmp_path, name, value, message):
    infos = {"a": TensorInfo((3,), np.dtype(np.float32))}
    writer = SafetensorsWriter(tmp_path / "a.safetensors", infos, {})
    with pytest.raises(CheckpointError, match=message):
        writer.write(name, value)
    with pytest.raises(CheckpointError, match="1 declared tensors were not written whole"):
        writer.close()


def truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def rewrite_header(file: Path, change: Any) -> None:
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: truncate(f, 3), "is truncated: 3 bytes, expected 8 or more"),
        (lambda f: truncate(f, 100), "is truncated: its header has"),
        (lambda f: truncate(f, f.stat().st_size - 1), "is truncated: its header announces 116 byt"),
        (lambda f: f.write_text("version https://git-lfs.github.com"), "not a safetensors file"),
        (lambda f: f.write_bytes(b"\4" + b"\0" * 7 + b"[1,]"), "its header is not JSON"),
        (lambda f: f.write_bytes(b"\3" + b"\0" * 7 + b"[1]"), "its header is a list, not a map"),
        (
            lambda f: rewrite_header(f, lambda h: h["matrix"].update(dtype="F4")),
            "matrix has dtype F4, known are",
        ),
        (
            lambda f: rewrite_header(f, lambda h: h["matrix"].update(dtype="F64")),
            r"matrix \(5, 3\) of F64 needs 120 bytes, its header gives it 60",
        ),
        (
            lambda f: rewrite_header(f, lambda h: h["matrix"].pop("shape")),
            "the header's entry matrix is damaged",
        ),
    ],
)
def test_damaged_safetensors(tmp_path, damage, message):
    file = tmp_path / "model.safetensors"
    write(file, some_tensors())
    damage(file)
    with pytest.raises(CheckpointError, match=message):
        open_hf(tmp_path)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    file = tmp_path / "model.safetensors"
    write(file, {"a": np.zeros(100_000, np.float32)})
    reader = open_hf(tmp_path)
    with file.open("r+b") as opened:
        opened.truncate(200_000)
    with pytest.raises(CheckpointError, match=r"is truncated: it ends at byte 200000, expected"):
        reader.read("a")


def write_shards(folder: Path, tensors: Tensors) -> Path:
    weight_map = {}
    for number, (name, value) in enumerate(tensors.items()):
        weight_map[name] = f"model-{number}.safetensors"
        write(folder / weight_map[name], {name: value})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_shards(tmp_path):
    tensors = some_tensors()
    write_shards(tmp_path, tensors)
    reader = open_hf(tmp_path)
    assert len(reader.files) == len(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(reader.read(name), value)
    with pytest.raises(CheckpointError, match="has no tensor other"):
        reader.read("other")


def test_shards_and_index_that_disagree(tmp_path):
    index = write_shards(tmp_path, some_tensors())
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {"more": "model-0.safe"}}))
    with pytest.raises(
        CheckpointError, match=r"lists 5 shards, of which model-0\.safe are missing"
    ):
        open_hf(tmp_path)
    more = content["weight_map"] | {"more": "model-0.safetensors"}
    index.write_text(json.dumps({"weight_map": more}))
    with pytest.raises(CheckpointError, match=r"1 tensors are in no shard \(more\)"):
        open_hf(tmp_path)
    write(tmp_path / "model-0.safetensors", {"matrix": np.zeros(1), "other": np.zeros(1)})
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"1 tensors are not in the index \(other\)"):
        open_hf(tmp_path)
    write(tmp_path / "model-0.safetensors", {"matrix": np.zeros(1), "half": np.zeros(1)})
    with pytest.raises(CheckpointError, match="tensor half is both in model-0"):
        open_hf(tmp_path)
    for text in ("{}", '{"weight_map": {"matrix": 3}}'):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="has no weight_map"):
            open_hf(tmp_path)


def test_large_models_are_sharded(tmp_path):
    model = random_model(CONFIGS["t5_v1_1"])
    export(model, tmp_path / "one")
    export(model, tmp_path / "many", max_shard_bytes=60_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert files == sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    one, many = open_hf(tmp_path / "one"), open_hf(tmp_path / "many")
    total = sum(int(np.prod(info.shape)) * 4 for info in one.infos.values())
    assert index["metadata"]["total_size"] == total
    for name in one.infos:
        np.testing.assert_array_equal(one.read(name), many.read(name))
    shared, head = 384 * 32 * 4, 60_000
    sizes = [file.stat().st_size for file in (tmp_path / "many").glob("*.safetensors")]
    assert max(sizes) < max(shared, head) + 8_000


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12), limit=st.integers(1, 60))
def test_shards_are_as_full_as_allowed(sizes, limit):
    infos = {f"t{i}": TensorInfo((n,), np.dtype(np.int8)) for i, n in enumerate(sizes)}
    shards = plan_shards(infos, limit)
    assert [name for part in shards.values() for name in part] == list(infos)
    filled = [sum(info.shape[0] for info in part.values()) for part in shards.values()]
    for (_, part), total, following in zip(
        shards.items(), filled, [*filled[1:], None], strict=True
    ):
        assert total <= limit or len(part) == 1
        if following is not None:
            names = list(infos)
            next_size = infos[names[names.index(list(part)[-1]) + 1]].shape[0]
            assert total + next_size > limit


def test_the_writer_wants_every_tensor_once(tmp_path):
    layout = hf_layout(CONFIGS["t5_v1_1"])
    infos = hf_infos(layout)
    writer = create_hf(tmp_path, infos, CONFIGS["t5_v1_1"])
    writer.write("shared.weight", np.zeros((384, 32), np.float32))
    with pytest.raises(CheckpointError, match="tensor other was not declared"):
        writer.write("other", np.zeros(1))
    with pytest.raises(CheckpointError, match="declared tensors were not written whole"):
        writer.close()
    assert "no tokenizer files" in writer.notes[0]


def test_too_little_space_is_found_before_writing(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda path: usage)
    config = CONFIGS["t5_v1_1"]
    with pytest.raises(CheckpointError, match=r"GB are needed, and 0\.0 GB are free"):
        create_hf(tmp_path, hf_infos(hf_layout(config)), config)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_write_that_fails(tmp_path):
    """The kernel refuses to let the file grow, as a full disk does."""
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from flan_jax.checkpoints.hf.safetensors_files import SafetensorsWriter
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
value = np.zeros((100, 100), np.float32)
info = TensorInfo(value.shape, value.dtype)
writer = SafetensorsWriter(Path({str(tmp_path)!r}) / "model.safetensors", {{"a": info}}, {{}})
try:
    writer.write("a", value)
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{tmp_path}/model.safetensors cannot be written: File too large."


class TestTorch:
    """pytorch_model.bin."""

    @pytest.fixture(autouse=True)
    def torch(self) -> Any:
        return pytest.importorskip("torch", reason="torch is not installed: make transformers")

    @pytest.fixture
    def state(self, torch) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        shared = torch.randn(6, 4, generator=generator)
        return {
            "shared": shared,
            "copy": shared,
            "half": torch.randn(3, generator=generator).bfloat16(),
            "transposed": torch.randn(2, 5, generator=generator).T,
        }

    def expect(self, reader: Any, state: dict[str, Any]) -> None:
        assert reader.infos.keys() == state.keys()
        for name, value in state.items():
            assert reader.infos[name].shape == tuple(value.shape)
            expected = value.float().numpy()
            found = reader.read(name)
            assert found.dtype == reader.infos[name].dtype
            np.testing.assert_array_equal(found.astype(np.float32), expected)
            np.testing.assert_array_equal(reader.read(name, 1).astype(np.float32), expected[1])
            rows = reader.read_rows(name, 1, 3).astype(np.float32)
            np.testing.assert_array_equal(rows, expected[1:3])
        np.testing.assert_array_equal(
            reader.read("transposed", 1, axis=1), state["transposed"][:, 1].numpy()
        )
        assert reader.infos["half"].dtype == ml_dtypes.bfloat16

    @pytest.mark.parametrize("zipped", [True, False])
    def test_one_file(self, torch, state, tmp_path, zipped):
        """Without zip as torch < 1.6 wrote, which T5's first checkpoints are from."""
        file = tmp_path / "pytorch_model.bin"
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        reader = open_hf(tmp_path)
        self.expect(reader, state)
        assert reader.equal("shared", "copy")
        assert not reader.equal("shared", "half")
        reader.close()

    def test_shards(self, torch, state, tmp_path):
        for name, value in state.items():
            torch.save({name: value}, tmp_path / f"pytorch_model-{name}.bin")
        weight_map = {name: f"pytorch_model-{name}.bin" for name in state}
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        self.expect(open_hf(tmp_path), state)

    def test_safetensors_come_first(self, torch, state, tmp_path):
        torch.save(state, tmp_path / "pytorch_model.bin")
        write(tmp_path / "model.safetensors", some_tensors())
        assert open_hf(tmp_path).files == ("model.safetensors",)

    def test_a_damaged_file(self, torch, state, tmp_path):
        file = tmp_path / "pytorch_model.bin"
        torch.save(state, file)
        truncate(file, file.stat().st_size // 2)
        with pytest.raises(CheckpointError, match="is truncated or no PyTorch checkpoint"):
            open_hf(tmp_path)
        file.write_text("junk\n")
        with pytest.raises(CheckpointError, match="is truncated or no PyTorch checkpoint"):
            open_hf(tmp_path)

    def test_a_file_may_not_run_code(self, torch, tmp_path):
        torch.save({"a": Path("x")}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="no PyTorch checkpoint: Weights only load"):
            open_hf(tmp_path)

    def test_other_contents(self, torch, tmp_path):
        torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="must hold a dictionary of tensors"):
            open_hf(tmp_path)

    def test_quantised_tensors(self, torch, tmp_path):
        values = torch.zeros(2, dtype=torch.float8_e4m3fn)
        torch.save({"a": values}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"a is torch\.float8_e4m3fn, which NumPy"):
            open_hf(tmp_path)


def test_torch_is_missing(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"torch is not installed: pip install 'flan_jax\[t"):
        open_hf(tmp_path)
