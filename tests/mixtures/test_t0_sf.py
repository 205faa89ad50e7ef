"""T0-SF: what is registered, and every task in every wording over records of P3's form."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from flan_jax.evaluation.scorers import get_scorer
from flan_jax.mixing import get_mixture
from flan_jax.mixtures.t0_sf import tasks as t0_sf
from flan_jax.mixtures.t0_sf.datasets import DATASETS
from flan_jax.prompts.render import render, usable_templates
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from flan_jax.sources.p3 import P3Source
from flan_jax.tasks import all_tasks, get_task

FOLDER = Path(t0_sf.__file__).parent
TASKS = [task for task in all_tasks() if task.group == "t0_sf"]
WRAPPERS = ("question_answer", "multiple_choice", "separated_options")


def test_all_configurations_are_registered():
    assert len(TASKS) == 193
    assert Counter(task.template_file.stem for task in TASKS) == dict(
        zip(WRAPPERS, (104, 70, 19), strict=True)
    )
    assert sum(task.has_options for task in TASKS) == 19
    assert all(isinstance(task.source, P3Source) for task in TASKS)
    assert {task.source.dataset for task in TASKS} == DATASETS.keys()
    assert len(DATASETS) == 22
    # SeqIO's rule, and the name must serve as a folder's.
    assert all(re.fullmatch(r"[\w.]+", task.name) for task in TASKS)
    assert all(task.source.config == task.name for task in TASKS)


def test_one_task_in_full():
    task = get_task("t0_task_adaptation:cos_e_v1.11_question_option_description_text")
    assert task.name == "cos_e_v1.11_question_option_description_text"
    assert (task.source.dataset, task.source.subset) == ("cos_e", "v1.11")
    assert task.source.prompt == "question_option_description_text"
    assert task.source.splits() == ("train", "validation")
    assert task.cluster == "multiple_choice_qa"
    assert (task.cap, task.num_train) == (20_000, 9_741)
    assert task.metrics == ("exact_match",)
    assert task.licence == "BSD-3-Clause; prompts Apache-2.0"


def test_metrics_are_known_and_suit_the_answers():
    for task in TASKS:
        for metric in task.metrics:
            get_scorer(metric)
        if task.template_file.stem != "question_answer":
            assert task.metrics == ("exact_match",), task.name
    assert get_task("quoref_Find_Answer").metrics == ("squad_f1", "squad_em")
    assert get_task("wiki_bio_who").metrics == ("rougeL", "bleu")
    assert get_task("app_reviews_generate_review").metrics == ("rougeL", "bleu")


def test_clusters_are_the_thirteen_categories():
    with (FOLDER / "tasks.csv").open(newline="") as file:
        categories = {row["category"] for row in csv.DictReader(file)}
    assert len(categories) == len({task.cluster for task in TASKS}) == 13
    assert all(re.fullmatch(r"[a-z_]+", task.cluster) for task in TASKS)


def test_registering_is_quick_and_reads_no_data():
    code = (
        "import sys, time\n"
        "import flan_jax.sources.p3, flan_jax.mixtures.present\n"
        "start = time.process_time()\n"
        "import flan_jax.mixtures.t0_sf\n"
        "print(time.process_time() - start)\n"
        "print({'pyarrow', 'tensorflow', 'jax'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, imported = done.stdout.splitlines()
    assert float(seconds) < 0.5  # 0.02 on an idle machine
    assert imported == "set()"


def test_every_task_says_what_to_fetch():
    for task in TASKS:
        wanted = task.source.downloads()
        assert wanted
        assert all(download.path.startswith(f"p3/{task.name}") for download in wanted)
    paths = [download.path for task in TASKS for download in task.source.downloads()]
    assert len(paths) == len(set(paths))


# ------------------------------------------------------------------------------- over P3's records

LONG = "The river rose in the night.\nBy morning the bridge was gone.\n\nNobody had heard a thing."


def records(task):
    """Records of the form that P3 has for a task of this kind: eight rows."""
    kind = task.template_file.stem
    rows = []
    for number in range(8):
        if kind == "question_answer":
            rows.append((f"{LONG}\nWrite a question on part {number}.", f"\nWhat is {number}?", []))
        elif kind == "multiple_choice":
            text = f"{LONG} Which part is it? Choose between:\n- part 0\n- part 1\nAnswer:"
            rows.append((text, f" part {number % 2}", ["part 0", "part 1"]))
        else:
            choices = ["Yes", "No"] if number % 2 else ["north", "South", "east", "west"]
            rows.append((f"Passage {number}: {LONG}\nQ: Is it?", choices[1].upper(), choices))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with records of all 193 tasks."""
    root = tmp_path_factory.mktemp("data")
    for task in TASKS:
        path = root / f"p3/{task.name}/train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        inputs, targets, choices = zip(*records(task), strict=True)
        table = {"inputs_pretokenized": inputs, "targets_pretokenized": targets}
        if task.template_file.stem != "question_answer":
            table["answer_choices"] = choices
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    return root


