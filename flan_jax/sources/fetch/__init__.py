"""Fetching what sources need: see `fetch`, and docs/fetch.md for the command."""

from flan_jax.sources.fetch.engine import fetch
from flan_jax.sources.fetch.errors import FetchError
from flan_jax.sources.fetch.report import FetchReport, Observer, Outcome
from flan_jax.sources.fetch.transfers import Patience

__all__ = ["FetchError", "FetchReport", "Observer", "Outcome", "Patience", "fetch"]
