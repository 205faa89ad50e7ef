"""Metrics on disk: TensorBoard events and JSON lines side by side."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flan_jax.files import write_atomically


class MetricsWriter:
    """Writes rows of metrics to `<folder>/metrics.jsonl` and TensorBoard events beside it.

    Args:
      folder: made if missing.
      resume_step: rows of later steps, left by a run that was cut off, are dropped.
      enabled: False on all processes but the first.
    """

    def __init__(self, folder: Path, resume_step: int = 0, *, enabled: bool = True):
        self._enabled = enabled
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        purge_step = None
        if path.exists():
            _drop_after(path, resume_step)
            purge_step = resume_step + 1
        self._rows = path.open("a", encoding="utf-8")
        writer = _tensorboard_writer()
        self._events = writer(str(folder), purge_step=purge_step, flush_secs=10)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One row: numbers go to both files, everything else to the JSON lines alone."""
        if not self._enabled:
            return
        row = {"step": step, "time": round(time.time(), 3), **metrics}
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._events.add_scalar(name, value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes both files."""
        if self._enabled:
            self._rows.close()
            self._events.close()


def _tensorboard_writer() -> Callable[..., Any]:
    """TensorboardX's writer, without PyTorch, which it would import for histograms of tensors.

    Two seconds of every start, on machines that have it.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # importing it is an ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _drop_after(path: Path, step: int) -> None:
    kept = [json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step]
    write_atomically(path, "".join(kept))
