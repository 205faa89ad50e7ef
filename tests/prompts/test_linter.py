"""What `lint` finds, fault by fault."""

from __future__ import annotations

import pytest

from flan_jax.prompts.linter import lint
from flan_jax.sources.base import Row
from flan_jax.sources.files import HashSplits
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import TaskDefinition

GOOD = "".join(
    f'- inputs: "No. {n}: {{{{ item }}}}"\n  targets: "{{{{ answer }}}}"\n' for n in range(10)
)


def with_options(row: Row) -> Row:
    return {"item": row["item"], "answer": row["answer"], "options": row["options"].split("|")}


@pytest.fixture
def make(tmp_path):
    def task(templates=GOOD, rows=(("i1", "a1"), ("i2", "a2")), test=None, **changes):
        number = len(list(tmp_path.iterdir()))
        columns = changes.pop("columns", ("item", "answer"))
        files = {}
        for split, found in (("train", rows), ("test", test)):
            if found is not None:
                files[split] = tmp_path / f"{split}{number}.tsv"
                files[split].write_text("".join("\t".join(row) + "\n" for row in found))
        sections = {"direct": "templates", "cot": "cot", "inverted": "inverted"}
        section = sections[changes.get("styles", ("direct",))[0]]
        (tmp_path / f"t{number}.yaml").write_text(f"{section}:\n{templates}")
        fields = {
            "source": TsvSource(files, changes.pop("carve", None), columns=columns),
            "template_file": tmp_path / f"t{number}.yaml",
        }
        return TaskDefinition(
            name="own", group="own", cluster="own", licence="MIT", **{**fields, **changes}
        )

    return task


def found(report, severity="problem"):
    return [f"{f.where}: {f.message}" for f in report.findings if f.severity == severity]


def one(report, severity="problem") -> str:
    messages = found(report, severity)
    assert len(messages) == 1, messages
    return messages[0]


def test_a_sound_task(make):
    report = lint(make())
    assert report.findings == ()
    assert (report.rows, report.prompts) == (2, 2 * 10 * 2)


def test_the_same_findings_every_time(make):
    task = make(rows=[("i", "")] * 3)
    assert lint(task).findings == lint(task).findings != ()


def test_malformed_template_file(make):
    assert "inputs` must be a text" in one(lint(make('- targets: "x"\n')))


def test_missing_field_is_named_once_a_template_with_a_suggestion(make):
    task = make(GOOD + '- inputs: "{{ itm }}"\n  targets: "{{ answer }}"\n')
    message = one(lint(task))
    assert "templates[10]" in message
    assert "uses the field 'itm', which train[0] lacks; did you mean 'item'" in message
    assert lint(task).problems[0].count == 2


def test_equal_templates(make):
    assert "the same as template 3" in one(
        lint(make(GOOD + '- inputs: "No. 3: {{ item }}"\n  targets: "{{ answer }}"\n'))
    )


def test_a_template_without_fields(make):
    report = lint(make(GOOD + '- inputs: "Hello"\n  targets: "world"\n'))
    assert "uses no field of the row" in one(report)


def test_few_templates_are_only_noted(make):
    report = lint(make('- inputs: "{{ item }}"\n  targets: "{{ answer }}"\n'))
    assert not report.problems
    assert "1 templates; Flan uses ten" in one(report, "note")


def test_empty_prompts(make):
    report = lint(make(GOOD + '- inputs: "{{ item[:0] }}"\n  targets: "{{ answer[:0] }}"\n'))
    messages = found(report)
    assert any("the inputs are empty" in message for message in messages)
    assert any("the targets are empty" in message for message in messages)


def test_a_template_that_fails_on_some_row(make):
    report = lint(make(GOOD + '- inputs: "{{ item[0] + 1 }}"\n  targets: "{{ answer }}"\n'))
    assert "t0.yaml: templates[10], zs_noopt, train[0]: TypeError" in one(report)


