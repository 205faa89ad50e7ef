"""`flan-jax doctor`: checks this machine and installation, and says how to fix what is wrong.

    flan-jax doctor --model_dir ~/runs/first

Exits with 0 if nothing must be fixed (warnings may remain), with 1 otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import flan_jax
from flan_jax.cli.data import chosen_folder
from flan_jax.cli.tables import FORMATS, print_json, print_table
from flan_jax.errors import UserError

HELP = "check this machine and installation"
STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
ROOT = Path(flan_jax.__file__).resolve().parent.parent
INSTALL = "pip install -e ."

GIB = 2**30
# The quickstart peaks at about 2 GiB, TensorFlow beside it at less than 1.
LITTLE_MEMORY = 4 * GIB
# A T5-base checkpoint with its optimizer state is about 1 GB, and several are kept.
LITTLE_DISK = 5 * GIB
NO_DISK = GIB // 4


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and how to fix it if need be."""

    name: str
    status: Literal["ok", "warning", "problem"]
    found: str
    fix: str = ""


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    """Python must be 3.11 or newer; TensorFlow may not have wheels for the newest yet."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Check("python", "problem", text, "use Python 3.11 or newer: make PYTHON=python3.12")
    return Check("python", "ok", f"{text} in {sys.prefix}")


def _requirements() -> list[str]:
    """The requirements of the installed flan_jax; empty if it is not installed."""
    try:
        return importlib.metadata.requires("flan_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _canonical(name: str) -> str:
    """A project's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints_file() -> Path:
    """Where a checkout has the tested versions for this Python; it may not exist."""
    return ROOT / "requirements" / f"constraints-py{sys.version_info[0]}{sys.version_info[1]}.txt"


def tested_versions(file: Path) -> dict[str, str]:
    """The pinned versions in `file` by canonical name; empty if there is no such file."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {_canonical(name): version.strip() for name, version in pins}


def check_packages(
    requirements: Sequence[str] | None = None, tested: dict[str, str] | None = None
) -> Iterator[Check]:
    """One check for each requirement that is unmet, and a summary of the others.

    Args:
      requirements: PEP 508 lines; the installed flan_jax's by default.
      tested: Versions by canonical name; those of the checkout's constraints by default.
    """
    from packaging.requirements import Requirement

    lines = _requirements() if requirements is None else requirements
    pins = tested_versions(constraints_file()) if tested is None else tested
    if not lines:
        yield Check(
            "packages",
            "warning",
            f"flan_jax is used from {ROOT} without being installed: requirements unknown",
            INSTALL,
        )
        return
    met: list[str] = []
    differing: list[str] = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(
                "packages", "problem", f"{requirement.name} is missing", f"pip install '{wanted}'"
            )
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found = f"{requirement.name} {version}, needed {requirement.specifier}"
            yield Check("packages", "problem", found, f"pip install '{wanted}'")
            continue
        met.append(requirement.name)
        pin = pins.get(_canonical(requirement.name))
        if pin not in (None, version):
            differing.append(f"{requirement.name} {version} (tested: {pin})")
    yield Check("packages", "ok", f"{len(met)} requirements met")
    if differing:
        yield Check(
            "packages",
            "warning",
            "other than the tested versions: " + ", ".join(differing),
            f"should anything misbehave: {INSTALL} -c {constraints_file()}",
        )


def check_gin() -> Check:
    """`import gin` must give gin-config, not a foreign package or the repository's folder."""
    fix = "pip uninstall gin; pip install --force-reinstall --no-deps gin-config"
    spec = importlib.util.find_spec("gin")
    if spec is None:
        return Check("gin", "problem", "gin-config is not installed", "pip install gin-config")
    if spec.origin is None:
        where = ", ".join(spec.submodule_search_locations or [])
        found = f"gin-config is not installed: 'import gin' finds only the folder {where}"
        return Check("gin", "problem", found, "pip install gin-config")
    try:
        gin = importlib.import_module("gin")
    except Exception as error:  # A foreign package may fail in any way.
        return Check("gin", "problem", f"'import gin' fails: {error} ({spec.origin})", fix)
    if not hasattr(gin, "configurable"):
        return Check("gin", "problem", f"{spec.origin} is not gin-config", fix)
    return Check("gin", "ok", f"gin-config in {Path(spec.origin).parent}")


