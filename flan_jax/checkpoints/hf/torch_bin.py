"""Reads PyTorch's pickled checkpoints (pytorch_model.bin), for which torch is needed.

Only tensors are unpickled (`weights_only=True`), so a file cannot run code.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from flan_jax.checkpoints.hf.folder import Folder
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo


def _import_torch(path: str) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a PyTorch checkpoint, and torch is not installed: pip install"
            " 'flan_jax[torch]', or save the model as safetensors where torch is there"
            " (model.save_pretrained(folder))."
        ) from error
    return torch


class TorchReader:
    """One pytorch_model.bin.

    The file is mapped anew for each tensor: a mapping that lasted would keep all that was read in
    the process's memory, and opening one costs a few milliseconds.

    Attributes:
      path: for messages.
      infos: tensors by name.

    Raises:
      CheckpointError: torch is missing, the file is damaged, not local, or holds other objects.
    """

    def __init__(self, folder: Folder, name: str):
        self.path = f"{folder.path}/{name}"
        self._torch = _import_torch(self.path)
        self._file = folder.local(name)
        if self._file is None:
            raise CheckpointError(
                f"{self.path}: PyTorch checkpoints are read from local folders only. Copy the"
                " folder to this machine, or save the model as safetensors."
            )
        # Files of torch < 1.6 cannot be mapped; they are held in memory.
        self._held: dict[str, Any] | None = None
        self.infos = {
            key: TensorInfo(tuple(value.shape), self._dtype(key, value))
            for key, value in self._load().items()
        }

    def read(self, name: str, index: int | None = None, axis: int = 0) -> np.ndarray:
        """A copy of a tensor, or of its slice `index` along `axis`."""
        tensor = self._load()[name]
        return self._numpy(tensor if index is None else tensor.select(axis, index))

    def read_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        """Rows `start` up to `stop` (None: the last) along axis 0."""
        return self._numpy(self._load()[name][start:stop])

    def close(self) -> None:
        self._held = None

    def _load(self) -> dict[str, Any]:
        if self._held is not None:
            return self._held
        options = {"map_location": "cpu", "weights_only": True}
        try:
            found = self._torch.load(self._file, mmap=True, **options)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise self._damaged(error) from error
            found = self._held = self._load_whole(options)
        except Exception as error:  # a damaged pickle makes the unpickler raise anything
            raise self._damaged(error) from error
        if not isinstance(found, dict) or not all(map(self._torch.is_tensor, found.values())):
            raise CheckpointError(
                f"{self.path} must hold a dictionary of tensors (a state_dict), found"
                f" {type(found).__name__}. Save model.state_dict(), not the model."
            )
        return found

    def _load_whole(self, options: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._torch.load(self._file, **options)
        except Exception as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> CheckpointError:
        reason = str(error).strip().split("\n")[0]
        return CheckpointError(
            f"{self.path} is truncated or no PyTorch checkpoint: {reason}. Copy or download it"
            " again."
        )

    def _dtype(self, name: str, tensor: Any) -> np.dtype:
        if tensor.dtype == self._torch.bfloat16:
            return np.dtype(ml_dtypes.bfloat16)
        try:
            return tensor[:0].numpy().dtype if tensor.ndim else tensor.numpy().dtype
        except (TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.path}: {name} is {tensor.dtype}, which NumPy does not know. Save the model"
                " unquantised, as float32, bfloat16 or float16."
            ) from error

    def _numpy(self, tensor: Any) -> np.ndarray:
        if tensor.dtype == self._torch.bfloat16:
            words = tensor.contiguous().view(self._torch.uint16).numpy()
            return words.copy().view(ml_dtypes.bfloat16)
        return tensor.numpy().copy()
