"""The figures of `benchmarks/input_pipeline.py`, by name, and what is asked of each."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

Medians = Mapping[str, Mapping[str, Any]]

# Figure: case it is taken from, and name there.
TAKEN = {
    "first_batch_s": ("first batch", "first_batch_s"),
    "first_batch_2_workers_s": ("first batch, 2 workers", "first_batch_s"),
    "pretokenised_first_batch_s": ("first batch, pre-tokenised", "first_batch_s"),
    "peak_rss_gb": ("first batch", "peak_rss_gb"),
    "pretokenised_peak_rss_gb": ("first batch, pre-tokenised", "peak_rss_gb"),
    "rendered_tokens_per_s_per_core": ("rendered", "tokens_per_cpu_s"),
    "fewshot_tokens_per_s_per_core": ("few-shot", "tokens_per_cpu_s"),
    "pretokenised_tokens_per_s_per_core": ("pre-tokenised", "tokens_per_cpu_s"),
    "throughput_1836_over_10": ("rendered, all over ten", "ratio"),
    "pretokenised_throughput_1836_over_10": ("pre-tokenised, all over ten", "ratio"),
    "fill_fraction": ("packing", "fill_fraction"),
    "fill_recommended_lengths": ("packing", "recommended_lengths"),
    "fill_inputs_2048_512": ("packing", "inputs_filled_2048_512"),
    "fill_inputs_1024_256": ("packing", "inputs_filled_1024_256"),
    "resume_s": ("resume", "resume_s"),
    "state_bytes": ("resume", "state_bytes"),
    "ids_equal_fraction": ("same ids", "ids_equal"),
}
# Figure: a figure that is divided, and by which.
RATIOS = {
    "pretokenised_over_seqio": (
        "pretokenised_tokens_per_s_per_core",
        "seqio_500_tokens_per_s_per_core",
    ),
    "rendered_over_seqio": ("rendered_tokens_per_s_per_core", "seqio_500_tokens_per_s_per_core"),
    "seqio_first_batch_over_ours": ("seqio_500_first_batch_s", "first_batch_s"),
    "seqio_first_batch_over_pretokenised": (
        "seqio_500_first_batch_s",
        "pretokenised_first_batch_s",
    ),
}
TARGETS = {
    "first_batch_s": ("<=", 2.0),
    "first_batch_2_workers_s": ("<=", 8.0),
    "peak_rss_gb": ("<=", 1.5),
    "rendered_tokens_per_s_per_core": (">=", 1e6),
    "fewshot_tokens_per_s_per_core": (">=", 0.5e6),
    "pretokenised_tokens_per_s_per_core": (">=", 5e6),
    "fill_fraction": (">=", 0.93),
    "fill_inputs_2048_512": (">=", 0.98),
    "fill_inputs_1024_256": (">=", 0.97),
    "throughput_1836_over_10": (">=", 0.8),
    "pretokenised_throughput_1836_over_10": (">=", 0.8),
    "pretokenised_over_seqio": (">=", 10.0),
    "seqio_first_batch_over_ours": (">=", 50.0),
    "resume_s": ("<=", 2.0),
    "state_bytes": ("<=", 1000),
    "ids_equal_fraction": (">=", 1.0),
}
_COMPARE = {"<=": operator.le, ">=": operator.ge}


def figures(found: Medians, seqio_case: str) -> dict[str, Any]:
    """The figures, by name; None for what was not measured."""
    result: dict[str, Any] = {
        name: found.get(case, {}).get(key) for name, (case, key) in TAKEN.items()
    }
    theirs = found.get(seqio_case, {})
    result["seqio_500_tokens_per_s_per_core"] = theirs.get("tokens_per_cpu_s")
    # Where there was no batch, the time that there was for it: a lower bound.
    limit = theirs.get("not_within_s")
    result["seqio_500_first_batch_s"] = theirs.get("first_batch_s", limit)
    result["seqio_500_first_batch_is_a_limit"] = "first_batch_s" not in theirs and limit is not None
    for name, (above, below) in RATIOS.items():
        top, bottom = result[above], result[below]
        result[name] = top / bottom if top and bottom else None
    return result


def verdict(name: str, value: Any) -> str:
    """What is asked of a figure and whether it is met; nothing if nothing is asked."""
    if name not in TARGETS:
        return ""
    sign, target = TARGETS[name]
    asked = f"{sign} {_shown(target)}"
    if value is None:
        return f"{asked}: not measured"
    return f"{asked}: {'met' if _COMPARE[sign](value, target) else 'NOT MET'}"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def print_figures(
    report: Mapping[str, Any], found: Medians, notes: Sequence[str], turns: int, seconds: float
) -> None:
    """Prints the figures and what they are made of."""
    print(f"medians of {turns} turns, {seconds:.0f} s in all")
    for name, value in report.items():
        print(f"{name:42} {_shown(value):>14}   {verdict(name, value)}".rstrip())
    print()
    for case, result in found.items():
        told = ", ".join(f"{name} {_shown(value)}" for name, value in result.items())
        print(f"{case}: {told}")
    for note in notes:
        print(f"note: {note}")
