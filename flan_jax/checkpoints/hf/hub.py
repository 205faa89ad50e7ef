"""Repositories of the Hugging Face hub, by `hf://org/name[@revision]` or their plain ids.

Files come through huggingface_hub, so its cache and its settings hold: HF_HOME, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flan_jax.checkpoints.tensors import CheckpointError

SCHEME = "hf://"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
# Tokenizers and configurations; then weights of the first kind that there is.
_SMALL = ("*.json", "*.model", "*.txt", "README.md")
_WEIGHTS = (("model.safetensors", "model-*.safetensors"), ("pytorch_model*.bin",))


def is_hub_path(path: str | Path) -> bool:
    """Whether a path names a repository of the hub, not a folder.

    Plain ids (`google/flan-t5-small`) do if no local file or folder begins like them.
    """
    text = str(path)
    if text.startswith(SCHEME):
        return True
    if "/" not in text or not _ID.fullmatch(text):
        return False
    return not Path(text).exists() and not Path(text.split("/")[0]).exists()


def resolve(path: str | Path) -> str:
    """A folder with the repository's files, downloaded if needed; other paths as they are.

    Raises:
      CheckpointError: huggingface_hub is missing, the hub cannot be reached, or it has no such
        repository or revision.
    """
    text = str(path)
    if not is_hub_path(text):
        return text
    name, _, revision = text.removeprefix(SCHEME).strip("/").partition("@")
    if not _ID.fullmatch(name):
        raise CheckpointError(
            f"{text}: expected hf://organisation/name or hf://organisation/name@revision"
        )
    return _download(text, name, revision or None)


def _download(text: str, name: str, revision: str | None) -> str:
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CheckpointError(
            f"{text} names a repository of the Hugging Face hub (no such folder is here), and"
            " huggingface_hub is not installed: pip install 'flan_jax[hf]'."
        ) from error
    try:
        folder = ""
        for weights in _WEIGHTS:
            folder = huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=[*_SMALL, *weights]
            )
            if any(file.match(pattern) for file in Path(folder).iterdir() for pattern in weights):
                break
        return folder
    except Exception as error:
        raise _explain(text, name, revision, error) from error


def _explain(text: str, name: str, revision: str | None, error: Any) -> CheckpointError:
    import huggingface_hub.errors as errors  # pyright: ignore[reportMissingImports]

    cached = isinstance(error, errors.LocalEntryNotFoundError)
    if isinstance(error, errors.GatedRepoError):
        why = "access must be granted first: ask for it on its page and set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"it has no revision {revision!r}"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        why = f"the hub has no repository {name!r} (or it is private and HF_TOKEN is not set)"
    elif isinstance(error, errors.OfflineModeIsEnabled) or (cached and _offline()):
        why = "it is not in the cache, and HF_HUB_OFFLINE forbids to download it"
    elif isinstance(error, OSError | errors.HfHubHTTPError) or cached:
        why = (
            "it is not in the cache, and the hub cannot be reached. Download it elsewhere (hf"
            f" download {name}) and pass the folder"
        )
    else:
        why = type(error).__name__
    detail = str(error).strip().split("\n")[0]
    return CheckpointError(f"{text} cannot be had: {why}. ({detail})")


def _offline() -> bool:
    import huggingface_hub.constants as constants  # pyright: ignore[reportMissingImports]

    return bool(constants.HF_HUB_OFFLINE)
