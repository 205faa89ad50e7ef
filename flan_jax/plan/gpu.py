"""GPUs: speeds, memory, names, and a roofline of a step that was compiled for simulated devices.

Rougher than what the TPU compiler says: memory and collectives are those of the program that XLA
compiles for CPUs (other fusions, bfloat16 widened to float32 in places), the time is that of
perfect arithmetic, perfect memory traffic or perfect links, whichever is longest. No JAX.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flan_jax.errors import UserError
from flan_jax.suggestions import did_you_mean

GIB = 2**30
# What a program may use of a device's memory: XLA_CLIENT_MEM_FRACTION=.95 (JAX's default is .75).
USABLE = 0.95
MOST_DEVICES = 4096


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
      name: "h100", ...
      peak_flops: dense bf16 FLOP/s.
      memory_bytes: of HBM, as the data sheet has it.
      hbm_bytes_per_s: its bandwidth.
      link_bytes_per_s: NVLink, in one direction.
      network_bytes_per_s: to other machines, a GPU, in one direction.
      per_machine: GPUs that NVLink joins.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float
    network_bytes_per_s: float
    per_machine: int = 8


# NVIDIA's data sheets of each product in its SXM form: dense bf16, HBM, NVLink (half of the total,
# which counts both directions). The network is that of DGX machines: an adapter a GPU of
# 200 Gbit/s (A100) or 400 Gbit/s.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 312e12, 40e9, 1.555e12, 300e9, 25e9),
        Gpu("a100", 312e12, 80e9, 2.039e12, 300e9, 25e9),
        Gpu("h100", 989e12, 80e9, 3.35e12, 450e9, 50e9),
        Gpu("h200", 989e12, 141e9, 4.8e12, 450e9, 50e9),
        Gpu("b200", 2250e12, 180e9, 8e12, 900e9, 50e9),
    )
}


@dataclass(frozen=True)
class GpuCluster:
    """So many GPUs of a kind, in machines of `per_machine`."""

    gpu: Gpu
    devices: int

    @property
    def name(self) -> str:
        return f"{self.gpu.name}:{self.devices}"

    @property
    def chips(self) -> int:
        return self.devices

    @property
    def peak_flops(self) -> float:
        """Dense bf16 FLOP/s of all."""
        return self.devices * self.gpu.peak_flops

    @property
    def hbm_gib(self) -> float:
        """GiB of a device's memory that a program may use."""
        return USABLE * self.gpu.memory_bytes / GIB


def is_gpu_name(name: str) -> bool:
    """Whether it begins like the name of a GPU rather than of a TPU."""
    return re.match(r"\s*(a|h|b|gh|gb|rtx|l)\d", name.lower()) is not None


def parse_gpus(name: str) -> GpuCluster:
    """`h100:8`, or `h100` for one.

    Raises:
      UserError: there is no such GPU, or the number is none.
    """
    kind, colon, count = name.strip().lower().partition(":")
    gpu = GPUS.get(kind)
    if gpu is None:
        raise UserError(
            f"{name!r}: no GPU is called {kind!r}; known are {', '.join(GPUS)}, such as h100:8"
            f"{did_you_mean(kind, GPUS)}"
        )
    if colon and not (count.isdigit() and 1 <= int(count) <= MOST_DEVICES):
        raise UserError(
            f"{name!r}: expected a number of GPUs from 1 to {MOST_DEVICES}, such as h100:8"
        )
    cluster = GpuCluster(gpu, int(count) if colon else 1)
    if cluster.devices > gpu.per_machine and cluster.devices % gpu.per_machine:
        raise UserError(f"{name!r}: beyond {gpu.per_machine} GPUs give whole machines of as many")
    return cluster


@dataclass(frozen=True)
class Roofline:
    """Shortest times that a device's arithmetic, memory and links allow, in seconds."""

    arithmetic_s: float
    memory_s: float
    communication_s: float

    @property
    def compute_s(self) -> float:
        return max(self.arithmetic_s, self.memory_s)


def roofline(
    cluster: GpuCluster,
    flops: float,
    bytes_accessed: float,
    collectives: list[tuple[float, int]],
) -> Roofline:
    """A device's times.

    Args:
      cluster: the machines.
      flops: of one device.
      bytes_accessed: that one device moves to and from its memory.
      collectives: (bytes that a device receives, devices in the group) of each; a group larger than
        a machine goes over the network.
    """
    gpu = cluster.gpu
    speeds = (gpu.link_bytes_per_s, gpu.network_bytes_per_s)
    communication = sum(
        received / speeds[group > gpu.per_machine] for received, group in collectives
    )
    return Roofline(flops / gpu.peak_flops, bytes_accessed / gpu.hbm_bytes_per_s, communication)
