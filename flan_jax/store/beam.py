"""Building parts on Apache Beam, for collections that one machine would take too long for.

One element is one task. Workers write the same part files as a build on one machine does, into the
store's folder, which all of them must reach under the same path (a shared disk; with Beam's direct
runner any disk); the packing that follows is the same too, and so are the bytes of the store. Which
runner, and all about it, is told by Beam's own options, such as `--runner=FlinkRunner`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flan_jax.errors import UserError
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE, data_folder
from flan_jax.sources.tfds_folders import TFDS_VARIABLE, tfds_folder
from flan_jax.store.build import Runner
from flan_jax.store.errors import StoreError, write_errors
from flan_jax.store.parts import PartPlan
from flan_jax.store.workers import PartResult, build_part
from flan_jax.tasks import get_task

_RESULTS = "beam"


def beam_runner(options: Sequence[str] = (), modules: Sequence[str] = ()) -> Runner:
    """Builds parts by a Beam pipeline.

    Args:
      options: Beam's own, as on its command line.
      modules: modules that register tasks, imported by every worker.

    Raises:
      UserError: Beam is not installed.
    """
    _require_beam()
    # Beam itself warns of options that it does not know: some are its runners' alone.
    from apache_beam.options import pipeline_options  # pyright: ignore[reportMissingImports]

    parsed = pipeline_options.PipelineOptions(list(options))
    return lambda plans, folder: _run(plans, folder, parsed, tuple(modules))


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


def _run(
    plans: Sequence[PartPlan], folder: Path, options: Any, modules: tuple[str, ...]
) -> Iterator[PartResult]:
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    if not plans:
        return
    results = folder / _RESULTS
    with write_errors(results):
        results.mkdir(parents=True, exist_ok=True)
        for path in results.iterdir():
            path.unlink()
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Tasks" >> beam.Create([json.dumps(asdict(plan)) for plan in plans])
                | "Spread" >> beam.Reshuffle()
                | "Parts" >> beam.Map(build_element, str(folder), modules, _environment())
            )
    except Exception as error:
        raise StoreError(f"the Beam pipeline failed: {type(error).__name__}: {error}") from error
    for plan in plans:
        yield _result(plan, results)


def _environment() -> dict[str, str]:
    """Where the data are, for workers that have not inherited it."""
    return {ENVIRONMENT_VARIABLE: str(data_folder()), TFDS_VARIABLE: str(tfds_folder())}


def _result(plan: PartPlan, results: Path) -> PartResult:
    try:
        return PartResult(**json.loads((results / f"{plan.file}.json").read_text("utf-8")))
    except FileNotFoundError:
        return PartResult(
            plan.task, f"no worker left a result in {results}: do all of them reach that folder?"
        )


def build_element(
    element: str, folder: str, modules: tuple[str, ...], environment: Mapping[str, str]
) -> str:
    """What a Beam worker does with one task; gives the task's name."""
    from flan_jax.cli.content import load_content

    content = json.loads(element)
    plan = PartPlan(**{**content, "splits": tuple(content["splits"])})
    path = Path(folder)
    os.environ.update(environment)
    try:
        load_content(modules)
        result = build_part(get_task(plan.task), plan, path)
    except UserError as error:
        result = PartResult(plan.task, str(error))
    target = path / _RESULTS / f"{plan.file}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(asdict(result)), encoding="utf-8")
    return plan.task