def test_empty_answers_and_bad_rows_are_all_counted(make):
    report = lint(make(rows=[("i1", "a"), ("i2", " "), ("i3", "")]))
    assert one(report) == "train[1]: the answer is empty"
    assert report.problems[0].count == 2


def test_a_mapping_function_that_fails(make):
    report = lint(make(to_fields=lambda row: {"answer": row["nothing"]}))
    assert "KeyError: 'nothing'" in one(report)
    assert report.problems[0].count == 2


def test_missing_data_are_said_to_be_missing_and_templates_are_checked(tmp_path, make):
    absent = TsvSource({"train": tmp_path / "absent.tsv"}, HashSplits("item"))
    task = make(GOOD + '- inputs: "Hello"\n  targets: "world"\n', source=absent)
    report = lint(task)
    assert "absent.tsv does not exist" in one(report, "missing")
    assert "uses no field of the row" in one(report)
    assert not lint(make(source=absent)).ok
    assert not lint(make(source=absent)).problems


def test_templates_only_needs_no_data(tmp_path, make):
    absent = TsvSource({"train": tmp_path / "absent.tsv"}, HashSplits("item"))
    report = lint(make(source=absent), templates_only=True)
    assert report.findings == ()
    assert report.ok
    task = make(GOOD + '- inputs: "{{ answer }}!"\n  targets: "{{ answer }}"\n', source=absent)
    assert "the target asks for" in one(lint(task, templates_only=True))


def test_a_source_that_fails_only_when_read(make, monkeypatch):
    task = make()
    monkeypatch.setattr(type(task.source), "check_present", lambda self: None)
    task.source.files["train"].unlink()
    assert "does not exist" in one(lint(task))


def test_unused_fields_are_noted_once(make):
    rows = [("i1", "a1", "x", "1"), ("i2", "a2", "y", "2")]
    report = lint(make(rows=rows, columns=("item", "answer", "extra", "id")))
    assert one(report, "note") == "t0.yaml: no template uses the rows' fields 'extra'"
    assert report.ok
    used = GOOD + '- inputs: "{{ item }}, {{ extra }}?"\n  targets: "{{ answer }}"\n'
    task = make(used, rows=rows, columns=("item", "answer", "extra", "id"))
    assert lint(task).findings == ()


LEAK_ROWS = [(f"thing number {word}", word) for word in "one two three four five six".split()]


def with_parts(row: Row) -> Row:
    return {"item": "a thing", "hint": row["item"], "answer": row["answer"]}


def test_a_template_that_gives_the_answer_away_in_nearly_every_row(make):
    frame = '- inputs: "No. {}: {{{{ {} }}}}"\n  targets: "{{{{ answer }}}}"\n'
    sound = "".join(frame.format(n, "item") for n in range(1, 10))
    task = make(sound + frame.format(0, "hint"), LEAK_ROWS, to_fields=with_parts)
    assert one(lint(task)) == (
        "t0.yaml: templates[9]: the prompt holds the target in 6 of 6 rows; "
        "those of the other templates do in 0%"
    )
    meant = frame.format(0, "hint") + "  allow: [answer_leak]\n"
    assert lint(make(sound + meant, LEAK_ROWS, to_fields=with_parts)).ok


def test_answers_that_stand_in_every_passage_are_no_leak(make):
    frame = '- inputs: "No. {}: {{{{ hint }}}}"\n  targets: "{{{{ answer }}}}"\n'
    task = make("".join(map(frame.format, range(10))), LEAK_ROWS, to_fields=with_parts)
    assert lint(task).ok


def test_naming_the_labels_is_no_leak(make):
    labels = ["up", "down", "level"]
    rows = [(f"i{n}", labels[n % 3], "|".join(labels)) for n in range(6)]
    naming = '- inputs: "{{ item }}: up, down or level?{{ options }}"\n  targets: "{{ answer }}"\n'
    columns = ("item", "answer", "options")
    task = make(OPTIONS + naming, rows, has_options=True, to_fields=with_options, columns=columns)
    assert lint(task).ok


