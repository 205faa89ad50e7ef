"""Building parts on Apache Beam, for collections that one machine would take too long for.

One element is one task. Workers write the same part files as a build on one machine does, into the
store's folder, which all of them must reach under the same path (a shared disk; with Beam's direct
runner any disk); where there is none they write into one of their own, and send parts to an
exchange. The packing that follows is the same too, and so are the bytes of the store. Which runner,
and all about it, is told by Beam's own options, such as `--runner=FlinkRunner`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE, data_folder
from flan_jax.sources.tfds_folders import TFDS_VARIABLE, tfds_folder
from flan_jax.store.build import Runner
from flan_jax.store.definition import rows_hash
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.exchange import Exchange
from flan_jax.store.parts import PartPlan
from flan_jax.store.workers import PartResult, build_part
from flan_jax.tasks import get_task

_RESULTS = "beam"


def beam_runner(
    options: Sequence[str] = (), modules: Sequence[str] = (), exchange: Exchange | None = None
) -> Runner:
    """Builds parts by a Beam pipeline.

    Args:
      options: Beam's own, as on its command line.
      modules: modules that register tasks, imported by every worker.
      exchange: where workers leave parts; if None, in the folder that they are to be in, which all
        of them must reach.

    Raises:
      UserError: Beam is not installed.
      StoreError: nothing can be left in the exchange.
    """
    _require_beam()
    # Beam itself warns of options that it does not know: some are its runners' alone.
    from apache_beam.options import pipeline_options  # pyright: ignore[reportMissingImports]

    parsed = pipeline_options.PipelineOptions(list(options))
    setup = parsed.view_as(pipeline_options.SetupOptions)
    if setup.save_main_session is None:  # some runners would: nothing of ours is defined there
        setup.save_main_session = False
    if exchange is None:
        return lambda plans, folder: _by_folder(plans, folder, parsed, tuple(modules))
    exchange.check()
    return lambda plans, folder: _by_exchange(plans, folder, parsed, tuple(modules), exchange)


def _require_beam() -> None:
    try:
        import apache_beam  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "apache_beam":
            raise
        raise UserError(
            "Apache Beam is not installed: pip install 'flan_jax[beam]', or build on this machine "
            "with --jobs"
        ) from None


def _by_folder(
    plans: Sequence[PartPlan], folder: Path, options: Any, modules: tuple[str, ...]
) -> Iterator[PartResult]:
    """Has parts built in a folder that all workers reach."""
    if not plans:
        return
    results = folder / _RESULTS
    with write_errors(results):
        results.mkdir(parents=True, exist_ok=True)
        for path in results.iterdir():
            path.unlink()
    elements = [json.dumps(asdict(plan)) for plan in plans]
    _submit(options, elements, build_element, str(folder), modules, _environment())
    for plan in plans:
        yield _result(plan, results)


def _by_exchange(
    plans: Sequence[PartPlan],
    folder: Path,
    options: Any,
    modules: tuple[str, ...],
    exchange: Exchange,
) -> Iterator[PartResult]:
    """Has parts built wherever workers are, except those that an earlier build left behind."""
    missing = []
    for plan, result in exchange.take(plans, folder):
        if result is None or result.error:
            missing.append(plan)
        else:
            yield replace(result, resumed=True)
    if not missing:
        return
    exchange.clear(missing)
    elements = [
        json.dumps({**asdict(plan), "rows_hash": rows_hash(get_task(plan.task))})
        for plan in missing
    ]
    _submit(options, elements, build_and_send, exchange.address, modules, _environment())
    for plan, result in exchange.take(missing, folder):
        yield result or PartResult(
            plan.task, f"no worker left a whole part in {exchange.address}: see the runner's log"
        )


def _submit(options: Any, elements: Sequence[str], work: Callable[..., str], *rest: Any) -> None:
    """Has `work` done with each element, on as many workers as there are.

    Raises:
      StoreError: the pipeline failed.
    """
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Tasks" >> beam.Create(elements)
                | "Spread" >> beam.Reshuffle()
                | "Parts" >> beam.Map(work, *rest)
            )
    except Exception as error:
        raise StoreError(f"the Beam pipeline failed: {type(error).__name__}: {error}") from error


def _environment() -> dict[str, str]:
    """Where the data are, for workers that have not inherited it."""
    return {ENVIRONMENT_VARIABLE: str(data_folder()), TFDS_VARIABLE: str(tfds_folder())}


def _result(plan: PartPlan, results: Path) -> PartResult:
    try:
        return PartResult(**json.loads((results / f"{plan.file}.json").read_text("utf-8")))
    except FileNotFoundError:
        return PartResult(
            plan.task,
            f"no worker left a result in {results}: do all of them reach that folder? If not, "
            "--exchange names a place, such as a bucket, that they do reach",
        )


def build_element(
    element: str, folder: str, modules: tuple[str, ...], environment: Mapping[str, str]
) -> str:
    """What a Beam worker does with one task; gives the task's name."""
    plan, _ = _read(element)
    path = Path(folder)
    result = _build(plan, path, modules, environment)
    target = path / _RESULTS / f"{plan.file}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(asdict(result)), encoding="utf-8")
    return plan.task


def build_and_send(
    element: str, address: str, modules: tuple[str, ...], environment: Mapping[str, str]
) -> str:
    """The same for a worker that reaches the exchange at `address`, but not the store's folder.

    Raises:
      StoreError: the exchange does not take what was built; it would not take other tasks' either.
    """
    plan, definition = _read(element)
    exchange = Exchange(address)
    if exchange.exists(plan):  # Beam may give out a task again
        return plan.task
    with tempfile.TemporaryDirectory(prefix="flan-jax-") as folder:
        result = _build(plan, Path(folder), modules, environment, definition)
        if result.fatal:
            result = replace(result, error=f"on a worker: {result.error}")
        exchange.put(plan, result, Path(folder))
    return plan.task


def _read(element: str) -> tuple[PartPlan, str]:
    """The plan, and the hash of the task's definition where the build was started, if told."""
    content = json.loads(element)
    definition = content.pop("rows_hash", "")
    return PartPlan(**{**content, "splits": tuple(content["splits"])}), definition


def _build(
    plan: PartPlan,
    folder: Path,
    modules: tuple[str, ...],
    environment: Mapping[str, str],
    definition: str = "",
) -> PartResult:
    from flan_jax.cli.content import load_content

    os.environ.update(environment)
    try:
        load_content(modules)
        task = get_task(plan.task)
        if definition and rows_hash(task) != definition:
            return PartResult(
                plan.task,
                "workers have another definition of it than the process that started the build: "
                "give them the same flan_jax and the same modules",
            )
        return build_part(task, plan, folder)
    except UserError as error:
        return PartResult(plan.task, str(error))
