"""What is to be launched: one frozen description, the same for every backend."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

from flan_jax.errors import UserError
from flan_jax.plan.gpu import GpuCluster, is_gpu_name, parse_gpus
from flan_jax.plan.topologies import Topology, parse_topology
from flan_jax.suggestions import did_you_mean

COMMANDS = ("train", "eval", "data-build")
# Labels of Kubernetes and names of Google Cloud: RFC 1035, and room for what engines append.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
_OVERRIDE = re.compile(r"[\w./@-]+=.*", re.DOTALL)

# sysexits.h EX_TEMPFAIL: processes that lost another one end with it (flan_jax.peers).
EXIT_AGAIN = 75
# What a shell or a container reports of a process that signals ended: 128 + their number.
EXIT_SIGNALLED = (134, 135, 136, 137, 139, 143)


class LaunchError(UserError):
    """A job cannot be launched as described, or an engine refused it."""


@dataclass(frozen=True)
class RetryPolicy:
    """What happens after a failure.

    Attributes:
      restarts: how often a job that lost a process, or its machines, is started again; it goes on
        from its newest checkpoint.
      attempts: how often one call of an engine's program is tried when its failure may pass (quota,
        an error of the server, no answer).
      wait: seconds before the second attempt; doubled before each further one.
      timeout: seconds that one such call may take.
    """

    restarts: int = 10
    attempts: int = 5
    wait: float = 10.0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.restarts < 0 or self.attempts < 1 or self.wait < 0 or self.timeout <= 0:
            raise LaunchError(
                f"restarts must be at least 0, attempts at least 1, found {self.restarts} and"
                f" {self.attempts}; waits are in seconds, found {self.wait} and {self.timeout}"
            )


@dataclass(frozen=True)
class Software:
    """Where the program comes from: a container image, or a package that pip installs.

    Attributes:
      image: of `launch/Dockerfile`, as `registry/name:tag`; "" for none.
      package: pip's requirement, a path or URL of a wheel or checkout; "" if it is installed.
    """

    image: str = ""
    package: str = ""


@dataclass(frozen=True)
class Place:
    """Where it runs; each backend reads what it knows.

    Attributes:
      project, zone: of Google Cloud.
      cluster: of GKE (for xpk, and for credentials); namespace: of Kubernetes.
      queue: Kueue's LocalQueue.
      service_account: of the TPU VMs, or of the pods.
      runtime_version: TPU VMs' software; "" for the usual one of the generation.
      reserved: whether to use a reservation.
      partition, account, time_limit: of Slurm.
      cpus_per_task: of Slurm; 0 for data-build's number of processes, else the site's default.
      memory: of a node of Slurm, such as "64G"; "" for the site's default.
      network: VPC network of the TPU VMs.
    """

    project: str = ""
    zone: str = ""
    cluster: str = ""
    namespace: str = "default"
    queue: str = ""
    service_account: str = ""
    runtime_version: str = ""
    reserved: bool = False
    partition: str = ""
    account: str = ""
    time_limit: str = ""
    network: str = ""
    cpus_per_task: int = 0
    memory: str = ""

    def __post_init__(self) -> None:
        if self.cpus_per_task < 0:
            raise LaunchError(f"--cpus_per_task={self.cpus_per_task}: expected at least 1")
        if self.memory and not _MEMORY.fullmatch(self.memory):
            raise LaunchError(f"--memory={self.memory}: expected a size such as 64G or 1500M")


@dataclass(frozen=True)
class Cpus:
    """No accelerators: processes on CPUs."""

    name: str = "cpu"


Accelerator = Topology | GpuCluster | Cpus


def parse_accelerator(name: str) -> Accelerator:
    """`v5e-64`, `2xv4-32`, `v4:4x4x8` (TPU slices), `h100:8` (GPUs), `cpu`.

    Raises:
      UserError: with near misses, for what is none of these.
    """
    if name.strip().lower() in ("cpu", "cpus"):
        return Cpus()
    return parse_gpus(name) if is_gpu_name(name) else parse_topology(name)


@dataclass(frozen=True)
class JobSpec:
    """One job.

    Attributes:
      name: of the job and of all that is created for it.
      command: "train", "eval" or "data-build".
      gin_files: as `--gin_file` takes them.
      overrides: `NAME=VALUE`, as `--gin.NAME=VALUE` takes them.
      search_paths: as `--gin_search_paths` takes them.
      modules: modules of the user that register tasks.
      arguments: further arguments of the command, verbatim.
      accelerator: chips, and how many.
      processes: on this machine (backend local only); 0: one, or one a GPU.
      port: of process 0 (backend local only); 0: a free one.
      software, place, retry: see there.
      spot: whether the machines may be taken away, for a lower price.
      buckets: `gs://…` that the job reads or writes.
      environment: variables of the job.
      attachments: gin files of the user that the job's machines do not have: path below the search
        folder, and text.
      folder: on this machine; the job's files go to a folder of its name in it.
      use_xpk: whether GKE is asked through xpk.
    """

    name: str
    command: str
    gin_files: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    accelerator: Accelerator = field(default_factory=Cpus)
    processes: int = 0
    port: int = 0
    software: Software = field(default_factory=Software)
    place: Place = field(default_factory=Place)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    spot: bool = False
    buckets: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    attachments: tuple[tuple[str, str], ...] = ()
    folder: str = "launched"
    use_xpk: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LaunchError(
                f"--name={self.name}: expected up to 40 of a-z, 0-9 and '-', beginning with a"
                " letter: engines name machines and pods after it"
            )
        if self.command not in COMMANDS:
            raise LaunchError(
                f"{self.command!r} cannot be launched; what can is {', '.join(COMMANDS)}"
                f"{did_you_mean(self.command, COMMANDS)}"
            )
        if self.command != "data-build" and not self.gin_files:
            raise LaunchError(f"{self.command} needs --gin_file: one gin file or more")
        if self.command == "data-build" and (self.gin_files or self.overrides):
            raise LaunchError(
                "data-build takes no gin files: give the arguments of `flan-jax data build` after"
                " --, as in: data-build -- flan2022 --out /stores/flan2022"
            )
        for override in self.overrides:
            if not _OVERRIDE.fullmatch(override):
                raise LaunchError(f"--gin.{override}: expected --gin.NAME=VALUE")
        for name, _ in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise LaunchError(f"--env {name}=…: {name!r} is no name of a variable")
        for bucket in self.buckets:
            if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?", bucket):
                raise LaunchError(
                    f"{bucket!r}: expected a bucket, as gs://name or gs://name/folder"
                )
        self._check_lines()
        if self.processes < 0 or not 0 <= self.port < 65536:
            raise LaunchError(f"--processes={self.processes} --port={self.port}: out of range")

    def _check_lines(self) -> None:
        """Raises LaunchError for line breaks where scripts and manifests have one line."""
        values = {**dataclasses.asdict(self.place), **dataclasses.asdict(self.software)}
        for name, value in {**values, "folder": self.folder}.items():
            if isinstance(value, str) and not value.isprintable():
                raise LaunchError(f"--{name}={value!r}: expected one line of printable characters")

    @property
    def files_folder(self) -> str:
        """The folder of the job's files, on this machine."""
        return f"{self.folder.rstrip('/')}/{self.name}"

    @property
    def tpu(self) -> Topology | None:
        """The TPU slices, if these are the accelerator."""
        return self.accelerator if isinstance(self.accelerator, Topology) else None

    @property
    def gpus(self) -> GpuCluster | None:
        """The GPUs, if these are the accelerator."""
        return self.accelerator if isinstance(self.accelerator, GpuCluster) else None
