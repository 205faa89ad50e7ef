"""What the job's account may do in its buckets, asked of Cloud Storage itself.

`storage.buckets.testIamPermissions` needs no permission of its own, and tells of a public bucket as
of a private one (cloud.google.com/storage/docs/json_api/v1/buckets/testIamPermissions).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field

import tenacity

from flan_jax.launch.rendered import Argv
from flan_jax.launch.run import Runner
from flan_jax.launch.spec import JobSpec, LaunchError

READ = ("storage.objects.list", "storage.objects.get")
WRITE = (*READ, "storage.objects.create", "storage.objects.delete")
_ENDPOINT = "https://storage.googleapis.com"
_TIMEOUT = 30.0  # seconds that one question may take


class _PassingError(Exception):
    """An answer that may be another one soon."""


@dataclass(frozen=True)
class BucketUse:
    """A bucket, and whether the job writes to it."""

    bucket: str
    written: bool

    @property
    def needed(self) -> Argv:
        """Permissions."""
        return WRITE if self.written else READ


@dataclass
class _Account:
    """Who asks."""

    token: str
    name: str
    notes: list[str] = field(default_factory=list)


def check_buckets(spec: JobSpec, uses: Iterable[BucketUse]) -> list[str]:
    """Whether the job's account may do what the job will.

    Args:
      spec: the job; its service account is the one that is asked for, if there is one.
      uses: the buckets.

    Returns:
      What was not checked, and why.

    Raises:
      LaunchError: a bucket does not exist, or permissions are missing: which, and who grants them
        how.
    """
    uses = tuple(uses)
    if not uses:
        return []
    account = _account(spec)
    if not account.token:
        return account.notes
    notes = account.notes
    for use in uses:
        notes += _check_bucket(spec, use, account)
    return notes


def _check_bucket(spec: JobSpec, use: BucketUse, account: _Account) -> list[str]:
    unknown = f"permissions on gs://{use.bucket} were not checked"
    try:
        status, body = _ask(spec, use, account.token)
    except (_PassingError, OSError) as error:
        return [f"{unknown}: {error}"]
    if status == 404:
        raise LaunchError(
            f"there is no bucket gs://{use.bucket}: create it (gcloud storage buckets create"
            f" gs://{use.bucket}), or mend the name"
        )
    if status != 200:
        return [f"{unknown}: Cloud Storage answered {status}: {_reason(body)}"]
    granted = json.loads(body or "{}").get("permissions", [])
    missing = [name for name in use.needed if name not in granted]
    if not missing:
        return []
    member = account.name or "ACCOUNT"
    kind = "serviceAccount" if member.endswith(".gserviceaccount.com") else "user"
    role = "roles/storage.objectUser" if use.written else "roles/storage.objectViewer"
    doing = "written to" if use.written else "read"
    raise LaunchError(
        f"gs://{use.bucket} is {doing} by the job, and {member} lacks {', '.join(missing)} on it."
        f" Whoever owns it grants them by\n  gcloud storage buckets add-iam-policy-binding"
        f" gs://{use.bucket} --member={kind}:{member} --role={role}\nor launch with --no_access, if"
        " the job's machines have another account"
    )


# --- Who asks -------------------------------------------------------------------------------


def _account(spec: JobSpec) -> _Account:
    """The service account of the job's machines where it can be acted as, else the user."""
    if shutil.which("gcloud") is None:
        note = "permissions on buckets were not checked: gcloud is not on the PATH"
        return _Account("", "", [note])
    notes = []
    service_account = spec.place.service_account
    # A ServiceAccount of Kubernetes, which gke takes, is none of Google Cloud.
    if "@" in service_account:
        token, error = _token(spec, f"--impersonate-service-account={service_account}")
        if token:
            return _Account(token, service_account)
        notes.append(f"buckets: asked for you, as you cannot act as {service_account}: {error}")
    token, error = _token(spec)
    if not token:
        return _Account("", "", [*notes, f"permissions on buckets were not checked: {error}"])
    named = Runner().once(("gcloud", "config", "get", "account"), spec.retry.timeout)
    return _Account(token, named.out.strip() if named.status == 0 else "", notes)


def _token(spec: JobSpec, *flags: str) -> tuple[str, str]:
    """A token, or "" and why there is none."""
    output = Runner().once(("gcloud", "auth", "print-access-token", *flags), spec.retry.timeout)
    if output.status == 0 and output.out.strip():
        return output.out.strip().splitlines()[-1], ""
    lines = [line for line in output.err.strip().splitlines() if "ERROR" in line]
    last = (lines or output.err.strip().splitlines() or [f"status {output.status}"])[0]
    return "", last.removeprefix("ERROR: ")


# --- Asking ---------------------------------------------------------------------------------


def _ask(spec: JobSpec, use: BucketUse, token: str) -> tuple[int, str]:
    """Status and body of the answer. Raises _PassingError if none came in all attempts."""
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "") or _ENDPOINT
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    query = urllib.parse.urlencode([("permissions", name) for name in use.needed])
    bucket = urllib.parse.quote(use.bucket, safe="")
    url = f"{endpoint.rstrip('/')}/storage/v1/b/{bucket}/iam/testPermissions?{query}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_PassingError),
        stop=tenacity.stop_after_attempt(spec.retry.attempts),
        wait=tenacity.wait_exponential(multiplier=min(spec.retry.wait, 2.0), max=60),
        reraise=True,
    )(lambda: _once(request))


def _once(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        body = error.read().decode("utf-8", "replace")
        if error.code in (408, 429) or error.code >= 500:
            raise _PassingError(f"Cloud Storage answered {error.code}: {_reason(body)}") from error
        return error.code, body
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"no answer of Cloud Storage: {error}") from error


def _reason(body: str) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body.split())[:200] or "no reason given"
