r"""Which tensor of a checkpoint each of a train state is restored from (T5X's assignment maps).

A map is a list of (pattern, replacement). The first pattern that matches a whole name of the model
decides: the tensor comes from what the replacement, in which `\1` stands for groups, names in the
checkpoint, or stays freshly initialised if that is None. A name that no pattern matches is restored
from the same name.

Names are those of T5X's unscanned checkpoints, a layer a name (`target/encoder/layers_3/mlp/wo/
kernel`, `state/param_states/…/v_row`, `state/step`), whatever format the checkpoint has. Ours, of
all layers at once (`params/encoder/layers/mlp/wo/kernel`), are understood as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from flan_jax.checkpoints.own import OPT_STATE, PARAMS, STEP, is_stacked
from flan_jax.checkpoints.tensors import CheckpointError
from flan_jax.suggestions import did_you_mean

AssignmentMap = Sequence[tuple[str, str | None]]
Key = tuple[str, int | None]  # a tensor of ours, and the layer of a stacked one
_STATES = "state/param_states/"


def t5x_name(key: Key) -> str:
    """A tensor's name, or a layer's, in an unscanned checkpoint of T5X."""
    name, layer = key
    if name in (STEP, f"{OPT_STATE}count"):
        return "state/step"
    if name.startswith(PARAMS):
        return f"target/{_layered(name.removeprefix(PARAMS), layer)}"
    slot, _, parameter = name.removeprefix(OPT_STATE).partition("/")
    return f"{_STATES}{_layered(parameter, layer)}/{slot}"


def _layered(name: str, layer: int | None) -> str:
    return name if layer is None else name.replace("/layers/", f"/layers_{layer}/", 1)


def keys_of(shapes: Mapping[str, tuple[int, ...]]) -> list[Key]:
    """All tensors of ours, the stacked ones layer by layer."""
    return [
        (name, layer)
        for name, shape in shapes.items()
        for layer in (range(shape[0]) if is_stacked(name) else (None,))
    ]


def assign(
    wanted: Collection[Key],
    held: Mapping[Key, str],
    assignment_map: AssignmentMap | None,
    *,
    path: str = "the checkpoint",
) -> dict[Key, Key | None]:
    """Where each tensor comes from.

    Args:
      wanted: the train state's tensors.
      held: the checkpoint's, with their names in its own format, by which a replacement may name
        them too.
      assignment_map: see above; None or empty: everything comes from its own name.
      path: for messages.

    Returns:
      For each tensor the one that it is restored from, which is None if a pattern says so; tensors
      that the checkpoint lacks and no pattern mentions are left out.

    Raises:
      CheckpointError: a pattern is no regular expression or matches nothing, or a replacement names
        nothing in the checkpoint.
    """
    rules = _compile(assignment_map or ())
    by_name = _names(held)
    used: set[int] = set()
    found: dict[Key, Key | None] = {}
    for key in wanted:
        position, match = _first_match(rules, key)
        if match is None:
            if key in held:
                found[key] = key
            continue
        used.add(position)
        replacement = rules[position][1]
        found[key] = None if replacement is None else _named(match, replacement, key, by_name, path)
    unused = [repr(rules[i][0].pattern) for i in range(len(rules)) if i not in used]
    if unused:
        names = sorted({t5x_name(key) for key in wanted})
        raise CheckpointError(
            f"assignment_map: {', '.join(unused)} match no whole name of the model. Its names are "
            f"{names[0]} … {names[-1]}"
        )
    return found


def _compile(assignment_map: AssignmentMap) -> list[tuple[re.Pattern[str], str | None]]:
    if not isinstance(assignment_map, list | tuple):
        raise CheckpointError(
            f"assignment_map: expected a list of pairs, found {assignment_map!r:.60}"
        )
    rules = []
    for rule in assignment_map:
        try:
            pattern, replacement = rule
            rules.append((re.compile(pattern), replacement))
        except (re.error, TypeError, ValueError) as error:
            raise CheckpointError(
                "assignment_map: expected pairs of a regular expression and a replacement (or "
                f"None), found {rule!r} ({error})"
            ) from error
    return rules


def _names(held: Mapping[Key, str]) -> dict[tuple[str, int | None], Key]:
    """Tensors by all their names; those that stand for all layers need the layer too."""
    names: dict[tuple[str, int | None], Key] = {}
    for key, theirs in held.items():
        names.setdefault((theirs, key[1]), key)
        names.setdefault((theirs, None), key)
        names[key] = key
        names[t5x_name(key), None] = key
    return names


def _first_match(
    rules: Sequence[tuple[re.Pattern[str], str | None]], key: Key
) -> tuple[int, re.Match[str] | None]:
    for position, (pattern, _) in enumerate(rules):
        match = pattern.fullmatch(t5x_name(key)) or pattern.fullmatch(key[0])
        if match is not None:
            return position, match
    return -1, None


def _named(
    match: re.Match[str],
    replacement: str,
    key: Key,
    by_name: Mapping[tuple[str, int | None], Key],
    path: str,
) -> Key:
    try:
        name = match.expand(replacement)
    except (re.error, IndexError) as error:
        raise CheckpointError(f"assignment_map: {replacement!r}: {error}") from error
    for candidate in ((name, key[1]), (name, None)):
        if candidate in by_name:
            return by_name[candidate]
    known = {each for each, _ in by_name}
    raise CheckpointError(
        f"assignment_map: {t5x_name(key)} is to be restored from {name}, which {path} does not hold"
        f"{did_you_mean(name, known)}"
    )
