"""Token stores give what rendering gives, and say what does not fit."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flan_jax.cli import data as data_cli
from flan_jax.data.counts import take_counts
from flan_jax.data.flat_rows import build_rows, flatten
from flan_jax.data.packing import build_row, pack_best_fit
from flan_jax.data.reader import DatasetConfig, make_schedule, train_dataset
from flan_jax.data.schedule import Draw
from flan_jax.data.token_store import open_token_store
from flan_jax.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from flan_jax.errors import UserError
from flan_jax.mixing import MixtureDefinition, register_mixture
from flan_jax.objectives import SpanCorruption
from flan_jax.prompts.fewshot import FewShotPolicy
from flan_jax.realised import MixtureMissingError
from flan_jax.store import StoreError
from flan_jax.store.token_build import build_token_store

BYTES = ByteVocabulary()
# Some inputs and targets are longer.
LENGTHS = {"inputs": 40, "targets": 12}
MICRO = sorted((Path(__file__).parents[2] / "mixtures/micro/vocabulary").glob("*.model"))


@pytest.fixture
def finite(mixture) -> MixtureDefinition:
    """The mixture `toys` without its endless task, which no token store can hold."""
    return register_mixture("finite", {"toy_colour": 3, "toy_repeat": 2})


def _config(**kwargs) -> DatasetConfig:
    return DatasetConfig(
        **{
            "mixture_or_task_name": "finite",
            "task_feature_lengths": LENGTHS,
            "batch_size": 8,
            **kwargs,
        }
    )


def _maker(seed: int = 0, **kwargs):
    return _config(**kwargs).example_maker(BYTES, BYTES, seed)


def _build(out, maker=None, **kwargs):
    return build_token_store(maker or _maker(), out, mixture_name="finite", **kwargs)


def _content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def _assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype, name
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize("pack", [True, False])
def test_rows_made_at_once_are_those_made_one_by_one(finite, pack):
    maker = _maker()
    draws = make_schedule(_config(), maker).window_draws(0)
    examples = [maker.tokenized(draw) for draw in draws]
    assert {e.cut for e in examples} >= {0, 2}
    flat = flatten(examples)
    groups = pack_best_fit(flat.lengths, (40, 12)) if pack else [[i] for i in range(len(examples))]
    rows = [
        build_row([examples[i] for i in group], (40, 12), packed=pack, cuts=True)
        for group in groups
    ]
    made = build_rows(flat, groups, (40, 12), packed=pack, cuts=True)
    _assert_same(made, {name: np.stack([row[name] for row in rows]) for name in rows[0]})


def test_batches_are_those_of_rendering_bit_for_bit(finite, tmp_path):
    # `toy_repeat` is read 37 times a window.
    _, manifest = _build(tmp_path / "s", epochs=90)
    assert manifest is not None and manifest.rendering.dtype == "<u2"
    rendered = iter(train_dataset(_config(batch_size=64), _maker(), counted=True))
    config = _config(token_store=str(tmp_path / "s"), batch_size=64)
    stored = iter(train_dataset(config, _maker(token_store=str(tmp_path / "s")), counted=True))
    cut = 0
    for _ in range(24):
        one, two = next(rendered), next(stored)
        _assert_same(one, two)
        counts = take_counts(one)
        cut += counts["truncation"][:, 1:].sum()
    assert counts["window"] >= 1 and cut > 0


def test_epochs_beyond_the_stored_are_the_first_again(finite, tmp_path):
    _build(tmp_path / "s", epochs=3)
    stored, rendered = _maker(token_store=str(tmp_path / "s")), _maker()
    texts = set()
    for epoch in range(7):
        for row in range(11):
            one = stored.tokenized(Draw(1, row, epoch))
            two = rendered.tokenized(Draw(1, row, epoch % 3))
            assert one.inputs.tolist() == two.inputs.tolist()
            assert one.targets.tolist() == two.targets.tolist()
            assert one == dataclasses.replace(two, inputs=one.inputs, targets=one.targets)
        texts.add(tuple(stored.tokenized(Draw(0, 5, epoch)).inputs.tolist()))
    assert 1 < len(texts) <= 3


def test_truncation_is_counted_by_task(finite, tmp_path):
    _, manifest = _build(tmp_path / "s", epochs=2)
    maker = _maker()
    for position, name in enumerate(maker.task_names):
        examples = [
            maker.tokenized(Draw(position, row, epoch))
            for epoch in range(2)
            for row in range(maker.num_examples(position))
        ]
        task = manifest.tasks[name]
        assert task.tokens == sum(len(e.inputs) + len(e.targets) for e in examples)
        assert task.inputs_cut == sum(e.inputs_lost > 0 for e in examples)
        assert task.targets_cut == sum(e.targets_lost > 0 for e in examples)
    assert manifest.tasks["toy_repeat"].targets_cut > 0


def test_a_store_is_the_same_whoever_built_it_and_whatever_was_there(finite, tmp_path):
    _build(tmp_path / "one", epochs=2)
    _build(tmp_path / "two", _maker(seed=1), epochs=2)
    assert _content(tmp_path / "one") != _content(tmp_path / "two")
    outcomes, _ = _build(tmp_path / "two", epochs=2)
    assert {o.status for o in outcomes} == {"built"}
    assert _content(tmp_path / "one") == _content(tmp_path / "two")
    outcomes, _ = _build(tmp_path / "two", epochs=2)
    assert {o.status for o in outcomes} == {"unchanged"}
    assert _content(tmp_path / "one") == _content(tmp_path / "two")
    shard = next((tmp_path / "two").glob("rows-*"))
    shard.write_bytes(shard.read_bytes()[:-3])
    outcomes, _ = _build(tmp_path / "two", epochs=2)
    assert {o.status for o in outcomes} == {"built"}
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_a_build_that_was_stopped_goes_on(finite, tmp_path):
    def stop(outcome):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "s", epochs=2, tell=stop)
    assert not (tmp_path / "s/manifest.json").exists()
    outcomes, _ = _build(tmp_path / "s", epochs=2)
    assert sorted(o.status for o in outcomes) == ["built", "resumed"]
    _build(tmp_path / "fresh", epochs=2)
    assert _content(tmp_path / "s") == _content(tmp_path / "fresh")


def test_an_endless_task_is_refused_and_the_others_kept(mixture, tmp_path):
    maker = _maker(mixture_or_task_name="toys")
    outcomes, manifest = _build(tmp_path / "s", maker)
    assert manifest is None
    failed = [o for o in outcomes if o.status == "failed"]
    assert [o.name for o in failed] == ["toy_add"] and "--endless_rows" in failed[0].detail
    _, manifest = _build(tmp_path / "s", maker, allow_missing=True)
    assert sorted(manifest.tasks) == ["toy_colour", "toy_repeat"]
    with pytest.raises(MixtureMissingError, match=r"toy_add: not in the token store .*has no end"):
        _maker(mixture_or_task_name="toys", token_store=str(tmp_path / "s"))
    found = _maker(mixture_or_task_name="toys", token_store=str(tmp_path / "s"), allow_missing=True)
    assert found.task_names == ("toy_colour", "toy_repeat") and set(found.missing) == {"toy_add"}


@pytest.mark.parametrize(
    "kwargs, seed, message",
    [
        ({}, 1, r"seed: 0 in the store, 1 now"),
        ({"task_feature_lengths": {"inputs": 41, "targets": 12}}, 0, r"inputs_length: 40 .* 41"),
        ({"few_shot": FewShotPolicy(2, 3)}, 0, r"few_shot: .*'min_shots': 1.*'min_shots': 2"),
        ({"split": "validation"}, 0, r"split: 'train' in the store, 'validation' now"),
    ],
)
def test_other_settings_are_refused(finite, tmp_path, kwargs, seed, message):
    _build(tmp_path / "s")
    with pytest.raises(StoreError, match=message) as caught:
        _maker(seed, token_store=str(tmp_path / "s"), **kwargs)
    assert f"flan-jax data render finite --out {tmp_path / 's'}" in str(caught.value)


def test_another_vocabulary_is_refused(finite, tmp_path):
    _build(tmp_path / "s")
    config = _config(token_store=str(tmp_path / "s"))
    with pytest.raises(StoreError, match=r"targets_vocabulary: '259 ids, 0 extra.* 3 extra"):
        config.example_maker(BYTES, ByteVocabulary(3), 0)
    piece = SentencePieceVocabulary(str(MICRO[0]), 100)
    with pytest.raises(StoreError, match=r"inputs_vocabulary: .*SentencePiece.*sha256"):
        config.example_maker(piece, piece, 0)


def test_an_objective_is_refused(finite, tmp_path):
    _build(tmp_path / "s")
    with pytest.raises(UserError, match=r"token_store .TOKEN_STORE. holds prompts and targets"):
        _maker(token_store=str(tmp_path / "s"), objective=SpanCorruption())


def test_changed_templates_and_variants_are_refused(finite, tmp_path, monkeypatch):
    _build(tmp_path / "s")
    task = finite.tasks()[1]
    other = tmp_path / "other.yaml"
    other.write_text('templates: [{inputs: "Repeat {{ a }}", targets: "{{ answer }}"}]')
    from flan_jax import mixing, tasks

    with monkeypatch.context() as patch:
        patch.setitem(tasks._TASKS, task.name, dataclasses.replace(task, template_file=other))
        with pytest.raises(StoreError, match=r"other definitions .* of 1 tasks: toy_repeat\."):
            _maker(token_store=str(tmp_path / "s"))
        outcomes, _ = _build(tmp_path / "s")
        assert {o.name: o.status for o in outcomes} == {
            "toy_colour": "unchanged",
            "toy_repeat": "built",
        }
        _maker(token_store=str(tmp_path / "s"))
    _build(tmp_path / "s")
    changed = dataclasses.replace(finite, variants={"zs_opt": 1.0})
    monkeypatch.setitem(mixing._MIXTURES, "finite", changed)
    with pytest.raises(StoreError, match=r"weights of the prompt variants. of 2 tasks"):
        _maker(token_store=str(tmp_path / "s"))
    # Shares alone change nothing of an example.
    shares = dataclasses.replace(finite, rates={"toy_colour": 1.0, "toy_repeat": 9.0})
    monkeypatch.setitem(mixing._MIXTURES, "finite", shares)
    _maker(token_store=str(tmp_path / "s"))


@pytest.mark.parametrize("pattern", ["rows-*", "index-*"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_found_at_open_and_the_file_named(finite, tmp_path, pattern, harm):
    _build(tmp_path / "s")
    victim = next((tmp_path / "s").glob(pattern))
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif harm == "cut":
        victim.write_bytes(data[:-1])
    else:
        victim.unlink()
    with pytest.raises(StoreError, match=victim.name) as caught:
        open_token_store(str(tmp_path / "s"))
    assert "flan-jax data render finite" in str(caught.value)


def test_a_folder_that_is_none_and_a_store_of_rows_are_told_apart(finite, tmp_path):
    from flan_jax.store import build_store

    with pytest.raises(StoreError, match="is no token store"):
        open_token_store(str(tmp_path))
    build_store(finite, tmp_path / "rows")
    with pytest.raises(StoreError, match=r"a store of rows goes to `store`"):
        open_token_store(str(tmp_path / "rows"))


def test_a_damaged_manifest_is_refused(finite, tmp_path):
    _build(tmp_path / "s")
    path = tmp_path / "s/manifest.json"
    path.write_text(path.read_text().replace('"rows": 57', '"rows": 58'))
    with pytest.raises(StoreError, match="its checksum does not fit"):
        open_token_store(str(tmp_path / "s"))


def test_stores_on_object_stores_are_read_with_few_requests(finite, tmp_path):
    import fsspec

    _build(tmp_path / "s")
    memory = fsspec.filesystem("memory")
    for name, data in _content(tmp_path / "s").items():
        memory.pipe(f"/tokens_here/{name}", data)
    here, there = open_token_store(str(tmp_path / "s")), open_token_store("memory://tokens_here")
    draws = [("toy_colour", row, 0) for row in range(57)] + [("toy_repeat", 3, 5)]
    one, two = (store.read(draws, [0] * 57 + [1]) for store in (here, there))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)


def test_only_the_path_is_pickled(finite, tmp_path):
    _build(tmp_path / "s")
    store = open_token_store(str(tmp_path / "s"))
    data = pickle.dumps(store)
    assert len(data) < 1000
    draws = [("toy_repeat", 3, 0)]
    assert pickle.loads(data).read(draws, [1]).tokens.tolist() == (
        store.read(draws, [1]).tokens.tolist()
    )
    _build(tmp_path / "s", _maker(seed=5))
    with pytest.raises(StoreError, match="was made anew while it was in use"):
        pickle.loads(data)


@pytest.mark.slow
def test_the_command_renders_with_several_processes_and_the_trainer_reads_it(tmp_path):
    arguments = ["micro", "--out", str(tmp_path / "rows"), "--endless_rows", "40"]
    assert data_cli.main(["build", *arguments]) == 0
    arguments = ["micro", "--store", str(tmp_path / "rows"), "--vocabulary", str(MICRO[0])]
    arguments += ["--inputs_length", "128", "--targets_length", "32", "--seed", "7"]
    for jobs in ("1", "2"):
        out = str(tmp_path / jobs)
        assert data_cli.main(["render", *arguments, "--out", out, "--jobs", jobs]) == 0
    assert _content(tmp_path / "1") == _content(tmp_path / "2")
    program = f"""
import json, sys
import flan_jax.mixtures
from flan_jax.data.reader import DatasetConfig, train_dataset
from flan_jax.data.vocabulary import SentencePieceVocabulary
vocabulary = SentencePieceVocabulary({str(MICRO[0])!r}, 100)
for store in ({{"store": {str(tmp_path / "rows")!r}}}, {{"token_store": {out!r}}}):
    config = DatasetConfig("micro", {{"inputs": 128, "targets": 32}}, batch_size=4, **store)
    batch = next(iter(train_dataset(config, config.example_maker(vocabulary, vocabulary, 7))))
    print(int(batch["encoder_input_tokens"].astype("int64").sum()))
heavy = ("tensorflow", "tensorflow_datasets", "pyarrow", "seqio", "datasets")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    rendered, stored, loaded = done.stdout.split("\n")[:3]
    assert rendered == stored and json.loads(loaded) == []
