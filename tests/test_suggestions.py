"""Near-miss suggestions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flan_jax.suggestions import did_you_mean


def test_the_nearest_name_is_suggested():
    text = did_you_mean("trian_steps", ["train_steps", "eval_steps", "random_seed"])
    assert text.startswith("; did you mean 'train_steps'")
    assert "random_seed" not in text


def test_nothing_near_gives_nothing():
    assert did_you_mean("zzz", ["train_steps"]) == ""
    assert did_you_mean("anything", []) == ""


def test_case_does_not_matter_and_the_real_spelling_is_shown():
    assert did_you_mean("batch_size", ["BATCH_SIZE"]) == "; did you mean 'BATCH_SIZE'?"


def test_at_most_limit_names_the_best_first():
    text = did_you_mean("task1", ["task2", "task3", "task12", "task4"], limit=2)
    assert text.count("'") == 4
    assert text.startswith("; did you mean 'task12' or ")


@given(st.text(min_size=1), st.lists(st.text(), max_size=6))
def test_order_and_repetition_of_candidates_do_not_matter(name, names):
    assert did_you_mean(name, names) == did_you_mean(name, [*reversed(names), *names])


@given(st.text(min_size=1), st.lists(st.text(), max_size=6))
def test_an_exact_name_is_always_suggested_first(name, names):
    spellings = {other for other in (*names, name) if other.casefold() == name.casefold()}
    text = did_you_mean(name, [*names, name])
    assert any(text.startswith(f"; did you mean {other!r}") for other in spellings)
