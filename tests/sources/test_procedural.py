"""Procedural rows: repeatable, endless, and split so that nothing leaks."""

from __future__ import annotations

import json

import pytest

from flan_jax.sources.base import Source, SourceError
from flan_jax.sources.procedural import ProceduralSource


def _sum(draws):
    a, b = draws.below(40), draws.below(40)
    return {"a": a, "b": b, "answer": str(a + b)}


def _choice(draws):
    options = draws.sample(["x", "y", "z", "w"], 3)
    number = draws.below(50)
    return {"number": number, "options": options, "answer": "xyzw"[number % 4]}


def _key(row):
    return json.dumps({k: v for k, v in row.items() if k != "options"}, sort_keys=True)


def test_it_is_a_source():
    source = ProceduralSource("s", _sum)
    assert isinstance(source, Source)
    assert source.kind == "procedural"
    assert "_sum" in source.describe()


@pytest.mark.parametrize("generate", [_sum, _choice])
def test_no_row_of_one_split_is_in_another(generate):
    # Spaces of 1,600 and 50 rows, drawn from so often that any leak would show.
    source = ProceduralSource("s", generate)
    train = {_key(source.row("train", i)) for i in range(4000)}
    validation = {_key(source.row("validation", i)) for i in range(200)}
    test = {_key(source.row("test", i)) for i in range(200)}
    assert train and validation and test
    assert not train & validation and not train & test and not validation & test
    # Eight in ten rows are for training, one each for the others.
    total = {1600: _sum, 50: _choice}
    space = next(size for size, g in total.items() if g is generate)
    assert 0.65 * space < len(train) < 0.95 * space


def test_the_order_of_options_does_not_decide_the_split():
    source = ProceduralSource("s", _choice)
    row = dict(source.row("test", 0))
    for options in (["x"], ["w", "z"], []):
        assert source._split_of({**row, "options": options}) == "test"
    others = {source._split_of({**row, "number": n}) for n in range(50)}
    assert others == {"train", "validation", "test"}


def test_rows_are_repeatable_in_any_order():
    source = ProceduralSource("s", _sum)
    rows = [source.row("train", i) for i in range(50)]
    again = ProceduralSource("s", _sum)
    assert [again.row("train", i) for i in reversed(range(50))] == rows[::-1]


@pytest.mark.parametrize("other", [{"name": "t"}, {"seed": 1}])
def test_name_and_seed_choose_other_rows(other):
    one = ProceduralSource("s", _sum)
    two = ProceduralSource(**{"name": "s", "generate": _sum, **other})
    same = sum(one.row("train", i) == two.row("train", i) for i in range(200))
    assert same < 5


def test_sizes():
    source = ProceduralSource("s", _sum, {"train": None, "validation": 3})
    assert source.splits() == ("train", "validation")
    assert source.num_examples("train") is None
    assert source.num_examples("validation") == 3
    source.row("train", 10**12)
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"row {index} of validation, which has 3"):
            source.row("validation", index)
    with pytest.raises(SourceError, match=r"no split 'validate'.*did you mean 'validation'"):
        source.row("validate", 0)


def test_too_small_a_space_is_refused():
    # One row in all: it belongs to one split, the others cannot be filled.
    source = ProceduralSource("s", lambda draws: {"answer": "always"})
    split = source._split_of({"answer": "always"})
    assert source.row(split, 0) == {"answer": "always"}
    for other in {"train", "validation", "test"} - {split}:
        with pytest.raises(SourceError, match="too few different rows"):
            source.row(other, 0)
