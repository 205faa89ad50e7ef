"""Imported by the processes that build a store: generated rows take the place of all rows."""

from benchmarks.generated_rows import install

install()
