"""What importing the library costs: neither JAX nor TensorFlow until a command needs them."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import flan_jax.cli

COMMAND_MODULES = sorted(
    module.name for module in pkgutil.iter_modules(flan_jax.cli.__path__, "flan_jax.cli.")
)
HEAVY = ("jax", "jaxlib", "flax", "orbax", "tensorflow", "seqio", "grain")


@pytest.mark.parametrize("module", ["flan_jax", *COMMAND_MODULES])
def test_importing_loads_neither_jax_nor_tensorflow(module: str):
    code = (
        f"import json, sys; import {module}; "
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_all_command_modules_are_looked_at():
    assert {"flan_jax.cli.main", "flan_jax.cli.train", "flan_jax.cli.eval"} <= set(COMMAND_MODULES)
