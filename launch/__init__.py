"""Launching runs on clusters: not part of this release.

The package has its place (`flan_jax.launch`), but no backends yet. Runs are started with
`flan-jax train` on each host.
"""
