"""The engines' programs, faked; nothing depends on the GPUs that this machine offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.fake_programs import FakePrograms

NAMES = ("gcloud", "kubectl", "sbatch", "squeue", "sky", "xpk")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """Engines' programs that record and succeed, first on the PATH; an empty current folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fakes = FakePrograms(folder, NAMES, machines=4)
    monkeypatch.setenv("PATH", fakes.path)
    monkeypatch.chdir(tmp_path)
    return fakes


@pytest.fixture(autouse=True)
def _no_choice_of_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
