from __future__ import annotations

import dataclasses
import hashlib
import json
import random

import numpy as np
import pytest

from flan_jax.evaluation.budget import Cost
from flan_jax.evaluation.job import (
    Batch,
    Generated,
    Progress,
    decode_row,
    generating,
    missing,
    run,
    typical_batch,
)
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.results import write_results
from flan_jax.evaluation.scores import score
from flan_jax.evaluation.store import Generation, PredictionStore, StoreError
from flan_jax.files import write_atomically

INPUTS_LENGTH = 128
WORDS = ("yes", "no", "perhaps", "a longer answer")


class HashModel:
    """A deterministic model: what it answers is a function of the row's tokens alone.

    It takes no notice of padding, as a masked encoder, writes rubbish after EOS, and keeps count.
    """

    def __init__(self, vocabulary, fail_after: int | None = None):
        self.vocabulary = vocabulary
        self.fail_after = fail_after
        self.calls: list[tuple[int, ...]] = []
        self.item_ids: dict[bytes, int] = {}

    def answer(self, tokens: np.ndarray) -> str:
        content = tokens[tokens != self.vocabulary.pad_id].astype(np.int32).tobytes()
        return WORDS[hashlib.blake2b(content, digest_size=1).digest()[0] % len(WORDS)]

    def __call__(self, tokens: np.ndarray, item_ids: np.ndarray) -> Generated:
        assert tokens.dtype == np.int32 and item_ids.dtype == np.uint32
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append(tokens.shape)
        output = np.full((len(tokens), 24), 99, np.int32)
        for i, row in enumerate(tokens):
            assert self.item_ids.setdefault(row.tobytes(), int(item_ids[i])) == item_ids[i]
            ids = [*self.vocabulary.encode(self.answer(row)), self.vocabulary.eos_id]
            output[i, : len(ids)] = ids
        return Generated(output[:, None], np.full((len(tokens), 1), -1.5, np.float32))


@pytest.fixture
def requests(make_request):
    lengths = random.Random(3).choices(range(1, 150), k=57)
    return [
        make_request(f"t{i % 3}/{i}", prompt=(f"{i} " + "word " * 40)[:length], answer=WORDS[i % 4])
        for i, length in enumerate(lengths)
    ]


def _answer(requests, folder, model, batch_size, vocabulary, **options):
    with PredictionStore(folder, "model-10", "hash", "greedy-24") as store:
        answer = generating(model, vocabulary)
        return run(requests, answer, store, batch_size, INPUTS_LENGTH, **options)


def test_answers_depend_on_neither_batch_size_nor_order(requests, vocabulary, tmp_path):
    results = []
    for number, batch_size in enumerate((1, 4, 13, 64)):
        shuffled = random.Random(number).sample(requests, len(requests))
        model = HashModel(vocabulary)
        result = _answer(shuffled, tmp_path / str(number), model, batch_size, vocabulary)
        results.append(result)
        assert list(result.outputs) == [request.id for request in shuffled]
    assert all(result.outputs == results[0].outputs for result in results)
    for request in requests:
        expected = HashModel(vocabulary).answer(
            np.array([*request.tokens[: INPUTS_LENGTH - 1], 1][: request.length])
        )
        assert results[0].outputs[request.id] == expected


def test_few_shapes_and_full_batches(requests, vocabulary, tmp_path):
    model = HashModel(vocabulary)
    result = _answer(requests, tmp_path, model, 8, vocabulary)
    assert set(model.calls) == {(8, 32), (8, 64), (8, 128)} == set(result.shapes)
    assert result.generated == len(requests) and result.reused == 0
    assert result.batches == len(model.calls)
    assert result.truncated == sum(request.length > INPUTS_LENGTH for request in requests) > 0


def test_interrupted_job_goes_on_where_it_was(requests, vocabulary, tmp_path):
    whole = _answer(requests, tmp_path / "whole", HashModel(vocabulary), 8, vocabulary)
    broken = HashModel(vocabulary, fail_after=3)
    with pytest.raises(KeyboardInterrupt):
        _answer(requests, tmp_path / "broken", broken, 8, vocabulary)
    model = HashModel(vocabulary)
    resumed = _answer(requests, tmp_path / "broken", model, 8, vocabulary)
    assert resumed.reused > 0 and resumed.reused + resumed.generated == len(requests)
    assert len(model.calls) < whole.batches
    assert resumed.outputs == whole.outputs
    again = HashModel(vocabulary)
    assert _answer(requests, tmp_path / "broken", again, 8, vocabulary).generated == 0
    assert again.calls == []


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_torn_last_line_is_generated_again(requests, vocabulary, tmp_path, cut):
    first = _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary)
    (path,) = tmp_path.rglob("*.jsonl")
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    resumed = _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary)
    assert resumed.generated == 1
    assert resumed.outputs == first.outputs
    assert path.read_bytes() == data


