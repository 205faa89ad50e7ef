"""`flan-jax tasks counts`: what the Flan 2022 collection holds, beside the published numbers."""

from __future__ import annotations

import argparse
from typing import Any

from flan_jax.cli.tables import print_json, print_table

COLUMNS = ("part", "what", "here", "published", "difference", "by")


def counts(arguments: argparse.Namespace) -> int:
    """`tasks counts`."""
    from flan_jax.mixtures.counts import MEASURES, counts

    found = counts()
    if arguments.format == "json":
        print_json([_as_json(count) for count in found])
        return 0
    rows = [
        (
            count.part,
            MEASURES[count.measure],
            f"{count.here:,}",
            "" if count.published is None else f"{count.published:,}",
            "" if count.difference is None else f"{count.difference:+,}" * bool(count.difference),
            count.source,
        )
        for count in found
    ]
    print_table(COLUMNS, rows, format=arguments.format)
    return 0


def _as_json(count: Any) -> dict[str, Any]:
    return {
        "part": count.part,
        "measure": count.measure,
        "here": count.here,
        "published": count.published,
        "difference": count.difference,
        "source": count.source,
    }
