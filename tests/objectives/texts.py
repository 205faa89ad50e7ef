"""Putting a text together again from what an objective made of it."""

from __future__ import annotations

from collections.abc import Sequence


def reconstruct(
    inputs: Sequence[int], targets: Sequence[int], sentinels: Sequence[int]
) -> list[int]:
    """The text: what follows each sentinel in the targets in its place, or the targets after all.

    Checks on the way that sentinels come in order, the same ones on both sides.
    """
    marks = set(sentinels)
    used = [token for token in inputs if token in marks]
    assert used == [token for token in targets if token in marks] == list(sentinels[: len(used)])
    if not used:
        return [*inputs, *targets]
    spans: dict[int, list[int]] = {}
    assert targets[0] in marks
    for token in targets:
        if token in marks:
            current = spans[token] = []
        else:
            current.append(token)
    text: list[int] = []
    for token in inputs:
        text += spans[token] if token in marks else [token]
    return text
