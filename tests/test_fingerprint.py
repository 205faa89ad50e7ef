"""The hash of a definition: equal where the examples are, different where anything differs."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.fingerprint import mixture_hash, shares_hash, task_hash
from flan_jax.mixing import MixtureDefinition, define_mixture
from flan_jax.prompts.options import PLAIN_STYLES
from flan_jax.prompts.template import load_templates
from flan_jax.sources.filtered import FilteredSource
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = 'templates: [{inputs: "Say {{ answer }}.{{ options }}", targets: "{{ answer }}"}]\n'
PRINT_HASHES = """
import flan_jax.mixtures
from flan_jax.fingerprint import mixture_hash
from flan_jax.mixing import get_mixture
for name in ("micro", "cot_zsopt", "dialog", "program_synthesis_tasks", "flan2022"):
    if name == "program_synthesis_tasks":
        from flan_jax.fingerprint import task_hash
        from flan_jax.tasks import get_task
        print(task_hash(get_task("dr_repair_plain_code")))
    else:
        print(mixture_hash(get_mixture(name)))
"""


def _row(draws):
    return {"answer": str(draws.below(9))}


def _same(row):
    return row


def _fields(kind, row, extra=1):
    return row


@pytest.fixture(autouse=True)
def _registries(empty_registries):
    load_templates.cache_clear()


@pytest.fixture
def task(tmp_path) -> TaskDefinition:
    return _make(tmp_path, "a")


def _make(folder: Path, name: str, text: str = TEMPLATES, **kwargs) -> TaskDefinition:
    path = folder / f"{name}{len(list(folder.iterdir()))}.yaml"  # template files are read once
    path.write_text(text)
    source = ProceduralSource("rows", _row)
    return TaskDefinition(name, "g", "c", source, path, "MIT", has_options=True, **kwargs)


def test_hashes_are_equal_in_every_process():
    found = set()
    for seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", PRINT_HASHES],
            capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "FLAN_JAX_DATA": f"/absent/{seed}"},
        )  # fmt: skip
        found.add(done.stdout)
    (printed,) = found
    lines = printed.split()
    assert len(set(lines)) == 5 and all(len(line) == 16 and int(line, 16) for line in lines)


def test_equal_definitions_have_equal_hashes(tmp_path, task):
    assert task_hash(task) == task_hash(_make(tmp_path, "a"))
    told = dataclasses.replace(task, description="x", cluster="y", licence="z", homepage="w")
    assert task_hash(told) == task_hash(task)


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATES.replace("Say", "Tell"),
        TEMPLATES.replace('"{{ answer }}"', '"({{ answer }})"'),
        TEMPLATES.replace("}]", ", needs_options: true}]"),
        TEMPLATES + 'few_shot: [{inputs: "{{ answer }}", targets: "{{ answer }}"}]\n',
        TEMPLATES + 'few_shot: [{inputs: "{{ answer }}", targets: "{{ answer }}", between: "#"}]\n',
        TEMPLATES
        + 'few_shot: [{inputs: "{{ answer }}", targets: "{{ answer }}", exemplars: false}]\n',
    ],
)
def test_a_word_of_a_template_changes_the_hash(tmp_path, task, text):
    changed = _make(tmp_path, "a", text)
    assert task_hash(changed) != task_hash(task)
    assert len({task_hash(changed), task_hash(task), task_hash(_make(tmp_path, "a", text))}) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"source": ProceduralSource("rows", _row, {"train": None})},
        {"has_options": False},
        {"option_styles": PLAIN_STYLES},
        {"to_fields": _same},
        {"to_fields": functools.partial(_fields, "one")},
        {"draw_fields": lambda fields, draws: fields},
    ],
)
def test_what_decides_the_examples_changes_the_hash(task, change):
    assert task_hash(dataclasses.replace(task, **change)) != task_hash(task)


def test_what_a_function_is_given_beforehand_counts(task):
    given = [
        functools.partial(_fields, "one"),
        functools.partial(_fields, "two"),
        functools.partial(_fields, "two", extra=2),
    ]
    hashes = [task_hash(dataclasses.replace(task, to_fields=function)) for function in given]
    assert len(set(hashes)) == 3
    again = dataclasses.replace(task, to_fields=functools.partial(_fields, "two"))
    assert task_hash(again) == hashes[1]


MODULE = "def keep(row):\n    return bool(row)\n"


def _hash_with(folder: Path, text: str, task: TaskDefinition) -> str:
    """The hash in a process of its own of a task whose rows are kept by a function of `text`."""
    (folder / "keeping.py").write_text(text)
    code = (
        "import keeping\nfrom pathlib import Path\n"
        "from flan_jax.fingerprint import task_hash\n"
        "from flan_jax.sources.tfds import TfdsSource\n"
        "from flan_jax.tasks import TaskDefinition\n"
        "source = TfdsSource('rte:1.0.0', {'train': 'train'}, keeping.keep)\n"
        f"path = Path({str(task.template_file)!r})\n"
        "print(task_hash(TaskDefinition('a', 'g', 'c', source, path, 'MIT')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    return done.stdout.strip()


def test_the_module_of_the_function_that_keeps_rows_counts(tmp_path, task):
    first = _hash_with(tmp_path, MODULE, task)
    assert _hash_with(tmp_path, MODULE, task) == first
    assert _hash_with(tmp_path, MODULE.replace("bool(row)", "len(row) > 3"), task) != first


def test_the_filter_of_a_filtered_source_counts(task):
    kept = dataclasses.replace(task, source=FilteredSource(task.source, _same))
    other = dataclasses.replace(task, source=FilteredSource(task.source, bool))
    assert len({task_hash(task), task_hash(kept), task_hash(other)}) == 3


@pytest.fixture
def mixture(tmp_path) -> MixtureDefinition:
    for name in "ab":
        register_task(_make(tmp_path, name))
    return MixtureDefinition("m", {"a": 1.0, "b": 3.0})


def test_a_mixture_s_name_order_and_scale_are_no_matter(mixture):
    same = MixtureDefinition("other", {"b": 0.75, "a": 0.25}, description="x")
    assert mixture_hash(same) == mixture_hash(mixture)
    assert shares_hash(same) == shares_hash(mixture)


@pytest.mark.parametrize(
    "change",
    [
        {"rates": {"a": 1.0, "b": 3.0001}},
        {"rates": {"a": 1.0}},
        {"variants": {"zs_opt": 1.0}},
        {"task_variants": {"b": {"zs_opt": 1.0, "fs_opt": 1.0}}},
    ],
)
def test_rates_tasks_and_variants_change_a_mixture_s_hash(mixture, change):
    changed = dataclasses.replace(mixture, **change)
    assert mixture_hash(changed) != mixture_hash(mixture)
    assert shares_hash(changed) != shares_hash(mixture)


def test_variants_that_make_no_difference_make_none(mixture):
    own = dict.fromkeys(("zs_opt", "zs_noopt", "fs_opt", "fs_noopt"), 5.0)
    assert mixture_hash(dataclasses.replace(mixture, variants=own)) == mixture_hash(mixture)


def test_a_template_changes_a_mixture_s_hash_but_not_that_of_its_shares(tmp_path, mixture):
    from flan_jax import tasks

    before = mixture_hash(mixture), shares_hash(mixture)
    tasks._TASKS["b"] = _make(tmp_path, "b", TEMPLATES.replace("Say", "Tell"))
    assert mixture_hash(mixture) != before[0]
    assert shares_hash(mixture) == before[1]


def test_a_task_alone_has_a_hash_by_any_of_its_names(tmp_path):
    register_task(_make(tmp_path, "rte", aliases=("glue_rte",)))
    one, other = (define_mixture("m", [name]) for name in ("rte", "glue_rte"))
    assert mixture_hash(one) == mixture_hash(other)
