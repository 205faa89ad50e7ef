"""Mixtures: rates, nesting, held-out tasks."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flan_jax import mixing, tasks
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import ENDLESS_SIZE, MixtureDefinition, get_mixture, register_mixture
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, UnknownTaskError, register_task


def _row(draws):
    return {"answer": str(draws.below(1000))}


def _add(name: str, size: int | None = None, **kwargs) -> TaskDefinition:
    source = ProceduralSource(name, _row, {"train": size})
    task = TaskDefinition(name, "g", "c", source, Path("absent.yaml"), "none", **kwargs)
    return register_task(task)


@pytest.fixture(autouse=True)
def _registries(empty_registries):
    for name, size in (("a", 100), ("b", 300), ("c", None), ("d", 50_000)):
        _add(name, size)
    _add("exam", held_out=True)


def test_members_are_equal_by_default():
    assert register_mixture("m", ["a", "b"]).proportions() == {"a": 0.5, "b": 0.5}


def test_proportional_rates_count_examples_up_to_the_cap():
    mixture = register_mixture("m", ["a", "b", "c", "d"], rate="proportional", cap=30_000)
    assert mixture.rates == {"a": 100, "b": 300, "c": ENDLESS_SIZE, "d": 30_000}


def test_a_task_s_own_cap_is_taken_first():
    _add("e", 5_000, cap=2_000)
    assert register_mixture("m", ["e", "d"], rate="proportional", cap=500).rates == {
        "e": 2_000,
        "d": 500,
    }


def test_a_task_is_a_mixture_of_itself():
    assert get_mixture("a").proportions() == {"a": 1.0}
    assert [task.name for task in get_mixture("a").tasks()] == ["a"]


def test_nesting_is_flattened_with_exact_proportions():
    register_mixture("inner", {"a": 1, "b": 3})
    register_mixture("middle", {"inner": 2, "c": 6})
    outer = register_mixture("outer", {"middle": 1, "a": 1})
    assert set(outer.rates) == {"a", "b", "c"}
    expected = {"a": Fraction(1, 2) + Fraction(1, 32), "b": Fraction(3, 32), "c": Fraction(3, 8)}
    assert outer.proportions() == {name: float(share) for name, share in expected.items()}


def test_proportional_nesting_counts_all_rows_of_a_mixture():
    register_mixture("inner", {"a": 1, "b": 1})
    outer = register_mixture("outer", ["inner", "d"], rate="proportional", cap=1_000)
    assert outer.rates == {"a": 200, "b": 200, "d": 1_000}  # (100 + 300) in inner proportions


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.floats(1e-3, 1e3), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_flattening_equals_sampling_through_the_levels(levels):
    mixing._MIXTURES.clear()
    names = [f"m{i}" for i in range(len(levels))]
    for name, rates in zip(names, levels, strict=True):
        register_mixture(name, rates)
    outer = register_mixture("outer", {name: i + 1 for i, name in enumerate(names)}).proportions()
    total = sum(range(1, len(names) + 1))
    for task in "abcd":
        share = sum((i + 1) / total * rates.get(task, 0) / sum(rates.values())
                    for i, rates in enumerate(levels))  # fmt: skip
        assert outer.get(task, 0) == pytest.approx(share)


def test_held_out_tasks_are_refused_also_within_a_mixture():
    with pytest.raises(UserError, match="'m' would train on held-out tasks: exam"):
        register_mixture("m", ["a", "exam"])
    register_mixture("exams", ["exam"], allow_held_out=True)
    with pytest.raises(UserError, match="'n' would train on held-out tasks: exam"):
        register_mixture("n", {"a": 1, "exams": 0.1})
    with pytest.raises(UnknownTaskError):
        get_mixture("n")


def test_unknown_members_get_a_suggestion():
    register_mixture("train_mixture", ["a"])
    with pytest.raises(UnknownTaskError, match="'train_mixtrue'; did you mean 'train_mixture'"):
        register_mixture("m", ["a", "train_mixtrue"])


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_rates_must_be_positive(rate):
    with pytest.raises(UserError, match=r"the rate of a is .*must be > 0"):
        register_mixture("m", {"a": rate})


def test_other_refusals():
    with pytest.raises(UserError, match="must be 'equal' or 'proportional', found 'examples'"):
        register_mixture("m", ["a"], rate="examples")
    with pytest.raises(UserError, match="'m' has no tasks"):
        register_mixture("m", [])
    with pytest.raises(UserError, match="unknown variant 'zs'"):
        register_mixture("m", ["a"], variants={"zs": 1})


def test_a_name_is_not_taken_twice():
    register_mixture("m", ["a"])
    register_mixture("m", ["a"])
    with pytest.raises(UserError, match="'m' is registered already"):
        register_mixture("m", ["b"])
    with pytest.raises(UserError, match="'a' is the name of a task"):
        register_mixture("a", ["b"])


def test_variants_that_do_not_differ_for_a_task_count_as_one():
    weights = {"zs_opt": 3.0, "zs_noopt": 1.0, "fs_opt": 2.0}
    with_options = _add("o", has_options=True)
    mixture = MixtureDefinition("m", {"a": 1, "o": 1}, weights)

    def shares(task):
        drawn = [mixture.draw_variant(task, Draws(i)) for i in range(3000)]
        return {variant: drawn.count(variant) / 3000 for variant in {*drawn}}

    assert shares(tasks.get_task("a")) == pytest.approx(
        {"zs_noopt": 4 / 6, "fs_noopt": 2 / 6}, abs=0.04
    )
    assert shares(with_options) == pytest.approx(
        {"zs_opt": 3 / 6, "zs_noopt": 1 / 6, "fs_opt": 2 / 6}, abs=0.04
    )


def test_proportions_sum_to_one():
    rates = np.random.default_rng(0).uniform(0.001, 1000, 4)
    mixture = register_mixture("m", dict(zip("abcd", rates.tolist(), strict=True)))
    assert sum(mixture.proportions().values()) == pytest.approx(1, abs=1e-12)


def test_variants_are_each_task_s_own_by_default():
    cot = _add("reasons", styles=("cot", "inverted"))
    mixture = register_mixture("m", ["a", "reasons"])
    assert mixture.variants is None and mixture.task_variants == {}
    assert mixture.variants_of(cot) == cot.default_variants()
    drawn = [mixture.draw_variant(cot, Draws(i)) for i in range(3000)]
    shares = {variant: drawn.count(variant) / 3000 for variant in {*drawn}}
    expected = {"zs_cot": 1, "zs_inverted": 0.3, "fs_cot": 1, "fs_inverted": 0.3}
    assert shares == pytest.approx({v: w / 2.6 for v, w in expected.items()}, abs=0.03)


def test_a_task_without_any_of_the_variants_is_refused_when_asked():
    mixture = register_mixture("m", ["a"], variants={"zs_inverted": 1.0})
    with pytest.raises(UserError, match=r"'m': a has none of the variants zs_inverted; it has zs_"):
        mixture.variants_of(tasks.get_task("a"))


def test_variants_are_inherited_through_the_levels():
    with_options = _add("o", has_options=True)
    register_mixture("inner", {"a": 1, "o": 1}, variants={"zs_opt": 3, "fs_noopt": 1})
    register_mixture("middle", {"inner": 1, "b": 1})
    outer = register_mixture("outer", {"middle": 2, "d": 1})
    for mixture in (get_mixture("middle"), outer):
        assert mixture.variants is None
        assert set(mixture.task_variants) == {"a", "o"}
        assert mixture.task_variants["o"] == pytest.approx({"zs_opt": 0.75, "fs_noopt": 0.25})
        assert mixture.task_variants["a"] == pytest.approx({"zs_noopt": 0.75, "fs_noopt": 0.25})
        assert mixture.variants_of(tasks.get_task("b")) == {"zs_noopt": 1, "fs_noopt": 1}
    drawn = {outer.draw_variant(with_options, Draws(i)) for i in range(200)}
    assert drawn == {"zs_opt", "fs_noopt"}


def test_a_task_of_two_members_has_the_variants_of_both_in_their_shares():
    task = _add("o", has_options=True)
    register_mixture("shown", ["o"], variants={"zs_opt": 7})
    register_mixture("hidden", ["o", "a"], variants={"zs_noopt": 1, "fs_noopt": 1})
    # `shown` brings 3 of `o`; `hidden` half of 2, as its other half is `a`; `o` itself 4.
    mixture = register_mixture("m", {"shown": 3, "hidden": 2, "o": 4})
    assert mixture.rates == {"o": 8, "a": 1}
    weights = {"zs_opt": 3 + 1, "zs_noopt": 0.5 + 1, "fs_opt": 1, "fs_noopt": 0.5 + 1}
    assert mixture.variants_of(task) == pytest.approx({v: w / 8 for v, w in weights.items()})


def test_variants_given_for_the_whole_win():
    task = _add("o", has_options=True)
    register_mixture("inner", ["o"], variants={"zs_opt": 1})
    mixture = register_mixture("m", ["inner", "a"], variants={"fs_opt": 1.0})
    assert mixture.task_variants == {}
    assert {v: w for v, w in mixture.variants_of(task).items() if w} == {"fs_opt": 1.0}


def test_weights_of_one_task_go_before_the_mixture_s():
    task = _add("o", has_options=True)
    own = {"o": {"fs_opt": 1.0}}
    mixture = MixtureDefinition("m", {"o": 1, "a": 1}, {"zs_opt": 1.0}, own)
    assert mixture.draw_variant(task, Draws(0)) == "fs_opt"
    assert mixture.draw_variant(tasks.get_task("a"), Draws(0)) == "zs_noopt"
    with pytest.raises(UserError, match="unknown variant 'fs'"):
        MixtureDefinition("m", {"o": 1}, None, {"o": {"fs": 1.0}})


def test_parts_are_the_members_and_shares_are_theirs():
    register_mixture("inner", {"a": 1, "b": 3})
    register_mixture("middle", {"inner": 1, "c": 1})
    mixture = register_mixture("m", {"middle": 3, "d": 1})
    assert mixture.parts == {"a": "middle", "b": "middle", "c": "middle"}
    assert mixture.shares() == pytest.approx({"middle": 0.75, "d": 0.25})
    assert get_mixture("middle").shares() == pytest.approx({"inner": 0.5, "c": 0.5})
    assert get_mixture("a").shares() == {"a": 1.0}


def test_another_name_of_a_task_means_the_task():
    _add("rte", 10, aliases=("glue_rte",))
    assert get_mixture("glue_rte").name == "rte"
    assert get_mixture("glue_rte").proportions() == {"rte": 1.0}
    assert register_mixture("m", {"glue_rte": 1, "rte": 1, "a": 2}).rates == {"rte": 2, "a": 2}


ANNOUNCED = """
from flan_jax.mixing import register_mixture
register_mixture("announced", ["a", "b"], description="made in a module")
"""


@pytest.fixture
def announced(tmp_path, monkeypatch):
    (tmp_path / "mixture_module.py").write_text(ANNOUNCED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    mixing.announce_mixtures({"announced": "mixture_module"})


def test_an_announced_mixture_is_registered_when_asked_for(announced):
    register_mixture("m", ["a"])
    assert "mixture_module" not in sys.modules
    with pytest.raises(UnknownTaskError, match="'anounced'; did you mean 'announced'"):
        get_mixture("anounced")
    assert "mixture_module" not in sys.modules
    assert set(register_mixture("outer", ["announced"]).rates) == {"a", "b"}
    assert "mixture_module" in sys.modules


def test_listing_registers_what_is_announced(announced):
    assert [mixture.name for mixture in mixing.all_mixtures()] == ["announced"]
    assert mixing.registered_mixtures() == ["announced"]


def test_an_announced_name_is_taken(announced):
    with pytest.raises(UserError, match="'announced' is registered already"):
        register_mixture("announced", ["c"])
    mixing.withdraw_announced_mixtures()
    assert get_mixture("announced").description == "made in a module"
