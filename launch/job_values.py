"""What a job's configuration comes to: values of gin parameters, and questions about them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from flan_jax.config.errors import Location
from flan_jax.config.statements import Assignment, read_statements
from flan_jax.config.values import Macro, leaves, map_leaves
from flan_jax.launch.rendered import Argv
from flan_jax.launch.spec import JobSpec, LaunchError
from flan_jax.plan.topologies import Topology

# Where `train` and `eval` write.
OUTPUTS = ("MODEL_DIR", "EVAL_OUTPUT_DIR")
_OUTPUT_PARAMETERS = ("train_script.train.model_dir", "eval_script.evaluate.output_dir")
_EVALUATOR = "evaluation.GenerationEvaluator"
_BATCHES = ("utils.DatasetConfig.batch_size", f"{_EVALUATOR}.batch_size")
_PARTITIONER = "partitioning.PjitPartitioner"
_IN_BUCKET = re.compile(r"gs://[a-z0-9]")
_NEAR = re.compile(r"(?:gs|gcs|google)s?:/*", re.IGNORECASE)

Values = Mapping[str, Any]


def read_values(text: str) -> Values:
    """Values by name (`MACRO`, `scope/selector.parameter`) of gin statements, macros resolved."""
    found: dict[str, Any] = {}
    for each in read_statements(text, lambda line: Location(0, line, "configuration")).statements:
        if isinstance(each, Assignment):
            scope = f"{each.scope}/" if each.scope else ""
            end = f".{each.parameter}" if each.parameter else ""
            found[f"{scope}{each.selector}{end}"] = each.value

    def resolve(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Macro) and depth < 20:
            return map_leaves(lambda leaf: resolve(leaf, depth + 1), found.get(value.name))
        return value

    return {name: map_leaves(resolve, value) for name, value in found.items()}


def override_values(spec: JobSpec) -> Values:
    """What the command line alone says."""
    from flan_jax.config.flags import quote_if_bare

    pairs = (override.partition("=") for override in spec.overrides)
    return read_values("".join(f"{name} = {quote_if_bare(text)}\n" for name, _, text in pairs))


def outputs(values: Values) -> dict[str, str]:
    """Folders that the job writes to, by the names under which they were given."""
    named = {name: values.get(name) for name in (*OUTPUTS, *_OUTPUT_PARAMETERS)}
    found: dict[str, str] = {}
    for name, value in named.items():
        if isinstance(value, str) and value and value not in found.values():
            found[name] = value
    return found


def check_outputs(values: Values) -> None:
    """Refuses folders that machines lose when they start again.

    Raises:
      LaunchError: a folder is in no bucket, or an evaluation has none.
    """
    if values.get("eval_script.evaluate.output_dir") == "":
        raise LaunchError(
            "EVAL_OUTPUT_DIR is not set: expected a folder in a bucket, such as"
            " --gin.EVAL_OUTPUT_DIR=gs://my-bucket/run/eval: the machines lose theirs"
        )
    for name, folder in outputs(values).items():
        if _IN_BUCKET.match(folder):
            continue
        near = _NEAR.match(folder)
        meant = f"; did you mean 'gs://{folder[near.end() :]}'?" if near else ""
        raise LaunchError(
            f"{name}={folder!r} is a folder of machines that lose it whenever they start again:"
            f" expected one in a bucket, such as gs://my-bucket/run{meant}"
        )


def texts(values: Values) -> list[str]:
    """All strings in the values."""
    return [leaf for value in values.values() for leaf in leaves(value) if isinstance(leaf, str)]


def decode_flags(values: Values, topology: Topology) -> Argv:
    """What `flan-jax plan` is told of the largest batch that an evaluation decodes.

    Returns:
      Its flags; () if the configuration does not say how long prompts and answers are.
    """
    lengths = [
        value
        for name, value in values.items()
        if name.endswith("Protocol.max_decode_len") and isinstance(value, int)
    ]
    inputs, batch = (values.get(f"{_EVALUATOR}.{name}") for name in ("inputs_length", "batch_size"))
    if not lengths or not inputs:
        return ()
    rows = values.get(f"{_EVALUATOR}.rows_per_device")
    paths = (v for name, v in values.items() if name.endswith("Protocol.paths"))
    if rows:
        rows = max([rows, *(v for v in paths if isinstance(v, int))])
        batch = rows * _parts(values, topology)
    return (
        f"--batch_size={batch or 64}",
        f"--inputs_length={inputs}",
        f"--max_decode_len={max(lengths)}",
    )


def _parts(values: Values, topology: Topology) -> int:
    """Parts of a batch: devices that do not share a row."""

    def size(name: str) -> Any:
        return values.get(f"{_PARTITIONER}.{name}")

    tensor = size("num_partitions") or math.prod(size("model_parallel_submesh") or ()) or 1
    tensor = tensor if tensor > 1 else size("tensor") or 1
    if tensor > 0:
        return max(1, topology.devices // tensor)
    others = [size(name) or 1 for name in ("replica", "data", "fsdp")]
    return math.prod(max(1, other) for other in others)


def check_processes(values: Values, processes: int) -> None:
    """Refuses a batch that so many processes of one device each cannot share.

    Raises:
      LaunchError: naming the batch size.
    """
    for name, rows in values.items():
        if not name.endswith(_BATCHES) or not isinstance(rows, int):
            continue
        tensor = values.get(f"{_PARTITIONER}.tensor") or 1
        parts = processes // tensor if tensor > 0 and processes % tensor == 0 else 1
        if rows % parts:
            raise LaunchError(
                f"{name} = {rows} (BATCH_SIZE) cannot be split over {processes} processes: make it"
                f" a multiple of {parts}, or give other --processes"
            )
