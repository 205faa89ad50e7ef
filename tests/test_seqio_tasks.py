"""Our definitions through SeqIO: the same order, the same texts, the same token ids."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from flan_jax import seqio_tasks, tasks
from flan_jax.data.examples import ExampleMaker, encode_with_eos
from flan_jax.data.schedule import Draw, Schedule
from flan_jax.data.vocabulary import SentencePieceVocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.mixing import get_mixture, register_mixture
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import render
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, get_task, register_task

pytestmark = pytest.mark.slow  # importing SeqIO takes about 8 s
# Long enough for one exemplar: without any, a few-shot prompt is a zero-shot one.
LENGTHS = {"inputs": 200, "targets": 24}
COLOURS = ["red", "blue", "green", "white"]
TEMPLATES = """
templates:
- {inputs: "What colour has number {{ a }}?{{ options }}", targets: "{{ answer }}"}
- {inputs: "Say which: {{ a }} is painted", targets: "in {{ answer }}"}
"""


def _colour(draws: Draws) -> dict:
    options = draws.sample(COLOURS, 3)
    return {"a": str(draws.below(10**6)), "options": options, "answer": draws.choice(options)}


def _sum(draws: Draws) -> dict:
    a = draws.below(10**6)
    return {"a": str(a), "answer": f"ﬁ {a + 1} ½ naïve"}  # characters that are normalised


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> SentencePieceVocabulary:
    """A tiny vocabulary with 10 sentinels, trained here."""
    draws = Draws("sentences")
    words = "what colour has number say which is painted in red blue green white options".split()
    lines = [
        f"{draws.choice(words)} {draws.choice(words)} {draws.below(10**6)}" for _ in range(2000)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=120, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("vocabulary") / "tiny.model"
    path.write_bytes(model.getvalue())
    return SentencePieceVocabulary(str(path), 10)


@pytest.fixture(autouse=True)
def _registries(empty_registries, monkeypatch, tmp_path):
    """Empty registries, ours and SeqIO's, with tasks of 23 rows, 7 rows and without end."""
    import seqio

    for module, name in (
        (seqio_tasks, "_TASKS"),
        (seqio_tasks, "_MIXTURES"),
        (seqio.TaskRegistry, "_REGISTRY"),
        (seqio.MixtureRegistry, "_REGISTRY"),
    ):
        monkeypatch.setattr(module, name, {})
    path = tmp_path / "templates.yaml"
    path.write_text(TEMPLATES, encoding="utf-8")
    for name, generate, size in (
        ("colour", _colour, 23),
        ("sums", _sum, None),
        ("few", _colour, 7),
    ):
        source = ProceduralSource(name, generate, {"train": size, "validation": 12})
        register_task(
            TaskDefinition(name, "g", "c", source, path, "none", has_options=generate is _colour)
        )


def _read(provider, count=None, split="train", **kwargs) -> list[dict]:
    dataset = provider.get_dataset(LENGTHS, split, **kwargs)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def _maker(name, vocabulary, seed, split="train", **kwargs) -> ExampleMaker:
    policy = FewShotPolicy(max_tokens=LENGTHS["inputs"])
    mixture = dataclasses.replace(get_mixture(name), **kwargs)
    return ExampleMaker(mixture, vocabulary, vocabulary, LENGTHS, seed, split, policy)


def _assert_same_tokens(found: list[dict], maker: ExampleMaker, draws: list[Draw]):
    assert len(found) == len(draws)
    for example, draw in zip(found, draws, strict=True):
        ours, text = maker.tokenized(draw), maker.example(draw)
        assert example["inputs"].dtype == example["targets"].dtype == np.int32
        assert example["inputs"].tolist() == ours.inputs.tolist()
        assert example["targets"].tolist() == ours.targets.tolist()
        assert example["inputs_pretokenized"].decode() == text.inputs
        assert example["targets_pretokenized"].decode() == text.targets
        assert (example["index"], example["epoch"]) == (draw.index, draw.epoch)
        assert (example["task"].decode(), example["split"].decode()) == (text.task, text.split)
        assert (example["variant"].decode(), example["template"]) == (text.variant, text.template)
        assert [option.decode() for option in example["options"]] == list(text.options)
        assert example["answer"].decode() == text.answer


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("name, size", [("colour", 23), ("sums", None)])
def test_seqio_reads_the_reader_s_examples_in_its_order(vocabulary, name, size, shuffle):
    task = seqio_tasks.register(name, vocabulary)
    found = _read(task, 60, shuffle=shuffle, seed=11, num_epochs=3)
    schedule = Schedule({name: 1.0}, {name: size}, 11, shuffle)
    _assert_same_tokens(
        found, _maker(name, vocabulary, 11), [schedule.draw(name, count) for count in range(60)]
    )
    assert size is None or {draw["epoch"] for draw in found} == {0, 1, 2}


