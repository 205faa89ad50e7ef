"""Training on tasks that somebody else registered with SeqIO."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from flan_jax.data import seqio_reader
from flan_jax.data.reader import DatasetConfig, eval_batches, train_dataset
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.objectives import SpanCorruption
from flan_jax.sources.base import SourceError

pytestmark = pytest.mark.slow  # importing SeqIO takes about 8 s
BYTES = ByteVocabulary()
LENGTHS = {"inputs": 64, "targets": 16}
ROWS = 700


def _rows(split, shuffle_files, seed=None):
    import tensorflow as tf

    numbers = tf.data.Dataset.range(ROWS if split == "train" else 10)
    return numbers.map(
        lambda n: {
            "inputs": tf.strings.join(["number ", tf.strings.as_string(n)]),
            "targets": tf.strings.as_string(n * n),
        }
    )


def _add(name, vocabulary=None, features=("inputs", "targets"), shuffle_buffer_size=100):
    import seqio

    vocabulary = vocabulary or seqio.ByteVocabulary()
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(_rows, ["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={feature: seqio.Feature(vocabulary) for feature in features},
        shuffle_buffer_size=shuffle_buffer_size,
    )


@pytest.fixture(autouse=True)
def foreign(seqio_loaded, monkeypatch, mixture):
    """SeqIO's registries with `theirs`, and ours with `toys`."""
    import seqio

    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.dataset_providers, "_MAX_EXAMPLES_TO_MEM_CACHE", 0)
    return _add("theirs")


def _config(name="theirs", **kwargs) -> DatasetConfig:
    return DatasetConfig(
        **{
            "mixture_or_task_name": name,
            "task_feature_lengths": LENGTHS,
            "batch_size": 12,
            **kwargs,
        }
    )


def _dataset(config, seed=5, **kwargs):
    return train_dataset(config, config.example_maker(BYTES, BYTES, seed), **kwargs)


def _take(iterator, count):
    return [next(iterator) for _ in range(count)]


def _assert_equal(one, two):
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def _pairs(batches):
    for batch in batches:
        for row in range(len(batch["encoder_input_tokens"])):
            for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
                here_in = batch["encoder_segment_ids"][row] == segment
                here_out = batch["decoder_segment_ids"][row] == segment
                assert set(batch["decoder_task_ids"][row][here_out]) == {0}
                yield (
                    BYTES.decode(batch["encoder_input_tokens"][row][here_in]),
                    BYTES.decode(batch["decoder_target_tokens"][row][here_out]),
                )


def test_their_examples_are_packed_into_our_batches():
    batches = _take(iter(_dataset(_config())), 45)
    assert batches[0]["encoder_input_tokens"].shape == (12, 64)
    pairs = list(_pairs(batches))
    assert all(int(text.removeprefix("number ")) ** 2 == int(square) for text, square in pairs)
    assert len({text for text, _ in pairs}) > 0.9 * ROWS
    assert len(pairs) > 2 * len(batches) * 12


@pytest.mark.parametrize("at", [0, 1, 28, 45])
def test_resuming_gives_the_very_next_batch(at):
    whole = _take(iter(_dataset(_config())), at + 5)
    iterator = iter(_dataset(_config()))
    _take(iterator, at)
    state = json.loads(json.dumps(iterator.get_state()))
    resumed = iter(_dataset(_config()))
    resumed.set_state(state)
    _assert_equal(_take(resumed, 5), whole[at:])


def test_processes_share_one_global_batch():
    whole = _take(iter(_dataset(_config())), 3)
    parts = [
        _take(iter(_dataset(_config(), process_index=i, process_count=2)), 3) for i in range(2)
    ]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*parts, strict=True)
    ]
    _assert_equal(joined, whole)


def test_seeds_differ():
    one, two = (next(iter(_dataset(_config(), seed=seed))) for seed in (1, 2))
    assert not np.array_equal(one["encoder_input_tokens"], two["encoder_input_tokens"])


def test_mixtures_are_read_too():
    import seqio

    _add("more")
    seqio.MixtureRegistry.add("both", ["theirs", "more"], default_rate=1.0)
    assert len(list(_pairs(_take(iter(_dataset(_config("both"))), 2)))) > 24


def test_evaluation_reads_one_epoch_in_order():
    config = _config(split="validation", pack=False, batch_size=4)
    maker = config.example_maker(BYTES, BYTES, 0)
    batches = list(eval_batches(config, maker, 100))
    texts = [BYTES.decode(row) for b in batches for row in b["encoder_input_tokens"] if row.any()]
    assert texts == [f"number {n}" for n in range(10)]
    assert len(batches) == 3 and not batches[-1]["decoder_loss_weights"][2:].any()


def test_our_own_names_are_read_by_our_reader():
    _add("toys")
    assert seqio_reader.foreign_provider("toys") is None
    assert seqio_reader.foreign_provider("theirs").name == "theirs"
    assert seqio_reader.foreign_provider("nobody_s") is None


def test_without_seqio_nothing_is_foreign_and_nothing_is_imported():
    code = (
        "import sys\nfrom flan_jax.data.seqio_reader import foreign_provider\n"
        "assert foreign_provider('x') is None\n"
        "print([m for m in ('seqio', 'tensorflow') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_other_vocabularies_features_and_splits_are_refused():
    import seqio

    _add("wide", seqio.ByteVocabulary(100))
    with pytest.raises(UserError, match="has a vocabulary of 359 ids, the model's has 259"):
        _dataset(_config("wide"))
    _add("language_model", features=("targets",))
    with pytest.raises(
        UserError, match=r"has the features targets; .*exactly `inputs` and `targets`"
    ):
        _dataset(_config("language_model"))
    with pytest.raises(SourceError, match=r"no split 'validate'.*did you mean 'validation'"):
        _dataset(_config(split="validate"))
    with pytest.raises(UserError, match="num_workers=2: 'theirs' is read by SeqIO"):
        _dataset(_config(num_workers=2))


def test_an_objective_is_not_silently_left_out():
    with pytest.raises(UserError, match="where objectives are preprocessors"):
        _dataset(_config(objective=SpanCorruption()))
