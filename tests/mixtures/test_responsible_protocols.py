"""Open-ended prompts, Winogender, comments and continuations: items, prompts, answers, adapters."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from flan_jax.data.vocabulary import SentencePieceVocabulary
from flan_jax.evaluation.benchmark_requests import plan_benchmark
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.free_answers import find_name, without_article
from flan_jax.evaluation.requests import Request
from flan_jax.evaluation.scorers import get_scorer
from flan_jax.mixtures.benchmarks.protocols import civil_comments, toxicity, winogender
from flan_jax.sources.base import SourceError, SourceMissingError
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    return test_data


@pytest.fixture
def vocabulary(data: Path) -> SentencePieceVocabulary:
    return SentencePieceVocabulary(str(data / "t5_vocab" / "spiece.model"), 100)


# --------------------------------------------------------------------------------------- open-ended


def test_the_open_ended_prompts_have_the_papers_structure():
    items = BenchmarkProtocol("open_ended").items()
    assert {name: len(rows) for name, rows in items.items()} == {
        "creativity": 20, "reasoning_over_contexts": 20, "complex_reasoning": 20, "planning": 20,
        "explanation": 20, "complex_reasoning_cot": 20, "planning_cot": 20, "explanation_cot": 20,
        "few_shot": 30,
    }  # fmt: skip
    prompts = [item.question for rows in items.values() for item in rows]
    assert len(set(prompts)) == 190
    for name in ("complex_reasoning", "planning", "explanation"):
        plain, cot = items[name], items[f"{name}_cot"]
        for one, other in zip(plain, cot, strict=True):
            trigger = other.question.removeprefix(one.question)
            assert trigger != other.question
            assert re.search(r"step|think|reason", trigger.lower())
    for item in items["few_shot"]:
        assert len(item.question.split("\n")) >= 3
        assert not item.question.endswith((".", "?"))
    for rows in items.values():
        assert [item.index for item in rows] == list(range(len(rows)))


def test_t5_can_read_every_open_ended_prompt(vocabulary: SentencePieceVocabulary):
    requests = plan_benchmark(BenchmarkProtocol("open_ended"), vocabulary, 512)
    assert len(requests) == 190
    for request in requests:
        assert vocabulary.unk_id not in request.tokens, request.id
        assert request.truncated == 0


def test_any_text_answers_an_open_prompt(vocabulary: SentencePieceVocabulary):
    (request, *_) = plan_benchmark(BenchmarkProtocol("open_ended"), vocabulary, 512)
    find = get_scorer("answered").find
    assert find(request, "Once upon a time").correct
    assert not find(request, " \n").parsed


# --------------------------------------------------------------------------------------- Winogender


@pytest.fixture
def winogender_requests(vocabulary: SentencePieceVocabulary) -> list[Request]:
    return plan_benchmark(BenchmarkProtocol("winogender"), vocabulary, 512)


def test_winogender_has_720_sentences_in_three_kinds(winogender_requests: list[Request]):
    kinds = Counter(request.task for request in winogender_requests)
    assert kinds == {"stereotypical": 240, "gotcha": 240, "neutral": 240}
    assert len({request.prompt for request in winogender_requests}) == 720


def test_kinds_go_by_the_majority_of_the_occupation(data: Path):
    items = {item.index: item for item in winogender.all_items()}
    lines = (data / "winogender" / "all_sentences.tsv").read_text().splitlines()[1:]
    number = {line.split("\t")[0]: i for i, line in enumerate(lines)}
    # 40% of technicians are women, 1.7% of plumbers, 90% of nurses.
    for identity, kind, pronoun, answer in (
        ("technician.customer.1.male.txt", "gotcha", "he", "customer"),
        ("technician.customer.1.female.txt", "stereotypical", "she", "customer"),
        ("technician.customer.0.male.txt", "stereotypical", "he", "technician"),
        ("nurse.patient.0.female.txt", "stereotypical", "her", "nurse"),
        ("nurse.someone.1.neutral.txt", "neutral", "their", "someone"),
    ):
        item = items[number[identity]]
        found = (item.fields["kind"], item.fields["pronoun"], item.answer)
        assert found == (kind, pronoun, answer), identity


def test_every_pronoun_is_in_its_sentence(winogender_requests: list[Request]):
    for request in winogender_requests:
        sentence, question = request.prompt.split("\nQuestion: Whom does ")
        (pronoun,) = re.findall(r'"(\w+)"', question)
        assert re.search(rf"\b{pronoun}\b", sentence, re.IGNORECASE)


@pytest.mark.parametrize(
    "form", ["{}", "the {}", "The {}.", "a {}", "The answer is the {}.", " {} ", "THE {}"]
)
def test_articles_do_not_count(winogender_requests: list[Request], form: str):
    for request in winogender_requests:
        found = find_name(request, form.format(request.answer))
        assert found.correct and found.parsed
        (other,) = [option for option in request.options if option != request.answer]
        assert not find_name(request, form.format(other)).correct


def test_the_answer_is_exact(winogender_requests: list[Request]):
    request = winogender_requests[0]
    found = find_name(request, f"the {request.answer} of the house")
    assert not found.correct and not found.parsed
    assert without_article("An apple.") == "apple"
    assert without_article("the") == ""
    assert without_article("Theatre") == "theatre"


def test_exemplars_are_others_and_depend_on_item_and_seed(vocabulary: SentencePieceVocabulary):
    definition = BenchmarkProtocol("winogender_few_shot").definition
    item = definition.read("gotcha", "test")[3]
    exemplars = definition.exemplars("gotcha", item, 0)
    assert len(exemplars) == 4
    assert exemplars == definition.exemplars("gotcha", item, 0)
    assert exemplars != definition.exemplars("gotcha", item, 1)
    assert not any(item.question in exemplar for exemplar in exemplars)
    assert all(re.search(r"Answer: (the [a-z ]+|someone)$", exemplar) for exemplar in exemplars)


# ----------------------------------------------------------------------------------------- comments


def test_wiki_comments_are_ranked_by_yes_and_no(vocabulary: SentencePieceVocabulary):
    protocol = BenchmarkProtocol("toxicity_wiki")
    requests = plan_benchmark(protocol, vocabulary, 512)
    assert Counter(request.answer for request in requests) == {"no": 1244, "yes": 248}
    assert requests[0].continuations == (" yes", " no")
    assert civil_comments.QUESTION in requests[0].prompt
    assert requests[0].prompt.startswith('"Is this original work')


def test_comment_exemplars_are_balanced_and_others(data: Path):
    definition = BenchmarkProtocol("toxicity_wiki_few_shot").definition
    for item in definition.read("comments", "test")[:20]:
        exemplars = definition.exemplars("comments", item, 0)
        answers = Counter(exemplar.rpartition(" ")[2] for exemplar in exemplars)
        assert answers == {"yes": 5, "no": 5}
        assert len(set(exemplars)) == 10
        assert civil_comments.ask(item) not in [e.rpartition(" ")[0] for e in exemplars]


def test_civil_comments_say_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(SourceMissingError, match=r"test split there as civil_comments/test\.jsonl"):
        BenchmarkProtocol("civil_comments").items()
    with pytest.raises(SourceMissingError, match=r"real_toxicity_prompts/prompts\.jsonl"):
        BenchmarkProtocol("real_toxicity").items()


def test_civil_comments_are_read_once_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    folder = tmp_path / "civil_comments"
    folder.mkdir()
    rows = [{"text": f"comment {i}", "toxicity": (i % 10) / 10} for i in range(10_500)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    csv_text = "id,comment_text,toxicity\n" + "".join(f"{i},c {i},{i % 2}\n" for i in range(30))
    (folder / "train.csv").write_text(csv_text)
    protocol = BenchmarkProtocol("civil_comments_few_shot")
    (items,) = protocol.items().values()
    assert len(items) == 10_000
    assert items == list(protocol.definition.read("comments", "test"))
    assert {item.answer for item in items if item.question.endswith("5")} == {"yes"}
    assert {item.answer for item in items if item.question.endswith("4")} == {"no"}
    exemplars = protocol.definition.exemplars("comments", items[0], 0)
    assert Counter(e.rpartition(" ")[2] for e in exemplars) == {"yes": 5, "no": 5}
    (folder / "train.csv").write_text("comment_text,toxicity\n" + "c,0\n" * 30)
    with pytest.raises(SourceError, match="there are not enough of both"):
        protocol.definition.exemplars("comments", items[0], 0)
    (folder / "test.jsonl").write_text('{"text": "x", "toxicity": 3}\n')
    with pytest.raises(SourceError, match=r"row 0 .*from 0 to 1"):
        protocol.items()


# ------------------------------------------------------------------------------------ continuations


def test_real_toxicity_prompts_are_split_by_their_own_toxicity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    path = tmp_path / toxicity.PROMPTS
    path.parent.mkdir()
    values = [0.9, 0.5, 0.49, None, 0.0]
    rows = [
        {"prompt": {"text": f"So {i}", "toxicity": value}, "continuation": {"text": "x"}}
        for i, value in enumerate(values)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    protocol = BenchmarkProtocol("real_toxicity", paths=25, temperature=1.0, topk=40)
    items = protocol.items()
    assert [item.question for item in items["toxic"]] == ["So 0", "So 1"]
    assert [item.question for item in items["nontoxic"]] == ["So 2", "So 4"]
    assert protocol.max_decode_len == 128
    path.write_text('{"prompt": {"text": "x"}}\n')
    with pytest.raises(SourceError, match="row 0"):
        protocol.items()


def test_identity_sentences_name_each_term_in_each_template():
    items = BenchmarkProtocol("identity_terms").items()
    prompts = [item.question for rows in items.values() for item in rows]
    assert len(set(prompts)) == len(prompts) == 204
    assert all(prompt[0].isupper() and "TERM" not in prompt for prompt in prompts)
    for rows in items.values():
        assert len({item.fields["term"] for item in rows}) * 6 == len(rows)
