"""What an engine's program says when it fails: whether it may pass, and what to change if not.

Words are those of Google's API errors (google.rpc.Code), of gcloud, kubectl, sbatch and sky.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# In this order: the first that matches says what kind of failure it is.
_FINAL: tuple[tuple[str, str], ...] = (
    (
        r"\b[Ll]imit\b[^\n\d]{0,40}\b0(?:\.0+)?(?![.\d])",
        "the quota is 0: ask for quota of this kind of machine, or take another zone or topology",
    ),
    (
        r"UNAUTHENTICATED|not (?:currently )?have an active account|gcloud auth login"
        r"|Reauthentication|\b401\b",
        "log in: gcloud auth login (kubectl: gcloud container clusters get-credentials CLUSTER)",
    ),
    (
        r"PERMISSION_DENIED|\b403\b|Forbidden|does not have (?:permission|\S+ access)"
        r"|Required '[^']*' permission|AccessDenied",
        "the account lacks a permission: have it granted, or choose another --project or account",
    ),
    (
        r"ALREADY_EXISTS|AlreadyExists|already exists|\b409\b",
        "something of this name exists: choose another --name, or delete it",
    ),
    (
        r"no matches for kind \"JobSet\"",
        "the cluster has no JobSet controller: install it (jobset.sigs.k8s.io/docs/installation)",
    ),
    (
        r"NOT_FOUND|NotFound|not found|\b404\b|does not exist",
        "look at --project, --zone and --cluster, and whether the API is enabled",
    ),
    (
        r"INVALID_ARGUMENT|unrecognized arguments|Invalid value|\b400\b|is invalid"
        r"|error validating|[Ii]nvalid (?:partition|account|qos|job)",
        "the engine does not take this description: see its message",
    ),
)
_PASSING = (
    r"RESOURCE_EXHAUSTED|[Qq]uota|rateLimitExceeded|Too Many Requests|\b429\b"
    r"|no more capacity|[Ss]tockout|There is no more|does not have enough resources"
    r"|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|\b50[0234]\b|Internal error|INTERNAL|Bad Gateway"
    r"|[Tt]imed? ?out|[Cc]onnection (?:reset|refused|closed|aborted)|[Tt]emporary failure"
    r"|TLS handshake|EOF|Unable to contact slurm controller|Socket timed out"
)


@dataclass(frozen=True)
class Failure:
    """Why a command failed.

    Attributes:
      passing: whether it may succeed a little later.
      reason: the line of the program's output that says so.
      advice: what to change; "" if nothing is known.
    """

    passing: bool
    reason: str
    advice: str = ""


def classify(output: str) -> Failure:
    """The failure behind what a program printed on its standard error."""
    for pattern, advice in _FINAL:
        found = re.search(pattern, output)
        if found:
            return Failure(False, _line(output, found.start()), advice)
    found = re.search(_PASSING, output)
    if found:
        return Failure(True, _line(output, found.start()))
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return Failure(False, lines[-1].strip() if lines else "it printed nothing")


def already_exists(output: str) -> bool:
    """Whether a program refused to create what is there."""
    return re.search(r"ALREADY_EXISTS|AlreadyExists|already exists", output) is not None


def _line(output: str, at: int) -> str:
    start = output.rfind("\n", 0, at) + 1
    end = output.find("\n", at)
    return output[start : end if end >= 0 else None].strip()
