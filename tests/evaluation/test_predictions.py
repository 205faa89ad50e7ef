from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.predictions import (
    PredictionsError,
    match,
    read_predictions,
    requests_to_judge,
)
from tests.evaluation.suite_runs import SIZES, colours, registered


@pytest.fixture(scope="module", autouse=True)
def protocols():
    with registered(colours(), colours("colours_stop", stop=("\n\n", "Q:"))):
        yield


def write(folder: Path, *lines: str) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(identity: str, prediction: object) -> str:
    return json.dumps({"id": identity, "prediction": prediction})


GOOD = row("apples/0", "(A)")


@pytest.mark.parametrize(
    "lines, message",
    [
        ((GOOD, "{"), "line 2: not JSON"),
        ((GOOD, "", "[1, 2]"), "line 3: expected an object, found a list"),
        (('{"id": "apples/0", "predictions": "(A)"}',), "line 1: no 'prediction'; did you mean"),
        (('{"prediction": "(A)"}',), "line 1: no 'id'"),
        ((row("apples/0", 3),), "line 1: .*text or a list of texts, found the number 3"),
        ((row("apples/0", None),), "found null"),
        ((row("apples/0", []),), "found an empty list"),
        ((row("apples/0", ["(A)", 3]),), "found a list"),
        ((row("apples/0", {"text": "(A)"}),), "found an object"),
        (('{"id": 7, "prediction": "(A)"}',), "'id' must be a text, found the number 7"),
        ((GOOD, row("birds/1", "x"), GOOD), "line 3: 'apples/0' has a prediction on line 1"),
        (("",), "holds no predictions"),
    ],
)
def test_malformed_files(tmp_path: Path, lines, message: str):
    with pytest.raises(PredictionsError, match=message):
        read_predictions(write(tmp_path, *lines))


def test_missing_and_binary_files(tmp_path: Path):
    with pytest.raises(PredictionsError, match=r"cannot read .*absent\.jsonl"):
        read_predictions(tmp_path / "absent.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PredictionsError, match=r"cannot read .*binary"):
        read_predictions(tmp_path / "binary")


def test_strings_may_hold_what_ends_lines_elsewhere(tmp_path: Path):
    text = "one\u2028two\x85three\x0cfour"
    path = write(tmp_path, json.dumps({"id": "a/0", "prediction": text}, ensure_ascii=False))
    assert read_predictions(path) == {"a/0": text}


def all_right(protocol: BenchmarkProtocol) -> dict[str, str]:
    return {r.id: r.answer for r in requests_to_judge(protocol)}


def test_all_predictions_in_any_order():
    protocol = BenchmarkProtocol("colours_direct")
    requests = requests_to_judge(protocol)
    found = match(protocol, requests, dict(reversed(all_right(protocol).items())))
    assert [r.id for r in found.requests] == [r.id for r in requests]
    assert len(requests) == sum(SIZES.values()) and found.missing == [] and found.votes == {}
    assert requests[0].prompt.startswith("Q: Which colour has number 0 of the apples?")


def test_subtasks_by_alias():
    protocol = BenchmarkProtocol("colours_direct")
    given = {name.replace("clouds/", "cumuli/"): text for name, text in all_right(protocol).items()}
    found = match(protocol, requests_to_judge(protocol), given)
    assert found.outputs == all_right(protocol)
    with pytest.raises(PredictionsError, match="two predictions for 'clouds/0'"):
        match(protocol, requests_to_judge(protocol), given | {"clouds/0": "(A)"})


@pytest.mark.parametrize(
    "identity, message",
    [
        ("appels/0", "no subtask 'appels'; did you mean 'apples'"),
        ("apples/12", "subtask apples of colours_direct (test) has no item '12'; 12 of its items"),
        ("apples/x", "no item 'x'"),
        ("apples/00", "no item '00'"),
        ("apples", "'apples' is no id of an item: expected '<subtask>/<index>', such as"),
    ],
)
def test_unknown_ids(identity: str, message: str):
    protocol = BenchmarkProtocol("colours_direct")
    with pytest.raises(PredictionsError, match=re.escape(message)):
        match(protocol, requests_to_judge(protocol), all_right(protocol) | {identity: "(A)"})


def test_missing_predictions():
    protocol = BenchmarkProtocol("colours_direct")
    requests = requests_to_judge(protocol)
    some = {name: text for name, text in all_right(protocol).items() if name != "birds/7"}
    with pytest.raises(PredictionsError, match=r"1 of 49 items .*\(birds/7\).*--partial"):
        match(protocol, requests, some)
    found = match(protocol, requests, some, partial=True)
    assert found.missing == ["birds/7"] and len(found.requests) == 48


def test_paths_vote(tmp_path: Path):
    protocol = BenchmarkProtocol("colours_direct")
    predictions = all_right(protocol) | {
        "apples/0": ["no idea", "The answer is (C).", "", "(B)", "(C)", "(B)"],
        "apples/1": ["", ""],
    }
    path = write(tmp_path, *(row(name, text) for name, text in predictions.items()))
    found = match(protocol, requests_to_judge(protocol), read_predictions(path))
    # (C) and (B) have two votes each; (C) came first.
    assert found.outputs["apples/0"] == "The answer is (C)."
    assert {k: v for k, v in found.votes["apples/0"].items() if k in ("(B)", "(C)")} == {
        "(C)": 2, "(B)": 2,
    }  # fmt: skip
    assert found.outputs["apples/1"] == "" and found.votes["apples/1"] == {}


def test_outputs_end_before_stop_texts():
    protocol = BenchmarkProtocol("colours_stop")
    given = {name: f"{text}\n\nQ: next" for name, text in all_right(protocol).items()}
    assert match(protocol, requests_to_judge(protocol), given).outputs == all_right(protocol)
