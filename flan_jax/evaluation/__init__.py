"""Evaluation: protocol, requests, predictions, scores, report. Imports neither JAX nor TensorFlow.

The order of use::

    requests = plan(protocol, vocabulary, inputs_length)
    with open_store(folder, checkpoint, protocol) as store:
        result = run(requests, generate, store, batch_size, inputs_length, vocabulary=vocabulary)
    scores = score(requests, result.predictions)
    write_results(folder, step, protocol, requests, result.predictions, scores)
"""

from flan_jax.evaluation.job import JobResult, Progress, open_store, run, write_results
from flan_jax.evaluation.protocol import EvalProtocol, ProtocolError
from flan_jax.evaluation.report import Run, Sample, pick_samples, scores_table, write_report
from flan_jax.evaluation.requests import PlanSummary, Request, Vocabulary, plan, summarize
from flan_jax.evaluation.scorers import Scorer, get_scorer, register_scorer
from flan_jax.evaluation.scores import (
    Comparison,
    Difference,
    Score,
    Scores,
    compare,
    score,
)
from flan_jax.evaluation.store import PredictionStore, StoreError

__all__ = [
    "Comparison",
    "Difference",
    "EvalProtocol",
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
