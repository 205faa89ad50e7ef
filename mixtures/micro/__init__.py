"""The micro collection: small generated tasks that need no download.

Mixtures: `micro` (all but the held-out tasks), `micro_held_out` (those, for evaluation only).
"""

from flan_jax.mixing import register_mixture
from flan_jax.mixtures.micro import (
    arithmetic,
    classification,
    corpus,
    counting,
    dates,
    lists,
    logic,
    patterns,
    reading,
    sorting,
    strings,
    tables,
    translation,
)
from flan_jax.tasks import registered_tasks

__all__ = [
    "arithmetic",
    "classification",
    "corpus",
    "counting",
    "dates",
    "lists",
    "logic",
    "patterns",
    "reading",
    "sorting",
    "strings",
    "tables",
    "translation",
]

_TASKS = registered_tasks("micro")

register_mixture(
    "micro",
    [task.name for task in _TASKS if not task.held_out],
    description="all micro tasks but the held-out ones, in equal parts",
)
register_mixture(
    "micro_held_out",
    [task.name for task in _TASKS if task.held_out],
    allow_held_out=True,
    description="micro tasks that are never trained on",
)
register_mixture(
    "micro_text",
    ["micro_corpus"],
    variants={"zs_noopt": 1.0},
    description="plain text for pre-training by span corruption",
)
