"""`flan-jax convert` as users run it: round trips of real checkpoints, and what stops half-way."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flan_jax.checkpoints.own import open_own
from flan_jax.checkpoints.t5x import open_t5x
from flan_jax.models.t5 import T5Config
from tests.checkpoints.tiny_models import (
    assert_same,
    fingerprint,
    make_arrays,
    read_all,
    write_own,
)

ROOT = Path(__file__).resolve().parents[2]
LARGE = T5Config(
    vocab_size=150_000,
    emb_dim=64,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=16,
)


def start(*arguments: str | Path, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flan_jax", "convert", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*arguments: str | Path, code: int = 0, **options) -> tuple[str, str]:
    """Standard output and error of a conversion."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def targets(path: Path) -> dict[str, np.ndarray]:
    found = read_all(open_t5x(path))
    return {name: array for name, array in found.items() if name.startswith("target/")}


def test_help_without_jax():
    program = (
        "import sys; from flan_jax.cli.main import main\n"
        "try: main(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'numpy', 'tensorstore'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in ("--to", "--t5x_format", "--layout", "--dtype", "--no_optimizer", "--vocabulary"):
        assert flag in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"), [("t5_legacy", "unscanned"), ("scan_orbax", "scanned")]
)
def test_real_t5x_checkpoints_come_back_bit_by_bit(
    test_data: Path, tmp_path: Path, name: str, layout: str
):
    source = test_data / "t5x_tiny" / name / "checkpoint_20"
    before = fingerprint(source)
    out, _ = run(source, tmp_path / "checkpoint_20", "--to", "orbax")
    assert "step         20\n" in out
    assert "sizes from" in out and "config.gin" in out
    out, _ = run(tmp_path / "checkpoint_20", tmp_path / "hf", "--to", "hf", "--format", "plain")
    row = next(line for line in out.splitlines() if line.startswith("encoder/layers/mlp/wo/kernel"))
    assert row.split("\t")[3:] == [
        "encoder.block.{0..1}.layer.1.DenseReluDense.wo.weight",
        "mapped",
    ]
    run(tmp_path / "hf", tmp_path / "ours", "--to", "orbax")
    form = "legacy" if name == "t5_legacy" else "orbax"
    flags = ("--to", "t5x", "--t5x_format", form, "--layout", layout)
    out, _ = run(tmp_path / "ours", tmp_path / "t5x", *flags, "--format", "json")
    found = json.loads(out)
    assert found["parameters"] == sum(array.size for array in targets(source).values())
    assert found["written"] and layout in found["target"]["kind"]
    assert_same(targets(tmp_path / "t5x"), targets(source))
    assert fingerprint(source) == before


@pytest.mark.slow
def test_the_shipped_model_becomes_a_hugging_face_folder(tmp_path: Path):
    base = ROOT / "mixtures/micro/base/checkpoint_1500"
    before = fingerprint(base)
    out, _ = run(base, tmp_path / "hf", "--to", "hf")
    assert "dropped      optimizer state (117 tensors)" in out
    assert "verified     every tensor was read back" in out
    assert json.loads((tmp_path / "hf/config.json").read_text())["d_model"] == 128
    assert fingerprint(base) == before


@pytest.mark.slow
def test_errors_are_said_in_a_line(tmp_path: Path, test_data: Path):
    source = test_data / "hf_tiny_t5"
    (tmp_path / "there").mkdir()
    _, err = run(source, tmp_path / "there", "--to", "t5x", code=2)
    assert err.startswith(f"flan-jax: error: {tmp_path}/there exists already")
    unreachable = os.environ | {"TENSORSTORE_GCS_HTTP_URL": "http://127.0.0.1:9"}
    begin = time.monotonic()
    target = tmp_path / "new"
    _, err = run("gs://no-bucket/x", target, "--to", "hf", code=2, env=unreachable)
    assert "flan-jax: error: gs://no-bucket/x cannot be read" in err
    assert time.monotonic() - begin < 60
    assert os.listdir(tmp_path) == ["there"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 77 MB, which takes a while to convert."""
    folder = tmp_path_factory.mktemp("large") / "checkpoint_7"
    return write_own(folder, make_arrays(LARGE), LARGE)


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("hf",), ("orbax",), ("t5x", "--t5x_format=legacy")])
def test_a_full_disk_leaves_nothing(large: Path, tmp_path: Path, flags):
    before = fingerprint(large)
    arguments = (large, tmp_path / "a" / "target", "--to", *flags)
    # Arrays compress a little; files of the legacy format are chunks, below 20 MiB only if small.
    limit = limit_file_size if "t5x" not in flags[0] or len(flags) == 1 else limit_to_a_megabyte
    _, err = run(*arguments, code=2, preexec_fn=limit)
    assert "cannot be written" in err and "File too large" in err
    assert os.listdir(tmp_path) == []
    assert fingerprint(large) == before


def limit_to_a_megabyte() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_writing_there_is_no_target(large: Path, tmp_path: Path, number: int):
    before, target = fingerprint(large), tmp_path / "target"
    process = start(large, target, "--to", "hf")
    wait_for(lambda: any(tmp_path.glob(".target.partial-*/model.safetensors")), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert not target.exists()
    assert fingerprint(large) == before
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1  # the next run removes it
        run(large, target, "--to", "hf")
        assert os.listdir(tmp_path) == ["target"]
    else:
        assert process.returncode == 128 + number
        assert "Traceback" not in err
        assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_overwriting_and_adapters_by_flags(tmp_path: Path):
    begin = write_own(tmp_path / "checkpoint_7", make_arrays())
    run(begin, tmp_path / "out", "--to", "orbax", "--dtype", "bfloat16", "--no_optimizer")
    out, _ = run(begin, tmp_path / "out", "--to", "orbax", "--overwrite")
    assert "mapped" in out and "cast" not in out
    assert_same(read_all(open_own(tmp_path / "out")), make_arrays())
    out, _ = run(begin, tmp_path / "dry", "--to", "hf", "--dtype", "bfloat16", "--dry_run")
    assert "cast float32 to bfloat16" in out
    assert f"dry run      nothing was written; {tmp_path}/dry would be Hugging Face" in out
    assert not (tmp_path / "dry").exists()


@pytest.mark.slow
def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path):
    # 1.2 GB, of which the largest tensor has 0.18: held whole, it would exceed the limit.
    command = [sys.executable, "benchmarks/convert_memory.py", "--quick"]
    flags = ["--folder", str(tmp_path), "--json", str(tmp_path / "rows.json")]
    done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["peak_bytes"] <= row["limit_bytes"]
    assert row["limit_bytes"] < row["checkpoint_bytes"] + 0.3e9
    assert os.listdir(tmp_path) == ["rows.json"]
