"""Natural Instructions tasks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture
from flan_jax.mixtures import niv2, real
from flan_jax.mixtures.niv2.tasks import CAP, FOLDER, known_size
from flan_jax.prompts.render import render
from flan_jax.sources.base import SourceMissingError
from flan_jax.tasks import all_tasks, get_task

assert real  # registers the mixture of all

WHOLE = "task1393_superglue_copa_text_completion"


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    return test_data


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two small files under the names of real tasks."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for name, count in ((WHOLE, 30), ("task105_story_cloze-rocstories_sentence_generation", 10)):
        instances = [
            {"id": f"{i}", "input": f"<{i}>", "output": [f"out {i}"]} for i in range(count)
        ]
        task = {"Definition": ["Do the thing."], "Instances": instances}
        (folder / f"{name}.json").write_text(json.dumps(task), encoding="utf-8")
    return tmp_path


def tasks():
    return [task for task in all_tasks() if task.group == "niv2"]


def test_all_1556_are_registered_and_share_their_templates():
    assert len(tasks()) == 1556
    with (Path(niv2.__file__).parent / "tasks.csv").open(encoding="utf-8", newline="") as file:
        names = [row["task"] for row in csv.DictReader(file)]
    assert sorted(name.replace("-", "_") for name in names) == [task.name for task in tasks()]
    files = {Path(task.source.describe()).name for task in tasks()}
    assert files == {f"{name}.json" for name in names}
    assert len({task.template_file for task in tasks()}) == 1
    assert len(get_task(WHOLE).templates()) >= 10
    assert not [task.name for task in tasks() if "mmmlu" in task.name]


def test_facts_from_the_table():
    task = get_task("task1435_ro_sts_parallel_language_translation_ro_to_en")
    assert (task.cluster, task.languages, task.cap) == ("translation", ("en", "ro"), CAP)
    tagged = [task for task in tasks() if "official_test" in task.tags]
    assert len(tagged) == 119
    assert len([task for task in tasks() if "official_xlingual_test" in task.tags]) == 35


def test_few_shot_prompts_give_the_definition_once(own):
    task = get_task(WHOLE)
    for index in range(task.source.num_examples("train")):
        example = render(task, "train", index, seed=0, variant="fs_noopt")
        assert example.inputs.count("Do the thing.") == 1
        assert example.inputs.index("Do the thing.") < example.inputs.index("<")
        assert len(example.exemplars) >= 1
        for exemplar in example.exemplars:
            assert task.fields("train", exemplar)["answer"] in example.inputs
        assert example.inputs.count("<") == len(example.exemplars) + 1
        zero = render(task, "train", index, seed=0, variant="zs_noopt")
        assert zero.inputs.count("Do the thing.") == 1
        assert zero.inputs.count("<") == 1


def test_mixture_of_own_files(own):
    mixture = get_mixture("niv2")
    assert mixture.rates == {
        WHOLE: float(get_task(WHOLE).source.num_examples("train")),
        "task105_story_cloze_rocstories_sentence_generation": float(
            get_task("task105_story_cloze_rocstories_sentence_generation").source.num_examples(
                "train"
            )
        ),
    }
    assert get_mixture("real").rates == mixture.rates


def test_mixture_without_data_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    with pytest.raises(SourceMissingError, match=r"no data for any of its 1556 tasks") as error:
        get_mixture("niv2")
    assert str(tmp_path) in str(error.value) and "FLAN_JAX_DATA" in str(error.value)


def test_unknown_names_are_suggested():
    with pytest.raises(UserError, match="did you mean 'task1393_superglue_copa_text_completion'"):
        get_mixture("task1393_superglue_copa_text_completions")


def test_official_files_are_known_by_their_length(data):
    task = get_task(WHOLE)
    known = known_size(task)
    actual = task.source.num_examples("train")
    assert known == round(496 * 0.9)
    assert abs(known - actual) < 15
    assert known_size(get_task("task002_quoref_answer_generation")) is None  # cut
    assert known_size(get_task("gsm8k")) is None


def test_every_real_file_renders(data):
    mixture = get_mixture("niv2")
    assert len(mixture.rates) == 24
    for task in mixture.tasks():
        for split in task.source.splits():
            for variant in task.variants():
                example = render(task, split, 0, seed=3, variant=variant)
                fields = task.fields(split, 0)
                assert example.targets == fields["answer"] == fields["answers"][0]
                assert fields["input"] in example.inputs
                assert example.inputs.count(fields["definition"]) == 1


def test_real_mixture_holds_everything_at_hand(data):
    real = get_mixture("real")
    assert len(real.rates) == 33
    assert set(real.rates) == {
        *get_mixture("cot").rates,
        *get_mixture("niv2").rates,
        "gsm8k",
        "gsm8k_cot",
    }
