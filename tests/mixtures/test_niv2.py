"""Natural Instructions tasks."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture
from flan_jax.mixtures import niv2, real
from flan_jax.mixtures.niv2.tasks import CAP, FOLDER, known_size
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import render
from flan_jax.tasks import all_tasks, get_task

assert real  # registers the mixture of all

WHOLE = "task1393_superglue_copa_text_completion"
# Fields that few-shot patterns require, and at least how many patterns require them.
NEEDS = {"": 10, "positive_examples": 10, "negative_examples": 5}


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


def test_counts_of_templates():
    templates = get_task(WHOLE).templates()
    few_shot = get_task(WHOLE).templates_of("fs_noopt")
    assert len(templates) >= 10
    by_need = {need: [t for t in few_shot if t.requires == need] for need in NEEDS}
    assert sum(map(len, by_need.values())) == len(few_shot)
    assert [len(by_need[need]) >= least for need, least in NEEDS.items()] == [True] * 3
    for template in by_need[""]:
        assert template.exemplars and "{{ definition }}" in template.instruction
        assert template.fields == {"definition", "input", "answer"}
    for need in ("positive_examples", "negative_examples"):
        for template in by_need[need]:
            assert not template.exemplars and not template.instruction
            assert need in template.fields and "definition" in template.fields
            assert f"{need}[0].explanation" in template.inputs
    assert not [t for t in by_need["positive_examples"] if "negative" in t.inputs]
    assert len({(t.inputs, t.layout, t.instruction) for t in few_shot}) == len(few_shot)


@pytest.mark.parametrize("explanation", ["", "because of the sky"])
def test_every_pattern_with_examples_reads_well(own, explanation):
    path = own / FOLDER / f"{WHOLE}.json"
    task = json.loads(path.read_text(encoding="utf-8"))
    for kind, name in (("Positive", "good"), ("Negative", "bad")):
        task[f"{kind} Examples"] = [
            {"input": f"{name} in {i}", "output": f"{name} out {i}", "explanation": explanation}
            for i in range(2)
        ]
    path.write_text(json.dumps(task), encoding="utf-8")
    definition = get_task(WHOLE)
    policy = FewShotPolicy(negative_examples=True)
    for position, template in enumerate(definition.templates_of("fs_noopt")):
        example = render(
            definition, "train", 0, seed=0, variant="fs_noopt", template=position, few_shot=policy
        )
        good, bad = (template.requires != "", template.requires == "negative_examples")
        assert ("good out 0" in example.inputs) is good
        assert ("bad out 0" in example.inputs) is bad
        assert example.inputs.count("because of the sky") == (good + bad) * bool(explanation)
        assert example.inputs.count("Do the thing.") == 1
        assert "good out 1" not in example.inputs and "bad out 1" not in example.inputs
        assert bool(example.exemplars) is not good
        # Line breaks behind an explanation are easily lost to jinja2's `trim_blocks`.
        if good and explanation:
            assert re.search(r"sky\)?\n", example.inputs)


def test_negative_examples_are_shown_only_when_asked_for(own):
    path = own / FOLDER / f"{WHOLE}.json"
    task = json.loads(path.read_text(encoding="utf-8"))
    task["Negative Examples"] = [{"input": "bad in", "output": "bad out", "explanation": ""}]
    path.write_text(json.dumps(task), encoding="utf-8")
    definition = get_task(WHOLE)

    def shown(policy: FewShotPolicy) -> int:
        examples = (
            render(definition, "train", 0, seed=seed, variant="fs_noopt", few_shot=policy)
            for seed in range(60)
        )
        return sum("bad out" in example.inputs for example in examples)

    assert shown(FewShotPolicy()) == 0
    assert shown(FewShotPolicy(negative_examples=True)) > 5


def test_examples_without_output_are_left_out(own):
    path = own / FOLDER / f"{WHOLE}.json"
    task = json.loads(path.read_text(encoding="utf-8"))
    task["Positive Examples"] = [
        {"input": "a", "output": " ", "explanation": "e"},
        {"input": "", "output": "b", "explanation": "e"},
        {"input": "c", "output": "d"},
    ]
    path.write_text(json.dumps(task), encoding="utf-8")
    fields = get_task(WHOLE).fields("train", 0)
    assert fields["positive_examples"] == ({"input": "c", "output": "d", "explanation": ""},)
    assert fields["negative_examples"] == ()


def test_mixture_of_all_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    mixture = get_mixture("niv2")
    assert len(mixture.rates) == 1556
    # Flan's cap holds for each task.
    assert max(mixture.rates.values()) == CAP and min(mixture.rates.values()) >= 1
    assert 400 < mixture.rates[WHOLE] <= 496  # as published, before rows are carved out


def test_mixture_of_own_files(own):
    short = "task105_story_cloze_rocstories_sentence_generation"
    assert get_mixture("real").rates == {
        name: float(get_task(name).source.num_examples("train")) for name in (WHOLE, short)
    }


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
    present = [task for task in tasks() if task.source.paths()[0].is_file()]
    assert len(present) == 24
    for task in present:
        for split in task.source.splits():
            for variant in task.variants():
                example = render(task, split, 0, seed=3, variant=variant)
                fields = task.fields(split, 0)
                assert example.targets == fields["answer"] == fields["answers"][0]
                assert fields["input"] in example.inputs
                assert example.inputs.count(fields["definition"]) == 1


@pytest.mark.parametrize("negatives", [False, True])
def test_every_pattern_on_real_files(data, negatives):
    policy = FewShotPolicy(negative_examples=negatives)
    for task in tasks():
        if not task.source.paths()[0].is_file():
            continue
        fields = task.fields("train", 0)
        assert fields["positive_examples"] and fields["negative_examples"]
        for position, template in enumerate(task.templates_of("fs_noopt")):
            if template.requires == "negative_examples" and not negatives:
                continue
            example = render(
                task, "train", 0, seed=0, variant="fs_noopt", template=position, few_shot=policy
            )
            assert fields["input"] in example.inputs
            for need in ("positive_examples", "negative_examples"):
                shown = all(fields[need][0][key] in example.inputs for key in ("input", "output"))
                assert shown or need not in template.fields


def test_real_mixture_holds_everything_at_hand(data):
    cot = [task for task in all_tasks() if task.group == "cot"]
    files = [task for task in (*cot, *tasks()) if task.source.paths()[0].is_file()]
    assert len(files) == 31
    real = get_mixture("real")
    assert set(real.rates) == {*(task.name for task in files), "gsm8k", "gsm8k_cot"}
