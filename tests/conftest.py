"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flan_jax import mixing, tasks
from tests.fast_compile import FAST_COMPILE
from tests.tiny_runs import Runner

# Read when JAX first compiles, in this process and in those that tests start.
os.environ.setdefault("XLA_FLAGS", FAST_COMPILE)
# With libtpu installed JAX would look for TPUs first, and complain.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).resolve().parent.parent


def test_data_folder() -> Path | None:
    """The folder of real test data: `FLAN_JAX_TEST_DATA`, else `../shared/data` if it exists."""
    folder = Path(os.environ.get("FLAN_JAX_TEST_DATA") or ROOT.parent / "shared" / "data")
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def test_data() -> Path:
    folder = test_data_folder()
    if folder is None:
        pytest.skip("real test data not found: set FLAN_JAX_TEST_DATA to its folder")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, lest one of them be all that runs at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="module")
def gin_is_as_it_was() -> Iterator[None]:
    """What a module's tests bind with gin ends with it, whichever module comes next."""
    yield
    if gin := sys.modules.get("gin"):
        gin.clear_config()


# Where tasks and mixtures are kept, defined and announced.
_REGISTRIES = (
    *((tasks, name) for name in ("_TASKS", "_ALIASES", "_DEFERRED")),
    *((mixing, name) for name in ("_MIXTURES", "_DEFERRED", "_ANNOUNCED")),
)


@pytest.fixture
def empty_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the length of a test nothing is registered."""
    for module, name in _REGISTRIES:
        monkeypatch.setattr(module, name, {})


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it; what was there before stays."""
    import flan_jax.mixtures  # noqa: F401

    tasks.all_tasks()
    mixing.deferred_mixtures()
    for module, name in _REGISTRIES:
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


@pytest.fixture(scope="session")
def seqio_loaded() -> None:
    """SeqIO is imported, and has our tasks, before a test puts registries of its own in place."""
    import seqio  # noqa: F401

    import flan_jax.mixtures  # noqa: F401


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Starts the real commands on a tiny model."""
    return Runner(tmp_path_factory.mktemp("compiled"), tmp_path_factory.mktemp("gin"))


@pytest.fixture(scope="session")
def trained(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 6 steps, with checkpoints at 2, 4 and 6; to be read only."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    ended = runner.train(folder)
    assert ended.code == 0, ended.err
    (folder / "stderr.txt").write_text(ended.err, encoding="utf-8")
    return folder
