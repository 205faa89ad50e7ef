"""The small mixture of `tests/data`, and one whose rows try to break a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.mixing import MixtureDefinition, register_mixture
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task

HOSTILE = "</div><script>alert(1)</script> & \"quoted\" 'text' {{ 7 * 7 }}"


@pytest.fixture
def awkward(mixture: MixtureDefinition, tmp_path: Path) -> MixtureDefinition:
    """Mixture `awkward`: `toys`, five equal rows of markup, and a task that is never drawn."""
    path = tmp_path / "say.yaml"
    path.write_text('templates: [{inputs: "Say: {{ text }}", targets: "{{ answer }}"}]')
    for name in ("markup", "rare"):
        source = ProceduralSource(
            f"toy_{name}", lambda draws: {"text": HOSTILE, "answer": HOSTILE}, {"train": 5}
        )
        register_task(TaskDefinition(f"toy_{name}", "odd", "c", source, path, "none"))
    return register_mixture(
        "awkward", {"toys": 1.0, "toy_markup": 1.0, "toy_rare": 1e-9}, variants={"zs_noopt": 1}
    )
