"""Values against the annotations of their parameters."""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import typing
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import gin
import pytest

from flan_jax.config import Reference, load
from flan_jax.config.annotations import UNKNOWN, annotation_of, mismatch
from flan_jax.config.registry import get


@dataclasses.dataclass
class Point:
    x: int = 0


class Row(TypedDict):
    name: str


def make_point():
    return Point()


class Rate:
    def __call__(self, step):
        return step


gin.configurable("Point", module="cfg_types")(Point)
gin.configurable("make_point", module="cfg_types")(make_point)
gin.configurable("Rate", module="cfg_types")(Rate)

POINT, POINT_CLASS = (Reference("", "cfg_types.Point", called) for called in (True, False))
MADE, MAKER = (Reference("a", "cfg_types.make_point", called) for called in (True, False))
RATE = Reference("", "cfg_types.Rate", True)


@pytest.mark.parametrize(
    ("annotation", "accepted", "refused"),
    [
        (int, [0, -3], [True, 1.0, "1", None, [1]]),
        (float, [0.5, 1, math.inf], [True, "1", None]),
        (bool, [True, False], [0, 1, "True", None]),
        (str, ["", "a"], [1, True, None, ["a"], b"a"]),
        (bytes, [b"a"], ["a"]),
        (complex, [1j, 1, 1.5], ["1", True]),
        (None, [None], [0, ""]),
        (Optional[int], [None, 1], ["1", 1.5, False]),  # noqa: UP045
        (int | None, [None, 1], ["1", 1.5]),
        (Union[int, str], [1, "a"], [None, 1.5]),  # noqa: UP007
        (Literal["a", 1, None], ["a", 1, None], ["b", True, 2]),
        (Annotated[int, "steps"], [1], ["1"]),
        (list, [[], [1, "a"]], [(), "a", None, {}]),
        (list[int], [[], [1]], [["1"], (1,), [1, None], [True]]),
        (tuple, [(), (1, "a")], [[], "a"]),
        (tuple[int, ...], [(), (1, 2)], [("1",), [1]]),
        (tuple[int, str], [(1, "a")], [(1,), (1, "a", "b"), ("a", 1)]),
        (collections.abc.Sequence[str], [[], ["a"], ("a",)], ["abc", [1], {}]),
        (typing.Iterable[int], [[1], (1,)], [1, ["a"]]),
        (dict, [{}, {1: 2}], [[], None]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "1"}, {1: 1}, [("a", 1)]]),
        (collections.abc.Mapping[str, list[int]], [{"a": [1]}], [{"a": [1, "2"]}, {"a": 1}]),
        (typing.Dict[str, int] | None, [None, {"a": 1}], [{"a": None}]),  # noqa: UP006
        (collections.abc.Callable[[int], float], [MAKER, MADE, RATE], [1, "f", POINT]),
        (collections.abc.Callable, [POINT_CLASS, MAKER], [None, "f"]),
        (type[Point], [POINT_CLASS], [POINT, "Point"]),
        (Point, [POINT, MADE], [POINT_CLASS, MAKER, {}, None, 3, RATE]),
        (Point | None, [POINT, MADE, None], [POINT_CLASS, {}, RATE]),
        (int | str, [MADE], [POINT, POINT_CLASS]),
        (Row, [{"name": 1}], ["name"]),
        (Rate, [RATE, MAKER], []),  # instances can be called, so a function may stand in
        (Any, [1, None, POINT, POINT_CLASS], []),
        (object, [1, None], []),
        ("Unheard", [1], []),
        (typing.TypeVar("T"), [1], []),
        (math, [1], []),
        (list[Any], [[1, None, POINT]], [1]),
    ],
)
def test_mismatch(annotation, accepted, refused):
    assert [value for value in accepted if mismatch(value, annotation)] == []
    assert [value for value in refused if not mismatch(value, annotation)] == []


