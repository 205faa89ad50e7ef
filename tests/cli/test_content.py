"""Importing tasks for the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flan_jax.cli.content import load_content
from flan_jax.errors import UserError
from flan_jax.tasks import all_tasks, get_task

OWN = """\
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task
source = ProceduralSource("own_task", dict)
register_task(TaskDefinition("own_task", "own", "own", source, None, "MIT"))
"""


@pytest.fixture
def here(own_registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_the_house_is_registered():
    load_content()
    groups = {"micro", "cot", "gsm8k", "muffin", "t0_sf", "niv2", "dialog", "program_synthesis"}
    assert groups <= {task.group for task in all_tasks()}


def test_a_module_of_the_current_folder(here):
    (here / "own_content_module.py").write_text(OWN)
    load_content(["own_content_module"])
    assert get_task("own_task").group == "own"
    assert sys.path[-1] == str(here)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "own_contnet", "no such module.*did you mean 'own_content'"),
        ("", "own_content.py", "give the name of a module, such as own_content, not a file"),
        ("import absent_package", "own_content", "needs 'absent_package', which is not installed"),
        ("x = 1\n1 / 0", "own_content", r"ZeroDivisionError: .* \(.*own_content\.py, line 2\)"),
        ("def", "own_content", "SyntaxError"),
        (
            OWN.replace('"own_task", "own"', '"own task", "own"'),
            "own_content",
            "--module own_content: task name 'own task': use only letters",
        ),
    ],
)
def test_modules_that_cannot_be_imported(here, text, name, message):
    (here / "own_content.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_content([name])


def test_loading_is_light_and_reads_no_data(tmp_path):
    code = (
        "import sys; from flan_jax.cli.content import load_content; load_content();"
        "print([m for m in ('jax', 'tensorflow', 'numpy', 'pandas', 'seqio', 'gin')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"FLAN_JAX_DATA": str(tmp_path / "absent"), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"
