from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from flan_jax.cli.main import main
from flan_jax.errors import UserError
from flan_jax.evaluation.normalized_average import Suite
from flan_jax.evaluation.run_files import RunError, read_folders, read_result
from flan_jax.evaluation.suite_page import render_page, verdict
from flan_jax.evaluation.suite_report import markdown, suite_report
from flan_jax.evaluation.suite_samples import draw_samples
from tests.evaluation.suite_runs import SIZES, colours, registered, write_run
from tests.evaluation.test_report import Page
from tests.train.test_writers import scalars

SUITE = Suite("average of two", ("colours_direct", "colours_cot"), {}, "made up")
# A published protocol's names on made-up items, to have something to hold them against.
PUBLISHED = {"paper_benchmark": "TyDiQA", "paper_setting": "1-shot direct, EM, 8 langs"}


def schema(name: str) -> dict:
    path = resources.files("flan_jax.evaluation") / "schemas" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def protocols():
    with registered(
        colours(**PUBLISHED), colours("colours_cot"), colours("colours_f1", metrics=("bleu",))
    ):
        yield


@pytest.fixture(scope="module")
def folders(vocabulary, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run evaluated at one step, and another at two; the second asked fewer items of one."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "small", 100, ["colours_direct", "colours_cot"], vocabulary, skill=0.4)
    write_run(root / "large", 100, ["colours_direct"], vocabulary, skill=0.5)
    write_run(root / "large", 200, ["colours_direct"], vocabulary, skill=0.9)
    write_run(
        root / "large", 200, ["colours_cot"], vocabulary, skill=0.9, settings={"num_examples": 7}
    )
    return [root / "small", root / "large"]


@pytest.fixture(scope="module")
def document(folders: list[Path]) -> dict:
    return suite_report(read_folders(folders), SUITE, title="Two <runs>", against="Flan-T5-XL")


def test_the_document_is_as_the_schemas_say(document: dict):
    jsonschema.Draft202012Validator.check_schema(schema("suite_report"))
    read = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.validate(read, schema("suite_report"))
    for protocol in read["protocols"]:
        for result in protocol["results"].values():
            jsonschema.validate(result, schema("benchmark_result"))


def test_checkpoints_have_labels_of_their_own(document: dict, folders: list[Path], tmp_path: Path):
    labels = [checkpoint["label"] for checkpoint in document["checkpoints"]]
    assert labels == ["small @ 100", "large @ 100", "large @ 200"]
    assert [c.label for c in read_folders([folders[0]])] == ["small"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "small").symlink_to(folders[0])
    with pytest.raises(RunError, match="given twice"):
        read_folders([folders[0], tmp_path / "other" / "small"])


def test_differences_are_of_the_same_items(document: dict, folders: list[Path]):
    by_name = {protocol["name"]: protocol for protocol in document["protocols"]}
    found = {c["after"]: c for c in by_name["colours_direct"]["comparisons"]}
    assert set(found) == {"large @ 100", "large @ 200"}
    whole = found["large @ 200"]["overall"]
    results = by_name["colours_direct"]["results"]
    change = results["large @ 200"]["score"] - results["small @ 100"]["score"]
    assert whole["value"] == pytest.approx(change) and whole["low"] > 0
    rows = [
        {row["id"]: row["correct"] for _, row in files.rows()}
        for files in (c.protocols["colours_direct"] for c in read_folders(folders)[::2])
    ]
    gained = sum(rows[1][name] > rows[0][name] for name in rows[0])
    assert (whole["gained"], whole["n"]) == (gained, sum(SIZES.values()))


def test_other_items_are_not_compared(document: dict):
    by_name = {protocol["name"]: protocol for protocol in document["protocols"]}
    (refused,) = by_name["colours_cot"]["comparisons"]
    assert refused["after"] == "large @ 200"
    assert "answered other prompts or items (protocol hashes" in refused["refused"]


def test_averages(document: dict):
    averages = document["averages"]
    assert averages["large @ 100"]["missing"] == ["colours_cot"]
    assert averages["large @ 100"]["value"] is None
    for label, limited in (("small @ 100", False), ("large @ 200", True)):
        parts = [p["results"][label]["normalized"] for p in document["protocols"]]
        assert averages[label]["value"] == pytest.approx(sum(parts) / 2)
        assert averages[label]["limited"] is limited


def test_published_results_stand_beside(document: dict):
    by_name = {protocol["name"]: protocol for protocol in document["protocols"]}
    assert by_name["colours_direct"]["reference"]["score"] == 16.6
    assert by_name["colours_cot"]["reference"] is None
    assert document["published_average"]["value"] == 19.1


def test_other_settings_have_no_reference(vocabulary, tmp_path: Path):
    write_run(tmp_path / "one", 1, ["colours_direct"], vocabulary, settings={"shots": 0})
    found = suite_report(read_folders([tmp_path / "one"]), SUITE, against="Flan-T5-XL")
    assert found["protocols"][0]["reference"] is None


def test_markdown(document: dict):
    text = markdown(document)
    lines = text.splitlines()
    assert lines[0] == "# Two <runs>"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5 and len({line.count("|") for line in table}) == 1
    score = document["protocols"][0]["results"]["small @ 100"]["score"]
    assert f"| colours_direct | {score:.1f} (" in text and "| 16.6 |" in text
    assert "large @ 100: no normalized average, as it lacks colours_cot." in text
    assert "not compared; they answered other prompts" in text


def test_the_page(document: dict, folders: list[Path]):
    samples = draw_samples(read_folders(folders), per_subtask=3)
    text = render_page(document, samples)
    page = Page(re.sub(r"<script.*?</script>", "", text, flags=re.S).replace("<!doctype html>", ""))
    assert page.texts("h1") == ["Two <runs>"]
    assert (
        len(
            page.texts(
                "details",
            )
        )
        == 5
    )  # protocol and checkpoint
    scores = [f"{r['score']:.1f}%" for p in document["protocols"] for r in p["results"].values()]
    assert page.texts("p", class_="big")[: len(scores)] == scores
    assert "default-src 'none'" in text
    assert "published 16.6%" in text  # what a screen reader says of the hollow dot
    # Nothing names another file or host.
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", text)
    assert "http" not in re.sub(r"<script type=.*?</script>", "", text, flags=re.S).replace(
        "http-equiv", ""
    )
    data = re.search(
        r'<script type="application/json" id="samples-data">(.*?)</script>', text, re.S
    )
    assert data is not None and "<" not in data[1]
    assert len(json.loads(data[1])["answers"]) == len(samples.answers)


def test_samples_are_the_same_items_for_every_checkpoint(folders: list[Path]):
    table = draw_samples(read_folders(folders), per_subtask=4)
    drawn: dict[tuple[str, str], set[str]] = {}
    for answer in table.answers:
        item = table.items[answer["item"]]
        if answer["drawn"] and item["protocol"] == "colours_direct":
            drawn.setdefault((item["subtask"], answer["checkpoint"]), set()).add(item["id"])
    for subtask in SIZES:
        sets = [ids for (name, _), ids in drawn.items() if name == subtask]
        assert len(sets) == 3 and sets[0] == sets[1] == sets[2] and len(sets[0]) == 4
    fewer = draw_samples(read_folders(folders), per_subtask=2)
    assert {(i["protocol"], i["id"]) for i in fewer.items} <= {
        (i["protocol"], i["id"]) for i in draw_samples(read_folders(folders), per_subtask=30).items
    }
    assert table.total == 3 * 49 + 49 + 21


def test_what_is_rare_is_shown(folders: list[Path]):
    table = draw_samples(read_folders(folders), per_subtask=1)
    extra = [answer for answer in table.answers if not answer["drawn"]]
    assert any(answer["parsed"] is False for answer in extra)
    assert any(answer.get("ended") == "length" for answer in extra)


@pytest.mark.parametrize("most", [200_000, 20_000, 9_000])
def test_samples_fit(folders: list[Path], most: int):
    table = draw_samples(read_folders(folders), per_subtask=30, most_bytes=most)
    assert len(table.as_json().encode()) <= most
    assert {item["subtask"] for item in table.items} == set(SIZES)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"score": 60.0, "low": 50.0, "high": 70.0}, "At 60.0% it is above"),
        ({"score": 30.0, "low": 20.0, "high": 45.0}, "At 30.0% it is not told apart from"),
        ({"score": 5.0, "low": 1.0, "high": 9.0}, "At 5.0% it is below"),
        ({"score": 60.0, "low": 50.0, "high": 70.0, "missing": 4}, "4 items are missing"),
    ],
)
def test_verdicts_follow_from_the_intervals(document: dict, changes: dict, told: str):
    result = document["protocols"][0]["results"]["small @ 100"] | {"majority": 40.0} | changes
    assert told in verdict(result, None)
    published = {"model": "M", "score": result["score"] - result["noise"]["unpaired"] + 0.5}
    assert "within the noise" in verdict(result, published)
    published["score"] -= 1
    assert "within the noise" not in verdict(result, published)


