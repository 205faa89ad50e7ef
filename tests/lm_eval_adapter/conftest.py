"""What the adapter's tests have in common."""

from __future__ import annotations

from collections.abc import Iterator

import gin
import pytest


@pytest.fixture(scope="module", autouse=True)
def no_bindings_left() -> Iterator[None]:
    """The adapter loads gin files in this process; tests after these know nothing of them."""
    yield
    gin.clear_config()
