"""Flan's program synthesis tasks."""

from __future__ import annotations

import json

import pytest

from flan_jax.draws import Draws
from flan_jax.mixtures.program_synthesis.programs import (
    FORMATS,
    can_be_broken,
    drawn_repair,
    plain_message,
    program_fields,
)
from flan_jax.mixtures.program_synthesis.tasks import (
    can_be_solved,
    contest_fields,
    draw_solution,
    python_solutions,
)
from flan_jax.prompts.render import render
from flan_jax.prompts.template import fields_of, load_templates
from flan_jax.sources.base import Source, SourceError, SourceMissingError
from flan_jax.sources.downloads import ManualDownload
from flan_jax.sources.drrepair import FOLDER, DrRepairSource, read_program
from flan_jax.sources.filtered import FilteredSource
from flan_jax.tasks import all_tasks, get_task

NAMES = ("dmcc_python", *(f"dr_repair_{form}" for form in FORMATS))
UNKNOWN_TO_T5 = set("{}<>~^`|\\")


def line(number: int, code: str, indent: int, text: str = "said so") -> dict:
    return {"line": number, "text": text, "code": code, "indent": indent}


# A file as DrRepair publishes it; its lines lack the braces that indentation implies.
PROGRAM = {
    "meta": {"index": 1, "hitid": "h", "workerid": "w", "probid": "7B", "subid": "11"},
    "lines": [
        line(0, "int main() {", 0, "DUMMY"),
        line(1, "int n , s = 0 ;", 1),
        line(2, "cin >> n ;", 1),
        line(3, "for ( int i = 0 ; i < n ; i ++ )", 1),
        line(4, "if ( i % 2 )", 2),
        line(5, "s += i ;", 3),
        line(6, "else", 2),
        line(7, "s -= i ;", 3),
        line(8, "}", 2, "DUMMY"),
        line(9, "}", 1, "DUMMY"),
        line(10, 'cout << " sum " << s << \' \\n \' << " "', 1),
        line(11, "<< endl ;", 2),
        line(12, "}", 0, "DUMMY"),
    ],
    "errors": [
        {
            "mod_line": [1],
            "mod_code": ["int s = 0 ;"],
            "err_line": 2,
            "err_msg": "‘n’ was not declared in this scope",
        },
        {
            "mod_line": [5, 7],
            "mod_code": ["s += i", "s -= i"],
            "err_line": 99,
            "err_msg": "expected ‘;’ before ‘}’ token",
        },
        {"mod_line": [2], "mod_code": ["cin >> n ;"], "err_line": 2, "err_msg": "nothing"},
    ],
}
FIXED = """\
int main() {
  int n , s = 0 ;
  cin >> n ;
  for ( int i = 0 ; i < n ; i ++ ) {
    if ( i % 2 ) {
      s += i ;
    } else {
      s -= i ;
    }
  }
  cout << "sum" << s << '\\n' << " "
  << endl ;
}"""
CONTEST = {
    "description": "Add two numbers.\n\nInput\n\n1 2\n\nOutput\n\n3\n",
    "solutions": {
        "language": [2, 3, 1, 3, 3],
        "solution": ["int main(){}", "print(sum(map(int, input().split())))\n", "p", " ", "b = 2"],
    },
}


