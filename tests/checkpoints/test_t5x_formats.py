"""Reading and writing both of T5X's formats in both of its layouts."""

from __future__ import annotations

import dataclasses
import filecmp
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_jax.checkpoints import t5x
from flan_jax.checkpoints.t5x.legacy import chunk_shape
from flan_jax.checkpoints.tensors import CheckpointError, TensorInfo
from flan_jax.sharding import named_leaves
from tests.checkpoints.t5x_samples import (
    FACTOR_AT,
    SHARED,
    random_ours,
    read_ours,
    write_ours,
    write_sample,
)

PER_LAYER = dataclasses.replace(SHARED, relative_attention_per_layer=True)
FORMS = ("legacy", "orbax")
REAL = {"t5_legacy": 128, "scan_orbax": 64}  # folder: min_dim_size_to_factor


def assert_same(one, other) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


def create(folder: Path, form: str, infos, axes):
    if form == "legacy":
        return t5x.create_t5x_legacy(folder, infos)
    return t5x.create_t5x_orbax(folder, infos, axes)


@pytest.fixture(scope="module")
def rewritten(test_data, tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Both real checkpoints, optimizer included, through our names into both formats."""
    folders = {}
    for name, factor_at in REAL.items():
        path = test_data / "t5x_tiny" / name / "checkpoint_20"
        reader = t5x.open_t5x(path)
        config, _ = t5x.read_t5x_config(path, reader.infos)
        options = {"optimizer": True, "min_dim_size_to_factor": factor_at}
        ours = read_ours(reader, t5x.t5x_layout(config, reader.infos, **options))
        layout = t5x.t5x_layout(config, t5x.is_scanned(reader.infos), **options)
        infos, axes = t5x.layout_infos(layout)
        for form in FORMS:
            folder = tmp_path_factory.mktemp(name) / f"{form}" / "checkpoint_20"
            write_ours(create(folder, form, infos, axes), layout, ours)
            folders[name, form] = folder
    return folders


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_come_back_bit_for_bit(rewritten, test_data, name, form):
    real = t5x.open_t5x(test_data / "t5x_tiny" / name / "checkpoint_20")
    ours = t5x.open_t5x(rewritten[name, form])
    assert t5x.t5x_format(rewritten[name, form]) == form
    assert set(ours.infos) == set(real.infos)
    for each in real.infos:
        assert_same(ours.read(each), real.read(each))


def test_legacy_files_are_those_that_t5x_wrote(rewritten, test_data):
    """All of them, byte by byte: the index, each header, each chunk."""
    real = test_data / "t5x_tiny" / "t5_legacy" / "checkpoint_20"
    ours = rewritten["t5_legacy", "legacy"]
    files = [file.relative_to(real) for file in real.rglob("*") if file.is_file()]
    assert len(files) > 180
    assert sorted(files) == sorted(x.relative_to(ours) for x in ours.rglob("*") if x.is_file())
    same, different, errors = filecmp.cmpfiles(real, ours, files, shallow=False)
    assert (len(same), different, errors) == (len(files), [], [])


def test_orbax_restores_what_we_write(tmp_path):
    ours = write_sample(tmp_path / "checkpoint_7", PER_LAYER, form="orbax")
    tree = ocp.PyTreeCheckpointer().restore(tmp_path / "checkpoint_7" / "state")
    assert int(tree["state"]["step"]) == 7
    kernel = np.asarray(tree["target"]["decoder"]["decoder"]["self_attention"]["query"]["kernel"])
    assert kernel.shape == (16, 3, 2, 5)
    name = "params/decoder/layers/self_attention/query/kernel"
    for layer in range(3):
        np.testing.assert_array_equal(kernel[:, layer].reshape(16, 10), ours[name, layer])
    manager = ocp.CheckpointManager(
        tmp_path,
        options=ocp.CheckpointManagerOptions(step_prefix="checkpoint", read_only=True),
        item_handlers={"state": ocp.PyTreeCheckpointHandler()},
    )
    assert list(manager.all_steps()) == [7]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", [SHARED, PER_LAYER], ids=["unscanned", "scanned"])
def test_round_trip_with_optimizer(tmp_path, config, form):
    folder = tmp_path / "checkpoint_7"
    ours = write_sample(folder, config, form=form)
    reader = t5x.open_t5x(folder)
    found, _ = t5x.read_t5x_config(folder, reader.infos)
    assert found == config
    layout = t5x.t5x_layout(config, reader.infos, optimizer=True, min_dim_size_to_factor=FACTOR_AT)
    back = read_ours(reader, layout)
    assert back.pop(("opt_state/count", None)) == 7
    assert back.keys() == ours.keys()
    for key, value in ours.items():
        assert_same(back[key], value)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_parameters_keep_their_bits(tmp_path, form):
    folder = tmp_path / "checkpoint_7"
    ours = write_sample(folder, form=form, optimizer=False, dtype="bfloat16")
    reader = t5x.open_t5x(folder)
    name = "target/token_embedder/embedding"
    assert reader.infos[name] == TensorInfo((24, 16), np.dtype(ml_dtypes.bfloat16))
    expected = ours["params/token_embedder/embedding", None].astype(ml_dtypes.bfloat16)
    assert_same(reader.read(name), expected)


@pytest.mark.parametrize("form", FORMS)
def test_slices_along_any_axis(tmp_path, form):
    folder = tmp_path / "checkpoint_7"
    write_sample(folder, PER_LAYER, form=form)
    reader = t5x.open_t5x(folder)
    slots = "state/param_states/decoder/decoder/self_attention/query/kernel"
    for name in ("target/decoder/decoder/self_attention/query/kernel", f"{slots}/v_col"):
        whole = reader.read(name)
        for axis, size in enumerate(whole.shape):
            for index in range(size):
                assert_same(reader.read(name, index, axis), whole.take(index, axis))


def test_step_may_be_a_float(tmp_path):
    """As T5X writes it after it restored a checkpoint by Orbax."""
    layout = t5x.t5x_layout(SHARED, False, optimizer=False)
    infos, axes = t5x.layout_infos(layout)
    infos["state/step"] = TensorInfo((), np.dtype(np.float32))
    folder = tmp_path / "checkpoint_7"
    write_ours(t5x.create_t5x_orbax(folder, infos, axes), layout, random_ours(layout))
    reader = t5x.open_t5x(folder)
    assert reader.read("state/step").dtype == np.float32
    assert int(reader.read("state/step")) == 7


@pytest.mark.parametrize("form", FORMS)
def test_what_was_not_written_is_noticed(tmp_path, form):
    layout = t5x.t5x_layout(PER_LAYER, True, optimizer=False)
    infos, axes = t5x.layout_infos(layout)
    writer = create(tmp_path / "checkpoint_7", form, infos, axes)
    ours = random_ours(layout)
    for part in layout:
        # The last slice of one tensor is left out.
        if (part.theirs, part.their_index) != ("target/decoder/decoder/mlp/wo/kernel", 2):
            value = part.to_theirs(ours[part.ours, part.layer])
            writer.write(part.theirs, value, part.their_index, part.their_axis)
    with pytest.raises(ValueError, match=r"not written: target/decoder/decoder/mlp/wo/kernel$"):
        writer.close()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 24, 31, 2048, 32128, 262144]), max_size=4).map(tuple),
    st.sampled_from([2, 4]),
)
def test_legacy_chunks_tile_the_array_and_are_small(shape, itemsize):
    for axis in (None, *range(len(shape))):
        chunks = chunk_shape(shape, itemsize, axis)
        assert all(size % chunk == 0 for size, chunk in zip(shape, chunks, strict=True))
        assert math.prod(chunks) * itemsize <= 64 << 20
        if math.prod(shape) * itemsize <= 64 << 20:
            assert chunks == shape
        elif axis is not None:
            assert chunks[axis] == 1


def test_large_stacked_arrays_are_written_slice_by_slice(tmp_path):
    shape = (4096, 3, 2048)  # 96 MiB
    name = "target/encoder/encoder/mlp/wi_0/kernel"
    writer = t5x.create_t5x_legacy(
        tmp_path / "checkpoint_1", {name: TensorInfo(shape, np.dtype(np.float32))}
    )
    slices = [np.full((4096, 2048), index, np.float32) for index in range(3)]
    for index in (2, 0, 1):
        writer.write(name, slices[index], index, 1)
        assert not writer._gathered  # nothing waits for the rest
    writer.close()
    reader = t5x.open_t5x(tmp_path / "checkpoint_1")
    for index in range(3):
        np.testing.assert_array_equal(reader.read(name, index, 1), slices[index])


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize(
    "change",
    [{}, {"mlp_activations": ("relu",)}, {"logits_via_embedding": True}],
    ids=["v1.1", "v1.0 wi", "tied"],
)
def test_layout_covers_model_and_optimizer(per_layer, change):
    """Each tensor of ours, each layer of it, has one place; each of theirs is filled."""
    import jax

    from flan_jax.models.encoder_decoder import EncoderDecoderModel
    from flan_jax.sharding import logical_axes
    from flan_jax.train.optimizer import Adafactor

    config = dataclasses.replace(SHARED, relative_attention_per_layer=per_layer, **change)
    params = jax.eval_shape(EncoderDecoderModel(config).init, jax.random.key(0))
    optimizer = Adafactor(1e-3, min_dim_size_to_factor=FACTOR_AT, beta1=0.9)
    state = jax.eval_shape(optimizer.create(None, logical_axes(params)).init, params)
    layout = t5x.t5x_layout(
        config, per_layer, optimizer=True, momentum=True, min_dim_size_to_factor=FACTOR_AT
    )
    wanted = {f"params/{name}": leaf.shape for name, leaf in named_leaves(params).items()}
    for slot in ("v_row", "v_col", "v", "m"):
        for name, leaf in named_leaves(getattr(state, slot)).items():
            wanted[f"opt_state/{slot}/{name}"] = leaf.shape
    wanted["step"] = ()
    found: dict[str, tuple[int, ...]] = {}
    for part in layout:
        shape = part.shape if part.layer is None else (part.layer + 1, *part.shape)
        assert len(found.get(part.ours, shape)) == len(shape)
        found[part.ours] = shape
    assert found == wanted
    assert len({(part.ours, part.layer) for part in layout}) == len(layout)
    assert ("target/decoder/logits_dense/kernel" in {part.theirs for part in layout}) == (
        not config.logits_via_embedding
    )


def test_unscanned_layers_of_scalable_t5(tmp_path):
    """T5X's scalable_t5 with scan_layers=False: layers_i, 3-D kernels, a bias in each."""
    scanned = t5x.t5x_layout(PER_LAYER, True, optimizer=False)
    infos = {}
    for part in scanned:
        stack, _, rest = part.theirs.removeprefix("target/").partition("/")
        name = part.theirs
        if part.their_index is not None:
            name = f"target/{stack}/layers_{part.their_index}/{rest.partition('/')[2]}"
        infos[name] = TensorInfo(part.their_shape, np.dtype(np.float32))
    assert infos["target/decoder/layers_2/self_attention/out/kernel"].shape == (2, 5, 16)
    layout = t5x.t5x_layout(PER_LAYER, infos, optimizer=False)
    assert {part.theirs for part in layout} == set(infos)
    assert all(infos[part.theirs].shape == part.their_shape for part in layout)
    assert t5x.read_t5x_config(tmp_path / "checkpoint_1", infos).config.head_dim == 5


def test_shared_bias_is_copied_to_scanned_layers_only_if_asked(tmp_path):
    with pytest.raises(CheckpointError, match="training in T5X unties the copies"):
        t5x.t5x_layout(SHARED, True, optimizer=False)
    with pytest.raises(CheckpointError, match="leave the optimizer's state out"):
        t5x.t5x_layout(SHARED, True, optimizer=True, tile_bias=True)
    with pytest.raises(CheckpointError, match="write the scanned layout"):
        t5x.t5x_layout(PER_LAYER, False, optimizer=False)
    layout = t5x.t5x_layout(SHARED, True, optimizer=False, tile_bias=True)
    infos, _ = t5x.layout_infos(layout)
    folder = tmp_path / "checkpoint_7"
    ours = random_ours(layout)
    write_ours(t5x.create_t5x_legacy(folder, infos), layout, ours)
    reader = t5x.open_t5x(folder)
    bias = reader.read("target/encoder/encoder/relpos_bias/rel_embedding")
    assert bias.shape == (2, 2, 32)
    for layer in range(2):
        np.testing.assert_array_equal(
            bias[:, layer], ours["params/encoder/relpos_bias/rel_embedding", None]
        )


def test_only_t5x_s_bias_can_be_written():
    config = dataclasses.replace(SHARED, relative_attention_num_buckets=16)
    with pytest.raises(CheckpointError, match=r"32 buckets up to distance 128.*this model of 16"):
        t5x.t5x_layout(config, False, optimizer=False)


def test_optimizer_state_that_ours_cannot_hold(test_data):
    path = test_data / "t5x_tiny" / "scan_orbax" / "checkpoint_20"
    reader = t5x.open_t5x(path)
    config, _ = t5x.read_t5x_config(path, reader.infos)
    problem = t5x.optimizer_problem(config, reader.infos)
    assert problem is not None
    assert "(128, 64) is smaller than min_dim_size_to_factor" in problem
    with pytest.raises(CheckpointError, match="logical_factor_rules"):
        t5x.t5x_layout(config, reader.infos, optimizer=True)
    assert t5x.optimizer_problem(config, reader.infos, 64) is None
    target = {name: info for name, info in reader.infos.items() if name.startswith("target/")}
    assert "no optimizer state" in str(t5x.optimizer_problem(config, target))
