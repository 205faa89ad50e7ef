"""Suites of benchmarks that are averaged, and how the Flan paper's tables call their parts."""

from __future__ import annotations

from flan_jax.evaluation.normalized_average import Suite

# Section 2.3; the two parts are those of section 4.2 (Figure 5).
FLAN = Suite(
    name="normalized average",
    components=("mmlu_direct", "mmlu_cot", "bbh_direct", "bbh_cot", "tydiqa", "mgsm_cot"),
    parts={
        "chain of thought": ("mmlu_cot", "bbh_cot", "mgsm_cot"),
        "direct": ("mmlu_direct", "bbh_direct", "tydiqa"),
    },
    source="Flan paper, section 2.3",
)
