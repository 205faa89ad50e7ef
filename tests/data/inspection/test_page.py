"""The pages: well-formed, whole, self-contained, readable, and text stays text."""

from __future__ import annotations

import argparse
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import flan_jax.data.inspection.page as page_module
from flan_jax.cli.data_show import describe_batch
from flan_jax.data.inspection.batches import InspectedRow, read_batch
from flan_jax.data.inspection.page import batch_page, histogram_chart, loss_runs, stats_page
from flan_jax.data.inspection.stats import bin_edges, collect, summarise
from flan_jax.data.reader import DatasetConfig
from flan_jax.data.vocabulary import ByteVocabulary
from tests.data.inspection.conftest import HOSTILE

BYTES = ByteVocabulary()
VOID = {"meta", "input", "br", "wbr"}
TEMPLATES = Path(page_module.__file__).parent / "templates"


class _Page(HTMLParser):
    """Checks that tags are balanced; collects tags, attributes and the text of each element."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._within: list[tuple[int, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in VOID:
            return
        self.open.append(tag)
        name = dict(attributes).get("class") or tag
        self.texts.setdefault(name, []).append("")
        self._within.append((len(self.open), name))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1] == tag, (self.open, tag, self.getpos())
        if self._within and self._within[-1][0] == len(self.open):
            self._within.pop()
        self.open.pop()

    def handle_data(self, data):
        for _, name in self._within:
            self.texts[name][-1] += data


def _batch(name: str, rows: int = 3, *, tokens: bool = True) -> tuple[dict, str]:
    config = DatasetConfig(name, {"inputs": 256, "targets": 128}, batch_size=24)
    maker = config.example_maker(BYTES, BYTES, 5)
    found = read_batch(config, maker, 0, rows)
    arguments = argparse.Namespace(seed=5, batch=0, tokens=tokens)
    told = describe_batch(config, found, arguments, "bytes", {})
    return told, batch_page(told, found, tokens=tokens)


def _stats(name: str) -> tuple[dict, str]:
    config = DatasetConfig(name, {"inputs": 256, "targets": 32})
    maker = config.example_maker(BYTES, BYTES, 5)
    sample = collect(config, maker, 1)
    found = summarise(config, maker, sample, steps=50, vocabulary="bytes")
    return found, stats_page(found)


def _identical_ids(page: _Page) -> set[str]:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    return {one for one in ids if ids.count(one) > 1}


def test_a_batch_shows_each_segment(mixture):
    found, html = _batch("toys")
    page = _Page(html)
    segments = [segment for row in found["rows"] for segment in row["segments"]]
    assert [f"Row {row['row']}" for row in found["rows"]] == page.texts["h2"]
    assert [segment["task"] for segment in segments] == page.texts["h3"]
    sides = [segment[side] for segment in segments for side in ("inputs", "targets")]
    assert [side["text"] for side in sides] == page.texts["text model"]
    assert [side["rendered"] for side in sides] == page.texts["text rendered"]
    assert ["".join(side["pieces"]) for side in sides] == page.texts["text tokens"]
    for segment, origin in zip(segments, page.texts["from"], strict=True):
        assert segment["id"] in origin and segment["template_file"] in origin
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    ids = {a["id"] for tag, a in page.tags if tag == "article"}
    assert len(links) == 2 * len(segments) and {f"#{one}" for one in ids} == set(links)
    assert _identical_ids(page) == set()


def test_tokens_are_shown_on_demand(mixture):
    _, html = _batch("toys", tokens=False)
    page = _Page(html)
    assert "text tokens" not in page.texts
    assert [a["value"] for tag, a in page.tags if a.get("name") == "view"] == ["model", "rendered"]


def test_markup_in_a_row_is_text(awkward):
    found, html = _batch("awkward", 24)
    page = _Page(html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "alert(1)" not in page.texts["script"][0]
    texts = page.texts["text rendered"]
    hostile = [s for row in found["rows"] for s in row["segments"] if s["task"] == "toy_markup"]
    assert hostile
    assert texts.count(HOSTILE) == texts.count(f"Say: {HOSTILE}") == len(hostile)


def test_statistics_show_each_task_and_group(awkward):
    found, html = _stats("awkward")
    page = _Page(html)
    names = [figures["name"] for key in ("groups", "tasks") for figures in found[key]]
    cells = [a["data-v"] for tag, a in page.tags if tag == "th" and a.get("scope") == "row"]
    assert cells == names and "toy_rare" in names
    columns = [a for tag, a in page.tags if tag == "th" and a.get("scope") == "col"]
    assert sum(tag == "td" for tag, _ in page.tags) == len(names) * (len(columns) // 2 - 1)
    assert f"{found['total']['examples']:,}" in page.texts["facts"][0]
    assert _identical_ids(page) == set()


def test_pages_need_nothing_else(mixture):
    for html in (_batch("toys")[1], _stats("toys")[1]):
        assert not re.search(r"https?:|@import|url\(", html)
        for tag, attributes in _Page(html).tags:
            assert tag not in ("link", "img", "iframe"), tag
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")


def test_the_same_batch_gives_the_same_page(mixture):
    assert _batch("toys")[1] == _batch("toys")[1]
    assert _stats("toys")[1] == _stats("toys")[1]


@pytest.mark.parametrize(
    ("weights", "runs"),
    [([0, 0], []), ([1, 1, 0], [(0, 2)]), ([0, 1, 0, 0.5, 1], [(1, 2), (3, 5)])],
)
def test_loss_runs(weights, runs):
    arrays = {"decoder_loss_weights": np.array(weights, np.float32)}
    assert loss_runs(InspectedRow(0, 0, (), (0, 0), arrays)) == runs


def test_bars_are_as_high_as_their_counts():
    edges = bin_edges(96)
    counts = [0] * (len(edges) + 1)
    counts[edges.index(64)], counts[edges.index(96)], counts[edges.index(128)] = 40, 20, 10
    page = _Page(histogram_chart(counts, edges, 96, "inputs"))
    bars = [a for tag, a in page.tags if tag == "rect" and a["class"].startswith("bar")]
    assert [bar["class"] for bar in bars] == ["bar", "bar", "bar cut"]
    heights = [float(bar["height"]) for bar in bars]
    assert heights[0] == pytest.approx(2 * heights[1]) == pytest.approx(4 * heights[2])
    assert len({float(bar["y"]) + float(bar["height"]) for bar in bars}) == 1
    assert "up to 96 tokens: 20 examples, 28.57%" in page.texts["title"]
    assert set(page.texts["tick"]) >= {"64", "128"}


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(theme):
    css = (TEMPLATES / "page.css.j2").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", blocks[theme]))
    # WCAG 2.1: 4.5 for text, 3 for what is drawn.
    for ground in ("paper", "card", "odd", "even", *(f"c{i}" for i in range(page_module.COLOURS))):
        assert _contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for text, ground in (("quiet", "paper"), ("quiet", "card"), ("warn", "warn-tint")):
        assert _contrast(colours[text], colours[ground]) >= 4.5, text
    for drawn in ("bar", "warn", "weight", *(f"e{i}" for i in range(page_module.COLOURS))):
        assert _contrast(colours[drawn], colours["paper"]) >= 3, drawn