def check_content() -> Check:
    """`flan_jax.mixtures` and the gin files must be found, and under one name only."""
    if "mixtures" in sys.modules:
        where = getattr(sys.modules["mixtures"], "__file__", None)
        found = f"'mixtures' has been imported from {where}: its tasks would register twice"
        return Check("mixtures", "problem", found, "write 'import flan_jax.mixtures' instead")
    spec = importlib.util.find_spec("flan_jax.mixtures")
    if spec is None or spec.origin is None:
        searched = ", ".join(flan_jax.__path__)
        found = f"flan_jax.mixtures is not found in {searched}"
        return Check("mixtures", "problem", found, f"reinstall flan_jax: {INSTALL}")
    return Check("mixtures", "ok", str(Path(spec.origin).parent))


def check_installation() -> Check:
    """The flan_jax that runs should be the one that is installed here."""
    here = Path(flan_jax.__file__).resolve().parent
    try:
        distribution = importlib.metadata.distribution("flan_jax")
    except importlib.metadata.PackageNotFoundError:
        return Check("flan_jax", "ok", f"{flan_jax.__version__}, not installed, from {here}")
    # An editable installation has no such file: its code is wherever it runs from.
    installed = Path(str(distribution.locate_file("flan_jax")))
    if (installed / "__init__.py").is_file() and installed.resolve() != here:
        return Check(
            "flan_jax",
            "warning",
            f"{here} hides the installed {installed}",
            "run from another folder to use the installed one, or install this one: " + INSTALL,
        )
    if distribution.version != flan_jax.__version__:
        found = f"version {flan_jax.__version__}, installed as {distribution.version}"
        return Check("flan_jax", "warning", found, f"install it again: {INSTALL}")
    return Check("flan_jax", "ok", f"{flan_jax.__version__} from {here}")


_LIST_DEVICES = """
import json, jax
print(json.dumps([jax.default_backend(), [d.device_kind for d in jax.devices()]]))
"""


def check_devices(timeout: float, code: str = _LIST_DEVICES) -> Check:
    """Asks JAX for its devices in another process, as a broken accelerator can hang for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return Check(
                "devices",
                "problem",
                f"jax.devices() gave no answer within {timeout:g} s",
                "another process may hold the accelerator, or on a TPU pod not all hosts run the "
                "same program; JAX_PLATFORMS=cpu does without it",
            )
    if process.returncode != 0:
        last = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        fix = "check the JAX installation and JAX_PLATFORMS; JAX_PLATFORMS=cpu uses the CPU"
        return Check("devices", "problem", f"jax.devices() fails: {last}", fix)
    backend, kinds = json.loads(output.strip().splitlines()[-1])
    found = ", ".join(f"{kinds.count(kind)} × {kind}" for kind in sorted(set(kinds)))
    unused = _unused_accelerator() if backend == "cpu" else None
    if unused:
        return Check("devices", "warning", f"{found}; {unused[0]} is not used", unused[1])
    return Check("devices", "ok", f"{found} ({backend})")


def _unused_accelerator() -> tuple[str, str] | None:
    """An accelerator that the kernel shows although JAX runs on the CPU, and how to use it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return None
    if Path("/dev/nvidia0").exists():
        return "an NVIDIA GPU", "pip install -e '.[cuda]'"
    if Path("/dev/accel0").exists():
        return "a TPU", "pip install -e '.[tpu]'"
    return None


def check_tpu_compiler() -> Check:
    """The compiler of `flan-jax plan`, libtpu, of the version that JAX itself asks for."""
    install = "pip install -e '.[plan]'"
    name = "tpu compiler"
    try:
        version = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        found = "libtpu is not installed; only `flan-jax plan` for TPUs needs it"
        return Check(name, "ok", found, f"{install} if wanted")
    from packaging.requirements import Requirement

    try:
        asked = map(Requirement, importlib.metadata.requires("jax") or [])
    except importlib.metadata.PackageNotFoundError:
        asked = ()
    for requirement in asked:
        if requirement.name == "libtpu" and not requirement.specifier.contains(version):
            found = f"libtpu {version}; the installed JAX is made for {requirement.specifier}"
            return Check(name, "warning", found, f"pip install 'libtpu{requirement.specifier}'")
    return Check(name, "ok", f"libtpu {version}")


