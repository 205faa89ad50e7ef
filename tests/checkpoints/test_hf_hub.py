"""Models of the hub: real downloads, from a server on this machine that stands for it."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from flan_jax.checkpoints.hf import is_hub_path, load_hf, open_hf, open_hf_model, resolve
from flan_jax.checkpoints.tensors import CheckpointError
from tests.checkpoints.hf_exports import CONFIGS, export, leaves_by_name, random_model
from tests.checkpoints.hf_hub import FakeHub

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture(scope="module")
def model():
    return random_model(CONFIGS["t5_v1_0"])


@pytest.fixture(scope="module")
def hub(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    export(model, folder, max_shard_bytes=40_000)
    # Not to be downloaded.
    for name in ("flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"):
        (folder / name).write_bytes(b"x" * 1000)
    torch_only = tmp_path_factory.mktemp("torch_only")
    shutil.copy(folder / "config.json", torch_only)
    (torch_only / "pytorch_model.bin").write_bytes(b"x" * 1000)
    repositories = {"org/model": (folder, COMMITS), "org/old": (torch_only, COMMITS)}
    with FakeHub(repositories).serving() as hub:
        yield hub


def point_at(monkeypatch: pytest.MonkeyPatch, cache: Path, url: str, offline: bool = False) -> None:
    """Settings that huggingface_hub otherwise reads from the environment, once."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed: make transformers"
    )
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def cache(tmp_path, hub, monkeypatch) -> Path:
    point_at(monkeypatch, tmp_path, hub.url)
    hub.downloads.clear()
    return tmp_path


@pytest.mark.parametrize("path", ["hf://org/model", "org/model", "hf://org/model@v1"])
def test_download(path, model, hub, cache):
    config, loaded = load_hf(path)
    assert config == CONFIGS["t5_v1_0"]
    for name, value in leaves_by_name(model).items():
        np.testing.assert_array_equal(leaves_by_name(loaded)[name], value)
    assert "config.json" in hub.downloads
    assert not {"flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"} & set(hub.downloads)
    assert (COMMITS["v1"] if path.endswith("v1") else COMMITS["main"]) in resolve(path)


def test_the_cache_serves_while_offline(hub, cache, monkeypatch):
    online = resolve("hf://org/model")
    hub.downloads.clear()
    point_at(monkeypatch, cache, hub.url, offline=True)
    assert resolve("hf://org/model") == online
    assert open_hf_model("hf://org/model").config == CONFIGS["t5_v1_0"]
    assert hub.downloads == []
    with pytest.raises(CheckpointError, match=r"not in the cache, and HF_HUB_OFFLINE forbids"):
        resolve("hf://org/other")


def test_pytorch_weights_come_where_there_are_no_others(hub, cache):
    assert (Path(resolve("hf://org/old")) / "pytorch_model.bin").is_file()
    pytest.importorskip("torch", reason="torch is not installed: make transformers")
    with pytest.raises(CheckpointError, match="truncated or no PyTorch checkpoint"):
        open_hf("hf://org/old")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://org/modle", r"the hub has no repository 'org/modle' \(or it is private"),
        ("hf://org/model@v2", "it has no revision 'v2'"),
        ("hf://", "expected hf://organisation/name"),
        ("hf://a/b/c", "expected hf://organisation/name"),
    ],
)
def test_unknown_repositories(cache, path, message):
    with pytest.raises(CheckpointError, match=message):
        resolve(path)


def test_the_hub_cannot_be_reached(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    point_at(monkeypatch, tmp_path, url)
    with pytest.raises(CheckpointError, match=r"the hub cannot be reached\. Download it"):
        resolve("hf://org/model")


def test_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"huggingface_hub is not installed: pip install 'fl"):
        resolve("hf://org/model")


def test_which_paths_are_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("hf://org/model", "google/flan-t5-small", "google/flan-t5-small@main"):
        assert is_hub_path(path), path
    for path in ("runs/model", "model", "/a/b", "./a/b", "gs://a/b", "a/b/c", "~/a", "../a"):
        assert not is_hub_path(path), path
        assert resolve(path) == path
