"""Requests to storage that fsspec knows, made again where a failure may pass."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import tenacity

ATTEMPTS = 5
FIRST_WAIT = 0.5  # seconds
_LONGEST_WAIT = 30.0  # seconds
# A second attempt would fail like the first.
_LASTING = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    ImportError,
    NotImplementedError,
    ValueError,
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def retried(ask: Callable[[], Any], attempts: int = ATTEMPTS, wait: float = FIRST_WAIT) -> Any:
    """What `ask` gives, asked up to `attempts` times, after `wait` seconds and then longer.

    Raises:
      Exception: the last failure, or the first that will not pass.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_attempt(attempts),
        # Processes that failed together should not come back together.
        wait=tenacity.wait_exponential(multiplier=wait, max=_LONGEST_WAIT)
        + tenacity.wait_random(0, wait),
        reraise=True,
    )(ask)


def _may_pass(error: BaseException) -> bool:
    """Whether it is worth another attempt: file systems have errors of their own, so most are."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return False
    return isinstance(error, Exception) and not isinstance(error, _LASTING)
