"""Evaluation: protocol, requests, predictions, scores, report. Imports neither JAX nor TensorFlow.

The order of use::

    requests = plan(protocol, vocabulary, inputs_length)
    with open_store(folder, checkpoint, protocol) as store:
        answer = generating(generate, vocabulary)
        result = run(requests, answer, store, batch_size, inputs_length)
    scores = score(requests, result.outputs)
    write_results(folder, step, protocol, requests, result.outputs, scores)
"""

from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.job import (
    Batch,
    Generated,
    JobResult,
    Progress,
    generating,
    open_store,
    run,
)
from flan_jax.evaluation.planning import plan
from flan_jax.evaluation.protocol import EvalProtocol, ProtocolError
from flan_jax.evaluation.report import Run, Sample, pick_samples, scores_table, write_report
from flan_jax.evaluation.requests import PlanSummary, Request, Vocabulary, summarize
from flan_jax.evaluation.results import write_results
from flan_jax.evaluation.scorers import Scorer, get_scorer, register_scorer
from flan_jax.evaluation.scores import (
    Comparison,
    Difference,
    Score,
    Scores,
    compare,
    score,
)
from flan_jax.evaluation.store import Generation, PredictionStore, StoreError

__all__ = [
    "Batch",
    "BenchmarkProtocol",
    "Comparison",
    "Difference",
    "EvalProtocol",
    "Generated",
    "Generation",
    "JobResult",
    "PlanSummary",
    "PredictionStore",
    "Progress",
    "ProtocolError",
    "Request",
    "Run",
    "Sample",
    "Score",
    "Scorer",
    "Scores",
    "StoreError",
    "Vocabulary",
    "compare",
    "generating",
    "get_scorer",
    "open_store",
    "pick_samples",
    "plan",
    "register_scorer",
    "run",
    "score",
    "scores_table",
    "summarize",
    "write_report",
    "write_results",
]
