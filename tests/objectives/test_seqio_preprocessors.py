"""Objectives under SeqIO: our tasks give our reader's ids, others all of their texts."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from flan_jax import seqio_tasks
from flan_jax.data.examples import ExampleMaker
from flan_jax.data.schedule import Schedule
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, register_mixture
from flan_jax.objectives import CausalLM, PrefixLM, SpanCorruption, seqio_preprocessors
from flan_jax.objectives.ul2 import UL2, UL2R
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task
from tests.objectives.test_reading import TEMPLATES
from tests.objectives.texts import reconstruct

pytestmark = pytest.mark.slow  # importing SeqIO takes about 8 s
VOCABULARY = ByteVocabulary(100)
LENGTHS = {"inputs": 96, "targets": 64}
TEXTS = [" ".join(str(number * k) for number in range(k)) for k in range(1, 60)]


@pytest.fixture(autouse=True)
def _registries(empty_registries, monkeypatch, tmp_path):
    """Registries, ours and SeqIO's, with `passages` and the mixture `text` of it alone."""
    import seqio

    for module, name in (
        (seqio_tasks, "_TASKS"),
        (seqio_tasks, "_MIXTURES"),
        (seqio.TaskRegistry, "_REGISTRY"),
        (seqio.MixtureRegistry, "_REGISTRY"),
    ):
        monkeypatch.setattr(module, name, {})
    path = tmp_path / "text.yaml"
    path.write_text(TEMPLATES, encoding="utf-8")

    def passage(draws: Draws) -> dict[str, str]:
        words = [f"{draws.below(100)}" for _ in range(draws.between(1, 200))]
        return {"text": " ".join(words), "answer": ""}

    source = ProceduralSource("text", passage, {"train": 40, "validation": 10})
    register_task(TaskDefinition("passages", "g", "c", source, path, "none"))
    register_mixture("text", ["passages"], variants={"zs_noopt": 1.0}, description="passages")


@pytest.mark.parametrize(
    ("objective", "shuffle"),
    [(SpanCorruption(), False), (PrefixLM(), True), (UL2, False), (UL2R, True)],
)
def test_our_tasks_give_the_reader_s_ids(objective, shuffle):
    """Three epochs of 40 rows for each objective, ids and order: 480 examples in all."""
    import seqio

    seqio_tasks.register("text", VOCABULARY, objective=objective)
    task = seqio.TaskRegistry.get("passages_zs_noopt")
    dataset = task.get_dataset(LENGTHS, "train", shuffle=shuffle, seed=5, num_epochs=3)
    mixture = MixtureDefinition("text", {"passages": 1.0}, {"zs_noopt": 1.0})
    maker = ExampleMaker(mixture, VOCABULARY, VOCABULARY, LENGTHS, 5, objective=objective)
    schedule = Schedule({"passages": 1.0}, {"passages": 40}, 5, shuffle)
    found = list(dataset.as_numpy_iterator())
    assert len(found) == 120
    for count, example in enumerate(found):
        draw = schedule.draw("passages", count)
        assert (example["index"], example["epoch"]) == (draw.index, draw.epoch)
        ours = maker.tokenized(draw)
        assert example["inputs"].dtype == example["targets"].dtype == np.int32
        assert example["inputs"].tolist() == ours.inputs.tolist()
        assert example["targets"].tolist() == ours.targets.tolist()


def test_t5x_s_packing_converter_takes_a_mixture_of_ours():
    import seqio

    seqio_tasks.register("text", VOCABULARY, objective=UL2)
    converter = seqio.EncDecFeatureConverter(pack=True)
    dataset = seqio.get_dataset("text", LENGTHS, converter, "train", shuffle=False)
    row = next(dataset.as_numpy_iterator())
    assert row["encoder_input_tokens"].shape == (96,)
    assert VOCABULARY.decode(row["encoder_input_tokens"][:5].tolist()) in (UL2.modes or ())


