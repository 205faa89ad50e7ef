"""A small mixture of three tasks, endless and finite, with and without options."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax import mixing, tasks
from flan_jax.draws import Draws
from flan_jax.mixing import MixtureDefinition, register_mixture
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task

_TEMPLATES = {
    "add": """
templates:
- {inputs: "What is {{ a }} plus {{ b }}?", targets: "{{ answer }}"}
- {inputs: "{{ a }} + {{ b }} =", targets: "{{ answer }}"}
""",
    "colour": """
templates:
- {inputs: "What colour has number {{ a }}?{{ options }}", targets: "{{ answer }}"}
- {inputs: "{{ a }} is painted", targets: "in {{ answer }}"}
""",
    "repeat": 'templates: [{inputs: "Say {{ a }} again", targets: "{{ a }} {{ answer }}"}]',
}


def _add(draws: Draws) -> dict:
    a, b = draws.below(10**6), draws.below(10**6)
    return {"a": a, "b": b, "answer": str(a + b)}


def _colour(draws: Draws) -> dict:
    options = draws.sample(["red", "blue", "green", "white"], 3)
    return {"a": draws.below(10**6), "options": options, "answer": draws.choice(options)}


def _repeat(draws: Draws) -> dict:
    return {"a": draws.below(10**6), "answer": "x" * draws.between(1, 20)}


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MixtureDefinition:
    """Mixture `toys` of `toy_add` (endless), `toy_colour` (57 rows), `toy_repeat` (11 rows)."""
    monkeypatch.setattr(tasks, "_TASKS", {})
    monkeypatch.setattr(mixing, "_MIXTURES", {})
    for name, generate, size in (
        ("add", _add, None),
        ("colour", _colour, 57),
        ("repeat", _repeat, 11),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(_TEMPLATES[name], encoding="utf-8")
        source = ProceduralSource(f"toy_{name}", generate, {"train": size, "validation": 9})
        register_task(
            TaskDefinition(
                f"toy_{name}", "toys", "c", source, path, "none", has_options=name == "colour"
            )
        )
    return register_mixture("toys", {"toy_add": 5, "toy_colour": 3, "toy_repeat": 2})
