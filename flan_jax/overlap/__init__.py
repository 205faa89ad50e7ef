"""Whether a benchmark is held out from what a model was trained on.

`check.check_overlap` compares a mixture's tasks with benchmarks, by what is declared of their
origin and by their texts; `held_out.held_out_status` is what a report may say of a task without
reading any text. Imports neither JAX nor TensorFlow.
"""
