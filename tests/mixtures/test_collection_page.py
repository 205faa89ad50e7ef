"""docs/collection.md and docs/samples.md say what the commands say and name tests that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flan_jax.cli.tasks import main
from flan_jax.mixtures.counts import MEASURES, PARTS
from tests.mixtures import samples

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "collection.md"
TEXT = PAGE.read_text(encoding="utf-8")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_COLUMNS = (*PARTS, "all")


def table() -> dict[tuple[str, str], tuple[int, int | None, str]]:
    """(here, published, by whom) by part and measure, as the page has them."""
    found = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[0] not in MEASURES or len(cells) != 1 + len(_COLUMNS):
            continue
        for part, cell in zip(_COLUMNS, cells[1:], strict=True):
            match = re.fullmatch(r"([\d,]+)(?: \((\w+): ([\d,]+)\))?", cell)
            assert match, f"{cells[0]}, {part}: {cell}"
            here, by, number = match.groups()
            published = int(number.replace(",", "")) if number else None
            found[part, cells[0]] = (int(here.replace(",", "")), published, by or "")
    return found


def test_counts_are_those_of_the_command(capsys: pytest.CaptureFixture[str]):
    assert main(["counts", "--format", "json"]) == 0
    told = {
        (line["part"], line["measure"]): (line["here"], line["published"], line["source"])
        for line in json.loads(capsys.readouterr().out)
    }
    assert len(told) == len(MEASURES) * len(_COLUMNS)
    assert table() == told


def test_the_command_shows_differences(capsys: pytest.CaptureFixture[str]):
    assert main(["counts", "--format", "plain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "niv2\ttasks to train on\t1,556\t1,554\t+2\tpaper" in lines
    assert "muffin\ttasks to train on\t80\t80\t\tpaper" in lines


def test_the_tests_that_the_page_names_exist():
    named = _TEST.findall(TEXT)
    assert len(named) >= 35
    for file, name in named:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", code, re.MULTILINE), f"{file} has no {name}"


def test_every_issue_is_accounted_for():
    """Those of Flan's issues that are about the data, their mixing or what came of them."""
    issues = {4, 17, 20, 21, 25, 26, 27, 32, 37, 38, 41, 48, 49, 54, 56, 57, 66, 67, 73, 76, 80}
    issues |= {82, 83, 85, 89, 91, 92, 98, 102, 104}
    assert {int(number) for number in re.findall(r"#(\d+)\b", TEXT)} == issues


def test_the_page_is_short():
    assert len(TEXT.splitlines()) < 200


def test_samples_are_in_step():
    assert samples.PAGE.read_text(encoding="utf-8") == samples.page(), (
        "docs/samples.md is out of date: python -m tests.mixtures.samples"
    )
