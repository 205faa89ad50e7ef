"""What `flan-jax eval` does beside running a job: none of it needs a model."""
