"""How long texts may be, and which piece of a text that is longer comes when."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.objectives import CausalLM, PrefixLM, Room, SpanCorruption
from flan_jax.objectives.denoiser import pieces
from flan_jax.objectives.ul2 import UL2, UL2R
from tests.objectives.texts import reconstruct

VOCABULARY = ByteVocabulary(100)
DENOISERS = [
    SpanCorruption(),
    SpanCorruption(0.5, 3.0),
    SpanCorruption(0.5, 64.0),
    SpanCorruption(0.15, 32.0),
    PrefixLM(),
    PrefixLM(0.25),
    CausalLM(),
]


def room(inputs: int, targets: int, sentinels: int = 10**6) -> Room:
    return Room(inputs, targets, inputs + targets, sentinels)


@pytest.mark.parametrize(
    ("denoiser", "inputs", "targets", "expected"),
    [
        # T5's random_spans_helper: 512 and 114 tokens, end of sequence included, hold 568.
        (SpanCorruption(), 511, 113, 568),
        # Targets are what is scarce: 22 + 7 sentinels; of 151 tokens they would be 23 + 8.
        (SpanCorruption(), 511, 30, 150),
        # As T5's prefix_lm: texts of as many tokens as the inputs may have.
        (PrefixLM(), 511, 511, 512),
        (PrefixLM(0.25), 511, 511, 681),
        (CausalLM(), 0, 511, 511),
    ],
)
def test_texts_are_as_long_as_t5s(denoiser, inputs, targets, expected):
    found = denoiser.bind(VOCABULARY).text_length(0, room(inputs, targets))
    assert found == expected


def test_texts_are_no_longer_than_sentinels_last():
    """At half the tokens in spans of 3, 766 tokens would fit 512 inputs, and need 128 sentinels."""
    denoiser = SpanCorruption(0.5, 3.0)
    enough = denoiser.bind(ByteVocabulary(200)).text_length(0, room(511, 511))
    assert denoiser.needed(enough).sentinels == 128
    length = denoiser.bind(VOCABULARY).text_length(0, room(511, 511))
    assert denoiser.needed(length).sentinels == 100 < denoiser.needed(length + 1).sentinels
    assert length == 602


@settings(max_examples=200, deadline=None)
@given(
    denoiser=st.sampled_from(DENOISERS),
    inputs=st.integers(4, 200),
    targets=st.integers(4, 200),
    length=st.integers(0, 900),
    epoch=st.integers(0, 50),
    seed=st.integers(0, 2**32),
)
def test_examples_fit_and_hold_their_piece(denoiser, inputs, targets, length, epoch, seed):
    bound = denoiser.bind(VOCABULARY)
    tokens = [3 + (number * number) % 251 for number in range(length)]
    made = bound.example(tokens, room(inputs, targets), (seed, "row"), epoch)
    assert len(made.inputs) <= inputs and len(made.targets) <= targets
    text = reconstruct(made.inputs, made.targets, bound.sentinels)
    longest = bound.text_length(0, room(inputs, targets))
    parts = [tokens[part] for part in pieces(length, longest)]
    assert text in parts
    assert made == bound.example(tokens, room(inputs, targets), (seed, "row"), epoch)


@settings(max_examples=200, deadline=None)
@given(
    objective=st.sampled_from([UL2, UL2R]),
    inputs=st.integers(10, 200),
    targets=st.integers(4, 200),
    length=st.integers(0, 900),
    epoch=st.integers(0, 50),
    seed=st.integers(0, 2**32),
)
def test_mixtures_too_after_the_mode(objective, inputs, targets, length, epoch, seed):
    bound = objective.bind(VOCABULARY)
    tokens = [3 + (number * number) % 80 for number in range(length)]  # none is a bracket's
    made = bound.example(tokens, room(inputs, targets), (seed, "row"), epoch)
    assert len(made.inputs) <= inputs and len(made.targets) <= targets
    mode = VOCABULARY.decode(made.inputs[:5])
    assert mode in objective.modes
    text = reconstruct(made.inputs[5:], made.targets, bound.sentinels)
    possible = {
        tuple(tokens[part])
        for position, its_mode in enumerate(objective.modes)
        if its_mode == mode
        for part in pieces(length, bound.text_length(position, room(inputs, targets)))
    }
    assert tuple(text) in possible


@given(length=st.integers(0, 10_000), longest=st.integers(1, 600))
def test_pieces_are_few_and_about_equal(length, longest):
    found = pieces(length, longest)
    assert [i for part in found for i in range(length)[part]] == list(range(length))
    assert len(found) == max(1, -(-length // longest))
    sizes = [part.stop - part.start for part in found]
    assert max(sizes) <= longest and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_every_piece_of_a_long_text_is_read_once_before_any_is_read_again(denoiser):
    bound = denoiser.bind(VOCABULARY)
    space = room(100, 60)
    tokens = [3 + number % 251 for number in range(2000)]
    count = len(pieces(2000, bound.text_length(0, space)))
    assert count >= 10
    orders = []
    for turn in range(3):
        epochs = range(turn * count, (turn + 1) * count)
        texts = []
        for epoch in epochs:
            made = bound.example(tokens, space, (7, "row"), epoch)
            texts.append(tuple(reconstruct(made.inputs, made.targets, bound.sentinels)))
        whole = {tuple(tokens[part]) for part in pieces(2000, bound.text_length(0, space))}
        assert sorted(texts) == sorted(whole)
        orders.append(texts)
    assert orders[0] != orders[1] != orders[2]


def test_targets_end_only_with_the_text_where_they_are_the_text():
    tokens = list(range(3, 103))
    bound = CausalLM().bind(VOCABULARY)
    made = [bound.example(tokens, room(0, 30), ("row",), epoch) for epoch in range(4)]
    assert sorted(example.ends for example in made) == [False, False, False, True]
    assert [e.targets[-1] == 102 for e in made] == [e.ends for e in made]
    bound = PrefixLM().bind(VOCABULARY)
    assert all(bound.example(tokens, room(20, 20), ("row",), e).ends for e in range(5))


def test_a_vocabulary_without_sentinels_is_refused():
    with pytest.raises(UserError, match=r"SpanCorruption marks spans .* set its `extra_ids`"):
        SpanCorruption().bind(ByteVocabulary(0))
    with pytest.raises(UserError, match="SpanCorruption marks spans"):
        UL2.bind(ByteVocabulary(0))
    assert PrefixLM().bind(ByteVocabulary(0)).sentinels == ()


def test_lengths_that_leave_no_room_are_refused():
    UL2.bind(VOCABULARY).check(room(7, 4))
    with pytest.raises(UserError, match=r"leave no room for SpanCorruption.* its mode takes 5"):
        UL2.bind(VOCABULARY).check(room(6, 4))
    with pytest.raises(UserError, match="leave no room for SpanCorruption"):
        SpanCorruption().bind(VOCABULARY).check(room(20, 1))


def test_needs_never_shrink_with_the_text():
    for denoiser in DENOISERS:
        needs = [denoiser.needed(length) for length in range(1, 700)]
        for less, more in itertools.pairwise(needs):
            assert more.holds(less)


def test_a_draw_does_not_depend_on_the_other_ones():
    bound = UL2.bind(VOCABULARY)
    tokens = list(range(3, 200))
    alone = bound.example(tokens, room(200, 200), (3, "row", 5), 2)
    for index in range(5):
        bound.example(tokens, room(200, 200), (3, "row", index), 2)
    assert bound.example(tokens, room(200, 200), (3, "row", 5), 2) == alone
    assert bound.draw(Draws(3, "row", 5, 2)) == bound.draw(Draws(3, "row", 5, 2))
