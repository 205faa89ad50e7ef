"""Groups of devices as XLA writes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.plan.replica_groups import parse_groups, parse_pairs


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,2},{1,3}}", ((0, 2), (1, 3))),
        ("{}", ((0, 1, 2, 3),)),
        (None, ((0, 1, 2, 3),)),
        ("[2,2]<=[4]", ((0, 1), (2, 3))),
        ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2] {'b'}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("mesh['a'=2,'b'=2] {'b','a'}", ((0, 2, 1, 3),)),
        ("mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
        ("mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=1,'c'=2] {'c'}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]<=[2,2]T(1,0)) {'a'}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
        ("mesh['a'=2,'b'=2], device_ids=([4]) {'b'}", ((0, 1), (2, 3))),
        ("mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", ((3, 2), (1, 0))),
    ],
)
def test_forms(text: str | None, groups: tuple[tuple[int, ...], ...]) -> None:
    assert parse_groups(text, 4) == groups


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_meshes_and_iotas_agree_with_numpy(sizes: list[int], data: st.DataObject) -> None:
    """Groups along some axes of a mesh are rows of the transposed array of its devices."""
    names = [f"axis_{i}" for i in range(len(sizes))]
    order = data.draw(st.permutations(range(len(sizes))))
    used = order[data.draw(st.integers(0, len(sizes) - 1)) :]
    rest = [axis for axis in range(len(sizes)) if axis not in used]
    devices = np.arange(np.prod(sizes)).reshape(sizes)
    rows = devices.transpose([*rest, *used]).reshape(-1, np.prod([sizes[a] for a in used]))
    expected = tuple(tuple(int(n) for n in row) for row in rows)

    mesh = ",".join(f"'{name}'={size}" for name, size in zip(names, sizes, strict=True))
    axes = ",".join(f"'{names[axis]}'" for axis in used)
    assert parse_groups(f"mesh[{mesh}] {{{axes}}}", devices.size) == expected

    shape = ",".join(map(str, rows.shape))
    dims, permutation = ",".join(map(str, sizes)), ",".join(map(str, [*rest, *used]))
    assert parse_groups(f"[{shape}]<=[{dims}]T({permutation})", devices.size) == expected


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown form"):
        parse_groups("everything", 4)


def test_pairs() -> None:
    assert parse_pairs("{{0,1},{1,0}}") == ((0, 1), (1, 0))
