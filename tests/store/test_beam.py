"""Building on Apache Beam gives the same store, to the byte."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from flan_jax.errors import UserError
from flan_jax.mixing import define_mixture
from flan_jax.store import beam, build_store
from flan_jax.store.beam import beam_runner
from flan_jax.store.exchange import Exchange
from flan_jax.store.parts import plan_part
from flan_jax.store.workers import PartResult, build_part
from flan_jax.tasks import get_task
from tests.store.helpers import MODULE_NAME, contents, flip

ROOT = Path(__file__).resolve().parents[2]
_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
_SPLITS = ("train", "validation")
# An emulator of Google Cloud Storage with a bucket `flan-jax`, for those who have one running.
_EMULATOR = "STORAGE_EMULATOR_HOST"


def _needs_beam():
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install 'flan_jax[beam]'")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_the_same_store_as_on_this_machine(content, tmp_path, mode):
    _needs_beam()
    mixture = content()
    options = [f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    runner = beam_runner(options, [MODULE_NAME])
    report = build_store(mixture, tmp_path / "beam", runner=runner)
    assert report.counts()["built"] == 3
    build_store(mixture, tmp_path / "here")
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")
    again = build_store(mixture, tmp_path / "beam", runner=runner)
    assert again.counts()["unchanged"] == 3


@pytest.mark.slow
def test_a_task_that_fails_stops_no_other(content, tmp_path):
    _needs_beam()
    content()
    mixture = define_mixture("m", ["one", "absent", "two"])
    runner = beam_runner((), [MODULE_NAME])
    report = build_store(mixture, tmp_path / "s", runner=runner)
    assert report.counts() == {"built": 2, "resumed": 0, "unchanged": 0, "failed": 1}
    assert "absent.jsonl is not in the data folder" in report.failed[0].detail
    (tmp_path / "data" / "absent.jsonl").write_text('{"q": "?", "a": "!", "about": ""}\n')
    (tmp_path / "data" / "absent.validation.jsonl").write_text("")
    report = build_store(mixture, tmp_path / "s", runner=runner)
    assert report.counts() == {"built": 1, "resumed": 2, "unchanged": 0, "failed": 0}


@pytest.mark.slow
def test_processes_that_meet_in_an_exchange(content, tmp_path):
    _needs_beam()
    content()
    mixture = define_mixture("m", ["absent", "one", "three", "two"])
    place = Exchange(tmp_path / "exchange")
    runner = beam_runner(_PROCESSES, [MODULE_NAME], place)
    (tmp_path / "exchange" / "notes.txt").write_text("mine")
    # Of three parts, one is whole, one is damaged, and of one the result has not been written.
    worker = tmp_path / "worker"
    files = {}
    for name in ("one", "two", "three"):
        plan = plan_part(get_task(name), _SPLITS, None)
        build_part(get_task(name), plan, worker)
        place.put(plan, PartResult(name), worker)
        files[name] = tmp_path / "exchange" / plan.file
    flip(files["two"], 40)
    files["three"].with_name(f"{files['three'].name}.json").unlink()
    before = files["one"].stat().st_mtime_ns
    report = build_store(mixture, tmp_path / "s", runner=runner, written=place.clear)
    assert report.counts() == {"built": 2, "resumed": 1, "unchanged": 0, "failed": 1}
    assert "absent.jsonl is not in the data folder" in report.failed[0].detail
    assert files["one"].stat().st_mtime_ns == before
    assert files["two"].read_bytes() == (worker / files["two"].name).read_bytes()
    assert len(contents(tmp_path / "exchange")) == 8
    # No worker is needed any more: nothing is left to build.
    report = build_store(
        mixture, tmp_path / "s", runner=runner, written=place.clear, allow_missing=True
    )
    assert report.counts() == {"built": 0, "resumed": 3, "unchanged": 0, "failed": 1}
    assert contents(tmp_path / "exchange") == {"notes.txt": b"mine"}
    build_store(mixture, tmp_path / "here", allow_missing=True)
    assert contents(tmp_path / "s") == contents(tmp_path / "here")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


class _Cluster:
    """A job service and a pool of workers, which share nothing with a driver but the machine.

    The workers' processes have an environment of their own, as in a container, and begin in another
    folder.
    """

    def __init__(self, folder: Path, code: Path):
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "elsewhere").mkdir(parents=True)
        self.workers = f"localhost:{_free_port()}"
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": f"{code}:{ROOT}",
            "HOME": str(folder / "elsewhere"),
            **({_EMULATOR: os.environ[_EMULATOR]} if _EMULATOR in os.environ else {}),
        }
        port = self.workers.rpartition(":")[2]
        self._start("worker.worker_pool_main", [f"--service_port={port}"], environment)
        found = folder / "port"
        arguments = ["--port=0", f"--port_file={found}", f"--staging_dir={folder / 'staged'}"]
        self._start("portability.local_job_service_main", arguments, dict(os.environ))
        deadline = time.monotonic() + 120
        while not found.exists():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)
        self.jobs = f"localhost:{found.read_text()}"

    def _start(self, module: str, arguments: list[str], environment: dict[str, str]) -> None:
        with (self._folder / f"{module}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"apache_beam.runners.{module}", *arguments],
                env=environment,
                cwd=self._folder / "elsewhere",
                stdout=log,
                stderr=log,
                start_new_session=True,  # with the processes that it starts
            )
        self._processes.append(process)

    def options(self) -> list[str]:
        """What Beam is to be told."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint={self.jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config={self.workers}",
        ]

    def said(self) -> str:
        """Its logs."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def stop(self) -> None:
        """Ends all its processes."""
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def cluster(content, tmp_path):
    _needs_beam()
    found = _Cluster(tmp_path / "cluster", tmp_path / "code")
    yield found
    found.stop()


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    if request.param == "folder":
        return Exchange(tmp_path / "exchange")
    pytest.importorskip("gcsfs", reason="needs gcsfs: pip install 'flan_jax[remote]'")
    if _EMULATOR not in os.environ:
        pytest.skip(f"set {_EMULATOR} to an emulator with a bucket flan-jax")
    return Exchange(f"gs://flan-jax/{uuid.uuid4().hex}")


@pytest.mark.slow
def test_a_cluster_that_shares_no_disk(cluster, place, content, tmp_path):
    """Over gRPC, as Flink and Spark do it, by the command itself."""
    names = ["absent", "one", "three", "two"]
    module = tmp_path / "code" / f"{MODULE_NAME}.py"
    text = f"from flan_jax.mixing import register_mixture\nregister_mixture('m', {names})\n"
    module.write_text(module.read_text() + text)
    command = ["data", "build", "m", f"--module={MODULE_NAME}", "--out=s", "--allow_missing"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flan_jax", *command),
            *("--runner=beam", f"--exchange={place.address}", "--", *cluster.options()),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'code'}:{ROOT}"},
        timeout=300,
    )
    told = f"{done.stderr}\n{cluster.said()}"
    assert done.returncode == 0, told
    assert "3 built, 0 resumed, 0 unchanged, 1 failed" in done.stderr, told
    assert place._names() == set()
    assert "Starting worker with command" in cluster.said()
    content()
    build_store(define_mixture("m", names), tmp_path / "here", allow_missing=True)
    assert contents(tmp_path / "s") == contents(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
def test_the_main_module_is_pickled_only_if_asked(tmp_path, monkeypatch, asked):
    """Dataflow's default is to do so, with whatever the command's start holds."""
    _needs_beam()
    from apache_beam.options.pipeline_options import SetupOptions  # pyright: ignore[reportMissingImports]

    seen = []
    monkeypatch.setattr(
        beam, "_by_folder", lambda plans, folder, options, modules: seen.append(options)
    )
    options = ["--runner=DataflowRunner", *(["--save_main_session"] if asked else [])]
    beam_runner(options)([], tmp_path)
    assert seen[0].view_as(SetupOptions).save_main_session is asked


def test_workers_that_do_not_reach_the_folder(mixture, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_submit", lambda options, elements, work, *rest: None)
    report = build_store(
        mixture,
        tmp_path / "s",
        runner=lambda plans, folder: beam._by_folder(plans, folder, None, ()),
    )
    assert len(report.failed) == 3
    assert "do all of them reach that folder? If not, --exchange names" in report.failed[0].detail


def test_without_beam_the_way_to_it_is_told(monkeypatch):
    import builtins

    imported = builtins.__import__

    def without(name, *rest, **named):
        if name.partition(".")[0] == "apache_beam":
            raise ModuleNotFoundError("No module named 'apache_beam'", name="apache_beam")
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'flan_jax\[beam\]'"):
        beam_runner()