def test_store_torn_within_its_header_begins_anew(requests, vocabulary, tmp_path):
    first = _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary)
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_bytes(path.read_bytes()[:10])
    assert _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary) is not None
    with PredictionStore(tmp_path, "model-10", "hash", "greedy-24") as store:
        assert len(store) == len(first.outputs)


def test_damage_in_the_middle_is_told_with_its_line(requests, vocabulary, tmp_path):
    _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary)
    (path,) = tmp_path.rglob("*.jsonl")
    lines = path.read_bytes().split(b"\n")
    lines[4] = b"{rubbish"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError, match="line 5"):
        PredictionStore(tmp_path, "model-10", "hash", "greedy-24")


def test_stored_answers_are_only_for_the_same_words_and_decoding(requests, vocabulary, tmp_path):
    _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary)
    greedy = PredictionStore(tmp_path, "model-10", "hash", "greedy-24")
    sampled = PredictionStore(tmp_path, "model-10", "hash", "t1-k0-24-seed0")
    other = PredictionStore(tmp_path, "model-20", "hash", "greedy-24")
    request = requests[0]
    reworded = dataclasses.replace(request, tokens=(*request.tokens[:-1], 50, 1))
    assert greedy.get(request) is not None
    assert greedy.get(reworded) is None
    assert sampled.get(request) is None
    assert other.get(request) is None


def test_file_of_another_protocol_is_refused(requests, tmp_path):
    with PredictionStore(tmp_path, "a/b", "hash", "greedy-24") as store:
        store.append([(requests[0], 0, Generation("x"))])
    with pytest.raises(StoreError, match="belongs to"):
        PredictionStore(tmp_path, "a:b", "hash", "greedy-24")


def test_two_writers_are_refused(requests, tmp_path):
    with PredictionStore(tmp_path, "m", "hash", "d") as one:
        one.append([(requests[0], 0, Generation("x"))])
        other = PredictionStore(tmp_path, "m", "hash", "d")
        with pytest.raises(StoreError, match="another process"):
            other.append([(requests[1], 0, Generation("y"))])


def test_progress_is_told_after_every_batch(requests, vocabulary, tmp_path):
    told: list[Progress] = []
    result = _answer(
        requests, tmp_path, HashModel(vocabulary), 16, vocabulary, progress=told.append
    )
    assert len(told) == result.batches
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].done == told[-1].total == len(requests)


def test_processes_without_a_store_answer_what_the_one_with_it_lacks(
    requests, vocabulary, tmp_path
):
    whole = _answer(requests, tmp_path / "whole", HashModel(vocabulary), 8, vocabulary)
    with pytest.raises(KeyboardInterrupt):
        _answer(requests, tmp_path / "0", HashModel(vocabulary, fail_after=4), 8, vocabulary)
    wanted = []
    first = HashModel(vocabulary)
    result = _answer(
        requests, tmp_path / "0", first, 8, vocabulary,
        share=lambda mask: wanted.append(mask) or mask,
    )  # fmt: skip
    assert result.outputs == whole.outputs
    assert 0 < wanted[0].sum() < len(requests)
    other = HashModel(vocabulary)
    answer = generating(other, vocabulary)
    alone = run(requests, answer, None, 8, INPUTS_LENGTH, share=lambda mask: wanted[0])
    assert other.calls == first.calls != []
    assert alone.outputs == {}
    assert alone.reused == result.reused == len(requests) - wanted[0].sum()


class Sampler:
    """Writes `paths` different answers, by the item's id alone."""

    def __init__(self, vocabulary, paths: int):
        self.vocabulary, self.paths, self.asked = vocabulary, paths, 0

    def __call__(self, tokens: np.ndarray, item_ids: np.ndarray) -> Generated:
        self.asked += len(tokens)
        ids = np.zeros((len(tokens), self.paths, 12), np.int32)
        for i, item in enumerate(item_ids.tolist()):
            for path in range(self.paths):
                text = self.vocabulary.encode(f"{(item + path) % 97}")
                ids[i, path, : len(text) + 1] = [*text, 1]
        return Generated(ids)


def test_every_path_is_stored_and_a_torn_item_is_answered_whole(requests, vocabulary, tmp_path):
    model = Sampler(vocabulary, 3)
    first = _answer(requests, tmp_path, model, 8, vocabulary, paths=3)
    assert all(len(several) == 3 for several in first.generations.values())
    (path,) = tmp_path.rglob("*.jsonl")
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 1 + 3 * len(requests)
    path.write_bytes(b"".join(lines[:-2]))  # of the last item, one path is left
    again = _answer(requests, tmp_path, Sampler(vocabulary, 3), 8, vocabulary, paths=3)
    assert again.generated == 1
    assert again.generations == first.generations
    more = _answer(requests, tmp_path, Sampler(vocabulary, 4), 8, vocabulary, paths=4)
    assert more.generated == len(requests)
    assert len(path.read_bytes().splitlines()) == 1 + 4 * len(requests)  # only path 3 is new
    assert [more.generations[r.id][:3] for r in requests] == list(first.generations.values())


