"""UL2 and UL2R: shares, corruption rates and span lengths are the papers'; modes come first."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.objectives import MixtureOfDenoisers, PrefixLM, Room, SpanCorruption
from flan_jax.objectives.ul2 import UL2, UL2R

COUNT = 10_000
LENGTH = 512
VOCABULARY = ByteVocabulary(100)
ROOM = Room(511, 511, 1022, 10**6)
# Table 1 of arXiv 2205.05131: mode, mean span, corruption rate, share (equal, but for UL2R's).
# None is one span, however long the text.
TABLE_1 = [
    ("[NLU]", 3, 0.15, 1 / 7),
    ("[NLU]", 8, 0.15, 1 / 7),
    ("[NLG]", 3, 0.5, 1 / 7),
    ("[NLG]", 8, 0.5, 1 / 7),
    ("[NLG]", 64, 0.15, 1 / 7),
    ("[NLG]", 64, 0.5, 1 / 7),
    ("[S2S]", None, 0.25, 1 / 7),
]
# Section 3.3 of arXiv 2210.11399.
UL2R_TABLE = [
    ("[NLU]", 3, 0.15, 0.25),
    ("[NLG]", 32, 0.15, 0.125),
    ("[NLG]", 3, 0.5, 0.125),
    ("[S2S]", None, 0.5, 0.5),
]


def deviations(share: float) -> float:
    """Four and a half standard deviations of how often something of this share is drawn."""
    return 4.5 * np.sqrt(COUNT * share * (1 - share))


def denoised(mixture: MixtureOfDenoisers, name: str) -> list[tuple[int, str, int, list[int]]]:
    """Of 10,000 texts of random length: denoiser, mode, length, and lengths of the spans.

    Each is as the reader makes it for 512 inputs and as many targets.
    """
    bound = mixture.bind(VOCABULARY)
    marks = set(bound.sentinels)
    found = []
    for index in range(COUNT):
        length = Draws(name, index).between(LENGTH // 2, 3 * LENGTH // 2)
        made = bound.example([3] * length, ROOM, (name, index), 0)
        position = bound.draw(Draws(name, index, 0))
        mode = len(bound.modes[position])
        begins = [place for place, token in enumerate(made.targets) if token in marks]
        spans = np.diff([*begins, len(made.targets)]) - 1 if begins else [len(made.targets)]
        whole = len(made.inputs) - mode - len(begins) + sum(spans)
        found.append((position, VOCABULARY.decode(made.inputs[:mode]), whole, list(spans)))
    return found


@pytest.mark.parametrize(
    ("mixture", "table"), [(UL2, TABLE_1), (UL2R, UL2R_TABLE)], ids=["UL2", "UL2R"]
)
def test_10_000_examples_have_the_papers_statistics(mixture, table):
    found = denoised(mixture, "statistics")
    modes = collections.Counter(row[1] for row in found)
    shares: collections.Counter[str] = collections.Counter()
    for position, (mode, mean_span, rate, share) in enumerate(table):
        mine = [row for row in found if row[0] == position]
        assert {row[1] for row in mine} == {mode}
        assert abs(len(mine) - COUNT * share) < deviations(share)
        shares[mode] += share
        texts = sum(row[2] for row in mine)
        spans = np.concatenate([row[3] for row in mine])
        if mean_span is None:
            assert len(spans) == len(mine)  # one each
        else:
            # Spans are a whole number: 70 tokens are one of 64. It shows where there are few.
            assert spans.mean() == pytest.approx(mean_span, rel=0.2 if mean_span > 8 else 0.03)
        # Where UL2R splits a text at random, the mean of 5,000 splits is near the middle.
        at_random = mean_span is None and rate == 0.5
        assert spans.sum() / texts == pytest.approx(rate, abs=0.02 if at_random else 0.003)
    for mode, share in shares.items():
        assert abs(modes[mode] - COUNT * share) < deviations(share)


@pytest.mark.parametrize(
    ("mean_span", "rate"), [(3, 0.15), (8, 0.15), (3, 0.5), (8, 0.5), (32, 0.15)]
)
def test_texts_of_the_greatest_length_have_the_mean_span_asked_for(mean_span, rate):
    """No fewer spans for want of sentinels."""
    denoiser = SpanCorruption(rate, mean_span)
    bound = denoiser.bind(VOCABULARY)
    length = bound.text_length(0, ROOM)
    needed = denoiser.needed(length)
    assert needed.sentinels <= 100
    taken = needed.targets - needed.sentinels
    assert taken / length == pytest.approx(rate, abs=1e-3)
    assert taken / needed.sentinels == pytest.approx(
        mean_span, rel=0.1 if mean_span == 32 else 0.02
    )


@pytest.mark.parametrize("mean_span", [3.0, 8.0, 64.0])
def test_span_lengths_are_spread_as_t5s_random_segmentation_spreads_them(mean_span):
    """Against T5's own way: shuffled marks of where segments begin, over as many texts."""
    length, rate, texts = 640, 0.5, 400
    noise = round(length * rate)
    count = round(noise / mean_span)
    generator = np.random.default_rng(0)
    expected = []
    for _ in range(texts):
        begins = np.r_[np.ones(count - 1, int), np.zeros(noise - count, int)]
        segment = np.cumsum(np.r_[0, generator.permutation(begins)])
        expected.append(np.bincount(segment))
    objective, sentinels = SpanCorruption(rate, mean_span), range(1999, 1000, -1)
    found = []
    for index in range(texts):
        _, targets = objective([3] * length, sentinels, Draws("spread", index))
        starts = np.flatnonzero(np.array(targets) > 3)
        found.append(np.diff([*starts, len(targets)]) - 1)
    ours, theirs = np.concatenate(found), np.concatenate(expected)
    assert len(ours) == len(theirs) and ours.mean() == theirs.mean()
    grid = np.arange(1, int(mean_span * 8))
    difference = [(ours <= size).mean() - (theirs <= size).mean() for size in grid]
    assert np.abs(difference).max() < 1.95 * np.sqrt(2 / len(ours))  # Kolmogorov-Smirnov, p 0.001