PLACE = "x.gin:1: wrong type for "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cfg_train.total_steps = 1e6",
            "cfg_script.cfg_train.total_steps: found 1000000.0 (float), expected int; "
            "write 1000000",
        ),
        (
            "cfg_train.total_steps = '100'",
            "cfg_script.cfg_train.total_steps: found '100' (str), expected int; "
            "leave out the quotes",
        ),
        (
            "cfg_train.total_steps = True",
            "cfg_script.cfg_train.total_steps: found True (bool), expected int",
        ),
        (
            "cfg_train.model_dir = 2024",
            "cfg_script.cfg_train.model_dir: found 2024 (int), expected str; quote it: '2024'",
        ),
        (
            "train/FeedConfig.pack = 'true'",
            "train/cfg_utils.FeedConfig.pack: found 'true' (str), expected bool; "
            "did you mean 'True'?",
        ),
        (
            "FeedConfig.seed = 1.5",
            "cfg_utils.FeedConfig.seed: found 1.5 (float), expected int | None",
        ),
        (
            "FeedConfig.task_feature_lengths = {'inputs': 64, 'targets': '32'}",
            "cfg_utils.FeedConfig.task_feature_lengths: found '32' (str) at ['targets'], "
            "expected int; leave out the quotes",
        ),
        (
            "Model.mlp_activations = ['gelu', 'linear']",
            "cfg_models.Model.mlp_activations: found ['gelu', 'linear'] (list), expected "
            "tuple[str, ...]; write ('gelu', 'linear')",
        ),
        (
            "Model.remat_policy = 'ful'",
            "cfg_models.Model.remat_policy: found 'ful' (str), expected one of 'none', 'full', "
            "'dots'; did you mean 'full'?",
        ),
        (
            "cfg_train.tags = 'flan'",
            "cfg_script.cfg_train.tags: found 'flan' (str), expected Sequence[str]; write ['flan']",
        ),
        (
            "cfg_train.model = @cfg_models.Model",
            "cfg_script.cfg_train.model: found @cfg_models.Model, expected an instance of Model, "
            "not the class; write @cfg_models.Model()",
        ),
        (
            "cfg_train.model = @FeedConfig()",
            "cfg_script.cfg_train.model: found @cfg_utils.FeedConfig(), expected an instance "
            "of Model",
        ),
        (
            "cfg_train.model = 'small'",
            "cfg_script.cfg_train.model: found 'small' (str), expected an instance of Model; "
            "write @cfg_models.Model()",
        ),
        (
            "cfg_train.trainer_cls = @Coach()",
            "cfg_script.cfg_train.trainer_cls: found @cfg_trainer.Coach(), expected "
            "type[Coach]; write @cfg_trainer.Coach",
        ),
        (
            "cfg_train.learning_rate_fn = 0.5",
            "cfg_script.cfg_train.learning_rate_fn: found 0.5 (float), expected "
            "Callable[[int], float] | None; give a reference such as @name",
        ),
    ],
)
def test_messages(write, complaints, text, message):
    assert complaints([write("x.gin", text)]) == [PLACE + message]


def test_the_mistake_is_where_the_macro_is_set(write, complaints):
    write("inner.gin", "STEPS = %N\ncfg_train.total_steps = %STEPS\n")
    name = write("x.gin", "include 'inner.gin'\n")
    assert complaints([name], ["N = '5'"]) == [
        "command line: --gin.N='5': wrong type for N, used as cfg_script.cfg_train.total_steps "
        "at inner.gin:2: found '5' (str), expected int; leave out the quotes"
    ]


def test_a_macro_inside_a_container(write, complaints):
    text = "N = '5'\nFeedConfig.task_feature_lengths = {'inputs': %N}"
    assert complaints([write("x.gin", text)]) == [
        "x.gin:2: wrong type for cfg_utils.FeedConfig.task_feature_lengths: found '5' (str) "
        "at ['inputs'], expected int; leave out the quotes"
    ]


def test_overridden_values_may_be_of_any_type(write):
    load([write("x.gin", "cfg_train.total_steps = '5'\ncfg_train.total_steps = 5")])


def test_a_default_may_break_its_own_annotation(write, complaints):
    name = write("x.gin", "cfg_train.broken = None")
    load([name])
    assert len(complaints([write("y.gin", "cfg_train.broken = 'x'")])) == 1


def test_annotations_out_of_reach_hide_no_others():
    rate = get("cfg_utils.constant_rate")
    assert annotation_of(rate, "precise") is UNKNOWN  # imported under TYPE_CHECKING only
    assert annotation_of(rate, "base_learning_rate") is float


def test_inherited_fields_are_read_in_their_own_module(tmp_path, monkeypatch):
    (tmp_path / "cfg_base_fields.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from fractions import Fraction as Special\n"
        "@dataclass\nclass Base:\n    rate: Special\n    size: int = 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    base = __import__("cfg_base_fields")

    @gin.configurable("cfg_child", module="cfg_types")
    @dataclasses.dataclass
    class Child(base.Base):
        depth: int = 0

    child = get("cfg_types.cfg_child")
    assert annotation_of(child, "rate") is base.Special
    assert annotation_of(child, "depth") is int
