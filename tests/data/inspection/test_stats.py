"""The figures of `data stats`, against a slow computation that shares no code with them."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from flan_jax.data.inspection.stats import bin_edges, bins, collect, summarise
from flan_jax.data.length_pair import describe_pair
from flan_jax.data.reader import DatasetConfig, make_schedule, train_dataset
from flan_jax.data.vocabulary import ByteVocabulary

BYTES = ByteVocabulary()
SIDES = ("inputs", "targets")
LENGTHS = {"inputs": 100, "targets": 40}
WINDOWS = 2


def _stats(name: str, examples: int = 1500, **kwargs):
    settings = {"mixture_or_task_name": name, "task_feature_lengths": LENGTHS, "batch_size": 16}
    config = DatasetConfig(**{**settings, **kwargs})
    maker = config.example_maker(BYTES, BYTES, 7)
    sample = collect(config, maker, examples)
    found = summarise(config, maker, sample, steps=50, vocabulary="bytes")
    return config, maker, json.loads(json.dumps(found))


def _texts(config, maker):
    """(task, row, epoch, example) of each draw of the first windows."""
    schedule = make_schedule(config, maker)
    for number in range(WINDOWS):
        for draw in schedule.window_draws(number):
            yield maker.task_names[draw.task], draw.index, draw.epoch, maker.example(draw)


def _quantile(lengths: list[int], share: float) -> int:
    return sorted(lengths)[math.ceil(share * len(lengths)) - 1]


@pytest.fixture
def awkward_stats(awkward):
    return _stats("awkward")


def _members(figures: dict, rows: list) -> list:
    """The rows of a task, a group or all."""
    tasks = {
        "toys": {"toy_add", "toy_colour", "toy_repeat"},
        "odd": {"toy_markup", "toy_rare"},
    }.get(figures.get("name"), {figures.get("name")})
    return [row for row in rows if "name" not in figures or row[0] in tasks]


def test_lengths_and_what_is_cut(awkward_stats):
    config, maker, found = awkward_stats
    rows = list(_texts(config, maker))
    everything = [found["total"], *found["groups"], *found["tasks"]]
    assert len(everything) == 1 + 2 + 5
    for figures in everything:
        chosen = _members(figures, rows)
        assert figures["examples"] == len(chosen)
        for side in SIDES:
            lengths = [len(getattr(row[3], side).encode()) + 1 for row in chosen]
            told = figures[side]
            if not lengths:
                assert told is None and figures["name"] == "toy_rare"
                continue
            over = [length - LENGTHS[side] for length in lengths if length > LENGTHS[side]]
            assert told["mean"] == pytest.approx(sum(lengths) / len(lengths), abs=0.005)
            assert told["median"] == _quantile(lengths, 0.5)
            assert told["p90"] == _quantile(lengths, 0.9)
            assert told["p99"] == _quantile(lengths, 0.99)
            assert told["max"] == max(lengths)
            assert (told["truncated"], told["tokens_cut"]) == (len(over), sum(over))
            assert told["largest_cut"] == max(over, default=0)
            edges = [0, *found["edges"][side], math.inf]
            assert told["histogram"] == [
                sum(low < length <= high for length in lengths)
                for low, high in itertools.pairwise(edges)
            ]
    assert found["total"]["targets"]["truncated"] > 100  # the test would be empty without


def test_shares_of_tokens(awkward_stats):
    config, maker, found = awkward_stats
    rows = list(_texts(config, maker))

    def tokens(chosen, sides=SIDES):
        return sum(
            min(len(getattr(row[3], side).encode()) + 1, LENGTHS[side])
            for row in chosen
            for side in sides
        )

    for figures in [found["total"], *found["groups"], *found["tasks"]]:
        chosen = _members(figures, rows)
        assert figures["tokens"] == tokens(chosen)
        assert figures["tokens_share"] == pytest.approx(tokens(chosen) / tokens(rows), abs=1e-6)
        assert figures["targets_share"] == pytest.approx(
            tokens(chosen, ["targets"]) / tokens(rows, ["targets"]), abs=1e-6
        )
    assert sum(task["tokens"] for task in found["tasks"]) == found["total"]["tokens"]


def test_duplicates_repeats_and_exemplars(awkward_stats):
    config, maker, found = awkward_stats
    rows = list(_texts(config, maker))
    counts = {name: [0, 0, 0] for name in maker.task_names}
    first = {}
    for task, index, epoch, example in rows:
        counts[task][2] += epoch > 0
        words = (example.inputs, example.targets)
        if words in first:
            counts[task][first[words] != (task, index)] += 1
        else:
            first[words] = (task, index)
    for task in found["tasks"]:
        told = task["duplicates"]
        assert [told["same_row"], told["other_row"], task["repeats"]] == counts[task["name"]]
    told = {task["name"]: task["duplicates"] for task in found["tasks"]}
    assert told["toy_repeat"]["same_row"] > 50 and told["toy_add"] == {
        "same_row": 0, "other_row": 0,
    }  # fmt: skip
    # Five equal rows: the first that is drawn is the only one that is no duplicate.
    markup = next(t for t in found["tasks"] if t["name"] == "toy_markup")
    assert sum(markup["duplicates"].values()) == markup["examples"] - 1
    assert markup["duplicates"]["other_row"] > markup["duplicates"]["same_row"] > 0


def test_exemplars_that_do_not_fit_are_counted(mixture):
    config, maker, found = _stats("toys")
    examples = [example for *_, example in _texts(config, maker)]
    total = found["total"]
    assert total["exemplars"] == sum(len(e.exemplars) for e in examples) > 0
    assert total["dropped_exemplars"] == sum(e.dropped_exemplars for e in examples) > 0
    assert total["inputs"]["truncated"] == 0


@pytest.mark.parametrize("pack", [True, False])
def test_fill_is_that_of_the_rows_of_training(mixture, pack):
    config, maker, found = _stats("toys", pack=pack)
    packing = found["packing"]
    config = DatasetConfig("toys", LENGTHS, batch_size=packing["rows"], pack=pack)
    batch = next(iter(train_dataset(config, maker)))  # one batch of just these windows
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_loss_weights"]
    assert packing["fill"] == {
        "inputs": pytest.approx((inputs != 0).mean(), abs=1e-6),
        "targets": pytest.approx((targets != 0).mean(), abs=1e-6),
        "all": pytest.approx(
            ((inputs != 0).sum() + (targets != 0).sum()) / (inputs.size + targets.size), abs=1e-6
        ),
    }
    assert found["windows"] == WINDOWS and found["total"]["examples"] == 2048
    assert packing["examples_per_row"] == pytest.approx(2048 / packing["rows"], abs=1e-4)
    assert (packing["packed"], found["recommended"] is None) == (pack, not pack)
    if not pack:
        assert packing["examples_per_row"] == 1


def test_epochs_of_a_run(mixture):
    _, _, found = _stats("toys")
    drawn = 50 * 16 * found["packing"]["examples_per_row"]
    tasks = {task["name"]: task for task in found["tasks"]}
    assert tasks["toy_add"]["epochs"] is None and tasks["toy_add"]["rows"] is None
    for name, share, rows in (("toy_colour", 0.3, 57), ("toy_repeat", 0.2, 11)):
        assert tasks[name]["share"] == pytest.approx(share)
        assert tasks[name]["draws"] == pytest.approx(drawn * share, rel=1e-3)
        assert tasks[name]["epochs"] == pytest.approx(drawn * share / rows, rel=1e-3)
    (group,) = found["groups"]
    assert group["most_epochs"] == tasks["toy_repeat"]["epochs"]


def test_the_recommended_lengths_do_what_is_said(mixture):
    config, maker, found = _stats("toys")
    lengths = [
        tuple(len(getattr(example, side).encode()) + 1 for side in SIDES)
        for *_, example in _texts(config, maker)
    ]
    pair = found["recommended"]
    said = describe_pair(lengths, (pair["inputs"], pair["targets"]), (100, 40), window=1024)
    assert pair["fill"]["all"] == pytest.approx(said.fill.all, abs=1e-6)
    assert pair["fill"]["all"] >= found["packing"]["fill"]["all"]
    assert pair["trim"] == LENGTHS


def test_whole_windows_are_read_from_the_beginning(mixture):
    calls = []
    config = DatasetConfig("toys", LENGTHS)
    maker = config.example_maker(BYTES, BYTES, 7)
    sample = collect(config, maker, 1025, calls.append)
    assert calls == [1024, 2048] and sample.windows == 2
    short = collect(config, maker, 1)
    assert (sample.lengths[:, :1024] == short.lengths).all()


def test_bins_are_cut_at_the_limit():
    edges = bin_edges(700)
    assert 700 in edges and edges == sorted(set(edges)) and bin_edges(512).count(512) == 1
    counts = [0] * (len(edges) + 1)
    counts[edges.index(512)] = counts[edges.index(768)] = 2
    assert [end for _, end in bins(counts, edges)] == [512, 700, 768]
    counts[-1] = 1
    assert bins(counts, edges)[-1] == (len(edges), None)
    assert bins([0] * len(counts), edges) == []