@pytest.mark.parametrize("variant", ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"])
def test_each_variant_is_a_task(vocabulary, variant):
    import seqio

    seqio_tasks.register("colour", vocabulary)
    found = _read(seqio.TaskRegistry.get(f"colour_{variant}"), split="validation", shuffle=False)
    maker = _maker("colour", vocabulary, 0, "validation", variants={variant: 1.0})
    _assert_same_tokens(found, maker, [Draw(0, i, 0) for i in range(12)])
    assert {example["variant"].decode() for example in found} == {variant}
    assert any(len(example["inputs"]) > 60 for example in found) or variant.startswith("zs")


def test_few_shot_prompts_are_kept_within_the_inputs_asked_for(vocabulary):
    seqio_tasks.register("colour", vocabulary, few_shot=FewShotPolicy(4, 4))
    import seqio

    task = seqio.TaskRegistry.get("colour_fs_opt")
    for length in (96, 160, 400):
        for example in task.get_dataset({"inputs": length, "targets": 24}, "validation"):
            text = example["inputs_pretokenized"].numpy().decode()
            # Nothing was cut off: the prompt got shorter by whole exemplars.
            expected = encode_with_eos(vocabulary, text, 10**6)
            assert example["inputs"].numpy().tolist() == expected.tolist()
    policy = FewShotPolicy(4, 4, max_tokens=160)
    example = render(
        get_task("colour"), "validation", 3, seed=0, variant="fs_opt", few_shot=policy,
        count_tokens=lambda text: len(vocabulary.encode(text)) + 1,
    )  # fmt: skip
    dataset = task.get_dataset({"inputs": 160, "targets": 24}, "validation", shuffle=False)
    found = list(dataset.as_numpy_iterator())[3]["inputs_pretokenized"].decode()
    assert found == example.inputs


@pytest.mark.parametrize("size, name", [(23, "colour"), (None, "sums")])
def test_shards_divide_the_rows(vocabulary, size, name):
    import seqio

    task = seqio_tasks.register(name, vocabulary)
    count = 12 if size is None else None
    whole = _read(task, 36 if size is None else None, seed=2, num_epochs=2)
    shards = [
        _read(task, count, seed=2, num_epochs=2, shard_info=seqio.ShardInfo(i, 3)) for i in range(3)
    ]
    key = lambda e: (int(e["index"]), int(e["epoch"]), e["inputs"].tobytes())  # noqa: E731
    together = Counter(key(e) for shard in shards for e in shard)
    assert together == Counter(key(e) for e in whole)
    assert set(together.values()) == {1}


def test_a_mixture_is_flat_with_our_proportions(vocabulary):
    register_mixture("inner", {"colour": 1, "sums": 3})
    register_mixture("outer", {"inner": 2, "few": 1})
    mixture = seqio_tasks.register("outer", vocabulary)
    assert {task.name for task in mixture.tasks} == {"colour", "sums", "few"}
    assert not mixture._sub_mixtures
    expected = get_mixture("outer").proportions()
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == pytest.approx(expected)
    found = _read(mixture, 900, seed=0)
    assert all(set(example) == {"inputs", "targets"} for example in found)
    longest = max(len(example["inputs"]) for example in found)
    assert longest <= LENGTHS["inputs"]


def test_a_mixture_s_examples_are_its_tasks_own(vocabulary):
    register_mixture("m", ["colour", "few"])
    mixture = seqio_tasks.register("m", vocabulary)
    dataset = mixture.get_dataset(LENGTHS, seed=4, passthrough_features=["task", "index", "epoch"])
    makers = {name: _maker(name, vocabulary, 4) for name in ("colour", "few")}
    for example in itertools.islice(dataset.as_numpy_iterator(), 80):
        draw = Draw(0, int(example["index"]), int(example["epoch"]))
        ours = makers[example["task"].decode()].tokenized(draw)
        assert example["inputs"].tolist() == ours.inputs.tolist()
        assert example["targets"].tolist() == ours.targets.tolist()


def test_a_mixture_s_own_policy_of_variants_is_kept_apart(vocabulary):
    import seqio

    register_mixture("m", ["colour", "sums"], variants={"zs_opt": 3.0, "zs_noopt": 1.0})
    mixture = seqio_tasks.register("m", vocabulary)
    # Without options both are the same, and a variant alone is a task of its own.
    assert {task.name for task in mixture.tasks} == {"m:colour", "sums_zs_noopt"}
    variants = {e["variant"].decode() for e in _read(seqio.TaskRegistry.get("m:colour"))}
    assert variants == {"zs_opt", "zs_noopt"}
    register_mixture("one", ["colour", "sums"], variants={"zs_opt": 1.0})
    names = {task.name for task in seqio_tasks.register("one", vocabulary).tasks}
    assert names == {"colour_zs_opt", "sums_zs_noopt"}
    own = {"zs_opt": 2.0, "zs_noopt": 2.0, "fs_opt": 2.0, "fs_noopt": 2.0}
    register_mixture("alike", ["colour", "sums"], variants=own)
    assert {task.name for task in seqio_tasks.register("alike", vocabulary).tasks} == {
        "colour",
        "sums",
    }
    plain = _read(seqio_tasks.register("colour", vocabulary))
    assert {e["variant"].decode() for e in plain} >= {"fs_opt", "zs_noopt"}


def test_registering_again_gives_the_same(vocabulary):
    register_mixture("m", ["colour", "sums"])
    assert seqio_tasks.register("m", vocabulary) is seqio_tasks.register("m", vocabulary)
    assert seqio_tasks.register("colour", vocabulary) is seqio_tasks.register("colour", vocabulary)


def test_names_that_seqio_has_otherwise_are_refused(vocabulary):
    import seqio

    seqio_tasks.register("colour", vocabulary)
    other = SentencePieceVocabulary(vocabulary.sentencepiece_model_file, 0)
    with pytest.raises(UserError, match="SeqIO has a task 'colour_zs_opt' already"):
        seqio_tasks.register("colour", other)
    with pytest.raises(UserError, match="another definition, vocabulary or few-shot policy"):
        seqio_tasks.register("colour", vocabulary, few_shot=FewShotPolicy(2, 2))
    source = seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"])
    seqio.TaskRegistry.add("sums", source, {})
    with pytest.raises(UserError, match="SeqIO has a task 'sums' already"):
        seqio_tasks.register("sums", vocabulary)


def test_unknown_names_get_a_suggestion(vocabulary):
    with pytest.raises(tasks.UnknownTaskError, match="'colours'; did you mean 'colour'"):
        seqio_tasks.register("colours", vocabulary)


def test_seqio_s_evaluation_scores_with_our_metrics(vocabulary):
    task = seqio_tasks.register("colour", vocabulary)
    examples = _read(task, split="validation", shuffle=False)
    targets = [
        task.postprocess_fn(e["targets_pretokenized"].decode(), example=e, is_target=True)
        for e in examples
    ]
    right = [task.postprocess_fn(e["targets_pretokenized"].decode(), example=e, is_target=False)
             for e in examples]  # fmt: skip
    (metric,) = task.predict_metric_fns
    assert metric(targets, right) == {"exact_match": 1.0}
    half = [text if i % 2 else "no such colour" for i, text in enumerate(right)]
    assert metric(targets, half) == {"exact_match": 0.5}


def test_seqio_s_packing_converter_takes_our_tasks(vocabulary):
    import seqio

    register_mixture("m", ["colour", "sums"])
    seqio_tasks.register("m", vocabulary)
    dataset = seqio.get_dataset(
        "m", {"inputs": 192, "targets": 48}, seqio.EncDecFeatureConverter(pack=True), shuffle=True,
        num_epochs=None, seed=1,
    )  # fmt: skip
    row = next(dataset.as_numpy_iterator())
    assert row["encoder_segment_ids"].max() > 1
    assert row["decoder_target_tokens"].shape == (48,)


def test_real_text_gives_native_ids_with_t5_s_vocabulary(test_data, tmp_path):
    vocabulary = SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 100)
    path = tmp_path / "plain.yaml"
    path.write_text('templates: [{inputs: "{{ question }}", targets: "{{ answer }}"}]')
    lines = (test_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    # Two that tf_text splits otherwise than SentencePiece, among others.
    ties = [line for line in lines if "119,666 fewer" in line or "MegaCorp's total daily" in line]
    assert len(ties) == 2
    rows = [json.loads(line) for line in [*ties, *lines[:300]]]

    class Rows:
        kind = "rows"

        def describe(self):
            return "rows"

        def splits(self):
            return ("train",)

        def num_examples(self, split):
            return len(rows)

        def row(self, split, index):
            return rows[index]

    register_task(TaskDefinition("gsm", "g", "c", Rows(), path, "MIT"))
    seqio_tasks.register("gsm", vocabulary)
    import seqio

    task = seqio.TaskRegistry.get("gsm_zs_noopt")
    lengths = {"inputs": 512, "targets": 512}
    for example in task.get_dataset(lengths, shuffle=False).as_numpy_iterator():
        row = rows[example["index"]]
        for feature, field in (("inputs", "question"), ("targets", "answer")):
            expected = encode_with_eos(vocabulary, row[field].strip(), 512)
            assert example[feature].tolist() == expected.tolist()


def test_the_module_alone_loads_neither_tensorflow_nor_seqio():
    code = (
        "import sys, flan_jax.seqio_tasks\n"
        "print([m for m in ('seqio', 'tensorflow') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent,
    ).stdout  # fmt: skip
    assert printed == "[]\n"
