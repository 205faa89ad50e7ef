"""`flan-jax data show`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flan_jax.cli import main as cli

SHORT = ("--inputs_length", "128", "--targets_length", "40", "--batch_size", "8")
ROOT = Path(__file__).resolve().parent.parent.parent
FIELDS = {
    "mixture", "split", "seed", "batch", "batch_size", "vocabulary", "lengths", "packed",
    "missing", "rows",
}  # fmt: skip
ROW = {"row", "window", "padding", "fill", "loss_tokens", "segments"}
SEGMENT = {
    "segment", "task", "id", "epoch", "variant", "template", "template_file", "exemplars",
    "dropped_exemplars", "inputs", "targets", "loss_tokens",
}  # fmt: skip
SPAN = {"start", "end", "tokens", "cut", "unknown", "text", "rendered"}


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch):
    """Runs the command in this process, without data: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main(["data", "show", *arguments])
        except SystemExit as leaving:  # argparse
            code = leaving.code
        return code, *capsys.readouterr()

    return run


def _json(show, *arguments: str) -> dict:
    code, output, errors = show(*arguments, "--format", "json")
    assert code == 0, errors
    return json.loads(output)


def test_json_has_these_fields(show):
    found = _json(show, "micro", *SHORT, "--tokens", "--batch", "2", "-n", "3")
    assert found.keys() == FIELDS
    assert (found["batch"], found["packed"], found["missing"]) == (2, True, {})
    assert found["lengths"] == {"inputs": 128, "targets": 40}
    assert [row["row"] for row in found["rows"]] == [0, 1, 2]
    for row in found["rows"]:
        assert row.keys() == ROW
        for side, length in found["lengths"].items():
            used = sum(segment[side]["tokens"] for segment in row["segments"])
            assert row["padding"][side] == length - used
            assert row["fill"][side] == pytest.approx(used / length, abs=1e-6)
        assert row["loss_tokens"] == sum(s["targets"]["tokens"] for s in row["segments"])
        for segment in row["segments"]:
            assert segment.keys() == SEGMENT
            assert segment["inputs"].keys() == SPAN | {"ids", "pieces"}
            assert segment["targets"].keys() == SPAN | {"ids", "pieces", "loss_weights"}
            for side in ("inputs", "targets"):
                span = segment[side]
                assert len(span["ids"]) == len(span["pieces"]) == span["tokens"]
                assert span["tokens"] == span["end"] - span["start"]
            assert segment["id"].startswith(f"{segment['task']}/train/")
    plain = _json(show, "micro", *SHORT)
    assert plain["rows"][0]["segments"][0]["targets"].keys() == SPAN


def test_text_and_json_agree(show):
    code, output, _ = show("micro", *SHORT, "-n", "2")
    assert code == 0
    found = _json(show, "micro", *SHORT, "-n", "2")
    lines = output.splitlines()
    assert sum(line.startswith("=== row ") for line in lines) == 2
    segments = [segment for row in found["rows"] for segment in row["segments"]]
    heads = [line for line in lines if line.startswith("--- segment ")]
    assert len(heads) == len(segments)
    for head, segment in zip(heads, segments, strict=True):
        for part in (segment["id"], segment["variant"], segment["template_file"]):
            assert part in head
        for side in ("inputs", "targets"):
            assert f"    {segment[side]['text']}" in lines
            span = segment[side]
            assert f"{side} [{span['start']}:{span['end']}], {span['tokens']} tokens" in output


def test_what_is_cut_is_told(show):
    short = ("micro_corpus", "--inputs_length", "16", "--targets_length", "4", "--batch_size", "4")
    found = _json(show, *short)
    cut = [s["inputs"]["cut"] for row in found["rows"] for s in row["segments"]]
    assert max(cut) > 0
    assert f", {max(cut)} CUT OFF" in show(*short)[1]


def test_seeds_batches_and_rows_differ_and_stay(show):
    def ids(*arguments):
        found = _json(show, "micro", *SHORT, *arguments)
        return [s["id"] for row in found["rows"] for s in row["segments"]]

    assert ids() == ids("--seed", "0", "--batch", "0")
    assert len({tuple(ids(*a)) for a in ((), ("--seed", "1"), ("--batch", "1"))}) == 3
    unpacked = _json(show, "micro", *SHORT, "--no-pack")
    assert {len(row["segments"]) for row in unpacked["rows"]} == {1}


