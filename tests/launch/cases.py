"""Jobs whose rendering is kept in golden files: every backend, train and eval, spot, slices."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from flan_jax.cli.main import main

GOLDEN = Path(__file__).resolve().parent / "golden"
RENEW = os.environ.get("FLAN_JAX_RENEW_GOLDEN", "0") not in ("", "0")

_TRAIN = (
    *("train", "--gin_file=models/t5/xl.gin", "--gin_file=vocabularies/t5.gin"),
    *("--gin_file=runs/finetune.gin", "--gin_file=mixtures/flan2022.gin"),
    *("--gin.MODEL_DIR=gs://my-bucket/xl", "--gin.INITIAL_CHECKPOINT_PATH=gs://my-bucket/t5_xl"),
    *("--gin.TRAIN_STEPS=0", "--gin.TRAIN_STEPS_RELATIVE=1000", "--gin.BATCH_SIZE=64"),
)
_EVAL = (
    *("eval", "--gin_file=models/t5/xl.gin", "--gin_file=vocabularies/t5.gin"),
    *("--gin_file=eval/flan_suite.gin", "--gin.CHECKPOINT=gs://my-bucket/xl/checkpoint_1000"),
    "--gin.EVAL_OUTPUT_DIR=gs://my-bucket/xl/eval",
)
_VM = ("tpu_vm", "--zone=us-central2-b", "--project=my-project")
_IMAGE = "--image=us-docker.pkg.dev/my-project/images/flan_jax:tpu"
_CUDA = "--image=us-docker.pkg.dev/my-project/images/flan_jax:cuda"
_WHEEL = "--package=dist/flan_jax-0.1.0-py3-none-any.whl"

CASES: dict[str, tuple[str, ...]] = {
    "local_train": ("local", "--processes=4", *_TRAIN),
    "local_eval": ("local", *_EVAL),
    "local_gpus": ("local", "--topology=h100:2", *_TRAIN),
    "tpu_vm_train": (*_VM, _WHEEL, "--topology=v4-64", *_TRAIN),
    "tpu_vm_eval": (*_VM, _IMAGE, "--topology=v5e-8", *_EVAL),
    "tpu_vm_spot": (*_VM, _IMAGE, "--topology=v5e-64", "--spot", "--env=A=it's", *_TRAIN),
    "tpu_vm_multislice": (*_VM, _WHEEL, "--topology=2xv4:4x4x8", "--reserved", *_TRAIN),
    "tpu_vm_shape": (*_VM, _WHEEL, "--topology=v4:4x4x16", *_TRAIN),
    "gke_train": ("gke", _IMAGE, "--topology=v5e-64", "--queue=tpus", *_TRAIN),
    "gke_eval": ("gke", _IMAGE, "--topology=v6e-1", "--env=JAX_LOG=1", *_EVAL),
    "gke_spot": ("gke", _IMAGE, "--topology=v5p-128", "--spot", *_TRAIN),
    "gke_multislice": ("gke", _IMAGE, "--topology=2xv4-32", "--restarts=3", *_TRAIN),
    "gke_gpus": ("gke", _CUDA, "--topology=h100:16", "--service_account=trainer", *_TRAIN),
    "gke_xpk": (
        *("gke", _IMAGE, "--xpk", "--cluster=big", "--zone=us-west4-a", "--project=my-project"),
        *("--topology=2xv5e-64", "--spot", "--env=A=1", *_TRAIN),
    ),
    "skypilot_train": ("skypilot", _CUDA, "--topology=a100:8", *_TRAIN),
    "skypilot_eval": ("skypilot", "--package=flan_jax==0.1.0", "--topology=h100:1", *_EVAL),
    "skypilot_spot": ("skypilot", _CUDA, "--topology=h100:16", "--spot", "--env=A=1", *_TRAIN),
    "skypilot_tpu": (
        *("skypilot", "--package=flan_jax==0.1.0", "--topology=v5e-16", "--zone=us-west4-a"),
        *("--spot", *_TRAIN),
    ),
    "slurm_train": (
        *("slurm", "--topology=h100:16", "--partition=gpu", "--account=nlp"),
        *("--time_limit=12:00:00", *_TRAIN),
    ),
    "slurm_eval": ("slurm", "--topology=h100:1", *_EVAL),
    "slurm_build": (
        *("slurm", "data-build", "--restarts=0", "--", "flan2022", "--out=/shared/flan2022"),
        *("--jobs=16", "--allow_missing"),
    ),
}


def launch(*arguments: str) -> tuple[int, str, str]:
    """`flan-jax launch` in this process: status, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["launch", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def own(arguments: tuple[str, ...], *flags: str) -> tuple[str, ...]:
    """The arguments with flags of the launcher before the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return (*arguments[:at], *flags, *arguments[at:])


def compare(path: Path, text: str) -> None:
    """Holds text to a golden file, or with FLAN_JAX_RENEW_GOLDEN=1 writes it."""
    if RENEW:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path} is missing: FLAN_JAX_RENEW_GOLDEN=1 writes it"
    assert text == path.read_text(encoding="utf-8"), f"{path.name}: FLAN_JAX_RENEW_GOLDEN=1 renews"