def test_a_task_for_testing_alone_has_exemplars_of_its_own(make):
    rows = [(f"i{n}", f"a{n}") for n in range(4)]
    task = make(rows=None, test=rows)
    report = lint(task)
    assert report.findings == ()
    assert report.prompts == 2 * 10 * 4


def test_no_rows(make):
    assert one(lint(make(rows=[], test=[("i", "a")]))) == "train: there are no rows"


OPTIONS = GOOD.replace("item }}", "item }}{{ options }}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("i", "a", "b|c"), "the answer 'a' is not among the options ['b', 'c']"),
        (("i", "a", "a|b|b"), "the option 'b' stands there twice"),
    ],
)
def test_options(make, row, message):
    columns = ("item", "answer", "options")
    task = make(OPTIONS, [row], has_options=True, to_fields=with_options, columns=columns)
    assert message in one(lint(task))


def test_options_that_are_no_list(make):
    columns = ("item", "answer", "options")
    task = make(OPTIONS, [("i", "a", "a|b")], has_options=True, columns=columns)
    assert "options must be a list of texts, found 'a|b'" in one(lint(task))


def test_sound_options(make):
    columns = ("item", "answer", "options")
    task = make(
        OPTIONS, [("i", "a", "a|b")] * 1, has_options=True, to_fields=with_options, columns=columns
    )
    report = lint(task)
    assert report.findings == ()
    assert report.prompts == 4 * 10


def test_options_shown_by_a_task_without_them(make):
    report = lint(make(OPTIONS))
    assert len(report.problems) == 10
    assert "shows options, but the task has none" in found(report)[0]


def test_no_template_for_a_variant(make):
    templates = OPTIONS.replace("targets:", "needs_options: true\n  targets:")
    columns = ("item", "answer", "options")
    task = make(
        templates, [("i", "a", "a|b")], has_options=True, to_fields=with_options, columns=columns
    )
    messages = found(lint(task))
    assert messages[0].startswith("zs_noopt: ")
    assert messages[1].startswith("fs_noopt: ")


def test_worked_solutions_must_end_in_the_answer(make):
    good = GOOD.replace('"{{ answer }}"', '"Because. So the answer is {{ answer }}."')
    assert not lint(make(good, styles=("cot",))).problems
    bad = good + '- inputs: "{{ item }}"\n  targets: "Because. It is {{ answer }}."\n'
    assert "should end in 'answer is a1.'" in one(lint(make(bad, styles=("cot",))))


def test_lengths_are_noted(make):
    report = lint(
        make(rows=[("a b c d e f", "x y z")]),
        lengths={"inputs": 4, "targets": 2},
        count_tokens=lambda text: len(text.split()),
    )
    assert not report.problems
    notes = found(report, "note")
    assert any("would be cut to 4" in note for note in notes)
    assert any("3 tokens of targets would be cut to 2" in note for note in notes)


def test_equal_rows_are_noted_and_leaks_are_problems(make):
    report = lint(make(rows=[("i", "a"), ("i", "a"), ("k", "b")], test=[("k", "b"), ("l", "c")]))
    assert one(report, "note") == "train[1]: the same row as train[0]"
    assert one(report) == "test[0]: also in train ([2])"


def test_endless_tasks_are_sampled(tmp_path, make):
    source = ProceduralSource(
        "own",
        lambda draws: {"item": f"i{draws.below(10**9)}", "answer": "a"},
        sizes={"train": None},
    )
    report = lint(make(source=source), rows_per_split=7)
    assert report.findings == ()
    assert report.rows == 7


def test_rows_rendered_are_spread_over_the_split(make):
    rows = [(f"i{n}", "a") for n in range(99)] + [("", "a")]
    task = make(GOOD.replace("No. 0: ", ""), rows)
    report = lint(task, rows_per_split=3)
    assert report.rows == 100
    assert "train[99]: the inputs are empty" in one(report)
