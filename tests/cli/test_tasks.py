"""`flan-jax tasks`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.cli import main as cli
from flan_jax.cli.content import load_content
from flan_jax.tasks import all_tasks

NIV2 = "task1393_superglue_copa_text_completion"
# Natural Instructions, Flan's nine chain-of-thought tasks, and GSM8K twice.
REAL_TASKS = 1556 + 9 + 2


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
    for command in ("list", "show", "sample", "check", "mixtures"):
        assert command in done.stdout


def test_list_json_has_every_task_and_key(flan_jax):
    code, output, _ = flan_jax("list", "--format", "json")
    assert code == 0
    found = json.loads(output)
    assert [task["name"] for task in found] == [task.name for task in all_tasks()]
    assert len([task for task in found if task["group"] != "micro"]) >= REAL_TASKS
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
        "held_out": False,
        "languages": ["en"],
        "splits": ["train", "validation", "test"],
        "variants": ["zs_noopt", "fs_noopt"],
        "options": False,
        "cot": True,
        "tags": ["cot"],
        "metrics": ["number", "exact_match"],
        "description": "grade-school mathematics, a worked solution first",
    }


def test_list_plain_is_tab_separated(flan_jax):
    code, output, _ = flan_jax("list", "--group", "cot")
    assert code == 0
    lines = [line.split("\t") for line in output.splitlines()]
    assert len(lines) == 9
    assert lines[0] == [
        "cot_creak", "cot", "fact_verification", "tsv", "10", "train", "MIT",
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
        (["mixtures", "nivv2"], "did you mean 'niv2'"),
        (["sample", "gsm8k", "--split", "tset"], "did you mean 'test'"),
        (["sample", "gsm8k", "--template", "10"], "gsm8k has templates 0 to 9"),
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


@pytest.mark.parametrize("variant", ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"])
def test_sample_variants(flan_jax, own_data, variant):
    arguments = ("sample", "gsm8k", "--split", "test", "--variant", variant, "--template", "2")
    code, output, _ = flan_jax(*arguments, "--format", "json")
    assert code == 0
    for example in json.loads(output):
        assert example["variant"] == variant
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


def test_check_of_sound_tasks(flan_jax, own_data):
    code, output, _ = flan_jax("check", "gsm8k", "gsm8k_cot", NIV2)
    assert code == 0
    results = {line.split("\t")[0]: line.split("\t")[1] for line in output.splitlines()}
    assert results == {"gsm8k": "ok", "gsm8k_cot": "ok", NIV2: "ok"}


def test_check_lists_every_problem_and_exits_with_1(flan_jax, own_data):
    file = own_data / "gsm8k" / "train.jsonl"
    rows = file.read_text().splitlines()
    bad = json.dumps({"question": "unsolved", "answer": "no number"})
    file.write_text("\n".join([*rows, bad, rows[0].replace("train 0", "test 0")]))
    test = own_data / "gsm8k" / "test.jsonl"
    test.write_text(test.read_text() + "\n" + rows[7])
    code, output, _ = flan_jax("check", "gsm8k", "cot_qasc", NIV2, "--format", "json")
    assert code == 1
    reports = {report["task"]: report for report in json.loads(output)}
    assert {name: report["ok"] for name, report in reports.items()} == {
        "gsm8k": False,
        "cot_qasc": False,
        NIV2: True,
    }
    problems = [f["message"] for f in reports["gsm8k"]["findings"] if f["severity"] == "problem"]
    assert len(problems) == 2
    assert "no line '#### <number>'" in problems[0]
    assert "also in train" in problems[1]
    (missing,) = reports["cot_qasc"]["findings"]
    assert "is not in the data folder" in missing["message"]
    assert missing["count"] == 2
    code, output, _ = flan_jax("check", "gsm8k", "cot_qasc", NIV2)
    assert code == 1
    assert output.count("\tproblem\t") == 3


def test_mixtures(flan_jax, own_data):
    code, output, _ = flan_jax("mixtures", "--format", "json")
    assert code == 0
    found = {mixture["name"]: mixture for mixture in json.loads(output)}
    assert {"cot", "niv2", "real"} <= set(found)
    assert found["cot"]["tasks"] == 0 and "no data for any" in found["cot"]["missing"]
    assert found["real"]["missing"] is None
    assert set(found["real"]["proportions"]) == {"gsm8k", "gsm8k_cot", NIV2}
    for mixture in found.values():
        if mixture["tasks"]:
            assert sum(mixture["proportions"].values()) == pytest.approx(1)
    code, output, _ = flan_jax("mixtures", "real")
    assert code == 0
    shares = dict(line.split("\t") for line in output.splitlines())
    assert float(shares["gsm8k"].rstrip("%")) == pytest.approx(
        100 * found["real"]["proportions"]["gsm8k"], abs=0.001
    )
    code, _, errors = flan_jax("mixtures", "cot")
    assert code == 2
    assert "no data for any of its 9 tasks" in errors


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
