"""Few-shot prompts: layouts, exemplars, budgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.draws import Draws
from flan_jax.prompts.fewshot import (
    LAYOUTS,
    FewShotPolicy,
    Layout,
    draw_exemplars,
    join_within,
)


def _join(layout, shots, query, budget, count):
    laid_out = [layout.exemplar(*shot) for shot in shots]
    return join_within("", laid_out, layout.query(query), budget, count)


def test_an_opening_stands_above_all():
    assert join_within("Add.", ["1+1 2\n"], "2+2", None, None) == ("Add.\n\n1+1 2\n2+2", 0)


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
def test_the_query_is_laid_out_as_the_exemplars_are(layout):
    prompt, _ = _join(layout, [("2+2", "4"), ("3+3", "6")], "4+4", None, None)
    whole = prompt + " " * (not layout.before_target.endswith("\n"))
    expected = [f"{layout.before_input}{q}{layout.before_target}" for q in ("2+2", "3+3", "4+4")]
    starts = [prompt.index(part.rstrip()) for part in expected]
    assert starts == sorted(starts) and starts[0] == 0
    assert whole.rstrip().endswith(expected[-1].rstrip())
    # White space at the end would be a token of its own.
    assert prompt == prompt.rstrip()


def test_layouts_differ():
    assert len({layout.exemplar("q", "a") for layout in LAYOUTS}) == len(LAYOUTS)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(), st.data())
def test_exemplars_are_distinct_rows_without_the_query(size, count, seed, data):
    exclude = data.draw(st.none() | st.integers(0, size - 1))
    chosen = draw_exemplars(size, count, Draws(seed), exclude=exclude)
    assert len(set(chosen)) == len(chosen) == min(count, size - (exclude is not None))
    assert exclude not in chosen
    assert set(chosen) <= set(range(size))


def test_exemplars_of_an_endless_split():
    chosen = draw_exemplars(None, 5, Draws(0), exclude=3)
    assert len(set(chosen)) == 5 and min(chosen) >= 0


def test_a_split_of_one_row_has_no_exemplar_for_that_row():
    assert draw_exemplars(1, 3, Draws(0), exclude=0) == ()


def test_exemplars_are_uniform():
    counts = np.zeros(10)
    for seed in range(2000):
        for index in draw_exemplars(10, 3, Draws(seed), exclude=4):
            counts[index] += 1
    assert counts[4] == 0
    expected = 6000 / 9
    assert ((np.delete(counts, 4) - expected) ** 2 / expected).sum() < 8 + 5 * 4


SHOTS = [("one", "1"), ("two", "2"), ("three", "3")]


@given(st.integers(0, 80))
def test_budgets_drop_from_the_front_and_no_more_than_needed(budget):
    layout = Layout("Q: ", "\nA: ")
    prompt, dropped = _join(layout, SHOTS, "four", budget, len)
    full, _ = _join(layout, SHOTS[dropped:], "four", None, None)
    assert prompt == full
    assert len(prompt) <= budget or dropped == len(SHOTS)
    if dropped:
        longer, _ = _join(layout, SHOTS[dropped - 1 :], "four", None, None)
        assert len(longer) > budget


def test_a_query_over_budget_is_kept_whole():
    prompt, dropped = _join(Layout("Q: ", "\nA: "), SHOTS, "four", 1, len)
    assert (prompt, dropped) == ("Q: four\nA:", 3)


@pytest.mark.parametrize("low, high", [(0, 3), (3, 2)])
def test_impossible_policies_are_refused(low, high):
    with pytest.raises(ValueError, match="1 <= min_shots <= max_shots"):
        FewShotPolicy(low, high)