@pytest.fixture
def data(folder, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(folder))
    return folder


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_wording_of_every_task(data, task):
    task.source.check_present()
    assert task.source.num_examples("train") == 8
    assert task.variants() == (
        ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
        if task.has_options
        else ("zs_noopt", "fs_noopt")
    )
    for variant in task.variants():
        usable = usable_templates(task, variant)
        assert len(usable) >= 8
        for template in usable:
            index = template % 8
            example = render(task, "train", index, seed=3, variant=variant, template=template)
            row = task.source.row("train", index)
            assert row["inputs"] in example.inputs, "P3's text stays as it is"
            assert example.targets and example.targets == example.targets.strip()
            if variant.startswith("fs"):
                assert example.exemplars
                position = example.inputs.rindex(row["inputs"])
                solved = [task.source.row("train", i)["inputs"] for i in example.exemplars]
                assert all(text in example.inputs[:position] for text in solved)
            if variant.endswith("_opt"):
                assert set(example.option_texts) == set(row["options"])
                assert example.targets in example.options
                after = example.inputs[example.inputs.rindex(row["inputs"]) + len(row["inputs"]) :]
                assert all(option in after for option in row["options"])
            else:
                assert example.targets == row["answer"]
                if task.has_options:
                    frame = example.inputs.replace(row["inputs"], "")
                    assert not re.search(r"\b(option|choice|candidate)s?\b", frame, re.I), frame


def test_choices_in_the_text_stay_with_the_row(data):
    fields = get_task("dbpedia_14_pick_one_category_for_the_following_text").fields("train", 1)
    assert fields["choices"] == ("part 0", "part 1")
    assert "options" not in fields
    assert get_task("quoref_Find_Answer").fields("train", 0)["choices"] == ()


def test_options_have_the_answer_among_them(data):
    fields = get_task("qasc_qa_with_separated_facts_3").fields("train", 0)
    assert fields["options"] == ["north", "South", "east", "west"]
    assert fields["answer"] == "South"


def test_where_the_right_answer_stands_last_options_are_shuffled(data):
    task = get_task("sciq_Direct_Question")
    orders = set()
    for epoch in range(40):
        example = render(task, "train", 0, seed=1, epoch=epoch, variant="zs_opt")
        orders.add(example.option_texts)
        assert sorted(example.option_texts) == ["South", "east", "north", "west"]
    assert len(orders) > 10
    again = render(task, "train", 0, seed=1, epoch=39, variant="zs_opt")
    assert again == example


def test_stars_become_asterisks():
    task = get_task("app_reviews_convert_to_star_rating")
    stars = ["★" * n for n in range(1, 6)]
    row = {"inputs": "What is the ★-rating?", "answer": "★★★", "options": stars}
    assert task.to_fields(row) == {
        "inputs": "What is the *-rating?",
        "answer": "***",
        "choices": ("*", "**", "***", "****", "*****"),
    }


def test_questions_that_do_not_list_the_right_answer_are_left_out(data, tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    task = get_task("sciq_Multiple_Choice")
    path = tmp_path / f"p3/{task.name}/train.parquet"
    path.parent.mkdir(parents=True)
    prompt = "Q: What gas do plants take up?\n\nCO2 it is.\n Choices:\n\n- {}\n\n- O2\n\nA:"
    table = {
        "inputs_pretokenized": [prompt.format("CO2"), prompt.format("N2")],
        "targets_pretokenized": ["CO2", "CO2"],
        "answer_choices": [["O2", "CO2"]] * 2,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert (task.source.num_examples("train"), task.source.left_out("train")) == (1, 1)
    assert "- CO2" in task.fields("train", 0)["inputs"]


def test_the_mixture_of_what_is_there(data):
    mixture = get_mixture("t0_sf")
    assert len(mixture.rates) == 193
    assert mixture.rates["quarel_choose_between"] == 1_941
    assert mixture.rates["amazon_polarity_would_you_buy"] == 20_000
