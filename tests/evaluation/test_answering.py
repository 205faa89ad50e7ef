"""Prompts through a tiny model: accounts of each answer, batches, and jobs that go on."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.decoding import DecodeConfig
from flan_jax.evaluation.answer_job import answer_into
from flan_jax.evaluation.answering import Answerer, least_batch
from flan_jax.evaluation.prompt_files import Prompt, PromptFileError
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
PROMPTS = [
    Prompt(0, "short", None, ("ab", "c")),
    Prompt(1, "x" * 20, "named", ("abc",)),
    Prompt(2, "y" * 100, None, ("", "d")),  # longer than fits
    Prompt(3, "another", None, ("e",)),
]


@pytest.fixture(scope="module")
def answerer():
    params = MODEL.init(jax.random.key(0))
    sharding = SingleDeviceSharding(jax.devices()[0])

    def make(batch_size: int = 2, **config) -> Answerer:
        decoding = DecodeConfig(**{"max_decode_len": 6, **config})
        return Answerer(params, MODEL, decoding, sharding, batch_size, 32, seed=1)

    return make


def all_rows(batches) -> dict[int, dict]:
    return {row["number"]: row for rows in batches for row in rows}


def test_every_prompt_gets_an_account(answerer):
    rows = all_rows(answerer().answers(PROMPTS))
    assert sorted(rows) == [0, 1, 2, 3]
    assert "id" not in rows[0]
    assert rows[1]["id"] == "named"
    assert rows[0]["prompt_tokens"] == len("short") + 1
    assert "prompt_tokens_lost" not in rows[0]
    assert rows[2]["prompt_tokens"] == 32
    assert rows[2]["prompt_tokens_lost"] == 100 + 1 - 32
    for row in rows.values():
        tokens = row["tokens"]
        assert row["prediction"] == VOCABULARY.decode(tokens)
        assert row["ended"] == ("eos" if tokens[-1] == 1 else "length")
        assert row["ended"] == "eos" or len(tokens) == 6
        assert row["logprob"] < 0
        json.dumps(row)


@pytest.mark.parametrize("config", [{}, {"temperature": 1.0}])
def test_answers_do_not_depend_on_the_batch(answerer, config: dict):
    one = all_rows(answerer(2, **config).answers(PROMPTS))
    three = all_rows(answerer(3, **config).answers(PROMPTS[::-1]))
    for number in one:
        assert one[number]["tokens"] == three[number]["tokens"]
        np.testing.assert_allclose(one[number]["logprob"], three[number]["logprob"], atol=1e-4)


def test_several_answers_stand_best_first(answerer):
    beams = all_rows(answerer(method="beam", num_decodes=3).answers(PROMPTS))[0]
    scores = [each["score"] for each in beams["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert beams["tokens"] == beams["predictions"][0]["tokens"]
    samples = all_rows(answerer(temperature=1.0, num_decodes=3).answers(PROMPTS))[0]
    single = all_rows(answerer(temperature=1.0).answers(PROMPTS))[0]
    assert samples["predictions"][0]["tokens"] == single["tokens"]
    assert len({tuple(each["tokens"]) for each in samples["predictions"]}) == 3


def test_scores_are_those_of_the_loss(answerer):
    rows = all_rows(answerer().scores(PROMPTS))
    assert rows[0]["target_tokens"] == [3, 2]
    assert rows[2]["target_tokens"] == [1, 2]  # an empty text is an end-of-sequence id
    score_batch = jax.jit(MODEL.score_batch)
    for prompt in PROMPTS:
        row = rows[prompt.number]
        assert row["targets"] == list(prompt.targets)
        ids = [*VOCABULARY.encode(prompt.text), 1]
        ids = ids if len(ids) <= 32 else [*ids[:31], 1]
        inputs = np.pad([ids], ((0, 0), (0, 32 - len(ids))))
        for target, score, parts in zip(
            prompt.targets, row["scores"], row["token_scores"], strict=True
        ):
            targets = np.asarray([[*VOCABULARY.encode(target), 1]])
            targets = np.pad(targets, ((0, 0), (0, 8 - targets.shape[1])))
            batch = {
                "encoder_input_tokens": inputs,
                "decoder_target_tokens": targets,
                "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            }
            (expected,) = score_batch(answerer().params, batch)
            np.testing.assert_allclose(score, expected, rtol=1e-5)
            np.testing.assert_allclose(sum(parts), score, rtol=1e-5)


class KilledError(Exception):
    pass


def test_an_interrupted_job_answers_only_what_is_left(answerer, tmp_path: Path):
    asked: list[int] = []
    work = answerer().answers

    def dies(prompts):
        for rows in work(prompts):
            if asked:
                raise KilledError
            asked.extend(row["number"] for row in rows)
            yield rows

    whole = answer_into(tmp_path / "whole.jsonl", PROMPTS, work, {"of": 1})
    out = tmp_path / "answers.jsonl"
    with pytest.raises(KilledError):
        answer_into(out, PROMPTS, dies, {"of": 1})
    assert not out.exists()
    again: list[int] = []

    def counted(prompts):
        again.extend(prompt.number for prompt in prompts)
        yield from work(prompts)

    rows = answer_into(out, PROMPTS, counted, {"of": 1})
    assert sorted(asked + again) == [0, 1, 2, 3]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in whole]
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_complete_file_is_not_made_again(answerer, tmp_path: Path, capsys):
    out = tmp_path / "answers.jsonl"
    answer_into(out, PROMPTS, answerer().answers, {"of": 1}, to_row=lambda row: row["prediction"])
    assert all(isinstance(json.loads(line), str) for line in out.read_text().splitlines())

    def never(prompts):
        raise AssertionError("asked again")

    assert answer_into(out, PROMPTS, never, {"of": 1}) == []
    assert "complete already" in capsys.readouterr().err
    with pytest.raises(PromptFileError, match="of: 1 there, 2 now"):
        answer_into(out, PROMPTS, never, {"of": 2})
    assert len(answer_into(out, PROMPTS, answerer().answers, {"of": 2}, overwrite=True)) == 4


def test_least_batch():
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    assert least_batch(NamedSharding(mesh, PartitionSpec("data"))) == 1
