"""Plans steps for a machine: from the cache, or by compiling."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flan_jax.cli.planning.job import PLACEHOLDERS, Job
from flan_jax.config import LoadedConfig
from flan_jax.config.values import format_value
from flan_jax.plan import cache, compiler
from flan_jax.plan.gpu import GpuCluster
from flan_jax.plan.gpu_report import read_gpu_step
from flan_jax.plan.preflight import Machine, abstract_mesh
from flan_jax.plan.report import complete
from flan_jax.plan.step_report import read_step
from flan_jax.plan.steps import PlannedRun

BUILDER = "flan_jax.cli.planning.job:build"
# Bindings that no step depends on: where a run reads and writes, how often, and how long it goes.
_IRRELEVANT = (
    *PLACEHOLDERS,
    "TRAIN_STEPS_RELATIVE",
    "EVAL_STEPS",
    "EVAL_PERIOD",
    "SAVE_PERIOD",
    "KEEP_CHECKPOINTS",
    "STORE",
    "TOKEN_STORE",
    "ALLOW_MISSING",
    "RANDOM_SEED",
    "VOCABULARY_FILE",
)


@dataclass(frozen=True)
class Planner:
    """Makes reports for one machine.

    Attributes:
      machine: what to compile for.
      reports: where reports are kept.
      timeout_s: seconds after which a compilation is given up.
    """

    machine: Machine
    reports: cache.ReportCache
    timeout_s: float = 3600.0

    @classmethod
    def from_flags(cls, args: argparse.Namespace, machine: Machine) -> Planner:
        """With the cache and the time that flags say."""
        folder = Path(args.cache_dir) if args.cache_dir else cache.default_folder()
        return cls(machine, cache.ReportCache(None if args.no_cache else folder), args.timeout)

    def plan(
        self, job: Job, config: LoadedConfig, run: PlannedRun, xla_options: Mapping[str, str]
    ) -> dict[str, Any]:
        """The report of a job's step; `config` and `run` are what the job loads.

        Raises:
          UserError: the mesh or the batch does not fit, or the compiler refuses the program.
        """
        made_of = cache.ingredients(_program(job, config, run), self.machine.name, xla_options)
        key = cache.key_of(made_of)
        raw = self.reports.get(key)
        cached = raw is not None
        if raw is None:
            raw = self._compile(job, run, xla_options)
            self.reports.put(key, made_of, raw)
        return complete(raw, run, job.step, self.machine, xla_options, cached=cached)

    def _compile(self, job: Job, run: PlannedRun, xla_options: Mapping[str, str]) -> dict[str, Any]:
        run.check_batch(job.step, abstract_mesh(run, self.machine))
        if isinstance(self.machine, GpuCluster):
            return read_gpu_step(BUILDER, job.to_json(), self.machine, self.timeout_s)
        return read_step(
            compiler.Job(
                BUILDER,
                job.to_json(),
                self.machine,
                compiler_options=xla_options,
                timeout_s=self.timeout_s,
            )
        ).to_dict()


def _program(job: Job, config: LoadedConfig, run: PlannedRun) -> dict[str, Any]:
    """What says which program a job compiles."""
    return {
        "bindings": [
            f"{binding.key} = {format_value(binding.value)}"
            for binding in config.bindings
            if binding.key not in _IRRELEVANT
        ],
        "step": job.step,
        "decode": repr(run.decode) if job.step == "decode" else None,
        "num_tasks": run.num_tasks,
    }
