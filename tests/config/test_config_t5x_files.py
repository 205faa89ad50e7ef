"""Files written for T5X: their imports, names and scopes."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest

from flan_jax.config import Reference, load
from flan_jax.config.errors import Location
from flan_jax.config.statements import Assignment, Import, read_statements
from flan_jax.config.values import Macro

T5X_STYLE = """\
from __gin__ import dynamic_registration

import __main__ as cfg_script
import seqio
import t5x.cfg_trainer
from t5x import cfg_utils
from t5x.examples.t5 import cfg_models as network
from t5x import trainer as unknown_to_us

include "t5x_style_vocab.gin"

TRAIN_STEPS = %gin.REQUIRED  # set on the command line
DROPOUT_RATE = 0.1

network.Model:
  emb_dim = 64
  vocabulary = %VOCABULARY
  dropout_rate = %DROPOUT_RATE
cfg_script.cfg_train:
  model = @network.Model()
  model_dir = \\
      '/tmp/x'
  total_steps = %TRAIN_STEPS
  train_dataset_cfg = @train/cfg_utils.FeedConfig()
  trainer_cls = @t5x.cfg_trainer.Coach
train/cfg_utils.FeedConfig.mixture_or_task_name = 'micro'
train/cfg_utils.FeedConfig.task_feature_lengths = {
    'inputs': 64,
    'targets': 32,
}
train/cfg_utils.FeedConfig.batch_size = 2
"""


def test_t5x_style_file(write):
    write(
        "t5x_style_vocab.gin",
        "import t5x\nVOCABULARY = @t5x.cfg_vocab.TestVocabulary()\n",
    )
    name = write("t5x_style.gin", T5X_STYLE)
    loaded = load([name], ["TRAIN_STEPS = 5", "cfg_train.eval_period = 1"], required=("cfg_train",))
    assert loaded.imports == ()
    found = gin.get_configurable("cfg_train")()
    assert (found["total_steps"], found["eval_period"], found["model"].emb_dim) == (5, 1, 64)
    assert found["model"].dropout_rate == 0.1


def test_main_under_any_name_and_aliases_keep_to_their_file(write, complaints):
    write("a.gin", "import __main__ as mine\nmine.cfg_train.total_steps = 1\n")
    write("b.gin", "mine.cfg_train.total_steps = 2\n")
    assert load(["a.gin"]).values() == {"cfg_script.cfg_train.total_steps": 1}
    assert complaints(["a.gin", "b.gin"]) == [
        "b.gin:1: no configurable is called 'mine.cfg_train'; did you mean 'cfg_script.cfg_train'?"
    ]


USER_MODULE = """\
import gin

def rate(value=0.25):
    return lambda step: value

@gin.configurable(module="cfg_elsewhere")
def cfg_decorated(x=1):
    return x

class cfg_utils_twin:
    def method(self, y=2):
        return y

LIMIT = 3
"""


@pytest.fixture
def user_module(folder, monkeypatch):
    package = folder / "cfg_user_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cfg_user_tools.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(str(folder))


def test_modules_of_the_user_are_imported_and_registered_as_named(user_module, write, complaints):
    name = write(
        "x.gin",
        "from __gin__ import dynamic_registration\n"
        "from cfg_user_pkg import cfg_user_tools as tools\n"
        "import cfg_user_pkg.cfg_user_tools\n"
        "cfg_train.learning_rate_fn = @tools.rate()\n"
        "tools.rate.value = 0.75\n"
        "tools.cfg_decorated.x = 4\n"
        "cfg_user_pkg.cfg_user_tools.cfg_utils_twin:\n",
    )
    # The empty block is a syntax error; gin wants an indented line.
    assert complaints([name])[0].startswith("x.gin:7: syntax error: Expected indentation")
    text = Path(name).read_text().rsplit("cfg_user_pkg.", 1)[0]
    loaded = load([write("y.gin", text)])
    assert loaded.imports == ("cfg_user_pkg.cfg_user_tools",)
    assert loaded.values() == {
        "cfg_elsewhere.cfg_decorated.x": 4,
        "cfg_script.cfg_train.learning_rate_fn": Reference(
            "", "cfg_user_pkg.cfg_user_tools.rate", True
        ),
        "cfg_user_pkg.cfg_user_tools.rate.value": 0.75,
    }
    assert gin.get_configurable("cfg_user_tools.rate")()(0) == 0.75
    # What a module lacks, and what is no configurable, is unknown as ever.
    lines = complaints([write("z.gin", text + "tools.rat.value = 1\ntools.LIMIT.x = 1\n")])
    assert [line.split("; ")[0] for line in lines] == [
        "z.gin:7: no configurable is called 'tools.rat'",
        "z.gin:8: no configurable is called 'tools.LIMIT'",
    ]


def test_importing_works_while_gin_is_locked(user_module, write):
    load([write("x.gin", "")])
    assert gin.config_is_locked()
    load([write("y.gin", "import cfg_user_pkg.cfg_user_tools as t\nt.rate.value = 1\n")])
    assert gin.config_is_locked()


def test_reading_a_configuration_that_t5x_wrote(test_data):
    path = test_data / "t5x_tiny" / "t5_legacy" / "config.gin"
    if not path.is_file():
        pytest.skip("no T5X run in the test data")
    text = path.read_text()
    reading = read_statements(text, lambda line: Location(0, line, "config.gin"))
    assert reading.problems == []
    imports = [each for each in reading.statements if isinstance(each, Import)]
    assert {each.name for each in imports} >= {"train_script", "seqio", "network", "utils"}
    assignments = [each for each in reading.statements if isinstance(each, Assignment)]
    lines = text.splitlines()
    assert len(assignments) == sum(
        " = " in line and not line.startswith(("#", " ")) for line in lines
    )
    by_key = {(each.scope, each.selector, each.parameter): each for each in assignments}
    batch = by_key["train", "utils.DatasetConfig", "batch_size"]
    assert batch.value == Macro("BATCH_SIZE")
    assert lines[batch.location.line - 1].startswith("train/utils.DatasetConfig.batch_size")
    rules = by_key["", "partitioning.PjitPartitioner", "logical_axis_rules"]
    assert rules.value == Reference("", "partitioning.standard_logical_axis_rules", True)
