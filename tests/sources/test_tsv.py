"""Tab-separated files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.sources.base import SourceError
from flan_jax.sources.tsv import TsvSource, read_tsv

# Everything but the two separators; a carriage return at the end of a line means Windows line
# ends, so it is left out, and so is the byte order mark, which is dropped at the start of a file.
_FIELD = st.text(
    st.characters(exclude_characters="\t\n\r\ufeff", exclude_categories=["Cs"]), max_size=12
)


@given(table=st.lists(st.tuples(_FIELD, _FIELD, _FIELD), min_size=1, max_size=6))
def test_round_trip_of_any_text(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("tsv") / "rows.tsv"
    path.write_bytes("".join("\t".join(row) + "\n" for row in table).encode())
    found = read_tsv(path, ("a", "b", "c"))
    assert [tuple(row.values()) for row in found] == table


def test_quotes_and_odd_separators_are_text(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes('"Claim: it\u2028is"\tyes\t"open\n'.encode())
    assert read_tsv(path, ("q", "a", "r")) == (
        {"q": '"Claim: it\u2028is"', "a": "yes", "r": '"open'},
    )


def test_escaped_columns_and_no_others_get_line_breaks(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("one\\ntwo\tthree\\nfour", encoding="utf-8")
    (row,) = read_tsv(path, ("q", "a"), ("q",))
    assert row == {"q": "one\ntwo", "a": "three\\nfour"}
    with pytest.raises(SourceError, match="no column 'x' among q, a"):
        read_tsv(path, ("q", "a"), ("x",))


def test_header_names_the_columns(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("question\tanswer\nWhy?\tBecause.\n")
    source = TsvSource({"train": path})
    assert source.kind == "tsv"
    assert source.row("train", 0) == {"question": "Why?", "answer": "Because."}


@pytest.mark.parametrize("header", ["", "a\ta\n", "a\t\n"])
def test_unusable_headers(tmp_path, header):
    path = tmp_path / "rows.tsv"
    path.write_text(header)
    with pytest.raises(SourceError, match="first line should name the columns"):
        read_tsv(path)


@pytest.mark.parametrize(("with_header", "line"), [(False, 2), (True, 3)])
def test_wrong_number_of_fields_names_file_and_line(tmp_path, with_header, line):
    path = tmp_path / "rows.tsv"
    path.write_text(("q\ta\n" if with_header else "") + "fine\tfine\nonly one\n")
    with pytest.raises(SourceError, match=rf"rows\.tsv: line {line} has 1 fields, expected 2"):
        read_tsv(path, () if with_header else ("q", "a"))
