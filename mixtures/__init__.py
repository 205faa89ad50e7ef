"""Tasks and mixtures: the content that the library works on.

Importing this package announces every task and mixture by name; the module that defines one is
imported when it is asked for, and its data are read when it is used. Where SeqIO is loaded, or as
soon as it is, all of them are in its registries too, so that a T5X gin file needs nothing but
`import flan_jax.mixtures`.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from types import ModuleType

import wrapt

from flan_jax.errors import UserError
from flan_jax.mixing import announce_mixtures
from flan_jax.tasks import register_deferred_tasks


def _announce() -> None:
    modules: dict[str, dict[str, str]] = {"task": {}, "mixture": {}}
    with (Path(__file__).parent / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            modules[line["kind"]][line["name"]] = f"{__name__}.{line['module']}"
    register_deferred_tasks(modules["task"])
    announce_mixtures(modules["mixture"])


def _register_with_seqio(_seqio: ModuleType) -> None:
    from flan_jax.seqio_benchmarks import register_benchmarks
    from flan_jax.seqio_registry import register_all

    try:
        register_all()
        register_benchmarks()
    except UserError as error:
        # Raised, it would look to the user like a broken installation of SeqIO.
        warnings.warn(f"SeqIO does not have flan_jax's tasks: {error}", stacklevel=2)


_announce()
wrapt.when_imported("seqio")(_register_with_seqio)
