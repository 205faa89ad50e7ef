"""What engines print when they fail, and what is made of it."""

from __future__ import annotations

import pytest

from flan_jax.launch.failures import classify
from tests.launch.fake_jobs import NO_QUOTA, QUOTA, SERVER


@pytest.mark.parametrize(
    ("output", "passing", "reason"),
    [
        (f"WARNING: x\n{QUOTA}", True, QUOTA.strip()),
        (SERVER, True, SERVER.strip()),
        ('There is no more capacity in the zone "us-west4-a"\n', True, "There is no more"),
        ("error: TLS handshake timeout\n", True, "TLS handshake timeout"),
        (NO_QUOTA, False, "Limit: 0.0"),
        (
            "error: error validating data: failed to download openapi: dial tcp: connect:"
            " connection refused\n",
            True,
            "failed to download openapi",
        ),
        ("The connection to the server 10.0.0.1 was refused - did you\n", True, "was refused"),
        ("sbatch: error: Resource temporarily unavailable\n", True, "temporarily"),
        ("scp: lost connection\n", True, "lost connection"),
        ("client_loop: send disconnect: Broken pipe\n", True, "Broken pipe"),
        ("ssh: connect to host 10.0.0.1 port 22: No route to host\n", True, "No route"),
        ("ssh: connect to host h port 22: Connection reset\n", True, "Connection reset"),
        ("HttpError 403 rateLimitExceeded\n", True, "rateLimitExceeded"),
        ("ERROR: 403 userRateLimitExceeded\n", True, "userRateLimitExceeded"),
        ("me@h: Permission denied (publickey).\n", False, "Permission denied"),
        ("SSH Key is not present in the SSH agent. Please\n", False, "SSH agent"),
        ("read: unexpected EOF\n", True, "unexpected EOF"),
        ("EOFError: EOF when reading a line\n", False, "EOF when"),
        ("something else\n", False, "something else"),
        ("", False, "it printed nothing"),
    ],
)
def test_failures_are_told_apart(output: str, passing: bool, reason: str):
    failure = classify(output)
    assert failure.passing is passing
    assert reason in failure.reason
