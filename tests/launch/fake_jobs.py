"""A job to launch, and what the engines of tests say when they fail."""

from __future__ import annotations

from typing import Any

from flan_jax.launch import (
    JobSpec,
    Place,
    Rendered,
    RetryPolicy,
    Software,
    execute,
    parse_accelerator,
    render,
)

RETRY = RetryPolicy(restarts=2, attempts=3, wait=0.0, timeout=20.0)

QUOTA = "ERROR: (gcloud) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod' has been exceeded.\n"
NO_QUOTA = "ERROR: (gcloud) Quota 'TPUS_V4' exceeded. Limit: 0.0 in region us-central2.\n"
DENIED = (
    "ERROR: (gcloud) PERMISSION_DENIED: Required 'tpu.queuedResources.create' permission for"
    " 'projects/my-project'\n"
)
SERVER = "ERROR: (gcloud) HttpError: <HttpError 503 'The service is currently unavailable.'>\n"
EXISTS = "ERROR: (gcloud) ALREADY_EXISTS: Resource 'projects/p/queuedResources/xl' already exists\n"


def job(backend: str, topology: str, image: str = "a/b:c", **changes: Any) -> Rendered:
    """The job `xl`, of a program in an image, where the backend takes one."""
    spec = JobSpec(
        "xl",
        "train",
        gin_files=("models/t5/xl.gin",),
        accelerator=parse_accelerator(topology),
        software=Software(image="" if backend == "slurm" else image),
        place=Place(zone="us-west4-a", project="my-project", cluster="big"),
        retry=RETRY,
        **changes,
    )
    return render(spec, backend)


class Told(list[str]):
    """What was told to the user."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


def run(rendered: Rendered, retry: RetryPolicy = RETRY, keep: bool = False) -> tuple[int, Told]:
    """Launches without waiting."""
    told = Told()
    return execute(rendered, retry, keep=keep, say=told, sleep=lambda seconds: None), told
