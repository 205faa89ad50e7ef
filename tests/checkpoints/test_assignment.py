"""Assignment maps, with T5X's rules and names."""

from __future__ import annotations

import re

import pytest

from flan_jax.checkpoints.assignment import assign, keys_of, t5x_name
from flan_jax.checkpoints.tensors import CheckpointError

SHAPES = {
    "params/token_embedder/embedding": (8, 4),
    "params/encoder/layers/mlp/wo/kernel": (2, 6, 4),
    "params/decoder/layers/mlp/wo/kernel": (2, 6, 4),
    "opt_state/v_row/encoder/layers/mlp/wo/kernel": (2, 4),
    "opt_state/count": (),
    "step": (),
}
KEYS = keys_of(SHAPES)
HELD = {key: t5x_name(key) for key in KEYS}


def test_names_are_those_of_unscanned_t5x():
    assert [t5x_name(key) for key in KEYS] == [
        "target/token_embedder/embedding",
        "target/encoder/layers_0/mlp/wo/kernel",
        "target/encoder/layers_1/mlp/wo/kernel",
        "target/decoder/layers_0/mlp/wo/kernel",
        "target/decoder/layers_1/mlp/wo/kernel",
        "state/param_states/encoder/layers_0/mlp/wo/kernel/v_row",
        "state/param_states/encoder/layers_1/mlp/wo/kernel/v_row",
        "state/step",
        "state/step",
    ]


def test_without_a_map_all_comes_from_the_same_name():
    assert assign(KEYS, HELD, None) == {key: key for key in KEYS}
    held = {key: name for key, name in HELD.items() if key[0] != "step"}
    assert ("step", None) not in assign(KEYS, held, [])  # neither held nor mentioned


def test_the_first_whole_match_decides_and_none_keeps_fresh_values():
    wo = "encoder/layers/mlp/wo/kernel"
    found = assign(
        KEYS,
        HELD,
        [
            (r"target/encoder/layers_1/.*", None),
            (r"target/encoder/layers_(\d)/(.*)", r"target/decoder/layers_\1/\2"),
            (r"state/param_states/.*", None),
            (r"target/token_embedder/embedding", None),
        ],
    )
    assert found["params/" + wo, 1] is None
    assert found["params/" + wo, 0] == ("params/decoder/layers/mlp/wo/kernel", 0)
    assert found["opt_state/v_row/" + wo, 0] is None
    assert found["params/token_embedder/embedding", None] is None
    assert found["params/decoder/layers/mlp/wo/kernel", 1] == (
        "params/decoder/layers/mlp/wo/kernel",
        1,
    )


def test_two_may_come_from_one_and_layers_may_change_places():
    swap = [
        (r"target/decoder/layers_0/(.*)", r"target/decoder/layers_1/\1"),
        (r"target/decoder/layers_1/(.*)", r"target/decoder/layers_1/\1"),
    ]
    found = assign(KEYS, HELD, swap)
    name = "params/decoder/layers/mlp/wo/kernel"
    assert found[name, 0] == found[name, 1] == (name, 1)


def test_names_of_ours_and_of_the_checkpoints_own_format():
    name, other = "params/encoder/layers/mlp/wo/kernel", "params/decoder/layers/mlp/wo/kernel"
    assert assign(KEYS, HELD, [(name, other)])[name, 1] == (other, 1)
    scanned = {
        key: "target/decoder/decoder/mlp/wo/kernel" if key[0] == other else held
        for key, held in HELD.items()
    }
    rule = [(r"target/encoder/layers_\d/(.*)", r"target/decoder/decoder/\1")]
    assert assign(KEYS, scanned, rule)[name, 1] == (other, 1)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("target/mlp.*", None)], "'target/mlp.*' match no whole name of the model"),
        ([("token_embedder", None)], "match no whole name"),  # a part of a name is not enough
        ([("target/(", None)], "expected pairs of a regular expression"),
        (["target"], "expected pairs of a regular expression"),
        (3, "expected a list of pairs, found 3"),
        (
            [("target/token_embedder/embedding", "target/token_embedding/embedding")],
            "which the path does not hold; did you mean 'target/token_embedder/embedding'",
        ),
        ([("target/token_embedder/embedding", r"\3")], "invalid group reference 3"),
    ],
)
def test_what_is_wrong_is_said(rules, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        assign(KEYS, HELD, rules, path="the path")
