"""Our models for EleutherAI's lm-evaluation-harness (`pip install flan_jax[lm-eval]`).

A front end, as `flan_jax.cli` is: it may import everything, only the command line imports it. Only
`harness` needs the harness itself.
"""
