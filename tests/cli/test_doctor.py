"""`flan-jax doctor`: each check on a healthy and on a broken machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flan_jax.cli import doctor
from flan_jax.cli.doctor import Check
from flan_jax.cli.tables import print_table

ROOT = Path(__file__).resolve().parent.parent.parent


def test_old_python_is_a_problem():
    assert doctor.check_python((3, 10, 13)).status == "problem"
    assert doctor.check_python((3, 11, 0)).status == "ok"
    assert doctor.check_python().status == "ok"


def test_packages_met_missing_and_too_old():
    version = doctor.importlib.metadata.version("pytest")
    checks = list(
        doctor.check_packages(
            [
                "pytest>=1",
                "hypothesis>=9999",
                "no-such-distribution>=1.2; python_version >= '3'",
                "another-one; extra == 'cuda'",
                "one-for-old-pythons; python_version < '3'",
            ],
            tested={"pytest": version},
        )
    )
    assert [check.status for check in checks] == ["problem", "problem", "ok"]
    assert checks[0].found.startswith("hypothesis ")
    assert checks[0].fix == "pip install 'hypothesis>=9999'"
    assert checks[1].found == "no-such-distribution is missing"
    assert checks[1].fix == "pip install 'no-such-distribution>=1.2'"
    assert checks[2].found == "1 requirements met"


def test_version_other_than_the_tested_is_a_warning():
    checks = list(doctor.check_packages(["PyTest>=1"], tested={"pytest": "0.0.1"}))
    assert [check.status for check in checks] == ["ok", "warning"]
    assert "(tested: 0.0.1)" in checks[1].found


def test_tested_versions_are_read_from_constraints(tmp_path: Path):
    file = tmp_path / "constraints.txt"
    file.write_text("# a comment with ==\nJinja2==3.1.6\nrouge_score==0.1.2\n\n")
    assert doctor.tested_versions(file) == {"jinja2": "3.1.6", "rouge-score": "0.1.2"}
    assert doctor.tested_versions(tmp_path / "none.txt") == {}


def python_with(path: Path, code: str) -> str:
    """Runs `code` where `path` comes first among the places to import from."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(path), str(ROOT)))}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=path
    ).stdout


def test_gin_config_is_recognised():
    check = doctor.check_gin()
    assert check.status == "ok"
    assert "gin" in check.found


def test_foreign_gin_is_found(tmp_path: Path):
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "__init__.py").write_text("name = 'another gin'\n")
    code = (
        "from flan_jax.cli.doctor import check_gin as c; x = c(); print(x.status, x.found, x.fix)"
    )
    output = python_with(tmp_path, code)
    assert output.startswith(f"problem {tmp_path / 'gin' / '__init__.py'} is not gin-config")
    assert "pip uninstall gin" in output


def test_gin_that_is_only_a_folder_is_found(tmp_path: Path):
    (tmp_path / "gin").mkdir()
    # Without site-packages there is no gin-config, and the folder answers to its name.
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "from flan_jax.cli.doctor import check_gin as c; x = c(); print(x.status, x.found, x.fix)"
    )
    output = python_with(tmp_path, code)
    assert output.startswith("problem gin-config is not installed: 'import gin' finds only")
    assert output.strip().endswith("pip install gin-config")


def test_content_under_a_second_name_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    assert doctor.check_content() == Check("mixtures", "ok", str(ROOT / "mixtures"))
    monkeypatch.setitem(sys.modules, "mixtures", types.ModuleType("mixtures"))
    assert doctor.check_content().status == "problem"


def test_devices_of_this_machine():
    check = doctor.check_devices(timeout=120)
    assert check.status in ("ok", "warning")
    assert " × " in check.found


def test_hanging_device_runtime_is_told_and_ended(tmp_path: Path):
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    start = time.monotonic()
    check = doctor.check_devices(timeout=3, code=code)
    assert time.monotonic() - start < 60
    assert check.status == "problem"
    assert "no answer within 3 s" in check.found
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_failing_device_runtime_is_told_with_its_last_line():
    check = doctor.check_devices(timeout=60, code="raise RuntimeError('no TPU here')")
    assert check.status == "problem"
    assert check.found == "jax.devices() fails: RuntimeError: no TPU here"


