"""Memory that is kept between the steps of a training run on CPUs."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from flan_jax import host_memory

# 64 MiB, freed and taken again by another thread: how many of its 16,384 pages are mapped anew?
AGAIN = """
import resource, sys, threading
from flan_jax.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def take():
    bytearray(b"x") * (64 << 20)
def in_thread():
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
in_thread()
before = faults()
in_thread()
print(faults() - before)
"""


def pages_mapped_again(what: str) -> int:
    command = [sys.executable, "-c", AGAIN, what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's malloc")
def test_freed_memory_is_used_again():
    assert pages_mapped_again("leave") > 16_000
    assert pages_mapped_again("keep") < 1_000


@pytest.mark.parametrize(
    ("platforms", "device", "expected"),
    [
        ("cpu", True, True),
        ("cpu,cuda", False, True),
        ("tpu,cpu", False, False),
        ("", False, True),
        ("", True, False),
    ],
)
def test_what_a_process_will_train_on(platforms, device, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    if device:
        (tmp_path / "accel0").touch()
    monkeypatch.setattr(host_memory, "_ACCELERATORS", (str(tmp_path / "accel*"),))
    assert host_memory.trains_on_cpu() is expected


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert host_memory.keep_freed_memory() is False
