"""All protocols: an oracle is always right, constant answers score what they should, prompts."""

from __future__ import annotations

import json
import random
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from flan_jax.data.vocabulary import SentencePieceVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.benchmark_requests import plan_benchmark
from flan_jax.evaluation.benchmarks import (
    BenchmarkProtocol,
    ProtocolDefinition,
    get_protocol,
    known_protocols,
)
from flan_jax.evaluation.predictions import requests_to_judge
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.mixtures.benchmarks.protocols import gsm8k, mgsm, mmlu, tydiqa
from flan_jax.sources.base import SourceError
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from tests.evaluation.conftest import ByteVocabulary
from tests.mixtures.protocol_oracle import wrong

OURS = ("aqua", "bbh", "gsm8k", "mgsm", "mmlu", "strategyqa", "tydiqa")
ALL = [
    (name, variant)
    for name, variants in known_protocols().items()
    for variant, definition in variants.items()
    if definition.benchmark in OURS
]


@pytest.fixture(autouse=True)
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    return test_data


def definitions() -> list[ProtocolDefinition]:
    return [get_protocol(name, variant) for name, variant in ALL]


def test_there_are_all_protocols():
    assert {name for name, variant in ALL if variant == "paper"} == {
        "mmlu_direct", "mmlu_zero_shot", "mmlu_cot", "bbh_direct", "bbh_cot", "bbh_zero_shot_cot",
        "tydiqa", "mgsm_direct", "mgsm_cot", "gsm8k_direct", "gsm8k_cot", "aqua_direct",
        "aqua_cot", "strategyqa_direct", "strategyqa_cot",
    }  # fmt: skip
    assert {entry for entry in ALL if entry[1] != "paper"} == {
        ("mmlu_direct", "lm_eval"), ("mmlu_zero_shot", "lm_eval"), ("bbh_cot", "lm_eval"),
        ("mgsm_cot", "lm_eval"), ("gsm8k_cot", "lm_eval"),
        ("mmlu_direct", "instruct_eval"), ("bbh_direct", "instruct_eval"),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_an_oracle_is_right_in_every_form(name: str, variant: str):
    definition = get_protocol(name, variant)
    subtasks = (*definition.subtasks, *definition.extra_subtasks)
    # The protocols of a benchmark share items and rules: all items in one of them.
    whole = definition is get_protocol(definition.benchmark)
    protocol = BenchmarkProtocol(
        name, variant, subtasks=subtasks, num_examples=None if whole else 20
    )
    assert wrong(protocol) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), [("mmlu_cot", "test"), ("aqua_cot", "validation")])
def test_an_oracle_is_right_on_the_other_split(name: str, split: str):
    assert wrong(BenchmarkProtocol(name, split=split)) == {}


SIZES = {"aqua": 254, "bbh": 6511, "gsm8k": 1319, "mgsm": 2500, "mmlu": 1531, "strategyqa": 229}


@pytest.mark.parametrize("benchmark", SIZES)
def test_all_items_are_there(benchmark: str):
    items = BenchmarkProtocol(get_protocol(benchmark).name).items()
    assert sum(len(rows) for rows in items.values()) == SIZES[benchmark]
    for rows in items.values():
        assert [item.index for item in rows] == list(range(len(rows)))


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_every_choice_says_who_made_it(name: str, variant: str):
    definition = get_protocol(name, variant)
    whats = [choice.what for choice in definition.choices]
    assert len(set(whats)) == len(whats)
    assert {"mean", "answer", "prompt", "exemplars"} <= set(whats)
    assert all(choice.value and choice.source for choice in definition.choices)
    assert definition.description and definition.licence


# ------------------------------------------------------------------------------------------- MMLU


