"""Candidates, their order, and the gin file of the best."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.errors import UserError
from flan_jax.plan import search
from flan_jax.plan.search import Candidate


def test_a_grid_keeps_names_and_values_in_order():
    grid = search.parse_grid(["TENSOR=2,1,2", "NUM_MICROBATCHES=None,4"])
    assert grid == {"TENSOR": ["2", "1"], "NUM_MICROBATCHES": ["None", "4"]}


def test_commas_in_brackets_and_quotes_part_nothing():
    grid = search.parse_grid(["RULES=((('vocab', None),)),()", "a.b=',',\"x\""])
    assert grid == {"RULES": ["((('vocab', None),))", "()"], "a.b": ["','", '"x"']}


@given(st.lists(st.text("abc123", min_size=1), min_size=1))
def test_plain_values_are_parted_at_every_comma(values: list[str]):
    assert search.split_outside_brackets(",".join(values)) == values


@pytest.mark.parametrize("text", ["FSDP", "=4", "FSDP=", "FSDP=1,,2"])
def test_what_is_no_grid_is_shown_how_to_be_one(text: str):
    with pytest.raises(UserError, match="expected NAME=VALUE,VALUE"):
        search.parse_grid([text])


def test_a_name_may_come_once():
    with pytest.raises(UserError, match="FSDP twice"):
        search.parse_grid(["FSDP=1", "FSDP=2"])


@given(st.integers(1, 4096))
def test_default_meshes_use_all_devices(count: int):
    grid = search.default_grid(count)
    assert all(math.prod(map(int, mesh.values())) == count for mesh in grid)
    assert {"fsdp": str(count), "tensor": "1"} in grid


def test_options_by_name_and_by_value():
    assert search.parse_xla(["no_windowed_einsum,xla_a=1", "--xla_b=x,y=2"]) == {
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
        "xla_a": "1",
        "xla_b": "x",
        "y": "2",
    }
    with pytest.raises(UserError, match="did you mean 'no_windowed_einsum'"):
        search.parse_xla(["no_windowed_einsums"])


def test_every_mesh_meets_every_choice_and_every_set_of_options():
    found = search.candidates(
        [{"fsdp": "8"}, {"fsdp": "4"}], {"REMAT": ["'full'", "'dots'"]}, search.XLA_SETS
    )
    assert len(found) == 2 * 2 * len(search.XLA_SETS)
    assert [each.label for each in found[:4]] == [
        "fsdp=8 REMAT='full' xla=default",
        "fsdp=8 REMAT='full' xla=no_windowed_einsum",
        "fsdp=8 REMAT='full' xla=async_collectives",
        "fsdp=8 REMAT='dots' xla=default",
    ]


def result(name: str, fits: bool, seconds: float | None, gib: float = 1.0):
    report = {"fits": fits, "step_time_serial_s": seconds, "hbm_gib_per_chip": gib}
    return Candidate({"N": name}), report


def test_the_fastest_that_fits_is_best_and_what_does_not_fit_comes_last_by_memory():
    results = [
        result("too large", False, 0.1, 40.0),
        result("slow", True, 2.0),
        result("unreadable", True, None),
        result("larger still", False, None, 50.0),
        result("fast", True, 1.0, 9.0),
        result("as fast and smaller", True, 1.0, 8.0),
    ]
    assert [candidate.bindings["N"] for candidate, _ in search.ranked(results)] == [
        "as fast and smaller",
        "fast",
        "slow",
        "unreadable",
        "too large",
        "larger still",
    ]