def test_a_metric_without_single_items(vocabulary, tmp_path: Path):
    for name in ("a", "b"):
        write_run(tmp_path / name, 1, ["colours_f1"], vocabulary)
    checkpoints = read_folders([tmp_path / "a", tmp_path / "b"])
    found = suite_report(checkpoints, SUITE)
    assert (
        "bleu has no scores of single items" in found["protocols"][0]["comparisons"][0]["refused"]
    )
    assert "bleu" in render_page(found, draw_samples(checkpoints))


def test_extra_subtasks_are_in_no_difference(vocabulary, tmp_path: Path):
    extra = colours(
        "colours_more", subtasks=("apples", "birds"), extra_subtasks=("clouds",), groups={}
    )
    with registered(extra):
        for name in ("a", "b"):
            asked = {"subtasks": tuple(SIZES)}
            write_run(tmp_path / name, 1, ["colours_more"], vocabulary, settings=asked)
        found = suite_report(read_folders([tmp_path / "a", tmp_path / "b"]), SUITE)
    (comparison,) = found["protocols"][0]["comparisons"]
    assert set(comparison["subtasks"]) == {"apples", "birds"}
    assert set(found["protocols"][0]["results"]["a"]["subtasks"]) == set(SIZES)


def test_the_command(folders: list[Path], tmp_path: Path, capsys):
    out = tmp_path / "out"
    for _ in range(2):  # the second one replaces what the first wrote
        code = main(
            ["eval", "report", *map(str, folders), "--out", str(out), "--against", "flan-t5 xl"]
        )
        assert code == 0
    assert "| colours_direct |" in capsys.readouterr().out
    written = json.loads((out / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(written, schema("suite_report"))
    assert (out / "report.html").stat().st_size < 5_000_000
    results = {p["name"]: p["results"] for p in written["protocols"]}
    found = scalars(out / "tensorboard" / "large")
    assert found["eval/colours_direct", 200] == pytest.approx(
        results["colours_direct"]["large @ 200"]["score"]
    )
    assert ("eval/colours_direct/birds", 100) in found
    rows = (out / "tensorboard" / "large" / "metrics.jsonl").read_text(encoding="utf-8")
    assert [json.loads(row)["step"] for row in rows.splitlines()] == [100, 200]


def test_damaged_folders(folders: list[Path], tmp_path: Path, vocabulary):
    with pytest.raises(RunError, match="no such folder"):
        read_folders([tmp_path / "absent"])
    with pytest.raises(RunError, match=r"no results of an evaluation.*EVAL_OUTPUT_DIR"):
        read_folders([tmp_path])
    folder = write_run(tmp_path / "run", 1, ["colours_direct"], vocabulary)
    rows = folder / "inference_eval" / "colours_direct" / "birds-000001.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8") + '{"id": "birds/99"}\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"birds-000001.jsonl, line 31: no row of an evaluation"):
        draw_samples(read_folders([folder]))
    rows.unlink()
    with pytest.raises(RunError, match=r"cannot read .*birds-000001.jsonl.*run the evaluation"):
        draw_samples(read_folders([folder]))
    (folder / "summary-colours_direct-000001.json").write_text("[]")
    with pytest.raises(RunError, match="expected a JSON object"):
        read_folders([folder])
    (folder / "summary-colours_direct-000001.json").write_text("{}")
    with pytest.raises(RunError, match="no step"):
        read_folders([folder])
    with pytest.raises(UserError, match="one evaluation at least"):
        suite_report([], SUITE)


def test_summaries_of_mixtures_are_read_too(run_of_micro, tmp_path: Path):
    """Held-in tasks of a mixture are reported beside the benchmarks."""
    from flan_jax.evaluation.protocol import EvalProtocol
    from flan_jax.evaluation.results import write_results
    from flan_jax.evaluation.scores import score

    requests, _, after = run_of_micro(items=20)
    scores = score(requests, after, resamples=50)
    protocol = EvalProtocol("zero", ("micro",))
    summary = write_results(tmp_path / "run", 7, protocol, requests, after, scores)
    result = read_result(summary)
    assert result["score"] == pytest.approx(100 * scores.overall.value)
    assert result["groups"]["logic"]["subtasks"] == ["micro_entailment", "micro_syllogism"]
    checkpoints = read_folders([tmp_path / "run"])
    found = suite_report(checkpoints, SUITE)
    assert found["protocols"][0]["name"] == "zero"
    assert "micro_entailment" in render_page(found, draw_samples(checkpoints))
    assert "| zero |" in markdown(found)