@pytest.mark.parametrize(("letter", "score"), [("A", 25.7), ("B", 23.9), ("C", 24.2), ("D", 26.1)])
@pytest.mark.parametrize("form", ["({})", "{}", "The answer is ({})."])
def test_a_constant_letter_on_validation(letter: str, score: float, form: str):
    find = get_scorer("option_match").find
    right: dict[str, list[bool]] = {}
    for request in requests_to_judge(BenchmarkProtocol("mmlu_direct")):
        right.setdefault(request.task, []).append(find(request, form.format(letter)).correct)
    assert len(right) == 57
    macro = statistics.fmean(100 * statistics.fmean(task) for task in right.values())
    assert macro == pytest.approx(score, abs=0.05)


def test_mmlu_prompts_have_one_layout():
    cot = get_protocol("mmlu_cot")
    direct = get_protocol("mmlu_direct")
    item = direct.read("anatomy", "validation")[0]
    header, exemplars, question = direct.parts("anatomy", item)
    assert header == "The following are multiple choice questions (with answers) about anatomy."
    assert cot.parts("anatomy", item)[0] == header
    assert cot.parts("anatomy", item)[2] == f"{question} Let's think step by step."
    assert len(exemplars) == 5 and all(re.search(r"\nA: \([A-D]\)$", e) for e in exemplars)
    labels = r"\(A\) .* \(B\) .* \(C\) .* \(D\) .*"
    assert re.fullmatch(rf"Q: .*\n{labels}\nA:", question, re.DOTALL)
    assert direct.prompt("anatomy", item) == "\n\n".join([header, *exemplars, question])
    zero = get_protocol("mmlu_zero_shot").prompt("anatomy", item)
    assert zero == f"{header}\n\n{question}"


def test_mmlu_cot_prompts_are_the_published_ones(data: Path):
    published = json.loads((data / "mmlu" / "mmlu-cot.json").read_text(encoding="utf-8"))
    definition = get_protocol("mmlu_cot")
    shots = {}
    for subject in definition.subtasks:
        item = definition.read(subject, "validation")[0]
        _, exemplars, question = definition.parts(subject, item)
        shots[subject] = len(exemplars)
        whole = definition.prompt(subject, item)
        assert whole == f"{published[subject].strip()}\n\n{question}"
    assert sum(shots.values()) == 282
    assert {s for s, n in shots.items() if n == 4} == {
        "college_chemistry", "formal_logic", "human_aging"
    }  # fmt: skip


def test_validation_questions_are_whole():
    item = mmlu.read("abstract_algebra", "validation")[1]
    assert item.question == "Find the order of the factor group Z_6/<3>."
    assert item.option_texts == ("2", "3", "6", "12") and item.answer == "(B)"


def test_lm_eval_ranks_letters():
    definition = get_protocol("mmlu_direct", "lm_eval")
    item = definition.read("abstract_algebra", "test")[0]
    assert definition.continuations is not None and definition.ranking == "sum"
    assert definition.continuations(item) == (" A", " B", " C", " D")
    prompt = definition.prompt("abstract_algebra", item)
    start = (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field.\n"
        "A. 0\nB. 1\nC. 2\nD. 3\nAnswer: B\n\nStatement 1 | If aH"
    )
    assert prompt.startswith(start) and prompt.endswith("\nAnswer:")
    assert prompt.count("Answer:") == 6
    instruct = get_protocol("mmlu_direct", "instruct_eval").prompt("abstract_algebra", item)
    assert instruct == prompt.replace("about abstract", "about  abstract")


@pytest.mark.parametrize(("variant", "kept"), [("paper", [2, 3, 4]), ("instruct_eval", [0, 1, 2])])
def test_which_exemplars_a_long_prompt_loses(variant: str, kept: list[int]):
    protocol = BenchmarkProtocol(
        "mmlu_direct", variant, "validation", subtasks=["anatomy"], num_examples=1
    )
    definition = protocol.definition
    ((subtask, (item,)),) = protocol.items().items()
    header, exemplars, question = definition.parts(subtask, item)
    wanted = definition.join(header, [exemplars[i] for i in kept], question)
    vocabulary = ByteVocabulary()
    length = len(vocabulary.encode(wanted)) + 1
    (request,) = plan_benchmark(protocol, vocabulary, length)
    assert request.prompt == wanted and request.dropped_exemplars == 2 and not request.truncated


