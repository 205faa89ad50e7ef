"""`flan-jax tasks`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flan_jax import tasks
from flan_jax.cli import main as cli
from flan_jax.cli.content import load_content
from flan_jax.tasks import all_tasks, get_task

NIV2 = "task1393_superglue_copa_text_completion"
# Tasks of each collection. One of `muffin`, WSC273, is held out and none of the paper's 80.
COLLECTION = {
    "muffin": 73, "dialog": 3, "program_synthesis": 5, "t0_sf": 193, "niv2": 1556, "cot": 9,
}  # fmt: skip


@pytest.fixture
def flan_jax(capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(["tasks", *arguments])
        except SystemExit as leaving:  # argparse
            code = leaving.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a few rows of GSM8K and of one Natural Instructions task."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    (tmp_path / "gsm8k").mkdir()
    for split, count in (("train", 30), ("test", 4)):
        rows = [
            {"question": f"{split} {i}: how many?", "answer": f"It is {i}.\n#### {i}"}
            for i in range(count)
        ]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "natural_instructions" / "tasks"
    folder.mkdir(parents=True)
    instances = [{"input": f"input {i}", "output": [f"output {i}"]} for i in range(12)]
    task = {"Definition": "Do it.", "Instances": instances, "Instance License": ["MIT"]}
    (folder / f"{NIV2}.json").write_text(json.dumps(task))
    return tmp_path


def test_help_answers_without_content_or_heavy_imports():
    code = (
        "import sys; from flan_jax.cli.main import main\n"
        "try: main(['tasks', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'tensorflow', 'numpy', 'flan_jax.mixtures.micro')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in ("list", "show", "sample", "check"):
        assert command in done.stdout


def test_list_json_has_every_task_and_key(flan_jax):
    code, output, _ = flan_jax("list", "--format", "json")
    assert code == 0
    found = json.loads(output)
    assert [task["name"] for task in found] == [task.name for task in all_tasks()]
    groups = Counter(task["group"] for task in found)
    assert {group: groups[group] for group in COLLECTION} == COLLECTION
    keys = "name group cluster source licence templates held_out languages splits variants options"
    for task in found:
        assert {*keys.split(), "cot", "tags", "description"} <= task.keys()
        assert task["templates"] >= 1
    by_name = {task["name"]: task for task in found}
    assert by_name["gsm8k_cot"] == {
        "name": "gsm8k_cot",
        "group": "gsm8k",
        "cluster": "mathematics",
        "source": "jsonl",
        "licence": "MIT",
        "templates": 10,
        "templates_by_section": {"cot": 10},
        "held_out": False,
        "languages": ["en"],
        "splits": ["train", "validation", "test"],
        "train_examples": None,
        "cap": None,
        "variants": ["zs_cot", "fs_cot"],
        "options": False,
        "cot": True,
        "tags": ["cot"],
        "metrics": ["number", "exact_match"],
        "aliases": [],
        "homepage": "",
        "description": "grade-school mathematics, a worked solution first",
    }
    bool_q = by_name["bool_q"]
    assert bool_q["variants"] == ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"]
    assert (bool_q["train_examples"], bool_q["cap"]) == (9_220, 30_000)
    assert sum(bool_q["templates_by_section"].values()) == bool_q["templates"] >= 20
    creak = by_name["cot_creak"]
    assert creak["variants"] == ["zs_cot", "zs_inverted", "fs_cot", "fs_inverted"]
    sections = ["cot", "cot_few_shot", "inverted", "inverted_few_shot"]
    assert list(creak["templates_by_section"]) == sections


def test_list_plain_is_tab_separated(flan_jax):
    code, output, _ = flan_jax("list", "--group", "cot")
    assert code == 0
    lines = [line.split("\t") for line in output.splitlines()]
    assert len(lines) == 9
    count = sum(len(templates) for templates in get_task("cot_creak").sections().values())
    assert lines[0] == [
        "cot_creak", "cot", "fact_verification", "tsv", str(count), "train", "MIT",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (["--group", "gsm8k"], lambda task: task.group == "gsm8k"),
        (["--cluster", "mathematics"], lambda task: task.cluster == "mathematics"),
        (["--source", "tsv"], lambda task: task.source.kind == "tsv"),
        (["--split", "test"], lambda task: "test" in task.source.splits()),
        (["--tag", "official_test"], lambda task: "official_test" in task.tags),
        (["--language", "de"], lambda task: "de" in task.languages),
        (["--held_out"], lambda task: task.held_out),
        (["--no-held_out"], lambda task: not task.held_out),
        (
            ["--group", "cot", "--cluster", "mathematics"],
            lambda task: task.group == "cot" and task.cluster == "mathematics",
        ),
    ],
)
def test_list_filters(flan_jax, filters, passes):
    load_content()
    code, output, _ = flan_jax("list", "--format", "json", *filters)
    expected = [task.name for task in all_tasks() if passes(task)]
    assert code == 0
    assert [task["name"] for task in json.loads(output)] == expected
    assert len(expected) < len(all_tasks())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--group", "gsm8"], "did you mean 'gsm8k'"),
        (["show", "gsm8k_cott"], "did you mean 'gsm8k_cot'"),
        (["sample", "cot_creek"], "did you mean 'cot_creak'"),
        (["check", "gsm8k", "reall"], "did you mean 'real'"),
        (["check", "--group", "gsm8"], "did you mean 'gsm8k'"),
        (["check"], "name the tasks or mixtures to check, or give --group"),
        (["sample", "gsm8k", "--split", "tset"], "did you mean 'test'"),
        (["sample", "gsm8k", "--template", "10"], "gsm8k has templates 0 to 9"),
        (
            ["sample", "gsm8k", "--split", "test", "--template", "0", "--variant", "zs_inverted"],
            "gsm8k has no variant zs_inverted, only zs_noopt, fs_noopt",
        ),
        (["sample", "gsm8k", "--vocabulary", "absent.model"], "absent.model"),
        (["list", "--module", "absent_module"], "no such module"),
        (["list", "--data_dir", "absent_folder"], "absent_folder does not exist"),
    ],
)
def test_slips_end_with_status_2_and_a_hint(flan_jax, own_data, arguments, message):
    code, output, errors = flan_jax(*arguments)
    assert (code, output) == (2, "")
    assert message in errors
    assert "Traceback" not in errors


def test_show(flan_jax, own_data):
    code, output, _ = flan_jax("show", "gsm8k", "--format", "json")
    assert code == 0
    found = json.loads(output)
    assert found["splits"]["test"] == 4
    assert found["splits"]["train"] + found["splits"]["validation"] == 30
    assert set(found["fields"]) == {"question", "reasoning", "answer"}
    assert len(found["templates"]) == 10
    assert found["metrics"] == ["number", "exact_match"]
    assert found["missing"] is None
    code, output, _ = flan_jax("show", "gsm8k")
    assert code == 0
    assert "licence: MIT" in output
    assert f"splits: train {found['splits']['train']}, validation" in output
    for template in found["templates"]:
        assert repr(template["inputs"]) in output


def test_show_takes_the_licence_from_the_file(flan_jax, own_data):
    _, output, _ = flan_jax("show", NIV2)
    assert "licence: MIT" in output


def test_show_without_data_says_so(flan_jax, own_data):
    code, output, _ = flan_jax("show", "cot_esnli")
    assert code == 0
    assert "data missing: flan_cot/esnli_train.tsv is not in the data folder" in output
    code, output, _ = flan_jax("show", "cot_esnli", "--format", "json")
    assert json.loads(output)["splits"] == {"train": None, "validation": None}


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_cot", NIV2, "real", "micro_last_letters"])
def test_sample_is_the_same_every_time(flan_jax, own_data, name):
    first = flan_jax("sample", name, "-n", "4", "--seed", "3", "--format", "json")
    assert first[0] == 0
    assert flan_jax("sample", name, "-n", "4", "--seed", "3", "--format", "json") == first
    found = json.loads(first[1])
    assert len(found) == 4
    assert len({(e["task"], e["index"]) for e in found}) == 4
    assert flan_jax("sample", name, "-n", "4", "--seed", "4", "--format", "json") != first


@pytest.mark.parametrize(
    ("variant", "resolved"),
    [
        ("zs_noopt", "zs_noopt"),
        ("fs_noopt", "fs_noopt"),
        # It has no options to show, and no reasoning.
        ("zs_opt", "zs_noopt"),
        ("fs_opt", "fs_noopt"),
        ("fs_cot", "fs_noopt"),
    ],
)
def test_sample_variants(flan_jax, own_data, variant, resolved):
    arguments = ("sample", "gsm8k", "--split", "test", "--variant", variant, "--template", "2")
    code, output, _ = flan_jax(*arguments, "--format", "json")
    assert code == 0
    for example in json.loads(output):
        assert example["variant"] == resolved
        assert example["template"] == 2
        assert example["split"] == "test"
        assert bool(example["exemplars"]) == variant.startswith("fs")
        assert example["targets"] == example["answer"] == str(example["index"])
        assert f"test {example['index']}: how many?" in example["inputs"]


def test_sample_counts_tokens_and_what_is_cut(flan_jax, own_data):
    arguments = ("sample", NIV2, "-n", "2", "--variant", "zs_noopt", "--inputs_length", "8")
    _, output, _ = flan_jax(*arguments, "--format", "json")
    for example in json.loads(output):
        assert example["inputs_truncated"] == max(0, example["inputs_tokens"] - 8) > 0
        assert example["targets_truncated"] == 0
        assert example["targets_tokens"] >= 2
    _, output, _ = flan_jax(*arguments)
    assert output.count("CUT OFF") == 2
    assert "the end of sequence included" in output


def test_sample_with_t5s_vocabulary(flan_jax, own_data, test_data):
    model = test_data / "t5_vocab" / "spiece.model"
    arguments = ("--vocabulary", str(model), "--format", "json")
    _, output, _ = flan_jax("sample", "gsm8k", "-n", "1", "--variant", "zs_noopt", *arguments)
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    (example,) = json.loads(output)
    assert example["vocabulary"] == "spiece.model"
    assert example["inputs_tokens"] == len(processor.EncodeAsIds(example["inputs"])) + 1
    assert example["targets_tokens"] == len(processor.EncodeAsIds(example["targets"])) + 1


def test_sample_counts_words_where_there_is_no_vocabulary(flan_jax, own_data, monkeypatch):
    from flan_jax.cli import task_sampling

    monkeypatch.setattr(task_sampling, "_micro_vocabularies", list)
    _, output, _ = flan_jax("sample", NIV2, "-n", "1", "--format", "json")
    (example,) = json.loads(output)
    assert example["vocabulary"] == "words (no vocabulary found)"
    assert example["targets_tokens"] == len(example["targets"].split()) + 1


def test_few_shot_samples_keep_within_the_length(flan_jax, own_data):
    arguments = ("sample", NIV2, "-n", "5", "--variant", "fs_noopt", "--inputs_length", "40")
    _, output, _ = flan_jax(*arguments, "--format", "json")
    found = json.loads(output)
    assert any(example["dropped_exemplars"] for example in found)
    for example in found:
        assert example["inputs_tokens"] <= 40 or not example["exemplars"]


def results(output: str) -> dict[str, list[str]]:
    """What a table says of each task, in order; its last line is a summary."""
    found: dict[str, list[str]] = {}
    for line in output.splitlines()[:-1]:
        task, result, *_ = line.split("\t")
        found.setdefault(task, []).append(result)
    return found


def test_check_of_sound_tasks(flan_jax, own_data):
    code, output, _ = flan_jax("check", "gsm8k", "gsm8k_cot", NIV2)
    assert code == 0
    found = results(output)
    assert {name: found[name][-1] for name in found} == dict.fromkeys(
        ("gsm8k", "gsm8k_cot", NIV2), "ok"
    )
    assert output.splitlines()[-1].startswith("3 tasks with 2 template files: 0 problems, ")


def test_check_lists_every_problem_and_exits_with_1(flan_jax, own_data):
    file = own_data / "gsm8k" / "train.jsonl"
    rows = file.read_text().splitlines()
    bad = json.dumps({"question": "unsolved", "answer": "no number"})
    file.write_text("\n".join([*rows, bad, rows[0].replace("train 0", "test 0")]))
    test = own_data / "gsm8k" / "test.jsonl"
    test.write_text(test.read_text() + "\n" + rows[7])
    code, output, _ = flan_jax("check", "gsm8k", "cot_qasc", NIV2, "--format", "json")
    assert code == 1
    found = json.loads(output)
    reports = {report["task"]: report for report in found["tasks"]}
    assert {name: report["ok"] for name, report in reports.items()} == {
        "gsm8k": False,
        "cot_qasc": False,
        NIV2: True,
    }
    problems = [f["message"] for f in reports["gsm8k"]["findings"] if f["severity"] == "problem"]
    assert len(problems) == 2
    assert "no line '#### <number>'" in problems[0]
    assert "also in train" in problems[1]
    assert "is not in the data folder" in reports["cot_qasc"]["missing"]
    assert reports["gsm8k"]["missing"] is None
    assert found["summary"]["tasks"] == 3
    assert found["summary"]["ok"] == 1
    assert found["summary"]["problems"] == 2
    assert found["summary"]["missing"] == 1
    code, output, _ = flan_jax("check", "gsm8k", "cot_qasc", NIV2)
    assert code == 1
    by_task = results(output)
    assert by_task["gsm8k"].count("problem") == 2
    assert "missing" in by_task["cot_qasc"] and "problem" not in by_task["cot_qasc"]


def test_check_of_templates_needs_no_data(flan_jax, own_data):
    code, output, _ = flan_jax("check", "--group", "cot", "--templates_only")
    assert code == 0, output
    found = results(output)
    assert len(found) == 9
    assert all(ending[-1] == "ok" for ending in found.values())
    assert "data missing for 0; looked at 0 rows and 0 prompts" in output.splitlines()[-1]
    # The mixture holds nothing here, but the tasks of its name can be checked.
    assert flan_jax("check", "cot", "--templates_only") == (code, output, "")


def test_check_of_several_groups_and_tasks_takes_each_once(flan_jax, own_data):
    arguments = ("check", "gsm8k", "--group", "gsm8k", "--group", "dialog", "--templates_only")
    code, output, _ = flan_jax(*arguments, "--format", "json")
    assert code == 0
    names = [report["task"] for report in json.loads(output)["tasks"]]
    assert names[0] == "gsm8k"
    assert sorted(names) == sorted(
        task.name for task in all_tasks() if task.group in ("gsm8k", "dialog")
    )


MODULE = """
from pathlib import Path
from flan_jax.sources.files import HashSplits
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition, register_task