def check_cpus() -> Check:
    """The CPUs that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cpus", "ok", str(count))


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that a new process could use, within the container's limit; None if unknown."""
    if not meminfo.is_file():
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    if match is None:
        return None
    free = int(match.group(1)) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def check_memory() -> Check:
    """Warns if little memory is left."""
    free = free_memory()
    if free is None:
        return Check("memory", "ok", "unknown on this system")
    if free < LITTLE_MEMORY:
        fix = f"close other programs: {_gib(LITTLE_MEMORY)} are enough for the quickstart"
        return Check("memory", "warning", f"{_gib(free)} free", fix)
    return Check("memory", "ok", f"{_gib(free)} free")


def check_disk(name: str, folder: str) -> Check:
    """Free space and the right to write, in `folder` or where it would be made."""
    if "://" in folder:
        return Check(name, "ok", f"{folder}: remote, not looked at")
    path = Path(folder).expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    if not path.is_dir() or not os.access(path, os.W_OK):
        what = "may not be written" if path.is_dir() else "is a file"
        return Check(name, "problem", f"{path} {what}", "choose another folder")
    free = shutil.disk_usage(path).free
    found = f"{_gib(free)} free in {path}"
    if free < NO_DISK:
        return Check(name, "problem", found, "make room: checkpoints could not be written")
    if free < LITTLE_DISK:
        return Check(name, "warning", found, "make room, or keep fewer checkpoints")
    return Check(name, "ok", found)


def check_data(option: str | None) -> Iterator[Check]:
    """The data folder and the datasets in it. A missing dataset is a warning: few need them all."""
    from flan_jax.sources.folder import ENVIRONMENT_VARIABLE, status

    try:
        folder = chosen_folder(option)
    except UserError as error:
        yield Check("data", "problem", str(error), f"make it, or correct {ENVIRONMENT_VARIABLE}")
        return
    if not folder.is_dir():
        yield Check(
            "data",
            "warning",
            f"{ENVIRONMENT_VARIABLE} is not set and {folder} does not exist: only tasks that make "
            "their own data, such as those of flan_jax.mixtures.micro, can be used",
            f"set {ENVIRONMENT_VARIABLE} to a folder of datasets (flan-jax data status lists them)",
        )
        return
    datasets = status(folder)
    found = [dataset.name for dataset in datasets if dataset.found]
    missing = [dataset.name for dataset in datasets if not dataset.found]
    yield Check("data", "ok", f"found in {folder}: {', '.join(found) or 'none'}")
    if missing:
        fix = "needed only by tasks that read them; flan-jax data status tells where to get them"
        yield Check("data", "warning", "not found: " + ", ".join(missing), fix)


def run_checks(arguments: argparse.Namespace) -> list[Check]:
    """All checks, in the order in which they are shown."""
    checks = [check_python(), check_installation(), *check_packages()]
    checks += [check_gin(), check_content()]
    checks += [check_devices(arguments.device_timeout), check_tpu_compiler()]
    checks += [check_cpus(), check_memory()]
    checks.append(check_disk("disk", os.getcwd()))
    if arguments.model_dir:
        checks.append(check_disk("model_dir", arguments.model_dir))
    checks.extend(check_data(arguments.data_dir))
    return checks


def show(checks: Sequence[Check], format: str) -> None:
    """Prints the checks; `format` as in `tables.print_table`, or "json"."""
    healthy = all(check.status != "problem" for check in checks)
    if format == "json":
        print_json({"ok": healthy, "checks": [dataclasses.asdict(check) for check in checks]})
        return
    rows = [(check.status, check.name, check.found, check.fix) for check in checks]
    print_table(("status", "check", "found", "how to fix"), rows, format=format, styles=STYLES)


def parser() -> argparse.ArgumentParser:
    """The arguments of `flan-jax doctor`."""
    one = argparse.ArgumentParser(prog="flan-jax doctor", description=HELP)
    one.add_argument("--data_dir", help="the data folder (default: FLAN_JAX_DATA, else ./data)")
    one.add_argument(
        "--model_dir",
        default=os.environ.get("MODEL_DIR"),
        help="a run's folder, to check the space for checkpoints (default: MODEL_DIR)",
    )
    one.add_argument(
        "--device_timeout", type=float, default=60, help="seconds for JAX to answer (default: 60)"
    )
    one.add_argument("--format", choices=FORMATS, default="auto", help="default: auto")
    return one


def main(argv: Sequence[str]) -> int:
    """Runs `flan-jax doctor` and returns its exit code."""
    arguments = parser().parse_args(argv)
    checks = run_checks(arguments)
    show(checks, arguments.format)
    return int(any(check.status == "problem" for check in checks))