def test_letters_go_before_texts():
    # Boron: the text of (D), the letter of another option.
    requests = requests_to_judge(BenchmarkProtocol("mmlu_direct", split="test",
                                                   subtasks=["college_physics"]))  # fmt: skip
    request = requests[25]
    find = get_scorer("option_match").find
    assert request.option_texts[3] == "B" and request.answer == "(D)"
    assert not find(request, "B").correct
    assert find(request, "(D) B").correct and find(request, "D").correct


# Tokens of whole prompts in T5's vocabulary, end-of-sequence id included, as they were counted with
# prompts made by other code: median, most, shares above 1,024 and 2,048 in whole percent.
LENGTHS = {"mmlu_cot": (941, 3644, 37, 13), "bbh_cot": (905, 1970, 26, 0)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LENGTHS)
def test_prompts_have_the_known_lengths(name: str):
    vocabulary = SentencePieceVocabulary("t5_vocab/spiece.model", 100)
    protocol = BenchmarkProtocol(name)
    lengths = np.array(
        [
            len(vocabulary.encode(protocol.definition.prompt(subtask, item))) + 1
            for subtask, items in protocol.items().items()
            for item in items
        ]
    )
    above = [round(100 * np.mean(lengths > limit)) for limit in (1024, 2048)]
    assert (np.median(lengths), max(lengths), *above) == LENGTHS[name]


# ------------------------------------------------------------------------------------- TyDiQA, MGSM


def test_tydiqa_asks_with_one_exemplar_of_the_language():
    definition = get_protocol("tydiqa")
    item = definition.read("ko", "validation")[0]
    header, exemplars, question = definition.parts("ko", item)
    assert not header and len(exemplars) == 1
    assert question.endswith(f"\nQ: {item.question}\nA:")
    assert definition.prompt("ko", item) == f"{exemplars[0]}\n{question}"
    assert len(definition.subtasks) == 8 and definition.subtask("korean") == "ko"


@pytest.mark.parametrize(("language", "dev"), [("bn", 113), ("ko", 276), ("sw", 499), ("te", 669)])
def test_a_dev_item_that_is_the_exemplar_is_not_scored(language: str, dev: int):
    definition = get_protocol("tydiqa")
    items = definition.read(language, "validation")
    assert definition.notes is not None
    notes = definition.notes(language, "validation")
    train = language in ("ko", "sw")
    assert tydiqa.has_train(language) is train
    assert len(items) == (dev if train else dev - 1)
    assert bool(notes) is not train
    exemplar = definition.parts(language, items[0])[1][0]
    assert not any(f"\nQ: {item.question}\nA:" in exemplar for item in items)
    if not train:
        (missing,) = set(range(dev)) - {item.index for item in items}
        assert f"question {missing} of dev" in notes[0]


def test_tydiqa_takes_any_reference_and_forgives_case():
    protocol = BenchmarkProtocol("tydiqa", subtasks=["bn"])
    request = next(r for r in requests_to_judge(protocol) if len(r.references) > 1)
    em, raw = get_scorer("squad_em").find, get_scorer("exact_match").find
    for reference in request.references:
        assert em(request, f"{reference}.").correct and not raw(request, f"{reference}.").correct
        assert raw(request, f" {reference} ").correct
    assert not em(request, "").correct and not em(request, "").parsed


def test_mgsm_prompts_are_native():
    definition = get_protocol("mgsm_cot")
    item = definition.read("de", "test")[0]
    prompt = definition.prompt("de", item)
    assert prompt.count("Frage: ") == 9 and prompt.count("Schritt-für-Schritt-Antwort:") == 9
    assert prompt.endswith(f"Frage: {item.question}\nSchritt-für-Schritt-Antwort:")
    assert prompt.count("Die Antwort lautet ") == 7 and prompt.count("Die Antwort ist ") == 1
    direct = get_protocol("mgsm_direct").prompt("ja", get_protocol("mgsm_cot").read("ja", "")[0])
    assert direct.count("\n答え：") == 9 and direct.endswith("\n答え：") and "5+6" not in direct


