"""The page on which people compare two models' answers: one HTML file that needs no server."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
import markupsafe

from flan_jax.evaluation.open_ended import Pair
from flan_jax.files import write_atomically

_TEMPLATE = Path(__file__).parent / "templates" / "rating.html.j2"


def write_rating_page(path: Path, pairs: Sequence[Pair], names: tuple[str, str]) -> Path:
    """Writes the page and, beside it, the key that says whose answers are where.

    The page holds neither names nor sides, so that raters cannot look them up in it.

    Args:
      path: of the page.
      pairs: see `open_ended.pair`.
      names: of the first and the second model.

    Returns:
      The path of the key, `<page>.key.json`.
    """
    shown = [{"id": p.id, "prompt": p.prompt, "left": p.left, "right": p.right} for p in pairs]
    page = hashlib.blake2b(json.dumps(shown).encode(), digest_size=8).hexdigest()
    # `<` as an escape: no answer can end the script that holds it.
    data = json.dumps({"page": page, "pairs": shown}, ensure_ascii=False).replace("<", "\\u003c")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    write_atomically(path, template.render(data=markupsafe.Markup(data)))
    key = {
        "page": page,
        "names": list(names),
        "swapped": {p.id: p.swapped for p in pairs},
        "counts": dataclasses.asdict(_Counts.of(pairs)),
    }
    where = key_path(path)
    write_atomically(where, json.dumps(key, indent=1) + "\n")
    return where


@dataclasses.dataclass(frozen=True)
class _Counts:
    pairs: int
    same: int  # both models wrote the same

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> _Counts:
        return cls(len(pairs), sum(p.left == p.right for p in pairs))


def key_path(page: Path) -> Path:
    """Where the key of a page is."""
    return page.with_name(f"{page.stem}.key.json")
