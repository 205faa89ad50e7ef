"""What a run needs of a pod, before there is one: see docs/plan.md."""
