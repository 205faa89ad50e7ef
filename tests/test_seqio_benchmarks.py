"""Benchmarks as SeqIO tasks, through SeqIO's own evaluator."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.data.vocabulary import SentencePieceVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.benchmarks import ProtocolDefinition, get_protocol, known_protocols
from flan_jax.seqio_benchmarks import register_benchmark_tasks, register_benchmarks, seqio_name
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE

pytestmark = pytest.mark.slow  # importing SeqIO takes about 8 s


@pytest.fixture
def data(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
    return test_data


@pytest.fixture(scope="module")
def seqio():
    import seqio

    import flan_jax.mixtures  # noqa: F401

    return seqio


@pytest.fixture(scope="module")
def vocabulary(test_data: Path) -> SentencePieceVocabulary:
    """T5's, by its own path: what is registered by default looks where the data folder was."""
    return SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 100)


@pytest.fixture
def registered(seqio, vocabulary, data) -> None:
    register_benchmarks(vocabulary)


def evaluate(seqio, definition: ProtocolDefinition, subtask: str, **functions) -> dict[str, float]:
    name = seqio_name(definition, subtask)
    evaluator = seqio.Evaluator(
        name, seqio.EncDecFeatureConverter(pack=False), eval_split=definition.split
    )
    metrics, _ = evaluator.evaluate(compute_metrics=True, **functions)
    return metrics.result()[name]


def echo(offset: int = 0):
    """A model that writes the targets; beginning with `offset`, every fourth is another's."""

    def predict(dataset):
        rows = list(dataset.as_numpy_iterator())
        targets = [row["decoder_target_tokens"].tolist() for _, row in rows]
        wrong = next(t for t in targets if t != targets[0])
        return [
            (int(i), wrong if offset and number % 4 == 0 and targets[0] == target else target)
            for number, ((i, _), target) in enumerate(zip(rows, targets, strict=True))
        ]

    return predict


def test_all_protocols_are_there_by_importing_the_mixtures(seqio):
    names = set(seqio.TaskRegistry.names())
    for variants in known_protocols().values():
        for definition in variants.values():
            subtasks = (*definition.subtasks, *definition.extra_subtasks)
            assert {seqio_name(definition, subtask) for subtask in subtasks} <= names
            mixture = seqio.get_mixture_or_task(seqio_name(definition))
            assert {task.name for task in mixture.tasks} == {
                seqio_name(definition, subtask) for subtask in definition.subtasks
            }
    assert seqio_name(get_protocol("bbh_cot"), "snarks") == "eval.bbh_cot:snarks"
    assert "eval.bbh_cot.lm_eval:snarks" in names and "eval.mgsm_cot:en" in names


@pytest.mark.parametrize(
    ("name", "subtask"),
    [("bbh_direct", "snarks"), ("mmlu_cot", "anatomy"), ("aqua_direct", "aqua")],
)
def test_right_answers_score_100(seqio, registered, name: str, subtask: str):
    definition = get_protocol(name)
    scores = evaluate(seqio, definition, subtask, predict_fn=echo())
    assert scores == dict.fromkeys(definition.metrics, 100.0)


def test_what_the_vocabulary_cannot_write_is_wrong(seqio, registered, vocabulary):
    definition = get_protocol("tydiqa")
    scores = evaluate(seqio, definition, "sw", predict_fn=echo())
    answers = [item.answer for item in definition.read("sw", "validation")]
    same = [vocabulary.decode(vocabulary.encode(a)).split() == a.split() for a in answers]
    assert scores["exact_match"] == pytest.approx(100 * sum(same) / len(same))
    assert 98 < scores["exact_match"] <= scores["squad_em"] <= scores["squad_f1"] < 100


def test_wrong_answers_count_by_our_rule(seqio, registered):
    definition = get_protocol("strategyqa_direct")
    score = evaluate(seqio, definition, "strategyqa", predict_fn=echo(1))["option_match"]
    items = definition.read("strategyqa", "validation")
    changed = sum(i % 4 == 0 and item.answer == items[0].answer for i, item in enumerate(items))
    assert score == pytest.approx(100 * (1 - changed / len(items)))


def test_inputs_are_the_whole_prompt(seqio, registered, vocabulary):
    definition = get_protocol("bbh_cot")
    task = seqio.TaskRegistry.get("eval.bbh_cot:snarks")
    rows = task.get_dataset(sequence_length=None, split="test", shuffle=False).as_numpy_iterator()
    for item, row in zip(definition.read("snarks", "test"), rows, strict=True):
        prompt = definition.prompt("snarks", item)
        assert row["inputs_pretokenized"].decode() == prompt
        if item.index < 3:
            assert row["inputs"].tolist() == [*vocabulary.encode(prompt), 1]
        assert row["targets_pretokenized"].decode() == item.answer


@pytest.mark.parametrize("right", [True, False])
def test_ranked_options_are_judged_by_likelihood(seqio, registered, right: bool):
    definition = get_protocol("mmlu_direct", "lm_eval")
    items = definition.read("anatomy", "test")

    def score(dataset):
        rows = list(dataset.as_numpy_iterator())
        assert len(rows) == 4 * len(items)
        assert all(len(row["decoder_target_tokens"]) <= 2 for _, row in rows)
        gold = [item.answer == option for item in items for option in item.options]
        return [(int(i), 0.0 if gold[i] is right else -1.0 - i % 4) for i, _ in rows]

    (value,) = evaluate(seqio, definition, "anatomy", score_fn=score).values()
    assert value == (100.0 if right else 0.0)


def test_another_vocabulary_takes_the_place(seqio, registered, vocabulary, test_data: Path):
    definition = get_protocol("aqua_direct")
    name = seqio_name(definition, "aqua")
    before = seqio.TaskRegistry.get(name)
    register_benchmarks(vocabulary)
    assert seqio.TaskRegistry.get(name) is before
    other = SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 0)
    register_benchmark_tasks(definition, other)
    for task in (
        seqio.TaskRegistry.get(name),
        *seqio.MixtureRegistry.get("eval.aqua_direct").tasks,
    ):
        assert task is not before
        assert task.output_features["inputs"].vocabulary.vocab_size == 32_000


def test_a_name_of_others_is_left_alone(
    seqio, registered, vocabulary, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flan_jax.seqio_benchmarks._REGISTERED", {})
    with pytest.raises(UserError, match="made by another module"):
        register_benchmark_tasks(get_protocol("aqua_direct"), vocabulary)