def test_another_objective_needs_another_name():
    seqio_tasks.register("text", VOCABULARY, objective=UL2)
    seqio_tasks.register("text", VOCABULARY, objective=UL2)
    with pytest.raises(UserError, match="or with another objective"):
        seqio_tasks.register("text", VOCABULARY, objective=UL2R)
    with pytest.raises(UserError, match="has none to spare"):
        seqio_tasks.register("passages", ByteVocabulary(0), objective=UL2)


def _foreign(*preprocessors, features=("inputs", "targets"), vocabulary=VOCABULARY):
    """A SeqIO task of TEXTS that knows nothing of us but the preprocessors."""
    import seqio
    import tensorflow as tf

    def texts(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"text": TEXTS})

    key_map = {"inputs": None, "targets": "text"}
    return seqio.TaskRegistry.add(
        f"foreign{len(seqio.TaskRegistry.names())}",
        seqio.FunctionDataSource(texts, splits=["train"]),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map=key_map),
            seqio.preprocessors.tokenize,
            *preprocessors,
            seqio.preprocessors.append_eos,
        ],
        output_features={name: seqio.Feature(vocabulary.to_seqio()) for name in features},
    )


def _read(task, seed=1, lengths=LENGTHS) -> list[dict]:
    dataset = task.get_dataset(lengths, "train", shuffle=False, seed=seed)
    return list(dataset.as_numpy_iterator())


PREPROCESSORS = [
    (seqio_preprocessors.span_corruption, 0),
    (seqio_preprocessors.prefix_lm, 0),
    (seqio_preprocessors.ul2, 5),
    (seqio_preprocessors.ul2r, 5),
]


@pytest.mark.parametrize(
    ("preprocessor", "mode"), PREPROCESSORS, ids=["span_corruption", "prefix_lm", "ul2", "ul2r"]
)
def test_a_foreign_task_s_texts_are_read_whole(preprocessor, mode):
    """Every text of 59, piece by piece in its order; SeqIO's seed decides what is drawn."""
    task = _foreign(preprocessor)
    found = _read(task)
    assert len(found) > len(TEXTS)
    whole: list[int] = []
    for example in found:
        inputs, targets = example["inputs"].tolist(), example["targets"].tolist()
        assert len(inputs) <= 96 and len(targets) <= 64
        assert inputs.pop() == targets.pop() == VOCABULARY.eos_id
        whole += reconstruct(inputs[mode:], targets, VOCABULARY.sentinels)
    assert whole == VOCABULARY.encode("".join(TEXTS))
    again, other = _read(task), _read(task, seed=2)
    same = [(a["inputs"].tolist(), a["targets"].tolist()) for a in again]
    assert same == [(a["inputs"].tolist(), a["targets"].tolist()) for a in found]
    assert [a["inputs"].tolist() for a in other] != [a for a, _ in same]


def test_targets_alone_for_a_decoder():
    denoise = functools.partial(seqio_preprocessors.denoise, objective=CausalLM())
    found = _read(_foreign(denoise, features=("targets",)), lengths={"targets": 64})
    assert all(set(example) == {"targets"} and len(example["targets"]) <= 64 for example in found)
    texts = [token for example in found for token in example["targets"][:-1].tolist()]
    assert texts == VOCABULARY.encode("".join(TEXTS))


@pytest.mark.parametrize(
    ("arguments", "lengths", "message"),
    [
        ({"text_feature": "body"}, LENGTHS, "no feature 'body' to denoise, only .*targets"),
        ({}, {"targets": 64}, "and the length of each"),
        ({}, {"inputs": 3, "targets": 1}, "leave no room for SpanCorruption"),
    ],
)
def test_what_cannot_be_is_refused(arguments, lengths, message):
    preprocessor = functools.partial(seqio_preprocessors.span_corruption, **arguments)
    with pytest.raises(UserError, match=message):
        _read(_foreign(preprocessor), lengths=lengths)


def test_a_vocabulary_without_sentinels_is_refused():
    task = _foreign(seqio_preprocessors.ul2, vocabulary=ByteVocabulary(0))
    with pytest.raises(UserError, match="has none to spare"):
        _read(task)
