"""A tiny model answers batches: the same bits whatever the batch, several paths, ranked options."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.decoding import score
from flan_jax.errors import UserError
from flan_jax.evaluation import job
from flan_jax.evaluation.model_answers import Rows, make_answer
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.store import PredictionStore
from flan_jax.models.encoder_decoder import EncoderDecoderModel
from flan_jax.models.t5 import T5Config

VOCABULARY = ByteVocabulary(extra_ids=125)
MODEL = EncoderDecoderModel(
    T5Config(
        vocab_size=384,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=16,
        dtype="float32",
    ),
    input_vocabulary=VOCABULARY,
    output_vocabulary=VOCABULARY,
)
LENGTH = 32


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(3))


@pytest.fixture(scope="module")
def sharding() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module")
def requests(make_request):
    words = [f"question {i}"[: 5 + i] for i in range(9)]
    tokens = [(*VOCABULARY.encode(word), 1) for word in words]
    return [make_request(f"t/{i}", tokens=ids) for i, ids in enumerate(tokens)]


def answer_all(params, protocol, requests, rows: Rows, folder, paths: int = 1):
    answer = make_answer(params, protocol, requests, rows, MODEL)
    with PredictionStore(folder, "m", "p", "d") as store:
        batch = rows.per_batch(paths)
        return job.run(requests, answer, store, batch, LENGTH, paths=paths).generations


def asked(paths: int = 1, temperature: float = 0.0, ranking: str | None = None):
    values = {"max_decode_len": 6, "topk": 0, "seed": 5, "stop": ()}
    return SimpleNamespace(paths=paths, temperature=temperature, ranking=ranking, **values)


def test_with_rows_per_device_the_bits_do_not_depend_on_the_batch(
    params, sharding, requests, tmp_path
):
    found = [
        answer_all(params, asked(), requests, Rows(sharding, size, 2), tmp_path / str(size))
        for size in (2, 4, 6)
    ]
    assert found[0] == found[1] == found[2]  # outputs, and log-probabilities to the last bit
    assert len({each[0].logprob for each in found[0].values()}) == len(requests)


def test_paths_depend_on_seed_and_item_alone(params, sharding, requests, tmp_path):
    three = answer_all(params, asked(3, 1.0), requests, Rows(sharding, 6), tmp_path / "a", paths=3)
    other = list(reversed(requests[2:]))
    again = answer_all(params, asked(3, 1.0), other, Rows(sharding, 3), tmp_path / "b", paths=3)
    for request in other:
        outputs = [path.output for path in three[request.id]]
        assert [path.output for path in again[request.id]] == outputs
        assert len(set(outputs)) > 1
    assert all(path.logprob < 0 for several in three.values() for path in several)


def test_ranked_options_have_the_scores_of_the_model(params, sharding, requests, tmp_path):
    texts = ("yes", "no", "perhaps")
    ranked = [dataclasses.replace(r, continuations=texts, options=texts) for r in requests]
    protocol = asked(ranking="sum")
    found = answer_all(params, protocol, ranked, Rows(sharding, 4), tmp_path / "rank")
    tokens, targets = np.zeros((9, LENGTH), np.int32), np.zeros((9, 3, 8), np.int32)
    for i, request in enumerate(ranked):
        tokens[i, : request.length] = request.tokens
        for j, text in enumerate(reversed(texts)):
            targets[i, j, : len(text)] = VOCABULARY.encode(text)
    totals = np.asarray(score(params, tokens, targets).total)[:, ::-1]
    for i, request in enumerate(ranked):
        (generation,) = found[request.id]
        assert generation.ended == "ranked"
        assert generation.tokens == (3, 2, 7)
        np.testing.assert_allclose(generation.scores, totals[i], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "per_device", "paths", "batch", "at_once"),
    [
        (64, None, 1, 64, 64),
        (64, None, 8, 8, 8),
        (64, None, 100, 1, 1),  # an item's paths are never torn apart
        (64, 8, 1, 64, 8),
        (64, 8, 3, 20, 2),
        (4, 8, 1, 8, 8),
    ],
)
def test_how_many_items_at_a_time(sharding, size, per_device, paths, batch, at_once):
    rows = Rows(sharding, size, per_device)
    assert rows.per_batch(paths) == batch
    assert rows.at_once(paths) == at_once
    assert batch % at_once == 0


def test_rows_that_mean_nothing(sharding):
    with pytest.raises(UserError, match="rows_per_device must be >= 1 or None, found 0"):
        Rows(sharding, 4, 0)
    with pytest.raises(UserError, match="batch of 0"):
        Rows(sharding, 0)


def test_protocols_of_tasks_have_what_answering_needs():
    protocol = EvalProtocol("zero", ("x",))
    assert (protocol.paths, protocol.stop, protocol.ranking) == (1, (), None)
