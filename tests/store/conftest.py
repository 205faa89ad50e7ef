"""Small tasks of the kinds that matter to stores, in a module that other processes import too."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flan_jax.mixing import MixtureDefinition, define_mixture
from tests.store.helpers import MODULE_NAME, MODULE_TEXT, write_rows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Notes of what was verified go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def content(
    empty_registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], MixtureDefinition]:
    """Registers the module's tasks; called again, as a new process would after changes to it."""
    code, data = tmp_path / "code", tmp_path / "data"
    code.mkdir()
    data.mkdir()
    (code / f"{MODULE_NAME}.py").write_text(MODULE_TEXT)
    (code / "t.yaml").write_text(
        'templates: [{inputs: "Q: {{ question }}", targets: "{{ answer }}"}]\n'
    )
    for name, rows in (("one", 30), ("two", 20), ("three", 10)):
        write_rows(data, name, rows)
    monkeypatch.setenv("FLAN_JAX_DATA", str(data))
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", str(code))

    def register() -> MixtureDefinition:
        from flan_jax import tasks
        from flan_jax.sources import files
        from flan_jax.store import definition

        tasks._TASKS.clear()
        sys.modules.pop(MODULE_NAME, None)
        importlib.invalidate_caches()
        for cached in (definition._source_digest, files._load_once, files._divide_once):
            cached.cache_clear()
        import linecache

        linecache.clearcache()
        importlib.import_module(MODULE_NAME)
        names = (
            json.loads((code / "names.json").read_text())
            if (code / "names.json").exists()
            else ["one", "two", "three"]
        )
        return define_mixture("trio", names)

    yield register
    sys.modules.pop(MODULE_NAME, None)


@pytest.fixture
def mixture(content: Callable[[], MixtureDefinition]) -> MixtureDefinition:
    """Mixture `trio` of `one` (30 rows), `two` (20) and `three` (10), each with validation rows."""
    return content()
