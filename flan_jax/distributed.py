"""One job in several processes: on a TPU pod, under Slurm or Open MPI, or on the CPUs of one host.

    with joined(address, count, index):
        train(...)

All processes find each other (`flan_jax.rendezvous`) and JAX joins their devices; while the block
runs, they watch each other (`flan_jax.peers`); at its end they leave together. Whatever goes wrong,
every process ends with a status other than 0 and a line that says why, within a minute.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from flan_jax.errors import UserError
from flan_jax.peers import LEASE, Joining, PeerWatch, explain_aborts, leave, leave_aborts_alone
from flan_jax.rendezvous import DistributedError, Membership, meet

INITIALIZATION_TIMEOUT = 300  # seconds, T5X's and JAX's
# JAX's own heartbeats stand behind the peers' watch, and end a process within a minute too.
_HEARTBEAT_TIMEOUT = 45
_SHUTDOWN_TIMEOUT = 30
_BARRIER_TIMEOUT = 4 * 3600  # seconds; compilations of large models differ by many minutes

_STATUS = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): "
)

_barriers: dict[str, int] = {}


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    *,
    detect: bool = False,
    initialization_timeout: int = INITIALIZATION_TIMEOUT,
) -> Iterator[None]:
    """Joins the other processes of the job for the length of the block; alone, does nothing.

    Call it before anything that makes JAX look for devices.

    Args:
      coordinator_address: `host:port` of process 0; with it, the next two are needed.
      process_count: number of processes.
      process_index: of this one, from 0.
      detect: whether to ask the machine for all three (TPU pod, Slurm, Open MPI, Kubernetes), and
        fail if it does not know. Without it, a machine that plainly says so is believed.
      initialization_timeout: seconds to wait for the other processes.

    Raises:
      DistributedError: flags do not fit each other or those of the other processes; processes are
        missing; the port is in use.
    """
    membership = _membership(coordinator_address, process_count, process_index)
    if membership is None and not (detect or in_cluster(os.environ)):
        yield
        return
    _initialize(membership, initialization_timeout)
    if _state().num_processes == 1:
        yield
        return
    with _watched():
        yield


def _membership(address: str | None, count: int | None, index: int | None) -> Membership | None:
    flags = {
        "--coordinator_address": address,
        "--process_count": count,
        "--process_index": index,
    }
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return None
    if missing:
        given = [name for name in flags if name not in missing]
        raise DistributedError(
            f"{', '.join(given)} without {', '.join(missing)}: give all three, or none under"
            " --multiprocess, where the machine says them (TPU pod, Slurm, Open MPI)"
        )
    assert address is not None
    assert count is not None
    assert index is not None
    return Membership(address, count, index)


def in_cluster(environment: Any) -> bool:
    """Whether the environment plainly says that this is one of several processes.

    Inside a Slurm job step (`srun`) or `mpirun` of several tasks, or on a TPU slice of several
    hosts or several slices.
    """

    def number(name: str) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdigit() else 0

    if number("SLURM_STEP_NUM_TASKS") > 1 or number("OMPI_COMM_WORLD_SIZE") > 1:
        return True
    if environment.get("JAX_PLATFORMS") == "cpu":
        return False
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def _initialize(membership: Membership | None, timeout: int) -> None:
    import jax

    if getattr(jax.config, "jax_platforms", None) == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    settings: dict[str, Any] = {
        "initialization_timeout": timeout,
        "heartbeat_timeout_seconds": _HEARTBEAT_TIMEOUT,
        "shutdown_timeout_seconds": _SHUTDOWN_TIMEOUT,
    }
    if membership is not None:
        meet(membership, timeout)
        settings |= {
            "coordinator_address": membership.address,
            "num_processes": membership.count,
            "process_id": membership.index,
            "cluster_detection_method": "deactivate",
        }
    # JAX aborts a process whose others do not come, and names nobody.
    explain_aborts(Joining(timeout, lambda: _state().coordinator_address))
    try:
        jax.distributed.initialize(**settings)
    except (ValueError, RuntimeError) as error:
        if membership is None:
            hint = (
                "the machine did not say which processes belong together (TPU pod, Slurm, Open"
                " MPI, Kubernetes): give --coordinator_address, --process_count, --process_index"
            )
        else:
            hint = f"processes could not be joined at {membership.address}"
        raise DistributedError(f"{hint} ({str(error).splitlines()[0]})") from error
    finally:
        leave_aborts_alone()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Watches the other processes during the block, and ends together with them."""
    import jax

    state = _state()
    watch = PeerWatch(
        state.client, state.process_id, state.num_processes, state.coordinator_address
    )
    explain_aborts(watch)
    watch.start()
    try:
        yield
        barrier("end")
    except BaseException as error:
        status = _status(error)
        if _from_runtime(error):
            # Most likely a peer's end broke a collective: the watch will know whose.
            print(
                "flan-jax: a computation across processes broke off; waiting up to"
                f" {LEASE:.0f} s to learn whether a process was lost",
                file=sys.stderr,
                flush=True,
            )
            watch.wait_for_verdict()
        watch.failed(_summary(error), status)
        # JAX would wait at exit for the others, of whom some may not come.
        atexit.register(leave, status)
        raise
    watch.done()
    watch.stop()
    jax.distributed.shutdown()


def _status(error: BaseException) -> int:
    if isinstance(error, UserError):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _summary(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, UserError) and text else f"{type(error).__name__}: {text}"


def _from_runtime(error: BaseException | None) -> bool:
    """Whether the error, or one behind it, is of XLA's runtime, which computes across processes.

    Most are of one class; some reach Python as a ValueError that begins with the status code.
    """
    import jax

    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) or _STATUS.match(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _state() -> Any:
    # JAX has no public way to its key-value store and barriers; Orbax reaches for them likewise.
    from jax._src import distributed

    return distributed.global_state


def barrier(name: str, timeout: float = _BARRIER_TIMEOUT) -> None:
    """Waits until all processes are here; alone, does nothing. No device takes part.

    Args:
      name: of the place in the program; the same on all processes, which pass it equally often.
      timeout: seconds.

    Raises:
      DistributedError: not all came in time.
    """
    client = _state().client
    if client is None:
        return
    _barriers[name] = _barriers.get(name, 0) + 1
    try:
        client.wait_at_barrier(f"flan_jax/{name}/{_barriers[name]}", int(timeout * 1000))
    except RuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise DistributedError(
            f"not all processes came to {name!r} within {timeout:.0f} s ({error})"
        ) from error


def compile_together(function: Any, *arguments: Any, **keywords: Any) -> None:
    """Compiles a jitted function for these arguments, and waits until all processes have.

    The first collective on CPUs (gloo) gives a process that still compiles no more than 30 s.
    Alone, does nothing: the function compiles when it is called.
    """
    if _state().client is None:
        return
    function.lower(*arguments, **keywords).compile()
    barrier(f"compiled {getattr(function, '__name__', 'function')}")