def test_english_is_asked_only_by_name():
    assert BenchmarkProtocol("mgsm_cot").subtasks == mgsm.LANGUAGES
    assert BenchmarkProtocol("mgsm_cot", subtasks=["mgsm_en"]).subtasks == ("en",)
    with pytest.raises(UserError, match="did you mean 'mgsm_en'"):
        BenchmarkProtocol("mgsm_cot", subtasks=["mgsm_eng"])


@pytest.mark.parametrize("language", [*mgsm.LANGUAGES, mgsm.ENGLISH])
def test_exemplars_end_in_their_numbers(language: str):
    find = get_scorer("final_number").find
    words = mgsm.exemplars_of(language)
    assert len(words.answers) == 8
    protocol = BenchmarkProtocol("mgsm_cot", subtasks=[language], num_examples=1)
    (request,) = requests_to_judge(protocol)
    for answer, final in zip(words.answers, words.finals, strict=True):
        assert find(request, answer).text == final


def test_lm_eval_on_mgsm_looks_for_english_in_bengali():
    find = get_scorer("mgsm_strict").find
    (request,) = requests_to_judge(
        BenchmarkProtocol("mgsm_cot", "lm_eval", subtasks=["bn"], num_examples=1)
    )
    assert not find(request, f"উত্তর হল {request.answer}।").parsed
    assert find(request, f"The answer is {request.answer}.").correct
    assert get_scorer("mgsm_flexible").find(request, f"উত্তর হল {request.answer}।").correct


# ------------------------------------------------------------------------------------------ GSM8K


def test_gsm8k_exemplars_have_no_calculator_marks():
    definition = get_protocol("gsm8k_cot")
    item = definition.read("gsm8k", "test")[0]
    _, exemplars, question = definition.parts("gsm8k", item)
    assert len(exemplars) == gsm8k.SHOTS and not any("<<" in e or "####" in e for e in exemplars)
    assert exemplars[0].endswith("The answer is 72.")
    assert question == f"Q: {item.question}\nA: Let's think step by step."