HERE = Path(__file__).parent
for name in ("faulty_a", "faulty_b"):
    columns = ("item", "answer")
    source = TsvSource({"train": HERE / "absent.tsv"}, HashSplits("item"), columns=columns)
    register_task(TaskDefinition(name, "faulty", "own", source, HERE / "faulty.yaml", "MIT"))
"""


def test_a_fault_of_a_shared_file_is_told_once_with_its_place(flan_jax, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    name = f"faulty_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    patterns = ["{{ item }}, again: {{ answer }}"] + [f"No. {n}: {{{{ item }}}}" for n in range(9)]
    templates = [{"inputs": pattern, "targets": "{{ answer }}"} for pattern in patterns]
    (tmp_path / "faulty.yaml").write_text(json.dumps({"templates": templates}))
    arguments = ("check", "--group", "faulty", "--templates_only", "--module", name)
    code, output, _ = flan_jax(*arguments)
    assert code == 1
    problem, summary = output.splitlines()
    assert problem == (
        "faulty_a\tproblem\tfaulty.yaml: templates[0]\t`inputs` has the field 'answer', which the "
        "target asks for (2 tasks)"
    )
    assert summary.startswith("2 tasks with 1 template file: 1 problem, 0 notes, ")
    code, output, _ = flan_jax(*arguments, "--format", "json")
    assert code == 1
    assert [report["ok"] for report in json.loads(output)["tasks"]] == [False, False]


def test_a_terminal_gets_a_table(flan_jax, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, output, _ = flan_jax("list", "--group", "cot")
    assert code == 0
    assert "templates" in output and "cot_creak" in output
    assert "\t" not in output


@pytest.mark.slow
def test_every_real_task_passes_its_check(flan_jax, test_data, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(test_data))
    code, output, _ = flan_jax("check", "real", "--rows", "5")
    assert code == 0, output
    assert output.count("\tok\t") == 33