def test_how_an_output_ended(vocabulary, make_request):
    ids = np.zeros((2, 1, 4), np.int32)
    ids[0, 0, :3] = [*vocabulary.encode("ab"), 1]
    ids[1, 0] = vocabulary.encode("abcd")
    requests = [make_request("t/0"), make_request("t/1")]
    answer = generating(lambda tokens, item_ids: Generated(ids), vocabulary)
    found = answer(Batch(requests, np.ones((2, 8), np.int32), np.zeros(2, np.uint32)))
    assert found == [[Generation("ab", "eos")], [Generation("abcd", "length")]]


def test_time_left_is_told_once_there_is_a_pace(requests, vocabulary, tmp_path):
    told: list[Progress] = []
    _answer(
        requests, tmp_path, HashModel(vocabulary), 4, vocabulary,
        progress=told.append, cost=Cost(24, 1),
    )  # fmt: skip
    assert told[0].left is None
    assert all(p.left is not None and p.left >= 0 for p in told[2:])
    assert told[-1].left == 0


def test_what_is_missing_needs_no_model(requests, vocabulary, tmp_path):
    _answer(requests[:20], tmp_path, HashModel(vocabulary), 8, vocabulary)
    store = PredictionStore(tmp_path, "model-10", "hash", "greedy-24")
    assert missing(requests, store) == requests[20:]
    assert missing(requests, None) == requests


def test_typical_batch_has_the_commonest_length(requests, vocabulary):
    batch = typical_batch(requests, 8, INPUTS_LENGTH, 0)
    counts = {n: sum(n // 2 < r.length <= n for r in requests) for n in (64, 128)}
    counts[32] = sum(r.length <= 32 for r in requests)
    assert batch.tokens.shape == (8, max(counts, key=lambda n: counts[n]))
    assert len(batch.requests) <= 8


def test_wrong_shape_and_repeated_ids_are_refused(requests, vocabulary, tmp_path):
    with pytest.raises(ValueError, match=r"expected \(8"):
        _answer(requests, tmp_path, lambda tokens, ids: Generated(tokens[1:]), 8, vocabulary)
    with pytest.raises(ValueError, match="expected 2 for each"):
        _answer(requests, tmp_path, HashModel(vocabulary), 8, vocabulary, paths=2)
    with pytest.raises(ValueError, match="repeat"):
        _answer([*requests, requests[0]], tmp_path, HashModel(vocabulary), 8, vocabulary)


def test_decoding_stops_at_eos_and_skips_padding(vocabulary):
    ids = [0, *vocabulary.encode("ab"), 0, *vocabulary.encode("c"), 1, *vocabulary.encode("d")]
    assert decode_row(np.array(ids), vocabulary) == "abc"


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \udc80")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_results_have_t5x_names_and_rows(tmp_path, make_request, monkeypatch):
    protocol = EvalProtocol("zero", ("x",))
    monkeypatch.setattr(EvalProtocol, "protocol_hash", lambda self: "0" * 16)
    requests = [make_request(f"quiz/{i}", target="So the answer is yes.") for i in range(4)]
    texts = ["The answer is yes.", "It is so, the answer is no.", "yes", "hm"]
    predictions = {r.id: text for r, text in zip(requests, texts, strict=True)}
    scores = score(requests, predictions)
    for step in (200, 100, 200):
        path = write_results(tmp_path, step, protocol, requests, predictions, scores)
    rows = [
        json.loads(line)
        for line in (tmp_path / "inference_eval/zero/quiz-000200.jsonl").read_text().splitlines()
    ]
    assert [row["prediction"] for row in rows] == ["yes", "no", "yes", ""]
    assert [row["correct"] for row in rows] == [1.0, 0.0, 1.0, 0.0]
    assert rows[0]["input"]["targets_pretokenized"] == "So the answer is yes."
    assert rows[0]["target"] == "yes" and rows[1]["output"] == texts[1]
    metrics = (tmp_path / "inference_eval/zero/quiz-metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in metrics] == [
        {"step": step, "exact_match": 50.0} for step in (100, 200)
    ]
    summary = json.loads(path.read_text())
    assert summary["tasks"]["quiz"]["value"] == 50.0
    assert summary["tasks"]["quiz"]["unparsed"] == 1
    assert summary["protocol"]["name"] == "zero"
