"""Compiling takes longer than running the tests' models: it is done fast rather than well."""

from __future__ import annotations

FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
