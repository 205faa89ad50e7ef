"""What a process that trains on CPUs sets before JAX is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flan_jax import cpu_start, host_memory

# Compiles something with the flags: XLA ends the process at a flag that it does not know.
PROGRAM = """
import gc, os
before = gc.get_threshold()
from flan_jax.cpu_start import prepare_to_train
prepare_to_train()
assert gc.get_threshold()[0] > before[0] and gc.get_threshold()[1:] == before[1:]
import jax
import jax.numpy as jnp
text = jax.jit(lambda x: jnp.sum(x * x)).lower(jnp.ones((8, 256))).compile().as_text()
print("reduce-window" in text)
"""


@pytest.mark.parametrize(("flags", "windows"), [("", False), ("--xla_disable_hlo_passes=", True)])
def test_xla_takes_the_flags_and_those_given_count(flags, windows):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # Sums are made in windows by the pass that is left out.
    assert done.stdout.strip() == str(windows)


def test_flags_are_added_to_those_given():
    found = cpu_start.with_flags("--xla_foo=1 --xla_backend_extra_options=mine").split()
    assert found[:2] == ["--xla_foo=1", "--xla_backend_extra_options=mine"]
    assert found[2:] == ["--xla_disable_hlo_passes=tree_reduction_rewriter"]
    assert cpu_start.with_flags(" ".join(found)).split() == found


def test_accelerators_flags_are_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo=1")
    monkeypatch.setattr(cpu_start.gc, "set_threshold", lambda *numbers: None)
    assert not host_memory.trains_on_cpu()
    cpu_start.prepare_to_train()
    assert os.environ["XLA_FLAGS"] == "--xla_foo=1"
