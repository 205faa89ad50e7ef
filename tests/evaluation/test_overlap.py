"""Is a benchmark held out: shared runs of words, declared origin, and what may be so called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax import mixtures
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.overlap import benchmarks as registry
from flan_jax.overlap.benchmarks import Benchmark, Item, get_benchmark
from flan_jax.overlap.check import OVERLAPPING, PROVEN, UNKNOWN, Verdict, check_overlap
from flan_jax.overlap.declared import derivations, relations
from flan_jax.overlap.held_out import HELD_OUT, SEEN, held_out_status
from flan_jax.overlap.held_out import UNKNOWN as NOT_KNOWN
from flan_jax.overlap.ngrams import Index, Scanner
from flan_jax.overlap.scan import scan_tasks
from flan_jax.overlap.text import words
from flan_jax.sources.base import SourceMissingError
from flan_jax.sources.tsv import TsvSource
from flan_jax.tasks import _TASKS, TaskDefinition, get_task, register_task

WORDS = [f"w{i}" for i in range(40)]
assert mixtures  # its import announces the tasks


@pytest.fixture(autouse=True)
def _own_names():
    """Tasks and benchmarks of a test are gone after it."""
    get_benchmark("mmlu")
    known = set(registry._BENCHMARKS)
    yield
    for name in set(registry._BENCHMARKS) - known:
        del registry._BENCHMARKS[name]
    for name in [name for name, task in _TASKS.items() if task.group == "made_up"]:
        del _TASKS[name]


def add_task(folder: Path, name: str, *questions: str, **attributes) -> str:
    """A task with these training questions."""
    path = folder / f"{name}.tsv"
    path.write_text("".join(f"{question}\tyes\n" for question in questions), encoding="utf-8")
    values = {"source": TsvSource({"train": path}, columns=("question", "answer"))} | attributes
    register_task(
        TaskDefinition(
            name=name,
            group="made_up",
            cluster="made_up",
            template_file=folder / "none.yaml",
            licence="none",
            **values,
        )
    )
    return name


def add_benchmark(name: str, *questions: str, **attributes) -> str:
    items = [Item(str(i), question) for i, question in enumerate(questions)]
    registry.register_benchmark(Benchmark(name, lambda: items, **attributes))
    return name


def verdict_on(benchmark: str, *tasks: str, **options) -> Verdict:
    mixture = MixtureDefinition("made_up_mixture", dict.fromkeys(tasks, 1.0))
    (verdict,) = check_overlap(mixture, [benchmark], **options).verdicts
    return verdict


# -------------------------------------------------------------------------------------------- words


def test_words_are_compared_without_case_and_punctuation():
    assert words("Don't  stop-me, “now”!") == ["dont", "stop", "me", "now"]
    assert words("It costs $1,200.50 (½ ﬁve)") == "it costs 1 200 50 1 2 five".split()
    assert words("…  —") == []


def test_words_of_scripts_with_marks_and_without_spaces():
    assert words("হিন্দি ভাষা।") == ["হিন্দি", "ভাষা"]  # vowel signs are parts of words
    assert words("他有3个") == ["他", "有", "3", "个"]
    assert words("กี่คน") == ["กี่", "ค", "น"]


# ----------------------------------------------------------------------------------- shared n-grams


def test_a_run_of_thirteen_words_is_found_and_one_of_twelve_is_not(tmp_path):
    item = " ".join(WORDS[:20])
    add_benchmark("exam", item, "and quite another one " + " ".join(WORDS[25:38]))
    thirteen = f"before it {' '.join(WORDS[3:16]).upper()}, after"
    twelve = f"before it {' '.join(WORDS[3:15])} after"
    found = verdict_on("exam", add_task(tmp_path, "t13", "nothing", thirteen))
    assert found.status == OVERLAPPING and found.items_found() == 1
    (example,) = found.pairs[0].found.examples
    assert (example.row, example.field, example.item) == (1, "question", "0")
    assert example.shared == " ".join(WORDS[3:16])
    clean = verdict_on("exam", add_task(tmp_path, "t12", "nothing", twelve))
    assert clean.status == PROVEN and clean.items_found() == 0
    assert verdict_on("exam", "t12", ngram=12).status == OVERLAPPING


def test_a_run_does_not_reach_from_one_field_or_row_into_the_next(tmp_path):
    add_benchmark("exam", " ".join(WORDS[:13]))
    halves = (" ".join(WORDS[:7]), " ".join(WORDS[7:13]))
    assert verdict_on("exam", add_task(tmp_path, "halves", *halves)).status == PROVEN


def test_short_questions_must_be_there_as_a_whole(tmp_path):
    add_benchmark("exam", " ".join(WORDS[:9]), "what is this")
    assert verdict_on("exam", add_task(tmp_path, "most", " ".join(WORDS[:8]))).status == PROVEN
    within = add_task(tmp_path, "within", f"so {' '.join(WORDS[:9])} then")
    assert verdict_on("exam", within).pairs[0].found.items == {"question": {"0"}}
    # Of a few words, only a whole field counts: in longer texts they may stand by chance.
    phrase = add_task(tmp_path, "phrase", "please tell me what is this thing")
    assert verdict_on("exam", phrase).status == PROVEN
    same = add_task(tmp_path, "same", "What is this?")
    assert verdict_on("exam", same).pairs[0].found.items == {"question": {"1"}}


def test_boilerplate_and_scaffolding_do_not_count(tmp_path):
    boilerplate = " ".join(WORDS[:14])
    questions = [f"{boilerplate} number {i} and something else {i}" for i in range(4)]
    add_benchmark("exam", *questions)
    task = add_task(tmp_path, "task", f"{boilerplate} of ours")
    assert verdict_on("exam", task, common=4).items_found() == 4
    assert verdict_on("exam", task, common=3).status == PROVEN
    whole = add_task(tmp_path, "whole", questions[2])
    assert verdict_on("exam", whole, common=3).items_found() == 1
    add_benchmark("scaffolded", questions[0], scaffolding=lambda: [f"Now: {boilerplate}."])
    assert verdict_on("scaffolded", task).status == PROVEN
    first = add_task(tmp_path, "first", questions[0])
    assert verdict_on("scaffolded", first).items_found() == 1


def test_repeated_questions_count_as_boilerplate_but_a_shared_passage_does_not(tmp_path):
    passage = " ".join(WORDS[:15])
    items = [Item(str(i), f"who is it {i}", (("context", passage),)) for i in range(30)]
    registry.register_benchmark(Benchmark("passages", lambda: items))
    task = add_task(tmp_path, "task", passage)
    assert verdict_on("passages", task).pairs[0].found.items == {
        "context": {str(i) for i in range(30)}
    }
    add_benchmark("repeated", *[passage] * 30)
    assert verdict_on("repeated", task).status == PROVEN


def _naive(item: str, text: str, ngram: int) -> bool:
    """Whether the two share a run, the slow way."""
    ours, theirs = words(item), words(text)
    if not ours:
        return False
    if len(ours) < min(8, ngram):
        return ours == theirs
    length = min(ngram, len(ours))
    runs = {tuple(ours[i : i + length]) for i in range(len(ours) - length + 1)}
    return any(tuple(theirs[i : i + length]) in runs for i in range(len(theirs) - length + 1))


TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "b", "C", "d-e", "é", "他们", "don't"]), max_size=16).map(
        " ".join
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(items=TEXTS, rows=TEXTS, ngram=st.integers(2, 10))
def test_hashing_finds_what_comparing_all_words_finds(items, rows, ngram):
    index = Index(ngram, common=10**6)
    index.add("exam", (Item(str(i), text) for i, text in enumerate(items)))
    index.build()
    scanner = Scanner(index)
    matches = []
    for row, text in enumerate(rows):
        matches += scanner.add(row, "text", text)
    matches += scanner.finish()
    found = {(match.row, item) for match in matches for item in match.found.items}
    expected = {
        (row, str(i))
        for row, text in enumerate(rows)
        for i, item in enumerate(items)
        if _naive(item, text, ngram)
    }
    assert found == expected
    for match in matches:
        assert f" {match.shared} " in f" {match.found.text} "
        assert f" {match.shared} " in f" {' '.join(words(rows[match.row]))} "


def test_batches_give_what_one_pass_gives(tmp_path, monkeypatch):
    add_benchmark("exam", *(" ".join(WORDS[i : i + 14]) for i in range(10)))
    rows = [" ".join(WORDS[i : i + 16]) for i in range(20)]
    task = add_task(tmp_path, "task", *rows)
    whole = verdict_on("exam", task).as_dict()
    monkeypatch.setattr("flan_jax.overlap.ngrams._BATCH_WORDS", 5)
    assert verdict_on("exam", task).as_dict() == whole
    assert verdict_on("exam", task, jobs=2).as_dict() == whole
    assert whole["pairs"][0]["found"]["rows"] == 11


# ------------------------------------------------------------------------------------ what is known


def test_missing_and_partly_read_data_prove_nothing(tmp_path):
    add_benchmark("exam", " ".join(WORDS[:13]))
    there = add_task(tmp_path, "there", "one", "two", "three")
    gone = add_task(tmp_path, "gone", "one")
    (tmp_path / "gone.tsv").unlink()
    both = verdict_on("exam", there, gone)
    assert [pair.status for pair in both.pairs] == [PROVEN, UNKNOWN]
    assert both.status == UNKNOWN and both.count(UNKNOWN) == 1
    assert "gone.tsv" in both.pairs[1].why
    part = verdict_on("exam", there, max_rows=2)
    assert part.status == UNKNOWN and part.pairs[0].why == "2 of 3 rows were read"
    cut = add_task(tmp_path, "cut", "one", "two", num_train=100)
    assert "2 of the 100 published rows" in verdict_on("exam", cut).pairs[0].why
    (tmp_path / "bad.tsv").write_text("no tab\n")
    bad = add_task(tmp_path, "bad", "one")
    (tmp_path / "bad.tsv").write_text("no tab\n")
    assert "cannot be read" in verdict_on("exam", bad).pairs[0].why


def test_other_processes_read_tasks_that_cannot_be_sent_to_them(tmp_path):
    add_benchmark("exam", " ".join(WORDS[:13]))
    sent = add_task(tmp_path, "sent", "one", to_fields=_answered)
    found = verdict_on("exam", sent, "wmt14_enfr", jobs=2)
    assert [pair.status for pair in found.pairs] == [PROVEN, UNKNOWN]
    scans = scan_tasks([get_task(sent), get_task("wmt14_enfr")], Index().build(), jobs=2)
    assert scans[sent].rows == 1 and "wmt14_translate" in scans["wmt14_enfr"].incomplete


def _answered(row):
    return row


def test_a_find_in_a_part_is_a_find(tmp_path):
    text = " ".join(WORDS[:13])
    add_benchmark("exam", text)
    task = add_task(tmp_path, "task", text, "two", num_train=1000)
    assert verdict_on("exam", task, max_rows=1).status == OVERLAPPING


def test_an_endless_task_proves_nothing():
    add_benchmark("exam", " ".join(WORDS[:13]))
    found = verdict_on("exam", "micro_count_items", max_rows=20)
    assert found.status == UNKNOWN and "endless: 20 were read" in found.pairs[0].why


def test_a_benchmark_that_is_missing_or_cut_proves_nothing(tmp_path):
    def absent():
        raise SourceMissingError("the exam is not here")
        yield

    task = add_task(tmp_path, "task", "one")
    registry.register_benchmark(Benchmark("absent", absent))
    found = verdict_on("absent", task)
    assert (found.status, found.items, found.incomplete) == (UNKNOWN, None, "the exam is not here")
    add_benchmark("cut", " ".join(WORDS[:13]), size=2)
    assert verdict_on("cut", task).status == UNKNOWN
    add_benchmark("whole", " ".join(WORDS[:13]), size=1)
    assert verdict_on("whole", task).status == PROVEN


def test_a_task_can_stand_for_a_benchmark(tmp_path):
    for split, text in (("train", "one\tyes\n"), ("test", " ".join(WORDS[:13]) + "\tno\n")):
        (tmp_path / f"{split}.tsv").write_text(text)
    source = TsvSource(
        {split: tmp_path / f"{split}.tsv" for split in ("train", "test")},
        columns=("question", "answer"),
    )
    asked = add_task(tmp_path, "asked", source=source)
    other = add_task(tmp_path, "other", " ".join(WORDS[:14]))
    found = verdict_on(asked, other, asked)
    assert found.items == 1 and found.pairs[0].found.rows == {0}
    assert found.pairs[1].status == OVERLAPPING and found.pairs[1].found is None


def test_misspelt_benchmarks_get_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'strategyqa'"):
        get_benchmark("strategyqua")


# ---------------------------------------------------------------------------------- declared origin


@pytest.mark.parametrize(
    ("benchmark", "count", "some"),
    [
        ("mmlu", 0, ()),
        ("bbh", 0, ()),
        ("tydiqa", 0, ()),
        ("gsm8k", 1, ("cot_gsm8k",)),
        ("mgsm", 1, ("cot_gsm8k",)),
        ("aqua", 10, ("stream_aqua", "task750_aqua_multiple_choice_answering")),
        ("strategyqa", 4, ("cot_strategyqa", "task167_strategyqa_question_generation")),
        ("winogender", 6, ("task340_winomt_classification_gender_pro",)),
        ("pubmed_qa", 5, ("task846_pubmedqa_classification",)),
        ("niv2_test", 119, ("task190_snli_classification",)),
        ("niv2_xlingual_test", 35, ("task1184_xcopa_commonsense_reasoning_zh",)),
        ("boolq", 5, ("bool_q", "task380_boolq_yes_no_question")),
        ("winogrande", 9, ("winogrande", "task033_winogrande_answer_generation")),
    ],
)
def test_what_the_collection_holds_of_benchmarks(benchmark, count, some):
    asked = get_benchmark(benchmark)
    names = {task.name for task in get_mixture("flan2022").tasks() if derivations(task, asked)}
    assert len(names) == count and names.issuperset(some)


def test_a_related_task_is_noted_but_is_no_overlap():
    task, bbh = get_task("task062_bigbench_repeat_copy_logic"), get_benchmark("bbh")
    assert not derivations(task, bbh)
    assert [row.relation for row in relations(task, bbh)] == ["related"]


def test_excluded_mmlu_tasks_are_declared_should_somebody_add_them(tmp_path):
    name = "task667_mmmlu_answer_generation_business_ethics"
    add_task(tmp_path, name, "one")
    assert derivations(get_task(name), get_benchmark("mmlu"))[0].relation == "items"
    assert held_out_status(name, "mmlu").label == SEEN


# -------------------------------------------------------------------------- what is called held out


@pytest.mark.parametrize(
    ("trained", "name", "label", "reason"),
    [
        ("cot", "gsm8k", SEEN, "cot_gsm8k"),
        ("gsm8k", "gsm8k_cot", SEEN, "gsm8k"),
        ("cot", "mgsm", SEEN, "translat|MGSM"),
        ("flan2022", "wsc273", SEEN, "Winograd"),
        ("niv2", "bool_q", SEEN, "boolq"),
        ("flan2022", "mmlu", HELD_OUT, "flan2022"),
        (["micro", "cot"], "gsm8k", SEEN, "cot_gsm8k"),
        (["micro", "no such mixture"], "gsm8k", NOT_KNOWN, "no such mixture"),
        (["no such mixture", "cot"], "gsm8k", SEEN, "cot_gsm8k"),
        ([], "gsm8k", NOT_KNOWN, "not recorded"),
        (None, "gsm8k", NOT_KNOWN, "not recorded"),
        ("micro", "micro_count_items", SEEN, "is a task of micro"),
        ("micro_count_kind", "micro_count_kind_cot", SEEN, "reads the same data"),
        ("micro", "gsm8k", HELD_OUT, "micro"),
    ],
)
def test_held_out_status(trained, name, label, reason):
    found = held_out_status(trained, name)
    assert found.label == label and re.search(reason, found.reason), found


def test_all_held_out_micro_tasks_are_held_out_from_micro():
    for task in get_mixture("micro_held_out").tasks():
        assert held_out_status("micro", task.name).label == HELD_OUT, task.name
