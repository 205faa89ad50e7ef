"""Architectures as documents: what is read is what was written; what is wrong is said."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.models.architecture import (
    ArchitectureError,
    abstract_parameters,
    differences,
    from_document,
    to_document,
)
from flan_jax.models.lora import LoraConfig
from flan_jax.models.palm import PalmConfig
from flan_jax.models.t5 import T5Config

SIZES = st.integers(1, 9)
T5S = st.builds(
    T5Config,
    vocab_size=SIZES,
    emb_dim=SIZES,
    num_decoder_layers=SIZES,
    mlp_activations=st.sampled_from([("gelu", "linear"), ("relu",)]),
    logits_via_embedding=st.booleans(),
    relative_attention_per_layer=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    lora=st.none() | st.builds(LoraConfig, rank=SIZES, alpha=st.floats(0.5, 64)),
)
PALMS = st.builds(PalmConfig, vocab_size=SIZES, num_layers=SIZES, norm=st.sampled_from(["rms"]))


@given(T5S | PALMS)
def test_a_document_survives_json(config):
    document = json.loads(json.dumps(to_document(config)))
    assert from_document(document) == config
    assert document["type"] == ("t5" if isinstance(config, T5Config) else "palm")


def test_fields_of_later_versions_have_defaults():
    document = {"type": "t5", "config": {"vocab_size": 9}}
    assert from_document(document) == T5Config(vocab_size=9)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "t6", "config": {}}, "type 't5' or 'palm' with a config, found type 't6'"),
        ({"type": "t5"}, "with a config"),
        ({"type": "t5", "config": {"vocabsize": 3}}, "vocabsize; did you mean 'vocab_size'"),
        ({"type": "palm", "config": {"vocab_size": 3, "norm": "layr"}}, "did you mean 'layer'"),
        ({"type": "t5", "config": {}}, "is not valid: .*vocab_size"),
        ({"type": "t5", "config": {"vocab_size": 3, "lora": {"ranks": 4}}}, "t5.lora has unknown"),
        ({"type": "t5", "config": {"vocab_size": 3, "lora": 4}}, "t5.lora must be a map, found 4"),
        ({"type": "t5", "config": {"vocab_size": "a"}}, "vocab_size must be a whole number"),
        ({"type": "t5", "config": {"vocab_size": 3, "num_heads": True}}, "num_heads must be a"),
        ({"type": "t5", "config": {"vocab_size": 3, "dropout_rate": None}}, "must be a number"),
        ({"type": "palm", "config": {"vocab_size": 3, "head_dim": 4.0}}, "head_dim must be a "),
        (
            {"type": "palm", "config": {"vocab_size": 3, "logits_via_embedding": "no"}},
            "must be True or False, found 'no'",
        ),
    ],
)
def test_what_is_wrong_is_said(document, message):
    with pytest.raises(ArchitectureError, match=message):
        from_document(document)


def test_differences():
    config = T5Config(vocab_size=9)
    assert differences(config, dataclasses.replace(config, dropout_rate=0.0, dtype="float32")) == []
    assert differences(config, dataclasses.replace(config, lora=LoraConfig())) == []
    assert differences(config, dataclasses.replace(config, emb_dim=3)) == [
        "emb_dim: 512 in the checkpoint, 3 in the model"
    ]
    assert differences(config, PalmConfig(vocab_size=9)) == [
        "type: t5 in the checkpoint, palm in the model"
    ]


def test_parameters_of_either_type():
    small = {"vocab_size": 8, "emb_dim": 4, "num_heads": 2, "head_dim": 2, "mlp_dim": 4}
    names = abstract_parameters(T5Config(**small, num_encoder_layers=1, num_decoder_layers=1))
    assert names["decoder/layers/mlp/wo/kernel"].shape == (1, 4, 4)
    names = abstract_parameters(PalmConfig(**small, num_layers=3))
    assert names["decoder/layers/attention/key/kernel"].shape == (3, 4, 2)
