"""Plain `lm_eval` finds our model, by a file that Python reads when it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.cli.evaluating import harness
from flan_jax.errors import UserError
from flan_jax.lm_eval_adapter.registration import install, uninstall

ROOT = Path(__file__).resolve().parent.parent.parent
# The parts of the harness that matter here, for environments that lack it.
PACKAGE = {
    "lm_eval/__init__.py": "",
    "lm_eval/api/__init__.py": "",
    "lm_eval/api/registry.py": (
        "class Registry(dict):\n"
        "    def register(self, name, target):\n"
        "        self[name] = target\n"
        "model_registry = Registry()\n"
    ),
    "lm_eval/models/__init__.py": (
        "from lm_eval.api.registry import model_registry\n"
        "model_registry.register('hf', target='lm_eval.models.hf:HF')\n"
    ),
}
PROGRAM = """
import site, sys
site.addsitedir(sys.argv[1])
assert "lm_eval" not in sys.modules and "jax" not in sys.modules
import lm_eval.models
from lm_eval.api.registry import model_registry
print(sorted(model_registry), model_registry.get("flan_jax"))
"""


@pytest.fixture
def site_folder(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def registered(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    return done.stdout + done.stderr


def test_the_installed_file_registers_the_model(site_folder: Path):
    path = install(site_folder)
    out = registered(site_folder)
    assert "['flan_jax', 'hf'] flan_jax.lm_eval_adapter.harness:FlanJaxLM" in out
    assert uninstall(site_folder) == path
    assert "['hf'] None" in registered(site_folder)
    uninstall(site_folder)  # once more does no harm


def test_without_the_harness_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'flan_jax\[lm-eval\]'"):
        harness.main(["--tasks", "mmlu"])


def test_help_needs_no_harness(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        harness.main([])
    assert "checkpoint=…,gin_file=…" in capsys.readouterr().out
