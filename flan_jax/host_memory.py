"""How the C library keeps memory in a process that trains on CPUs.

A training step on a CPU takes its temporary arrays, hundreds of megabytes, from `malloc` and frees
them at its end. glibc hands such memory back to the system and asks for it again in the next step,
which then waits for every page to be mapped and zeroed: an eighth of a step of a small T5.
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# Of TPUs (accel, vfio), NVIDIA's and AMD's GPUs.
_ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")


def trains_on_cpu() -> bool:
    """Whether JAX will have nothing but CPUs, as far as can be told without importing it."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(glob.glob(pattern) for pattern in _ACCELERATORS)


def keep_freed_memory() -> bool:
    """Makes `malloc` keep what is freed for what is asked for next; returns whether it could.

    All threads then share one heap, which never shrinks: the process stays at its peak. Call it
    before there are threads (before JAX is imported): one that has a heap of its own keeps it, and
    takes large arrays from the system as before. Only glibc can.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return all(mallopt(name, value) == 1 for name, value in settings)