def test_a_page_is_written(show, tmp_path):
    code, output, _ = show("micro", *SHORT, "--html", "pages/batch.html")
    assert (code, output) == (0, "pages/batch.html: 4 rows of batch 0 of micro\n")
    html = (tmp_path / "pages" / "batch.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") and html.count("<article") > 4
    (tmp_path / "file").write_text("")
    code, _, errors = show("micro", *SHORT, "--html", "file/batch.html")
    assert code == 2 and "--html file/batch.html: the page cannot be written" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["micor"], "did you mean 'micro'"),
        (["cot"], "--allow_missing goes on without the rest"),
        (["cot", "--allow_missing"], "data of 9 of 9 tasks are missing"),
        (["micro", "--split", "trian"], "trian"),
        (["micro", "--batch", "-1"], "must be at least 0, found -1"),
        (["micro", "-n", "0"], "must be at least 1, found 0"),
        (["micro", "--inputs_length", "1"], "must be at least 2"),
        (["micro", "--vocabulary", "absent.model"], "absent.model does not exist"),
        (["micro", "--data_dir", "absent_folder"], "absent_folder does not exist"),
    ],
)
def test_slips_end_with_status_2_and_a_hint(show, arguments, message):
    code, output, errors = show(*arguments)
    assert (code, output) == (2, "")
    assert message in errors and "Traceback" not in errors and "gin." not in errors


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from flan_jax.cli.main import main\n"
        "for name in ('show', 'stats'):\n"
        "    try: main(['data', name, '--help'])\n"
        "    except SystemExit: pass\n"
        "print([m for m in ('jax', 'grain', 'tensorflow', 'numpy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_showing_needs_no_tensorflow(tmp_path):
    code = (
        "import sys; from flan_jax.cli.main import main\n"
        f"assert main(['data', 'show', 'micro', *{SHORT!r}, '--html', 'page.html']) == 0\n"
        f"assert main(['data', 'stats', 'micro', *{SHORT!r}, '--examples', '1']) == 0\n"
        "print([m for m in ('flax', 'seqio', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_real_rows(test_data, show):
    found = _json(show, "real", "--data_dir", str(test_data), "-n", "2")
    assert found["vocabulary"] == "spiece.model"
    for row in found["rows"]:
        assert row["fill"]["inputs"] > 0.5
        for segment in row["segments"]:
            text, rendered = segment["inputs"]["text"], segment["inputs"]["rendered"]
            if not segment["inputs"]["unknown"]:
                # The vocabulary makes line breaks spaces; all else is there.
                assert text.split()[:20] == rendered.split()[:20] or not rendered.isascii()


FOREIGN = """
import seqio
import tensorflow as tf

def rows(split, shuffle_files, seed=None):
    number = tf.data.Dataset.range(90)
    return number.map(lambda n: {"inputs": tf.strings.as_string(n), "targets": "<i>a few</i>"})

from flan_jax.cli.data_inspection import find_vocabulary
VOCABULARY = find_vocabulary(None)[0].to_seqio()
seqio.TaskRegistry.add(
    "theirs",
    source=seqio.FunctionDataSource(rows, ["train"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
    output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
)
"""


@pytest.mark.slow
def test_tasks_of_seqio_are_shown_without_origin(tmp_path):
    (tmp_path / "foreign.py").write_text(FOREIGN)

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flan_jax", "data", command, "theirs", "--module", "foreign",
             *SHORT, *arguments],
            capture_output=True, text=True, cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    done = run("show", "--format", "json", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    segments = [s for row in json.loads(done.stdout)["rows"] for s in row["segments"]]
    assert {(s["task"], s["id"], s["template"]) for s in segments} == {("theirs", None, None)}
    assert {len(s["inputs"]["text"]) for s in segments} <= {1, 2}
    assert "theirs" in (tmp_path / "page.html").read_text()
    done = run("show")
    assert "--- segment 1: theirs\n" in done.stdout, done.stderr
    done = run("stats")
    assert done.returncode == 2 and "is registered with SeqIO alone" in done.stderr
