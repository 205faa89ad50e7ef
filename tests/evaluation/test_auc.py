from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.cli.evaluating import auc as command
from flan_jax.evaluation.auc import (
    RankedFileError,
    auc_roc,
    auc_with_interval,
    likelihood_of_yes,
    read_likelihoods,
)

# Few distinct values, for ties.
items = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


@given(items)
def test_the_area_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]):
    scores = np.array([score for score, _ in rows], float)
    labels = np.array([label for _, label in rows])
    pairs = [
        (a > b) + (a == b) / 2
        for a, yes in rows
        if yes
        for b, also in rows
        if not also
    ]  # fmt: skip
    assert auc_roc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))
    assert auc_roc(-scores, labels) == pytest.approx(1 - auc_roc(scores, labels))


def test_the_interval_covers_what_is_known():
    # Normal scores one standard deviation apart: the area is Phi(1 / sqrt 2).
    known = 100 * 0.5 * (1 + math.erf(0.5))
    covered = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        labels = np.repeat([True, False], [60, 140])
        scores = generator.normal(size=200) + labels
        found = auc_with_interval(scores, labels, seed, resamples=400)
        assert found.interval.low <= found.value <= found.interval.high
        covered += found.interval.low <= known <= found.interval.high
    assert covered >= 26
    assert (found.positives, found.negatives) == (60, 140)


def test_one_kind_alone_has_no_area():
    with pytest.raises(ValueError, match="at least one positive and one negative"):
        auc_roc(np.array([1.0, 2.0]), np.array([True, True]))


def test_likelihoods_are_normalised_over_yes_and_no():
    scores = {"yes": math.log(0.03), "no": math.log(0.01)}
    assert likelihood_of_yes(scores) == pytest.approx(0.75)
    assert likelihood_of_yes({"yes": -2000.0, "no": -1.0}) < 1e-300
    assert likelihood_of_yes({"yes": -1.0, "no": -2000.0}) == 1.0


def rows_file(path: Path, rows: list) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


ROWS = [
    {"target": "yes", "option_scores": {"yes": -1.0, "no": -2.0}},
    {"target": "no", "option_scores": {"yes": -3.0, "no": -1.0}},
    {"target": "no", "option_scores": {"yes": -1.5, "no": -1.0}},
]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = rows_file(tmp_path / "comments-000001.jsonl", ROWS)
    assert command.main([str(path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["value"], found["positives"], found["negatives"]) == (100.0, 1, 2)
    command.main([str(path)])
    assert "AUC-ROC 100.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"target": "yes", "output": "yes"}], "line 1: expected `option_scores`"),
        ([*ROWS, {"target": "maybe", "option_scores": {"yes": -1, "no": -1}}], "line 4.*'maybe'"),
        (ROWS[1:], "all targets are no"),
        ([], "no rows"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, rows: list, message: str):
    with pytest.raises(RankedFileError, match=message):
        read_likelihoods([rows_file(tmp_path / "a.jsonl", rows)])
