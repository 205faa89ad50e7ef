"""Where gin files are looked up, includes, and that gin-config is really there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import gin
import pytest

import flan_jax
from flan_jax.config import SearchPaths, load, package_gin_folders, require_gin_config

ROOT = Path(flan_jax.__file__).resolve().parent.parent


def make_package_gin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout: `flan_jax.gin` is the folder `gin` beside the package."""
    checkout = folder / "checkout"
    (checkout / "gin" / "runs").mkdir(parents=True)
    (checkout / "gin" / "runs" / "finetune.gin").write_text("cfg_train.total_steps = 1\n")
    (checkout / "gin" / "runs" / "eval.gin").write_text("")
    monkeypatch.setattr(flan_jax, "__path__", [str(checkout / "flan_jax"), str(checkout)])
    return checkout / "gin"


@pytest.mark.parametrize(
    "name", ["runs/finetune.gin", "gin/runs/finetune.gin", "flan_jax/gin/runs/finetune.gin"]
)
def test_own_files_resolve_from_anywhere(folder, monkeypatch, name):
    own = make_package_gin(folder, monkeypatch)
    assert package_gin_folders() == (own,)
    assert load([name]).files == (own / "runs" / "finetune.gin",)


def test_own_files_resolve_in_an_installed_package(folder, monkeypatch):
    package = folder / "site-packages" / "flan_jax"
    (package / "gin" / "runs").mkdir(parents=True)
    (package / "gin" / "runs" / "finetune.gin").write_text("")
    monkeypatch.setattr(flan_jax, "__path__", [str(package)])
    paths = SearchPaths.create()
    for name in ("runs/finetune.gin", "gin/runs/finetune.gin", "flan_jax/gin/runs/finetune.gin"):
        assert paths.find(name) is not None, name


def test_given_folders_come_first_then_the_current_one(folder, write):
    write("a/x.gin", "")
    write("b/x.gin", "")
    write("x.gin", "")
    write("y.gin", "")
    assert SearchPaths.create(["b", "a"]).find("x.gin") == Path("b/x.gin")
    assert SearchPaths.create(["a"]).find("y.gin") == Path("y.gin")
    assert SearchPaths.create(["a", ".", "a", str(folder)]).folders[:2] == (Path("a"), Path("."))


def test_absolute_names(folder, write):
    write("x.gin", "")
    assert load([folder / "x.gin"]).files == (folder / "x.gin",)


def test_missing_file_lists_folders_and_near_misses(folder, write, monkeypatch, complaints):
    own = make_package_gin(folder, monkeypatch)
    write("mine/finetune_small.gin", "")
    (line,) = complaints(["runs/fine_tune.gin"], search_paths=["mine", "absent"])
    assert line == (
        "command line: --gin_file=runs/fine_tune.gin: gin file 'runs/fine_tune.gin' not found; "
        f"looked in mine, absent (no such folder), ., {own}, {own.parent}; did you mean "
        "'runs/finetune.gin'?"
    )
    (line,) = complaints(["finetune.gin"])
    assert "did you mean 'runs/finetune.gin'" in line


def test_missing_absolute_and_remote_files(folder, complaints):
    assert complaints([folder / "x.gin", "gs://bucket/x.gin"]) == [
        f"command line: --gin_file={folder}/x.gin: gin file '{folder}/x.gin' not found",
        "command line: --gin_file=gs://bucket/x.gin: gin file 'gs://bucket/x.gin' is remote; gin "
        "files are read from local folders: copy it",
    ]


def test_a_missing_file_is_not_blamed_for_what_it_may_hold(write, complaints):
    name = write("x.gin", "A = 1\ninclude 'gone.gin'\ncfg_train.tags = %B\n")
    (line,) = complaints([name], required=("cfg_train",))
    assert line.startswith("x.gin:2: gin file 'gone.gin' not found")


def test_include_chain_and_overrides(write):
    write("inner.gin", "STEPS = 1\ncfg_train.total_steps = %STEPS\ncfg_train.eval_period = 10\n")
    write("lib/middle.gin", "include 'inner.gin'\ncfg_train.eval_period = 20\n")
    outer = write("outer.gin", "include 'middle.gin'\nSTEPS = 2\n")
    last = write("last.gin", "cfg_train.eval_period = 30\n")
    loaded = load([outer, last], ["STEPS = 3"], ["lib"])
    assert [path.name for path in loaded.files] == [
        "outer.gin",
        "middle.gin",
        "inner.gin",
        "last.gin",
    ]
    by_key = {binding.key: binding for binding in loaded.bindings}
    assert str(by_key["STEPS"].location) == "command line: --gin.STEPS=3"
    assert str(by_key["cfg_script.cfg_train.eval_period"].location) == "last.gin:1"
    assert str(by_key["cfg_script.cfg_train.total_steps"].location) == "inner.gin:2"
    assert [str(binding.location) for binding in loaded.overridden] == [
        "inner.gin:3",
        "inner.gin:1",
        "lib/middle.gin:2",
        "outer.gin:2",
    ]
    assert loaded.resolve(by_key["cfg_script.cfg_train.total_steps"].value) == 3


def test_a_file_may_be_included_twice_but_not_in_a_circle(write, complaints):
    write("base.gin", "cfg_train.total_steps = 1\n")
    name = write("x.gin", "include 'base.gin'\ncfg_train.total_steps = 2\ninclude 'base.gin'\n")
    assert load([name]).values() == {"cfg_script.cfg_train.total_steps": 1}
    write("y.gin", "include 'z.gin'\n")
    write("z.gin", "\ninclude 'y.gin'\n")
    assert complaints(["y.gin"]) == [
        "z.gin:2: files include each other in a circle: y.gin -> z.gin -> y.gin"
    ]


def test_unreadable_file(folder, complaints):
    (folder / "x.gin").write_bytes(b"\xff\xfe\x00")
    (line,) = complaints(["x.gin"])
    assert line.startswith("command line: --gin_file=x.gin: cannot read gin file 'x.gin': ")


def test_repeated_loads_leave_no_search_paths_in_gin(write):
    before = list(gin.config._LOCATION_PREFIXES)
    name = write("lib/x.gin", "")
    for _ in range(3):
        load([name], search_paths=["lib"])
    assert before == gin.config._LOCATION_PREFIXES


def test_an_empty_namespace_package_is_not_gin_config():
    fake = ModuleType("gin")
    fake.__path__ = ["/somewhere/gin"]
    with pytest.raises(ImportError, match=r"found /somewhere/gin, a folder.*pip install"):
        require_gin_config(fake)
    assert require_gin_config(gin) is gin


def test_without_gin_config_the_import_says_so(folder):
    (folder / "gin").mkdir()
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n"
        "try:\n    import flan_jax.config\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert str(folder / "gin") in done.stdout
    assert "pip install 'gin-config>=0.5'" in done.stdout
