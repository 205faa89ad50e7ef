"""What a mixture comes to on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.data.reader import DatasetConfig
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.mixing import MixtureDefinition, get_mixture, register_mixture
from flan_jax.realised import MixtureMissingError, missing_data, only, realise, tell_missing
from flan_jax.sources.base import SourceError, SourceMissingError
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task

TEMPLATES = 'templates: [{inputs: "{{ question }}", targets: "{{ answer }}"}]'


class OwnSource:
    """A user's source: it has rows, and nothing that our own sources have beyond."""

    kind = "own"

    def describe(self):
        return "rows of mine"

    def splits(self):
        return ("train",)

    def num_examples(self, split):
        return 4

    def row(self, split, index):
        return {"question": f"mine {index}", "answer": str(index)}


@pytest.fixture(autouse=True)
def _tasks(empty_registries, tmp_path, monkeypatch):
    """Files of a and b are here, those of c, d and e are not; `own` cannot tell."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    (tmp_path / "t.yaml").write_text(TEMPLATES)
    for name in "ab":
        (tmp_path / f"{name}.tsv").write_text("".join(f"{name}{i}\t{i}\n" for i in range(3)))
    sources = {n: TsvSource({"train": f"{n}.tsv"}, columns=("question", "answer")) for n in "abcde"}
    for name, source in {**sources, "own": OwnSource()}.items():
        register_task(TaskDefinition(name, "g", "c", source, tmp_path / "t.yaml", "MIT"))


def test_a_mixture_that_is_all_there_is_as_it_was():
    mixture = register_mixture("m", {"a": 1, "b": 2})
    realised = realise(mixture)
    assert realised.mixture is mixture and realised.missing == {}


def test_missing_data_stop_a_run_and_are_named_with_a_way_out():
    mixture = register_mixture("m", {"a": 1, "c": 2, "d": 1})
    with pytest.raises(MixtureMissingError) as error:
        realise(mixture)
    text = str(error.value)
    assert text.startswith("mixture 'm': data of 2 of 3 tasks are missing\n  c: c.tsv is not in")
    assert "\n  d: d.tsv is not in" in text and "\n  a:" not in text
    assert "`flan-jax data fetch m`" in text and "--gin.ALLOW_MISSING=True" in text
    assert isinstance(error.value, SourceMissingError)


def test_a_source_of_one_s_own_need_not_tell():
    assert missing_data(get_mixture("own").tasks()[0]) is None
    mixture = register_mixture("m", ["own", "a"])
    assert realise(mixture).mixture is mixture


def test_other_trouble_with_the_data_counts_as_missing(monkeypatch):
    class Broken(OwnSource):
        def check_present(self):
            raise SourceError("the disk is full of holes")

    task = TaskDefinition("broken", "g", "c", Broken(), Path("t.yaml"), "MIT")
    assert missing_data(task) == "the disk is full of holes"


def test_each_part_keeps_its_share():
    register_mixture("one", {"a": 1, "c": 3})
    register_mixture("two", {"b": 1, "d": 1, "own": 2})
    mixture = register_mixture("m", {"one": 30, "two": 70})
    realised = realise(mixture, allow_missing=True)
    assert list(realised.missing) == ["c", "d"] and "c.tsv" in realised.missing["c"]
    assert realised.mixture.shares() == pytest.approx({"one": 0.3, "two": 0.7})
    expected = {"a": 0.3, "b": 0.7 / 3, "own": 1.4 / 3}
    assert realised.mixture.proportions() == pytest.approx(expected)
    assert realised.mixture.name == "m"


def test_a_part_without_any_data_leaves_its_share_to_the_others():
    register_mixture("gone", {"c": 1, "d": 1})
    register_mixture("here", {"a": 1, "b": 3})
    register_mixture("half", {"own": 1, "e": 1})
    mixture = register_mixture("m", {"gone": 50, "here": 40, "half": 10})
    realised = realise(mixture, allow_missing=True).mixture
    assert realised.shares() == pytest.approx({"here": 0.8, "half": 0.2})
    assert realised.proportions() == pytest.approx({"a": 0.2, "b": 0.6, "own": 0.2})


def test_the_weights_of_variants_stay():
    register_mixture("one", {"a": 1, "c": 1}, variants={"zs_opt": 1})
    mixture = register_mixture("m", {"one": 1, "b": 1})
    realised = realise(mixture, allow_missing=True).mixture
    assert realised.task_variants == {"a": {"zs_noopt": 1.0}}
    assert realised.parts == {"a": "one"}


def test_nothing_at_all_is_an_error_even_if_missing_is_allowed():
    register_mixture("m", {"c": 1, "d": 1})
    with pytest.raises(MixtureMissingError, match="data of 2 of 2 tasks are missing"):
        realise(get_mixture("m"), allow_missing=True)


def test_many_missing_tasks_are_counted_not_all_named():
    rates = dict.fromkeys("ab", 1.0)
    missing = {f"t{i}": "gone" for i in range(1_234)}
    text = tell_missing(MixtureDefinition("m", rates), missing)
    assert text.startswith("mixture 'm': data of 1,234 of 1,236 tasks are missing\n  t0: gone\n")
    assert text.endswith("\n  … and 1,224 more") and text.count("\n") == 11


def test_leaving_out_what_is_not_there_changes_no_ratio_within_a_part():
    mixture = MixtureDefinition("m", {"a": 1, "b": 3, "c": 4})
    assert only(mixture, {"a", "b"}).proportions() == {"a": 0.25, "b": 0.75}
    assert only(mixture, {"a", "b", "c", "d"}) is mixture


def _maker(**kwargs):
    config = DatasetConfig("m", {"inputs": 32, "targets": 8}, batch_size=1, **kwargs)
    return config.example_maker(ByteVocabulary(), ByteVocabulary(), 0)


def test_the_reader_stops_or_goes_on_as_it_is_told():
    register_mixture("one", {"a": 1, "c": 3})
    register_mixture("m", {"one": 1, "b": 1})
    with pytest.raises(MixtureMissingError, match="1 of 3 tasks"):
        _maker()
    maker = _maker(allow_missing=True)
    assert maker.task_names == ("a", "b") and list(maker.missing) == ["c"]
    assert maker.mixture.proportions() == pytest.approx({"a": 0.5, "b": 0.5})


def test_a_split_that_some_tasks_lack_is_read_from_the_others(tmp_path):
    (tmp_path / "more.tsv").write_text("q\t1\n")
    source = TsvSource({"train": "a.tsv", "validation": "more.tsv"}, columns=("question", "answer"))
    register_task(TaskDefinition("both", "g", "c", source, tmp_path / "t.yaml", "MIT"))
    register_mixture("m", {"both": 1, "own": 1})
    assert _maker(split="validation").task_names == ("both",)
    assert _maker().task_names == ("both", "own")
    with pytest.raises(SourceError, match="no split 'test', only train"):
        _maker(split="test")
