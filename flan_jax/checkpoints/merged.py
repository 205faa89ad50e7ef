"""A LoRA checkpoint of ours read as the model that merging its adapters gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flan_jax.checkpoints.tensors import TensorInfo, TensorReader

_KERNEL, _A, _B = "kernel", "lora_a", "lora_b"


class MergedReader:
    """A `TensorReader` whose kernels have their adapters added, one at a time, when read.

    Args:
      reader: of a checkpoint of ours.
      scale: of the product lora_a @ lora_b (`LoraConfig.scale`).

    Attributes:
      adapted: names of the kernels that have adapters.
    """

    def __init__(self, reader: TensorReader, scale: float):
        self._reader, self._scale, self.path = reader, scale, reader.path
        self.infos: Mapping[str, TensorInfo] = {
            name: info
            for name, info in reader.infos.items()
            if name.rpartition("/")[2] not in (_A, _B)
        }
        self.adapted = [
            name
            for name in self.infos
            if name.startswith("params/") and _beside(name, _A) in reader.infos
        ]

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """See `TensorReader`; kernels with adapters can be sliced along their layers (axis 0)."""
        from flan_jax.models.lora import merged_kernel

        kernel = self._reader.read(name, index, axis)
        if name not in self.adapted:
            return kernel
        if index is not None and axis != 0:
            raise ValueError(f"{name}: adapted kernels are sliced along axis 0, found {axis}")
        a, b = (self._reader.read(_beside(name, each), index) for each in (_A, _B))
        return merged_kernel(kernel, a, b, self._scale)

    def close(self) -> None:
        """Frees what the reader holds."""
        self._reader.close()


def _beside(kernel: str, name: str) -> str:
    return kernel.removesuffix(_KERNEL) + name