def test_modes_may_be_texts_ids_or_nothing():
    denoisers = (SpanCorruption(), PrefixLM(), SpanCorruption(0.5))
    bound = MixtureOfDenoisers(denoisers, modes=("[R]", 5, [6, 7])).bind(VOCABULARY)
    assert bound.modes == (tuple(VOCABULARY.encode("[R]")), (5,), (6, 7))
    assert MixtureOfDenoisers(denoisers).bind(VOCABULARY).modes == ((), (), ())
    assert MixtureOfDenoisers(denoisers).bind(VOCABULARY).rates == (1, 1, 1)


def test_sentinels_that_are_modes_mark_no_spans():
    last = VOCABULARY.sentinels[-3:]
    modes = (last[0], last[1], last[2])
    bound = MixtureOfDenoisers((SpanCorruption(),) * 3, modes).bind(VOCABULARY)
    assert bound.sentinels == tuple(VOCABULARY.sentinels[:-3])
    made = bound.example([3] * 1000, Room(600, 300, 900, 10**6), ("row",), 0)
    assert made.inputs[0] in modes
    assert not set(modes) & {*made.inputs[1:], *made.targets}


def test_t5s_vocabulary_has_the_modes_as_pieces_of_text(test_data):
    """The ids of UL2's public checkpoints, which read modes as text."""
    vocabulary = SentencePieceVocabulary(str(test_data / "t5_vocab" / "spiece.model"), 100)
    bound = UL2.bind(vocabulary)
    assert bound.modes[0] == (784, 567, 9138, 908)
    assert [vocabulary.decode(ids) for ids in bound.modes] == list(UL2.modes or ())


def test_a_mode_that_the_vocabulary_does_not_know_is_refused():
    micro = SentencePieceVocabulary("mixtures/micro/vocabulary/micro.model", 100)
    with pytest.raises(UserError, match=r"mode '\[X\]' is \[109, 2, 1924\].* does not know all"):
        MixtureOfDenoisers((SpanCorruption(),), ("[X]",)).bind(micro)


R = SpanCorruption()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "needs a sequence of denoisers"),
        ((R,), "needs a sequence of denoisers"),
        (((R, "x"),), "draws from objectives.SpanCorruption, PrefixLM and CausalLM, found 'x'"),
        (((SpanCorruption,),), r"call it: write \(\) after its name"),
        (((UL2,),), "draws from objectives.SpanCorruption"),
        (((R, R), ("a",)), "has 2 denoisers and 1 modes; give one for each"),
        (((R, R), "ab"), "modes must be a sequence or None, found 'ab'"),
        (((R, R), None, (1.0,)), "has 2 denoisers and 1 rates"),
        (((R, R), None, (1.0, -1.0)), "rates must be numbers of 0 or more"),
        (((R, R), None, (0.0, 0.0)), "not all 0"),
        (((R, R), None, (1.0, float("nan"))), "rates must be numbers"),
    ],
)
def test_senseless_mixtures_are_refused(arguments, message):
    with pytest.raises(UserError, match=f"objectives.MixtureOfDenoisers .*{message}"):
        MixtureOfDenoisers(*arguments)


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (("", "b"), "it has no ids"),
        ((10**6, "b"), "ids from 0 to 358"),
        ((1, "b"), "nor the end"),
        (((), "b"), "must be a text, or ids"),
        ((5.5, "b"), "5.5 must be a text, or ids"),
        (("a", "ab"), "mode 'ab', which is .* begins with mode 'a'"),
        (("a", (100,)), r"mode \(100,\), which is \[100\], begins with mode 'a'"),
    ],
)
def test_modes_that_cannot_be_are_refused(modes, message):
    with pytest.raises(UserError, match=f"objectives.MixtureOfDenoisers .*{message}"):
        MixtureOfDenoisers((R, R), modes).bind(VOCABULARY)


def test_no_sentinels_left_is_refused():
    vocabulary = ByteVocabulary(1)
    with pytest.raises(UserError, match="the vocabulary has none to spare"):
        MixtureOfDenoisers((R,), (vocabulary.sentinels[0],)).bind(vocabulary)
