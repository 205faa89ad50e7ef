"""Every mesh of 8 devices trains as one device does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fast_compile import FAST_COMPILE

SCRIPT = Path(__file__).with_name("mesh_training.py")
STEPS = 10


# Tensor, fsdp and replica alone, and two that mix them.
SOME = ("1x1x1x8 dims 1", "1x1x8x1 dims 1", "8x1x1x1 dims 1", "1x2x4x1 dims 1", "2x1x2x2 dims 2")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["t5", "palm"])
@pytest.mark.parametrize(
    "meshes",
    [pytest.param((), marks=pytest.mark.exhaustive, id="all"), pytest.param(SOME, id="some")],
)
def test_every_mesh_of_eight_devices_has_the_losses_of_one(model: str, meshes: tuple[str, ...]):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "NPROC": "32",  # threads of XLA's CPU client: as many as collectives may wait in
        "XLA_FLAGS": f"{FAST_COMPILE} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(
            [str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    command = [sys.executable, str(SCRIPT), model, str(STEPS), *meshes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(done.stdout)
    one = results.pop("one")["losses"]
    assert len(one) == STEPS
    assert np.ptp(one) > 0.02  # it does train
    # Ten factorisations in order; in six of them tensor > 1, which split activations either way.
    assert len(results) == (len(meshes) or 16)
    far = {
        mesh: float(np.abs(np.subtract(result["losses"], one)).max())
        for mesh, result in results.items()
        if not np.allclose(result["losses"], one, rtol=0, atol=1e-5)
    }
    assert far == {}
    assert {mesh: result["moved"] for mesh, result in results.items() if result["moved"]} == {}
