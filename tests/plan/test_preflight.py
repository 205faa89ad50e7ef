"""What is known without compiling."""

from __future__ import annotations

import importlib.util

import pytest

from flan_jax.errors import UserError
from flan_jax.plan import preflight
from flan_jax.plan.gpu import GpuCluster
from flan_jax.plan.topologies import Topology
from flan_jax.sharding import PjitPartitioner
from tests.plan.test_steps import run, t5


def test_names_of_tpus_and_gpus():
    assert isinstance(preflight.machine("v4-32"), Topology)
    assert isinstance(preflight.machine("H100:8"), GpuCluster)
    with pytest.raises(UserError, match="did you mean 'h100'"):
        preflight.machine("h10:8")
    with pytest.raises(UserError, match="v4-32"):
        preflight.machine("v4-33")


def test_a_mesh_or_a_batch_that_cannot_be_is_no_matter_of_memory():
    machine = preflight.machine("v4:2x2x2")
    reason = preflight.misfit(run(t5(), partitioner=PjitPartitioner(data=3)), "train", machine)
    assert reason is not None
    assert reason.needed_gib is None
    assert "does not fit 8 devices" in reason.reason
    model = t5(num_heads=1, head_dim=1)
    reason = preflight.misfit(
        run(model, partitioner=PjitPartitioner(data=1, tensor=8)), "train", machine
    )
    assert reason is not None
    assert "cannot be split evenly" in reason.reason


def test_what_fits_is_not_refused():
    assert preflight.misfit(run(t5()), "train", preflight.machine("v4:2x2x1")) is None
    assert preflight.misfit(run(t5()), "decode", preflight.machine("h100:4")) is None


def test_parameters_that_are_too_large_alone():
    model = t5(emb_dim=2**14, mlp_dim=2**17)  # 48 GiB of float32 a layer's MLP
    machine = preflight.machine("v5e:2x2")
    reason = preflight.misfit(run(model), "train", machine)
    assert reason is not None
    assert reason.needed_gib is not None
    assert reason.needed_gib > 4 * 3 * 2**14 * 2**17 * 4 / 2**30
    assert "alone take" in reason.reason


def test_without_libtpu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'flan_jax\[plan\]'"):
        preflight.require_compiler(preflight.machine("v4-8"))
    preflight.require_compiler(preflight.machine("h100:8"))
