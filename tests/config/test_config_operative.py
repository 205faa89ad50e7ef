"""Configurations written down, and read back as they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gin
import hypothesis.strategies as st
import pytest
from hypothesis import example, given

import flan_jax
from flan_jax.config import (
    load,
    operative_config_text,
    resolved_config_text,
    save_operative_config,
    save_text,
)
from flan_jax.config.errors import Location
from flan_jax.config.statements import read_statements
from flan_jax.config.values import Macro, Reference, Unreadable, format_statement, format_value

SET = ["MODEL_DIR = '/tmp/x'", "TRAIN_STEPS = 5"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    # The complex numbers that gin can express: a literal such as 2j, and its negative.
    | st.floats(min_value=0, exclude_min=True, allow_infinity=False).map(lambda x: complex(0, x))
    | st.floats(min_value=0, exclude_min=True, allow_infinity=False).map(lambda x: -complex(0, x))
    | st.sampled_from(
        [Macro("A"), Macro("s/B"), Reference("", "x.Y", True), Reference("a/b", "x.Y", False)]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def read_value(text):
    reading = read_statements(text, lambda line: Location(0, line, "x"))
    assert reading.problems == []
    (statement,) = reading.statements
    return statement.value


@given(values)
@example((1,))
@example(float("-inf"))
@example("line\nbreak # no comment '\"")
@example(["x" * 120, {"k": ("y" * 120,)}])
def test_values_survive_being_written_and_read(value):
    for text in (f"a.b = {format_value(value)}", format_statement("a.b", value)):
        found = read_value(text)
        assert repr(found) == repr(value)  # 1 is not True, 0.0 is not -0.0


@given(values.filter(lambda value: not any(mark in repr(value) for mark in "@%")))
def test_gin_reads_the_same_values(value):
    gin.clear_config()
    gin.parse_config(f"cfg_utils.anything.x = {format_value(value)}")
    assert repr(gin.query_parameter("cfg_utils.anything.x")) == repr(value)


def test_resolved_text_shows_where_values_come_from(good):
    loaded = load([good], [*SET, "cfg_models.Model.mlp_activations = ('gelu',)"])
    assert (
        resolved_config_text(loaded)
        == """\
# Read from: good.gin

# Macros
BATCH_SIZE = 128  # from good.gin:3
MODEL_DIR = '/tmp/x'  # from command line: --gin.MODEL_DIR='/tmp/x'
TRAIN_STEPS = 5  # from command line: --gin.TRAIN_STEPS=5

# cfg_models.Model
cfg_models.Model.emb_dim = 64  # from good.gin:10
cfg_models.Model.mlp_activations = ('gelu',)  # from command line: \
--gin.cfg_models.Model.mlp_activations=('gelu',)
cfg_models.Model.vocabulary = @cfg_vocab.TestVocabulary()  # from good.gin:11

# cfg_script.cfg_train
cfg_script.cfg_train.learning_rate_fn = @cfg_utils.constant_rate()  # from good.gin:9
cfg_script.cfg_train.model = @cfg_models.Model()  # from good.gin:5
cfg_script.cfg_train.model_dir = %MODEL_DIR  # = '/tmp/x', from good.gin:6
cfg_script.cfg_train.total_steps = %TRAIN_STEPS  # = 5, from good.gin:7
cfg_script.cfg_train.train_dataset_cfg = @train/cfg_utils.FeedConfig()  # from good.gin:8

# train/cfg_utils.FeedConfig
train/cfg_utils.FeedConfig.batch_size = %BATCH_SIZE  # = 128, from good.gin:15
train/cfg_utils.FeedConfig.mixture_or_task_name = 'micro'  # from good.gin:13
train/cfg_utils.FeedConfig.task_feature_lengths = {'inputs': 64, 'targets': 32}  \
# from good.gin:14
"""
    )


def test_resolved_text_loads_as_the_same_configuration(good, write):
    loaded = load([good], [*SET, f"cfg_train.tags = {['long' * 10] * 9!r}"])
    again = load([write("again.gin", resolved_config_text(loaded))], required=("cfg_train",))
    assert again.values() == loaded.values()


def test_operative_configuration_round_trip(good, folder):
    load([good], SET, required=("cfg_train",))
    first = gin.get_configurable("cfg_train")()
    path = folder / "run" / "config.gin"
    save_operative_config(path)
    text = path.read_text()
    assert text == operative_config_text()
    assert "cfg_script.cfg_train.eval_period = 100\n" in text  # defaults are spelt out
    assert [each.name for each in path.parent.iterdir()] == ["config.gin"]
    saved = load([path], required=("cfg_train",))
    assert (
        saved.values().items()
        >= {
            "TRAIN_STEPS": 5,
            "cfg_script.cfg_train.total_steps": Macro("TRAIN_STEPS"),
            "train/cfg_utils.FeedConfig.shuffle": True,
        }.items()
    )
    second = gin.get_configurable("cfg_train")()
    for name in ("model", "train_dataset_cfg", "model_dir", "total_steps", "tags"):
        assert first[name] == second[name], name
    assert operative_config_text() == text


def test_macros_of_arguments_that_a_caller_overrides_are_dropped(write):
    load([write("x.gin", "N = 3\ncfg_utils.constant_rate.base_learning_rate = %N\n")])
    gin.get_configurable("cfg_utils.constant_rate")(base_learning_rate=7.0)
    assert "N = 3" in gin.operative_config_str()
    assert "N = 3" not in operative_config_text()
    load([write("y.gin", operative_config_text())])


def test_operative_configuration_of_user_modules_loads_in_a_new_process(write, folder, monkeypatch):
    (folder / "cfg_saved_user.py").write_text("def cfg_saved_fn(x=1, y=2):\n    return x + y\n")
    monkeypatch.syspath_prepend(str(folder))
    load([write("x.gin", "import cfg_saved_user as user\nuser.cfg_saved_fn.x = 5\n")])
    assert gin.get_configurable("cfg_saved_fn")() == 7
    save_operative_config("saved.gin")
    code = (
        "import gin; from flan_jax.config import load; load(['saved.gin']); "
        "print(gin.get_configurable('cfg_saved_fn')())"
    )
    root = str(Path(flan_jax.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{folder}"},
    )
    assert done.stdout.strip() == "7"


def test_saving_is_all_or_nothing(folder, monkeypatch):
    save_text("config.gin", "old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_text("config.gin", "new")
    assert Path("config.gin").read_text() == "old"
    assert os.listdir(folder) == ["config.gin"]


def test_remote_paths_are_refused():
    with pytest.raises(ValueError, match="remote"):
        save_operative_config("gs://bucket/config.gin")


def test_reading_goes_on_after_a_syntax_error():
    text = "a.x = 1\nb.y = [1 2]\nc:\n  p = %M\n  q ! 2\n  r = 3\nd.z = 4\n"
    reading = read_statements(text, lambda line: Location(0, line, "x"))
    assert [problem.location.line for problem in reading.problems] == [2, 5]
    found = {
        (each.selector, each.parameter): each.value
        for each in reading.statements
        if hasattr(each, "parameter")
    }
    assert set(found) == {("a", "x"), ("b", "y"), ("c", "p"), ("c", "r"), ("d", "z")}
    assert found["d", "z"] == 4
    assert isinstance(found["c", "p"], Unreadable)
    assert found["c", "p"].mentioned_macros() == ["M"]
