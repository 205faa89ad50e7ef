"""Mixtures that depend on the data at hand."""

from __future__ import annotations

import pytest

from flan_jax.errors import UserError
from flan_jax.mixing import (
    MixtureDefinition,
    deferred_mixtures,
    define_mixture,
    get_mixture,
    register_deferred_mixture,
    register_mixture,
)
from flan_jax.mixtures.present import CAP, present_mixture
from flan_jax.realised import missing_data
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task

pytestmark = pytest.mark.usefixtures("own_registries")


@pytest.fixture
def make(tmp_path):
    def task(name: str, rows: int | None, **changes) -> TaskDefinition:
        path = tmp_path / f"{name}.tsv"
        if rows is not None:
            path.write_text("".join(f"q{i}\ta{i}\n" for i in range(rows)))
        return register_task(
            TaskDefinition(
                name=name,
                group="own",
                cluster="own",
                source=TsvSource({"train": path}, columns=("question", "answer")),
                template_file=tmp_path / "t.yaml",
                licence="MIT",
                **changes,
            )
        )

    return task


def test_only_present_tasks_in_proportion_under_their_cap(make):
    tasks = [
        make("present_a", 10),
        make("present_b", 30, cap=20),
        make("present_absent", None),
        make("present_empty", 0),
        make("present_held", 5, held_out=True),
    ]
    missing = [task.name for task in tasks if missing_data(task) is not None]
    assert missing == ["present_absent"]
    mixture = present_mixture("own", tasks)
    assert mixture.rates == {"present_a": 10.0, "present_b": 20.0}


def test_known_sizes_are_taken_instead_of_reading(make):
    tasks = [make("present_a", 10), make("present_b", 30)]
    sizes = {"present_a": 2 * CAP, "present_b": None}
    mixture = present_mixture("own", tasks, size=lambda task: sizes[task.name])
    assert mixture.rates == {"present_a": float(CAP), "present_b": 30.0}


def test_nothing_present(make):
    with pytest.raises(SourceMissingError, match="no data for any of its 1 tasks"):
        present_mixture("own", [make("present_absent", None)])


def test_generated_rows_are_always_present(tmp_path):
    task = TaskDefinition(
        name="present_generated",
        group="own",
        cluster="own",
        source=ProceduralSource("present_generated", dict),
        template_file=tmp_path / "t.yaml",
        licence="MIT",
    )
    assert missing_data(task) is None


def test_deferred_mixtures_are_made_when_asked_for(make):
    make("present_a", 3)
    calls: list[str] = []

    def define() -> MixtureDefinition:
        calls.append("made")
        return define_mixture("later", ["present_a"])

    register_deferred_mixture("later", define, description="made later")
    assert deferred_mixtures()["later"] == "made later"
    assert not calls
    assert get_mixture("later").proportions() == {"present_a": 1.0}
    assert calls == ["made"]
    with pytest.raises(UserError, match="did you mean 'later'"):
        get_mixture("latr")


def test_a_name_is_taken_once(make):
    make("present_a", 3)
    register_deferred_mixture("later", lambda: define_mixture("later", ["present_a"]))
    with pytest.raises(UserError, match="'later' is registered already"):
        register_mixture("later", ["present_a"])
    with pytest.raises(UserError, match="'later' is registered already"):
        register_deferred_mixture("later", lambda: define_mixture("later", ["present_a"]))
    register_mixture("fixed", ["present_a"])
    with pytest.raises(UserError, match="'fixed' is registered already"):
        register_deferred_mixture("fixed", lambda: define_mixture("fixed", ["present_a"]))


def test_defining_registers_nothing(make):
    make("present_a", 3)
    define_mixture("unregistered", ["present_a"])
    with pytest.raises(UserError, match="no mixture or task is called 'unregistered'"):
        get_mixture("unregistered")
