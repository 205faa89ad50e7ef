"""Configurables under T5X's names, and loading with gin's global state put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gin
import pytest

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True)
class Vocabulary:
    size: int = 256


@dataclass
class FeedConfig:
    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int] | None
    batch_size: int
    split: str = "train"
    shuffle: bool = True
    seed: int | None = None
    pack: bool = False


@dataclass(frozen=True)
class Model:
    emb_dim: int
    vocabulary: Vocabulary
    dropout_rate: float = 0.0
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    remat_policy: Literal["none", "full", "dots"] = "none"
    extra: list[int] = field(default_factory=list)


class Coach:
    def __init__(self, model: Model, learning_rate_fn: Callable[[int], float], names=()):
        self.model = model
        self.learning_rate_fn = learning_rate_fn
        self.names = names


def constant_rate(base_learning_rate: float = 0.5, precise: Decimal | None = None):
    return lambda step: base_learning_rate


def train(
    model: Model,
    train_dataset_cfg: FeedConfig,
    model_dir: str,
    total_steps: int,
    eval_period: int = 100,
    learning_rate_fn: Callable[[int], float] | None = None,
    trainer_cls: type[Coach] = Coach,
    tags: Sequence[str] = (),
    secret: int = 0,
    broken: int = None,  # noqa: RUF013
):
    return dict(locals())


def anything(**kwargs: Any):
    return kwargs


# gin's registry is global, so the names say that they are the tests'.
gin.configurable("TestVocabulary", module="cfg_vocab")(Vocabulary)
gin.configurable("FeedConfig", module="cfg_utils")(FeedConfig)
gin.configurable("Model", module="cfg_models")(Model)
gin.configurable("Coach", module="cfg_trainer")(Coach)
gin.configurable("constant_rate", module="cfg_utils")(constant_rate)
run_train = gin.configurable("cfg_train", module="cfg_script", denylist=["secret"])(train)
gin.configurable("anything", module="cfg_utils")(anything)
gin.configurable("twin", module="cfg_left")(lambda x=1: x)
gin.configurable("twin", module="cfg_right")(lambda x=1: x)


@pytest.fixture(autouse=True)
def _fresh_gin() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[[str, str], str]:
    """Writes a gin file into the current folder; its name."""

    def write(name: str, text: str) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return write


GOOD = """\
MODEL_DIR = %gin.REQUIRED
TRAIN_STEPS = %gin.REQUIRED
BATCH_SIZE = 128

cfg_train.model = @cfg_models.Model()
cfg_train.model_dir = %MODEL_DIR
cfg_train.total_steps = %TRAIN_STEPS
cfg_train.train_dataset_cfg = @train/cfg_utils.FeedConfig()
cfg_train.learning_rate_fn = @cfg_utils.constant_rate()
cfg_models.Model.emb_dim = 64
cfg_models.Model.vocabulary = @cfg_vocab.TestVocabulary()
train/cfg_utils.FeedConfig:
  mixture_or_task_name = 'micro'
  task_feature_lengths = {'inputs': 64, 'targets': 32}
  batch_size = %BATCH_SIZE
"""


@pytest.fixture
def good(write: Callable[[str, str], str]) -> str:
    """A whole run, which needs MODEL_DIR and TRAIN_STEPS from the command line."""
    return write("good.gin", GOOD)


@pytest.fixture
def complaints() -> Callable[..., list[str]]:
    """Loads and returns the lines of the error message below its first."""
    from flan_jax.config import ConfigError, load

    def complaints(
        files: Sequence[str] = (), bindings: Sequence[str] = (), **kwargs: Any
    ) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(files, bindings, **kwargs)
        first, *lines = str(caught.value).splitlines()
        noun = "problem" if len(lines) == 1 else "problems"
        assert first == f"{len(lines)} {noun} in the gin configuration:"
        return lines

    return complaints
