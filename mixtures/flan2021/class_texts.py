"""From the number of a class, as TFDS has it, to the words that stand for it in prompts."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.sources.base import Row, SourceError


def class_text(row: Row, texts: Sequence[str], *, field: str = "label", first: int = 0) -> str:
    """The text of the row's class, `texts` being in the order of the builder's labels.

    Args:
      row: a row of the builder.
      texts: what stands for the classes; for tasks whose options come with the row, the options.
      field: where the row has its label.
      first: the label of the first class.

    Raises:
      SourceError: the label is none of the classes; -1, which marks rows that have no label, must
        not count from the end.
    """
    label = row[field]
    if not first <= label < first + len(texts):
        raise SourceError(
            f"label {label!r} is none of the {len(texts)} classes ({', '.join(texts)}), which "
            f"count from {first}: leave rows without a label out by the task's `keep`, or read a "
            "split whose labels are public"
        )
    return texts[int(label) - first]
