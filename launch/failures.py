"""What an engine's program says when it fails: whether it may pass, and what to change if not.

Words are those of Google's API errors (google.rpc.Code), of gcloud, kubectl, sbatch and sky.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PASSING_ANYWAY = (
    r"failed to download openapi|The connection to the server \S+ was refused"
    r"|\b(?:userR|r)ateLimitExceeded"
)
# In this order: the first that matches says what kind of failure it is.
_FINAL: tuple[tuple[str, str], ...] = (
    (
        r"\b[Ll]imit\b[^\n\d]{0,40}\b0(?:\.0+)?(?![.\d])",
        "the quota is 0: ask for quota of this kind of machine, or take another zone or topology",
    ),
    (r"terminal state \"", "the machine was taken away, or ended"),
    (
        r"Permission denied \((?:publickey|[\w,-]*publickey)[\w,-]*\)|not present in the SSH agent",
        "the machines do not take your key: ssh-add ~/.ssh/google_compute_engine, and whether the"
        " account may log in there (OS Login)",
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
        "the name is taken: choose another --name, or delete what has it",
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
_NO_ROOM = (
    r"RESOURCE_EXHAUSTED|[Qq]uota|rateLimitExceeded|Too Many Requests|\b429\b"
    r"|no more capacity|[Ss]tockout|There is no more|does not have enough resources"
)
_PASSING = (
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|\b50[0234]\b|Internal error|INTERNAL|Bad Gateway"
    r"|[Tt]imed? ?out|[Cc]onnection (?:to \S+ )?(?:reset|refused|closed|aborted|lost)"
    r"|lost connection|Broken pipe|No route to host|[Tt]emporary failure|temporarily unavailable"
    r"|TLS handshake|unexpected EOF|Unable to contact slurm controller|Socket timed out"
    r"|Could not prepare all \d+ nodes|cannot be currently connected to"
)
# gcloud and kubectl say so when a request was taken, whatever came after.
_TAKEN = r"request issued|^\S+/\S+ created$"


@dataclass(frozen=True)
class Failure:
    """Why a command failed.

    Attributes:
      passing: whether it may succeed a little later.
      reason: the line of the program's output that says so.
      advice: what to change; "" if nothing is known.
      refused: whether what was asked for was plainly not done. Where it is not said, it may be.
    """

    passing: bool
    reason: str
    advice: str = ""
    refused: bool = False


def classify(error: str, out: str = "") -> Failure:
    """The failure behind what a program printed.

    Args:
      error: its standard error.
      out: its standard output, for what the first does not explain.
    """
    taken = re.search(_TAKEN, f"{error}\n{out}", re.MULTILINE) is not None
    for text in (error, out):
        found = _known(text, taken)
        if found is not None:
            return found
    lines = [line for line in (error.strip() or out.strip()).splitlines() if line.strip()]
    return Failure(False, lines[-1].strip() if lines else "it printed nothing")


def _known(output: str, taken: bool) -> Failure | None:
    quota = _FINAL[0]
    for pattern, advice in (quota, (_PASSING_ANYWAY, ""), *_FINAL[1:]):
        found = re.search(pattern, output)
        if found and not advice:
            return Failure(True, _line(output, found.start()), refused=not taken)
        if found:
            return Failure(False, _line(output, found.start()), advice, refused=not taken)
    for pattern in (_NO_ROOM, _PASSING):
        found = re.search(pattern, output)
        if found:
            refused = pattern == _NO_ROOM and not taken
            return Failure(True, _line(output, found.start()), refused=refused)
    return None


def already_exists(output: str, name: str) -> bool:
    """Whether a program refused to create what is there by this name."""
    exists = re.search(r"ALREADY_EXISTS|AlreadyExists|already exists", output) is not None
    return exists and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", output) is not None


def is_gone(failure: Failure) -> bool:
    """Whether what was to be deleted was not there."""
    return re.search(r"NOT_FOUND|NotFound|not found", failure.reason) is not None


def taken_away(output: str) -> str:
    """What gcloud's ssh and scp say of machines that are not coming back; "" if nothing."""
    found = re.search(r"terminal state \"(\w+)\"", output)
    return found.group(1) if found else ""


def _line(output: str, at: int) -> str:
    start = output.rfind("\n", 0, at) + 1
    end = output.find("\n", at)
    return output[start : end if end >= 0 else None].strip()
