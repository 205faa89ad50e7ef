"""`flan-jax data build`."""

from __future__ import annotations

import json
import sys

import pytest

from flan_jax.cli import main as cli
from flan_jax.cli.content import load_content
from flan_jax.store import open_store
from tests.store.helpers import MODULE_NAME, MODULE_TEXT, contents, write_rows

MIXTURES = """
from flan_jax.mixing import register_mixture
register_mixture("build_good", ["one", "two"])
register_mixture("build_all", ["one", "absent", "two"])
"""


@pytest.fixture
def run(own_registries, tmp_path, monkeypatch, capsys):
    """Runs the command in this process: (exit code, stdout, stderr)."""
    load_content()
    (tmp_path / f"{MODULE_NAME}.py").write_text(MODULE_TEXT + MIXTURES)
    (tmp_path / "t.yaml").write_text('templates: [{inputs: "{{ question }}", targets: x}]')
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        write_rows(tmp_path / "data", name, 12)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["data", "build", "--module", MODULE_NAME, *arguments])
        return code, *capsys.readouterr()

    yield run
    sys.modules.pop(MODULE_NAME, None)


def test_a_mixture_is_stored_and_kept(run, tmp_path):
    code, output, errors = run("build_good", "--out", "s")
    assert code == 0
    rows = [line.split("\t")[:3] for line in output.splitlines()]
    assert rows == [["built", "one", "15"], ["built", "two", "15"]]
    assert "[2/2, " in errors and "2 built, 0 resumed, 0 unchanged, 0 failed" in errors
    assert "30 rows in 1 shards" in errors
    code, output, errors = run("build_good", "--out", "s", "--jobs", "2")
    assert code == 0 and output.count("unchanged") == 2
    assert open_store("s").source("two").num_examples("train") == 12


def test_processes_give_the_same_bytes(run, tmp_path):
    assert run("build_good", "--out", "a")[0] == 0
    assert run("build_good", "--out", "b", "--jobs", "2")[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_failures_are_listed_and_the_exit_code_tells(run, tmp_path):
    code, output, errors = run("build_all", "--out", "s", "--format", "json")
    assert code == 1
    report = json.loads(output)
    assert report["written"] is False
    assert report["counts"] == {"built": 2, "resumed": 0, "unchanged": 0, "failed": 1}
    assert "failed absent: absent.jsonl is not in the data folder" in errors
    code, output, errors = run("build_all", "--out", "s")
    assert code == 1 and "the store was not written" in errors and "--allow_missing" in errors
    assert not (tmp_path / "s" / "manifest.json").exists()
    code, output, _ = run("build_all", "--out", "s", "--allow_missing")
    assert code == 0
    assert [line.split("\t")[0] for line in output.splitlines()] == ["failed", "resumed", "resumed"]
    assert open_store("s").tasks() == ("one", "two")


def test_splits_and_rows_of_splits_without_end(run):
    options = ("--splits", "validation, train", "--endless_rows", "5")
    assert run("endless", "--out", "s", *options)[0] == 0
    source = open_store("s").source("endless")
    assert source.splits() == ("validation", "train")
    assert source.num_examples("train") == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build_goood", "--out", "s"], "did you mean 'build_good'"),
        (["build_good", "--out", "t.yaml"], "a file stands where a folder is needed"),
        (["build_good", "--out", "gs://b/s"], "a store is built on a disk and copied"),
        (["build_good", "--out", "s", "--", "--runner=X"], "only with --runner beam"),
        (["build_good", "--out", "s", "--data_dir", "nowhere"], "does not exist"),
    ],
)
def test_slips_end_with_status_2_and_a_hint(run, arguments, message):
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert message in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [["build_good"], ["build_good", "--out", "s", "--jobs", "0"],
     ["build_good", "--out", "s", "--splits", ","]],
)  # fmt: skip
def test_wrong_options(run, arguments):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
