"""How often raters prefer one model's answers, from the ratings that a rating page exported."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flan_jax.errors import UserError
from flan_jax.evaluation.open_ended import LEFT, RIGHT, TIE
from flan_jax.evaluation.statistics import Interval, bootstrap, percentile_interval, wilson

SEED = 0


class RatingsError(UserError):
    """A file of ratings or a key is not what it should be, or they do not belong together."""


@dataclass(frozen=True)
class Key:
    """What a rating page hides.

    Attributes:
      page: digest of the page's content.
      names: of the two models.
      swapped: by id, whether the first model's answer is on the right.
    """

    page: str
    names: tuple[str, str]
    swapped: Mapping[str, bool]

    @classmethod
    def read(cls, path: Path) -> Key:
        """Raises RatingsError if `path` is no key."""
        row = _read_json(path, "a key of a rating page")
        try:
            first, second = row["names"]
            return cls(row["page"], (first, second), dict(row["swapped"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RatingsError(f"{path} is no key of a rating page: {error}") from error


@dataclass(frozen=True)
class Preference:
    """Ratings of a group of prompts.

    Attributes:
      prompts: how many were rated.
      ratings: how many there are, of all raters.
      first, second, ties: how they went.
      share: of the decided ratings, the percentage for the second model; None if all are ties.
      share_interval: 95%: Wilson's with one rating a prompt, else by bootstrap over prompts.
      with_ties: percentage for the second model, a tie counted half.
      with_ties_interval: 95% by bootstrap over prompts.
    """

    prompts: int
    ratings: int
    first: int
    second: int
    ties: int
    share: float | None
    share_interval: Interval | None
    with_ties: float
    with_ties_interval: Interval


@dataclass(frozen=True)
class Tally:
    """All that the ratings say.

    Attributes:
      names: of the two models.
      categories: by category, and `all`, which is the last.
      left_share: percentage of decided ratings for the answer on the left; far from 50, raters
        favoured a side.
      agreement: percentage of pairs of ratings of one prompt by different raters that are the
        same; None if no prompt has two.
    """

    names: tuple[str, str]
    categories: Mapping[str, Preference]
    left_share: float | None
    agreement: float | None


def tally(key: Key, files: Sequence[Path]) -> Tally:
    """Counts ratings, one file a rater.

    Raises:
      RatingsError: a file is malformed, of another page, or without ratings.
    """
    # By prompt: 1 for the second model, 0 for the first, 0.5 for a tie.
    values: dict[str, list[float]] = defaultdict(list)
    sides: list[str] = []
    for file in files:
        for identity, choice in _ratings(file, key):
            sides.append(choice)
            right_is_second = not key.swapped[identity]
            values[identity].append(0.5 if choice == TIE else (choice == RIGHT) == right_is_second)
    by_category: dict[str, list[list[float]]] = defaultdict(list)
    for identity in sorted(values):
        by_category[identity.rpartition("/")[0] or "all"].append(values[identity])
    categories = {name: preference(by_category[name]) for name in sorted(by_category)}
    categories.pop("all", None)
    categories["all"] = preference(list(values.values()))
    decided = sides.count(LEFT) + sides.count(RIGHT)
    left = 100 * sides.count(LEFT) / decided if decided else None
    return Tally(key.names, categories, left, _agreement(values.values()))


def _ratings(file: Path, key: Key) -> Iterable[tuple[str, str]]:
    content = _read_json(file, "a file of ratings")
    if not isinstance(content, Mapping) or not isinstance(content.get("ratings"), Mapping):
        raise RatingsError(f"{file}: expected an object with `ratings`, as the page exports it")
    if content.get("page") != key.page:
        raise RatingsError(
            f"{file} rates page {content.get('page')!r}, the key is of {key.page!r}: give the key "
            "that was written with that page (--key)"
        )
    if not content["ratings"]:
        raise RatingsError(f"{file} has no ratings yet")
    for identity, choice in content["ratings"].items():
        if identity not in key.swapped or choice not in (LEFT, RIGHT, TIE):
            raise RatingsError(f"{file}: {identity!r}: {choice!r} is no rating of this page")
        yield identity, choice


def _read_json(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RatingsError(f"{path}, {what}, does not exist") from None
    except (OSError, ValueError) as error:
        raise RatingsError(f"{path} is not {what}: {error}") from error


def preference(prompts: Sequence[Sequence[float]]) -> Preference:
    """Of the ratings of each prompt: 1 for the second model, 0 for the first, 0.5 for a tie."""
    flat = [value for ratings in prompts for value in ratings]
    first, second, ties = (flat.count(value) for value in (0, 1, 0.5))
    # A prompt contributes sums over its raters, so that the bootstrap resamples prompts.
    sums = np.array(
        [[sum(r), len(r), r.count(1), r.count(1) + r.count(0)] for r in map(list, prompts)], float
    )
    decided, share, share_interval = first + second, None, None
    if decided:
        share = 100 * second / decided
        single = all(len(ratings) == 1 for ratings in prompts)
        share_interval = _percent(
            wilson(second, decided) if single else _interval(sums, column=2, per=3)
        )
    return Preference(
        prompts=len(prompts),
        ratings=len(flat),
        first=first,
        second=second,
        ties=ties,
        share=share,
        share_interval=share_interval,
        with_ties=100 * sum(flat) / len(flat),
        with_ties_interval=_percent(_interval(sums, column=0, per=1)),
    )


def _interval(sums: np.ndarray, column: int, per: int) -> Interval:
    def finish(totals: np.ndarray, count: int) -> np.ndarray:
        del count
        return totals[..., column] / np.maximum(totals[..., per], 1)

    return percentile_interval(bootstrap(sums, finish, SEED))


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.low, 100 * interval.high)


def _agreement(ratings: Iterable[Sequence[float]]) -> float | None:
    same = pairs = 0
    for values in ratings:
        for i, value in enumerate(values):
            same += sum(value == other for other in values[i + 1 :])
            pairs += len(values) - i - 1
    return 100 * same / pairs if pairs else None
