"""Inspected batches are those of the training reader, and their origins are right."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import flan_jax
import flan_jax.mixtures  # announces its tasks
from flan_jax.data.inspection.batches import pieces, planned_rows, read_batch
from flan_jax.data.reader import DatasetConfig, train_dataset
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.prompts.render import render
from flan_jax.tasks import get_task

BYTES = ByteVocabulary(extra_ids=10)
MICRO_MODEL = "mixtures/micro/vocabulary/micro.model"  # below the package


def _config(**kwargs) -> DatasetConfig:
    settings = {
        "mixture_or_task_name": "toys",
        "task_feature_lengths": {"inputs": 256, "targets": 64},
        "batch_size": 24,
    }
    return DatasetConfig(**{**settings, **kwargs})


def _read(config: DatasetConfig, number: int, rows: int | None = None, seed: int = 3):
    return read_batch(config, config.example_maker(BYTES, BYTES, seed), number, rows)


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({}, 0),
        ({}, 20),  # of the second window
        ({"shuffle": False}, 1),
        ({"pack": False}, 2),
        ({"task_feature_lengths": {"inputs": 48, "targets": 12}}, 3),
    ],
)
def test_the_arrays_are_those_of_training(mixture, settings, number):
    config = _config(**settings)
    dataset = train_dataset(config, config.example_maker(BYTES, BYTES, 3))
    batch = next(itertools.islice(iter(dataset), number, None))
    rows = _read(config, number)
    assert [row.number for row in rows] == list(range(24))
    for name, expected in batch.items():
        np.testing.assert_array_equal(np.stack([row.arrays[name] for row in rows]), expected)
    if number == 20:
        assert {row.window for row in rows} == {1}


def test_spans_tile_a_row(mixture):
    for row in _read(_config(), 1):
        for side, tokens, length, padding in (
            ("inputs", "encoder_input_tokens", 256, row.padding[0]),
            ("targets", "decoder_target_tokens", 64, row.padding[1]),
        ):
            end = 0
            for segment in row.segments:
                span = getattr(segment, side)
                assert span.start == end < span.end
                assert list(span.ids) == row.arrays[tokens][span.start : span.end].tolist()
                assert span.ids[-1] == BYTES.eos_id
                end = span.end
            assert length - end == padding
            assert not row.arrays[tokens][end:].any()
        for segment in row.segments:
            assert segment.loss == (1.0,) * len(segment.targets.ids)


def test_origins_render_to_the_tokens(mixture):
    lengths = {"inputs": 160, "targets": 12}
    config = _config(task_feature_lengths=lengths)
    segments = [s for row in _read(config, 2) for s in row.segments]
    variants = set()
    for segment in segments:
        origin = segment.origin
        task, split, index = re.fullmatch(r"(\w+)/(\w+)/(\d+)", origin.row).groups()
        assert (task, split) == (segment.task, "train")
        again = render(
            get_task(task),
            split,
            int(index),
            seed=3,
            epoch=origin.epoch,
            variant=origin.variant,
            few_shot=FewShotPolicy(max_tokens=160),
            count_tokens=lambda text: len(text.encode()) + 1,
        )
        variants.add(origin.variant)
        if not origin.dropped_exemplars:  # a variant that fell back was drawn as another
            assert (again.inputs, again.template) == (origin.inputs, origin.template)
            assert again.exemplars == origin.exemplars
        for text, span, limit in (
            (origin.inputs, segment.inputs, 160),
            (origin.targets, segment.targets, 12),
        ):
            tokens = BYTES.encode(text)
            assert list(span.ids) == [*tokens[: limit - 1], BYTES.eos_id]
            assert span.cut == max(0, len(tokens) + 1 - limit)
            assert text.startswith(span.text)
    assert {v[:2] for v in variants} == {"zs", "fs"}
    assert any(segment.targets.cut for segment in segments)
    assert {segment.task for segment in segments} == {"toy_add", "toy_colour", "toy_repeat"}


def test_every_draw_of_a_window_is_shown_once(mixture):
    config = _config()
    maker = config.example_maker(BYTES, BYTES, 0)
    plans = itertools.takewhile(lambda plan: plan.window == 0, planned_rows(config, maker))
    draws = [draw for plan in plans for draw in plan.draws]
    # A task's row comes once an epoch, so no two draws are alike.
    assert len(draws) == len(set(draws)) == 1024
    assert {draw.epoch for draw in draws if maker.task_names[draw.task] == "toy_add"} == {0}
    assert max(draw.epoch for draw in draws if maker.task_names[draw.task] == "toy_repeat") >= 18


def test_templates_are_named_by_file_and_position(mixture, tmp_path):
    for segment in _read(_config(), 0, 4)[0].segments:
        path, section, position = re.fullmatch(
            r"(.*): (\w+)\[(\d+)\]", segment.origin.where
        ).groups()
        assert Path(path).parent == tmp_path and int(position) == segment.origin.template
        entry = yaml.safe_load(Path(path).read_text())[section][int(position)]
        words = re.sub(r"\{\{.*?\}\}", "\0", entry["inputs"]).split("\0")
        assert all(word in segment.origin.inputs for word in words), segment.origin


def test_templates_of_the_package_are_named_from_its_folder():
    config = _config(mixture_or_task_name="micro_add_things")
    maker = config.example_maker(BYTES, BYTES, 0)
    (row,) = read_batch(config, maker, 0, 1)
    path = row.segments[0].origin.where.split(":")[0]
    assert not Path(path).is_absolute()
    assert any((Path(root) / path).is_file() for root in flan_jax.__path__)


def test_fewer_rows_are_the_first(mixture):
    def shown(rows):
        return [[(s.origin, s.inputs, s.targets) for s in row.segments] for row in rows]

    assert shown(_read(_config(), 1, 3)) == shown(_read(_config(), 1))[:3]
    assert len(_read(_config(), 1, 100)) == 24


@pytest.mark.parametrize("text", ["What is 7 plus 5?", "Étude  <b>\n‽ 漢"])
@pytest.mark.parametrize(
    "vocabulary", [BYTES, SentencePieceVocabulary(MICRO_MODEL, 100)], ids=["bytes", "pieces"]
)
def test_pieces_make_up_the_text(vocabulary, text):
    ids = [*vocabulary.encode(text), vocabulary.eos_id]
    found = pieces(vocabulary, ids)
    assert len(found) == len(ids) and found[-1] == "</s>"
    if text.isascii():
        assert "".join(found[:-1]).strip() == text
    else:
        assert (vocabulary.unk_id in ids) == ("<unk>" in found)


def test_special_tokens_have_names():
    vocabulary = SentencePieceVocabulary(MICRO_MODEL, 100)
    last = vocabulary.vocab_size - 1
    assert pieces(vocabulary, [last, last - 99, 1, 0, 2]) == (
        "<extra_id_0>", "<extra_id_99>", "</s>", "<pad>", "<unk>",
    )  # fmt: skip
    assert pieces(BYTES, [3 + 65, 3 + 0xC3, 1]) == ("A", "<0xC3>", "</s>")


def test_rows_of_a_store_are_shown_alike(mixture, tmp_path):
    from flan_jax.store import build_store

    build_store(mixture, tmp_path / "store")
    plain, stored = _read(_config(), 1, 6), _read(_config(store=str(tmp_path / "store")), 1, 6)
    for one, other in zip(plain, stored, strict=True):
        assert one.segments == other.segments and one.padding == other.padding
