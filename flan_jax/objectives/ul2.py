"""The mixtures of gin/objectives/ul2.gin and ul2r.gin, for where there is no gin."""

from __future__ import annotations

from flan_jax.objectives.language_modeling import PrefixLM
from flan_jax.objectives.mixture_of_denoisers import MixtureOfDenoisers
from flan_jax.objectives.span_corruption import SpanCorruption

R_MODE, X_MODE, S_MODE = "[NLU]", "[NLG]", "[S2S]"

# Tay et al., 2022 (arXiv 2205.05131), Table 1, all equally often.
UL2 = MixtureOfDenoisers(
    denoisers=(
        SpanCorruption(0.15, 3.0),
        SpanCorruption(0.15, 8.0),
        SpanCorruption(0.5, 3.0),
        SpanCorruption(0.5, 8.0),
        SpanCorruption(0.15, 64.0),
        SpanCorruption(0.5, 64.0),
        PrefixLM(0.25),
    ),
    modes=(R_MODE, R_MODE, X_MODE, X_MODE, X_MODE, X_MODE, S_MODE),
)

# Tay et al., 2022 (arXiv 2210.11399), section 3.3 (shares recalled); how the two X share theirs is
# ours.
UL2R = MixtureOfDenoisers(
    denoisers=(
        SpanCorruption(0.15, 3.0),
        SpanCorruption(0.15, 32.0),
        SpanCorruption(0.5, 3.0),
        PrefixLM(),
    ),
    modes=(R_MODE, X_MODE, X_MODE, S_MODE),
    rates=(0.25, 0.125, 0.125, 0.5),
)

__all__ = ["R_MODE", "S_MODE", "UL2", "UL2R", "X_MODE"]