def test_lm_eval_draws_exemplars_for_every_question(data: Path):
    definition = get_protocol("gsm8k_cot", "lm_eval")
    lines = (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").strip().split("\n")
    train = [json.loads(line) for line in lines]
    # As the harness's sampler: one generator for the whole file, five rows for each question.
    generator = random.Random(1234)
    items = definition.read("gsm8k", "test")
    for item in items[:20]:
        rows = generator.sample(train, 5)
        shots = [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows]
        wanted = "\n\n".join([*shots, f"Question: {item.question}\nAnswer:"])
        assert definition.prompt("gsm8k", item) == wanted


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_missing_files_are_named(
    name: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    benchmark = get_protocol(name, variant).benchmark
    with pytest.raises(UserError) as error:
        BenchmarkProtocol(name, variant).items()
    assert f"{benchmark}/" in str(error.value) and str(tmp_path) in str(error.value)
    assert "from " in str(error.value)  # where to get it


COLUMNS = "question,choice0,choice1,choice2,choice3,answer"
# file: protocol, subtask, split, text, which row is wrong
BAD = {
    "bbh/bbh/snarks.json": (
        "bbh_direct", "snarks", "test",
        '{"examples": [{"input": "x", "target": "y"}, {"input": "x"}]}', 1,
    ),
    "mmlu/dev/anatomy_dev.csv": (
        "mmlu_direct", "anatomy", "dev", f"{COLUMNS}\nq,1,2,3,4,0\nq,1,2,3,4,7\n", 1,
    ),
    "mmlu/test/anatomy_test.csv": (
        "mmlu_direct", "anatomy", "test", f"{COLUMNS}\nq,1,2,3\n", 0,
    ),
    "mmlu/val/zero_shot_mmlu_val.jsonl": (
        "mmlu_direct", "anatomy", "validation",
        '{"subject": "virology"}\n'
        '{"subject": "anatomy", "input": "x\\n\\nq\\nA. 1", "output": "A"}',
        1,
    ),
    "mgsm/mgsm_de.tsv": ("mgsm_cot", "de", "test", "Frage\t3\nFrage\tdrei", 1),
    "gsm8k/test.jsonl": (
        "gsm8k_cot", "gsm8k", "test", '{"question": "q", "answer": "12"}', 0,
    ),
    "aqua/test.json": (
        "aqua_cot", "aqua", "test",
        '{"question": "q", "options": ["A)1", "B)2"], "correct": "A"}', 0,
    ),
    "strategyqa/dev.json": (
        "strategyqa_cot", "strategyqa", "validation", '[{"question": "q", "answer": "maybe"}]', 0,
    ),
    "tydiqa/dev/korean_tydiqa_dev.json": (
        "tydiqa", "ko", "validation",
        '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", '
        '"answers": []}]}]}]}', 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", BAD)
def test_a_malformed_row_is_named(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    name, subtask, split, text, row = BAD[file]
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=rf"{Path(file).name}: row {row} \(from 0\)"):
        get_protocol(name).read(subtask, split)


@pytest.mark.parametrize(
    ("file", "text", "subtask", "name"),
    [
        ("bbh/bbh/snarks.json", "[]", "snarks", "bbh_direct"),
        ("bbh/bbh/snarks.json", "{", "snarks", "bbh_direct"),
        ("mmlu/val/zero_shot_mmlu_val.jsonl", "[]", "anatomy", "mmlu_direct"),
        ("mmlu/val/zero_shot_mmlu_val.jsonl", "{}", "anatomy", "mmlu_direct"),
        ("mgsm/mgsm_de.tsv", "Frage", "de", "mgsm_cot"),
        ("strategyqa/dev.json", "{}", "strategyqa", "strategyqa_cot"),
        ("tydiqa/dev/korean_tydiqa_dev.json", "[]", "ko", "tydiqa"),
    ],
)
def test_a_file_of_another_kind_is_named(
    file: str, text: str, subtask: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    definition = get_protocol(name)
    with pytest.raises(SourceError, match=Path(file).name):
        definition.read(subtask, definition.split)


@pytest.mark.parametrize(
    ("file", "text", "name", "subtask"),
    [
        ("bbh/cot-prompts/snarks.txt", "canary\n-----\nNo exemplar", "bbh_cot", "snarks"),
        ("mmlu/mmlu-cot.json", '{"virology": "x"}', "mmlu_cot", "anatomy"),
        ("mmlu/mmlu-cot.json", '{"anatomy": "x\\n\\nQ: y"}', "mmlu_cot", "anatomy"),
        ("mgsm/exemplars.json", '{"MGSM_EXEMPLARS": {"de": {"1": {"q": "x"}}}}', "mgsm_cot", "de"),
    ],
)
def test_malformed_exemplars_are_named(
    file: str,
    text: str,
    name: str,
    subtask: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    definition = get_protocol(name)
    item = definition.read(subtask, definition.split)[0]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=Path(file).name):
        definition.prompt(subtask, item)


def test_a_file_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    file = tmp_path / "mgsm" / "mgsm_de.tsv"
    file.parent.mkdir()
    file.write_text("Eins?\t1\n", encoding="utf-8")
    assert [item.answer for item in mgsm.read("de", "test")] == ["1"]
    file.write_text("Zwei?\t2\nDrei?\t3\n", encoding="utf-8")
    assert [item.answer for item in mgsm.read("de", "test")] == ["2", "3"]