def test_free_memory_is_read_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       4096 kB\nMemAvailable:   1024 kB\n")
    assert doctor.free_memory(file) == 1024 * 1024
    assert doctor.free_memory(tmp_path / "none") is None
    monkeypatch.setattr(doctor, "free_memory", lambda: doctor.GIB)
    assert doctor.check_memory().status == "warning"
    monkeypatch.setattr(doctor, "free_memory", lambda: None)
    assert doctor.check_memory().status == "ok"


@pytest.mark.parametrize(
    ("free", "status"), [(100 * doctor.GIB, "ok"), (doctor.GIB, "warning"), (1000, "problem")]
)
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str):
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    # A folder that a run would make is judged by the one it would be made in.
    check = doctor.check_disk("model_dir", str(tmp_path / "runs" / "first"))
    assert check.status == status
    assert check.found.endswith(f" in {tmp_path}")


def test_disk_that_is_a_file_or_remote(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    assert doctor.check_disk("disk", str(file)).status == "problem"
    assert doctor.check_disk("disk", "gs://bucket/run").status == "ok"


def test_data_folder_that_does_not_exist_is_a_problem(tmp_path: Path):
    (check,) = doctor.check_data(str(tmp_path / "none"))
    assert check.status == "problem"
    assert "--data_dir" in check.found


def test_no_data_folder_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FLAN_JAX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (check,) = doctor.check_data(None)
    assert check.status == "warning"
    assert "FLAN_JAX_DATA" in check.fix


def test_datasets_found_and_missing_are_listed(tmp_path: Path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("{}\n")
    found, missing = doctor.check_data(str(tmp_path))
    assert found.found == f"found in {tmp_path}: gsm8k"
    assert missing.status == "warning"
    assert "t5_vocab" in missing.found
    assert "gsm8k" not in missing.found


def run_with(monkeypatch: pytest.MonkeyPatch, checks: list[Check], *argv: str) -> int:
    monkeypatch.setattr(doctor, "run_checks", lambda arguments: checks)
    return doctor.main(argv)


FINE, WARNING, PROBLEM = (
    Check("a", "ok", "fine"),
    Check("b", "warning", "odd", "look"),
    Check("c", "problem", "broken", "mend it"),
)


def test_exit_code_counts_problems_only(monkeypatch: pytest.MonkeyPatch):
    assert run_with(monkeypatch, [FINE, WARNING]) == 0
    assert run_with(monkeypatch, [FINE, PROBLEM]) == 1


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run_with(monkeypatch, [FINE, PROBLEM], "--format", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["checks"][1] == {
        "name": "c",
        "status": "problem",
        "found": "broken",
        "fix": "mend it",
    }


def test_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run_with(monkeypatch, [WARNING], "--format", "plain")
    assert capsys.readouterr().out == "warning\tb\todd\tlook\n"


def test_table_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    print_table(("status", "found"), [("ok", "[bold] is no markup")], stream=stream)
    assert "status" in stream.getvalue()
    assert "[bold] is no markup" in stream.getvalue()


@pytest.mark.slow
def test_the_machine_that_runs_the_tests_is_healthy(capsys: pytest.CaptureFixture[str]):
    code = doctor.main(["--format", "json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0, [check for check in report["checks"] if check["status"] == "problem"]


def test_the_tpu_compiler_is_the_one_that_jax_asks_for(monkeypatch: pytest.MonkeyPatch):
    metadata = doctor.importlib.metadata
    real = metadata.version
    (wanted,) = {
        str(requirement.specifier)
        for requirement in map(Requirement, metadata.requires("jax") or [])
        if requirement.name == "libtpu"
    }
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.0.1" if name == "libtpu" else real(name)
    )
    check = doctor.check_tpu_compiler()
    assert check.status == "warning"
    assert check.fix == f"pip install 'libtpu{wanted}'"
    fitting = wanted.removeprefix("==").replace("*", "1")
    monkeypatch.setattr(metadata, "version", lambda name: fitting)
    assert doctor.check_tpu_compiler() == Check("tpu compiler", "ok", f"libtpu {fitting}")


def test_without_the_tpu_compiler_all_is_well(monkeypatch: pytest.MonkeyPatch):
    def version(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    check = doctor.check_tpu_compiler()
    assert check.status == "ok"
    assert "[plan]" in check.fix
