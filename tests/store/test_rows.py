"""Rows as bytes and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.store.rows import RowEncoder, base_of, decode, decode_base

# Half surrogate pairs included, which JSON files may hold.
_TEXT = st.text(st.characters(exclude_categories=()))
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_TEXT | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=12,
)
_ROWS = st.dictionaries(_TEXT, _VALUES, max_size=5)


def typed(value):
    """`value` with the type of each part, so that 1, 1.0 and True differ, and -0.0 from 0.0."""
    if isinstance(value, dict):
        return {"dict": {repr(key): typed(part) for key, part in value.items()}}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(typed, value)]
    return type(value).__name__, repr(value)


def stored(rows):
    encoder = RowEncoder(base_of(rows[0]))
    base = decode_base(encoder.base_bytes)
    return [decode(encoder.encode(row), base) for row in rows]


@given(st.lists(_ROWS, min_size=1, max_size=4))
def test_rows_come_back_as_they_were(rows):
    assert [typed(row) for row in stored(rows)] == [typed(row) for row in rows]


@given(_ROWS, _VALUES, _VALUES)
def test_fields_equal_to_the_first_row_s_or_nearly(row, one, two):
    long = "x" * 40
    rows = [{**row, "shared": [long, one]}, {**row, "shared": [long, two]}, row]
    rows.append({**row, "shared": [long, one], "more": two})
    assert [typed(found) for found in stored(rows)] == [typed(wanted) for wanted in rows]


def test_what_is_equal_but_of_another_type_is_no_repetition():
    padding = ["x" * 40]
    rows = [{"f": [value, padding]} for value in (1, True, 1.0, -0.0, 0.0, False, 0)]
    rows += [{"f": (1, padding)}, {"f": [1, tuple(padding)]}]
    assert [typed(row) for row in stored(rows)] == [typed(row) for row in rows]


def test_nan_is_nan():
    (row,) = stored([{"f": math.nan, "g": [math.nan, "x" * 40]}])
    assert math.isnan(row["f"]) and math.isnan(row["g"][0])


def test_what_all_rows_repeat_is_written_once():
    definition = "Say what is meant. " * 50
    rows = [
        {"definition": definition, "examples": ({"a": definition},), "q": str(i)}
        for i in range(100)
    ]
    encoder = RowEncoder(base_of(rows[0]))
    sizes = [len(encoder.encode(row)) for row in rows]
    assert max(sizes) < 10 and len(encoder.base_bytes) < 2000
    assert stored(rows) == rows


def test_a_value_that_cannot_be_stored_is_named():
    encoder = RowEncoder({})
    with pytest.raises(TypeError, match=r"field 'b' holds a value of type builtins.set"):
        encoder.encode({"a": 1, "b": {"c": [{1, 2}]}})


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x93\x01", b"\x05", b"\xa1x", b"\x91\x05", b"\xd4\x09\x00", b"\x81\xa1a"],
)
def test_damaged_bytes_are_no_row(data):
    with pytest.raises(ValueError):
        decode(data, {})
