"""The numbers of docs/host_sizing.md, recomputed from its formula."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "host_sizing.md"
PEAK = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12}
T5 = {  # width, width of all heads, inner width, layers of each half
    "T5-Base": (768, 768, 2048, 12),
    "T5-Large": (1024, 1024, 2816, 24),
    "T5-XL": (2048, 2048, 5120, 24),
    "T5-XXL": (4096, 4096, 10240, 24),
}
SPEEDS = (5e6, 1e6, 0.5e6)


def _parameters(model: str) -> tuple[float, float]:
    """Parameters that work on an input token, and on a target token."""
    if model == "PaLM-8B":
        layer = 2 * 4096 * 16 * 256 + 2 * 4096 * 256 + 3 * 4096 * 16384
        return (32 * layer + 256_000 * 4096,) * 2
    width, heads, inner, layers = T5[model]
    attention, feed_forward = 4 * width * heads, 3 * width * inner
    decoder = layers * (2 * attention + feed_forward) + 32_128 * width
    return layers * (attention + feed_forward), decoder


def _needed(model: str, chip: str) -> float:
    inputs, targets = _parameters(model)
    return 4 * PEAK[chip] * 0.5 / (6 * (2048 * inputs + 512 * targets) / 2560)


def _rows(columns: int) -> list[list[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return [row for row in cells if len(row) == columns and row[0].startswith(("T5", "PaLM"))]


def _number(text: str) -> float:
    return float(text.removesuffix(" M").replace(",", ""))


def test_the_sizes_are_those_of_the_published_models():
    # 2.85 and 11.1 billion for T5 v1.1's XL and XXL, embeddings included; 8.63 for PaLM-8B.
    assert sum(_parameters("T5-XL")) + 32_128 * 2048 == pytest.approx(2.85e9, rel=2e-3)
    assert sum(_parameters("T5-XXL")) + 32_128 * 4096 == pytest.approx(11.1e9, rel=5e-3)
    assert _parameters("PaLM-8B")[0] == pytest.approx(8.63e9, rel=1e-3)


def test_tokens_a_second():
    rows = _rows(5)
    needs = [row for row in rows if row[1].endswith(" M")]
    assert [row[0] for row in needs] == [*T5, "PaLM-8B"]
    for model, sizes, *numbers in needs:
        told = [_number(size) for size in sizes.split(", ")]
        assert told == pytest.approx([size / 1e6 for size in _parameters(model)], abs=0.5)
        for chip, number in zip(PEAK, numbers, strict=True):
            assert _number(number) == pytest.approx(_needed(model, chip), rel=0.05), (model, chip)


def test_margins():
    margins = [row for row in _rows(5) if row[1] in PEAK]
    assert len(margins) == 4 * 3
    for model, chip, *numbers in margins:
        for speed, number in zip(SPEEDS, numbers, strict=True):
            found = speed / _needed(model, chip)
            assert _number(number) == pytest.approx(found, rel=0.05), (model, chip)
