"""On a mesh of data, fsdp and tensor, both model classes decode what they do without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("sharded_decoding.py")


@pytest.fixture(scope="module")
def results():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "palm"])
def test_eight_devices_decode_as_one(results, name):
    one, eight = results[name]["none"], results[name]["2x2x2"]
    assert len(one) == 6
    for what, expected in one.items():
        if what.endswith("scores"):
            np.testing.assert_allclose(eight[what], expected, atol=1e-4)
        else:
            assert eight[what] == expected
