"""Tables in pages are renewed row by row, and nothing else in the page changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import growth, plan_table
from benchmarks.doc_tables import markdown, read_table, renewed, write_table

ROOT = Path(__file__).resolve().parent.parent
PAGE = "before\n\n<!-- plan table -->\n| a | b |\n| --- | --- |\n<!-- end -->\n\nafter\n"


def test_rows_are_renewed_kept_and_put_in_order(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert read_table(page, "plan table") == []
    write_table(page, "plan table", markdown(("a", "b"), [["x", "1"], ["z", "3"]]))
    assert read_table(page, "plan table") == [["x", "1"], ["z", "3"]]
    order = [("z",), ("y",), ("x",), ("w",)]
    rows = renewed(order, read_table(page, "plan table"), {("y",): ["y", "2"], ("x",): ["x", "9"]})
    assert rows == [["z", "3"], ["y", "2"], ["x", "9"]]
    write_table(page, "plan table", markdown(("a", "b"), rows))
    text = page.read_text()
    assert text.startswith("before\n\n<!-- plan table -->\n")
    assert text.endswith("| x | 9 |\n<!-- end -->\n\nafter\n")


def test_a_page_without_the_table_is_refused(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(ValueError, match="growth table"):
        write_table(page, "growth table", "")


@pytest.mark.parametrize("benchmark", [plan_table, growth])
def test_the_page_has_a_place_for_the_table_with_its_columns(benchmark):
    page = ROOT / "docs" / "plan.md"
    text = page.read_text(encoding="utf-8")
    heading = markdown(benchmark.COLUMNS, [])
    assert f"<!-- {benchmark.NAME} -->\n{heading}" in text
    for row in read_table(page, benchmark.NAME):
        assert len(row) == len(benchmark.COLUMNS)


def test_the_table_has_the_papers_models_and_each_row_once():
    rows = list(plan_table.rows())
    labels = [row.label for row in rows]
    assert len(set(labels)) == len(labels)
    assert {topology for model, topology in labels if model.startswith("Flan-T5")} == {
        "v4-32",
        "v4-64",
        "v5e-64",
        "v5e-256",
    }
    palm = {model for model, topology in labels if topology == "v4:4x4x32"}
    assert palm == {"Flan-PaLM 8B", "Flan-PaLM 62B", "Flan-PaLM 540B"}
    for row in rows:
        files = [flag.partition("=")[2] for flag in row.flags() if flag.startswith("--gin_file")]
        assert all((ROOT / "gin" / file).is_file() for file in files)
        fsdp = int(re.findall(r"--gin.FSDP=(\d+)", " ".join(row.flags()))[0])
        assert fsdp * row.tensor == row.chips
        assert row.batch % fsdp == 0