@pytest.fixture
def drrepair(tmp_path, monkeypatch):
    """A data folder with a few of DrRepair's files."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    sound = {**PROGRAM, "errors": PROGRAM["errors"][2:]}
    for place, name, content in (
        *((f"s{i % 4 + 1}", f"{i:04}-7B-{i}", PROGRAM) for i in range(12)),
        ("s2", "0100-9A-5", sound),
        ("s5", "0200-8C-1", PROGRAM),
        ("s5", "0201-7B-3", PROGRAM),  # in train too
    ):
        path = tmp_path / FOLDER / place / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


@pytest.fixture
def row(tmp_path):
    path = tmp_path / "0001-7B-11.json"
    path.write_text(json.dumps(PROGRAM), encoding="utf-8")
    return read_program(path)


def test_the_five_tasks():
    tasks = [task for task in all_tasks() if task.group == "program_synthesis"]
    assert tuple(task.name for task in tasks) == NAMES
    for task in tasks:
        assert isinstance(task.source, Source)
        assert task.variants() == ("zs_noopt", "zs_inverted", "fs_noopt", "fs_inverted")
        assert get_task(f"program_synthesis_{task.name}") is task
        assert task.cap == 30_000
        assert "not_in_public_flan" in task.tags


@pytest.mark.parametrize("name", NAMES)
def test_templates(name):
    shown = "problem" if name == "dmcc_python" else "code"
    optional = {"message"} if name in ("dr_repair_line_numbers", "dr_repair_error_comments") else {}
    for section in ("templates", "few_shot", "inverted", "inverted_few_shot"):
        templates = load_templates(get_task(name).template_file, section)
        assert len(templates) >= 10
        assert len({(t.inputs, t.layout) for t in templates}) == len(templates)
        given, asked = ("answer", shown) if "inverted" in section else (shown, "answer")
        for template in templates:
            assert template.targets == f"{{{{ {asked} }}}}"
            assert {given} <= fields_of(template.inputs) <= {given, *optional}
            layout = template.layout
            texts = (layout.before_input, layout.before_target, layout.between) if layout else ()
            assert not UNKNOWN_TO_T5 & set("".join(texts))


def test_line_numbers_always_give_the_message():
    # Without it, the task would be `no_errors`.
    for section in ("templates", "few_shot"):
        templates = load_templates(get_task("dr_repair_line_numbers").template_file, section)
        assert all("message" in fields_of(template.inputs) for template in templates)


def test_a_published_file_is_read(row):
    assert row["id"] == "0001-7B-11"
    assert row["lines"][1] == {"code": "int n , s = 0 ;", "indent": 1}
    assert row["errors"][0]["replace"] == {1: "int s = 0 ;"}
    assert row["errors"][1]["line"] == 12  # what is reported past the end is put on the last line
    assert can_be_broken(row)
    assert not can_be_broken({**row, "errors": row["errors"][2:]})
    assert not can_be_broken({**row, "errors": ()})
    assert len(program_fields(row)["errors"]) == 2


def test_broken_and_fixed_programs_differ_in_the_replaced_lines_alone(row):
    seen = set()
    for seed in range(20):
        found = drawn_repair("plain_code", program_fields(row), Draws(seed))
        assert found == drawn_repair("plain_code", program_fields(row), Draws(seed))
        assert found["answer"] == FIXED
        pairs = zip(found["code"].split("\n"), FIXED.split("\n"), strict=True)
        changed = tuple((bad, good) for bad, good in pairs if bad != good)
        seen.add(changed)
    assert seen == {
        (("  int s = 0 ;", "  int n , s = 0 ;"),),
        (("      s += i", "      s += i ;"), ("      s -= i", "      s -= i ;")),
    }


def test_the_four_formats(row):
    fields = {**program_fields(row), "errors": row["errors"][:1]}
    found = {form: drawn_repair(form, fields, Draws(0)) for form in FORMATS}
    assert {result["answer"] for result in found.values()} == {FIXED}
    broken = FIXED.replace("int n , s", "int s").split("\n")
    assert found["plain_code"]["code"].split("\n") == broken
    numbered = [f"{number} {text}" for number, text in enumerate(broken, 1)]
    assert found["no_errors"]["code"].split("\n") == numbered
    assert found["line_numbers"]["code"].split("\n") == numbered
    assert found["line_numbers"]["message"] == "line 3: 'n' was not declared in this scope"
    assert found["error_comments"]["message"] == "'n' was not declared in this scope"
    broken[2] += " // error: 'n' was not declared in this scope"
    assert found["error_comments"]["code"].split("\n") == broken


def test_an_empty_branch_gets_its_braces():
    lines = [
        {"code": "if ( a )", "indent": 0},
        {"code": "else", "indent": 0},
        {"code": "b ( ) ;", "indent": 1},
        {"code": "}", "indent": 0},
    ]
    errors = [{"replace": {2: "b ( ;"}, "line": 2, "message": "m"}]
    found = drawn_repair("plain_code", {"lines": lines, "errors": errors}, Draws(0))
    assert found["answer"] == "if ( a ) { }\nelse {\n  b ( ) ;\n}"
    assert found["code"] == "if ( a ) { }\nelse {\n  b ( ;\n}"


def test_messages_in_plain_quotation_marks():
    assert plain_message("expected ‘ ; ’ before ‘}’ token") == "expected ';' before '}' token"
    assert plain_message("stray ‘ in program") == "stray ' in program"


def test_drrepair_source(drrepair):
    source = DrRepairSource()
    source.check_present()
    assert source.splits() == ("train", "validation")
    assert source.num_examples("validation") == 2
    # Twelve programs and a sound one, less the one that is a validation program.
    ids = [source.row("train", i)["id"] for i in range(source.num_examples("train"))]
    assert len(ids) == 12 and "0003-7B-3" not in ids
    assert FilteredSource(source, can_be_broken).num_examples("train") == 11
    with pytest.raises(IndexError):
        source.row("train", 12)
    (download,) = source.downloads()
    assert (
        isinstance(download, ManualDownload) and "err-data-compiler--orig-spoc.zip" in download.how
    )


def test_missing_folders_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    for name in NAMES[1:]:
        with pytest.raises(SourceMissingError, match="unzip it"):
            get_task(name).source.check_present()
        with pytest.raises(SourceMissingError, match="unzip it"):
            get_task(name).source.num_examples("train")
    with pytest.raises(SourceMissingError, match="code_contests"):
        get_task("dmcc_python").source.check_present()


@pytest.mark.parametrize(
    "changes",
    [
        {"lines": [{"code": "x"}]},
        {"errors": [{"mod_line": [0]}]},
        {"errors": [{**PROGRAM["errors"][0], "mod_line": [40]}]},
        {"errors": [{**PROGRAM["errors"][0], "mod_code": []}]},
        {"lines": None},
    ],
)
def test_malformed_programs(tmp_path, changes):
    path = tmp_path / "0001-7B-11.json"
    path.write_text(json.dumps({**PROGRAM, **changes}), encoding="utf-8")
    with pytest.raises(SourceError, match=r"0001-7B-11\.json: expected an object with `lines`"):
        read_program(path)


@pytest.mark.parametrize("form", FORMATS)
def test_repairs_render(drrepair, form):
    task = get_task(f"dr_repair_{form}")
    numbered = form in ("line_numbers", "no_errors")
    for index in range(task.source.num_examples("train")):
        direct = render(task, "train", index, seed=0, variant="zs_noopt")
        assert direct.targets == direct.answer == FIXED
        assert ("1 int main() {" in direct.inputs) is numbered
        assert FIXED not in direct.inputs
        inverted = render(task, "train", index, seed=0, variant="zs_inverted")
        assert FIXED in inverted.inputs
        assert inverted.targets.startswith("1 int main() {" if numbered else "int main() {")
        assert ("// error: " in inverted.targets) is (form == "error_comments")
        shots = render(task, "train", index, seed=0, variant="fs_noopt")
        assert shots.exemplars and shots.inputs.count(FIXED) == len(shots.exemplars)


def test_contest_problems():
    assert python_solutions(CONTEST) == ["print(sum(map(int, input().split())))", "b = 2"]
    assert can_be_solved(CONTEST)
    assert not can_be_solved({**CONTEST, "description": "See <image>."})
    assert not can_be_solved({**CONTEST, "description": " "})
    no_python = {"language": [2, 1], "solution": ["int main(){}", "print 1"]}
    assert not can_be_solved({**CONTEST, "solutions": no_python})
    fields = contest_fields(CONTEST)
    drawn = {draw_solution(fields, Draws(seed))["answer"] for seed in range(20)}
    assert drawn == set(python_solutions(CONTEST))


def test_contest_problems_from_the_hubs_files(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    task = get_task("dmcc_python")
    bad = {**CONTEST, "description": "See <image>."}
    for number, path in enumerate(task.source.paths()):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**CONTEST, "description": f"Task {number}. {CONTEST['description']}"}, bad]
        pq.write_table(pa.Table.from_pylist([{"name": "x", **row} for row in rows]), path)
    task.source.check_present()
    assert task.source.num_examples("train") == 7
    assert task.source.num_examples("validation") == 1
    example = render(task, "train", 3, seed=0, variant="zs_noopt")
    assert "Task 3. Add two numbers." in example.inputs
    assert example.targets in python_solutions(CONTEST)
    inverted = render(task, "train", 3, seed=0, variant="zs_inverted")
    assert inverted.targets.startswith("Task 3. Add two numbers.")
