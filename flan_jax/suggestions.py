"""Near-miss suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, candidates: Iterable[str], *, limit: int = 3) -> str:
    """A sentence fragment such as ``; did you mean 'train_steps'?``, or an empty string.

    The fragment starts with its own punctuation, so it can be appended to any message.
    """
    names = sorted(set(candidates))
    folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=limit, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
