"""Stores: the rows of many tasks in a few large files, read by index without the original data.

`build_store` makes one of a mixture, `open_store` reads it. Neither imports TensorFlow or JAX.
"""

from flan_jax.store.build import build_store
from flan_jax.store.errors import StoreError
from flan_jax.store.reader import Store, StoreSource, open_store
from flan_jax.store.report import BuildReport, TaskOutcome

__all__ = [
    "BuildReport",
    "Store",
    "StoreError",
    "StoreSource",
    "TaskOutcome",
    "build_store",
    "open_store",
]
