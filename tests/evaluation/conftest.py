"""A tiny vocabulary, made-up requests, and realistic made-up runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from flan_jax.draws import Draws
from flan_jax.evaluation.requests import Request


class ByteVocabulary:
    """UTF-8 bytes, shifted past padding, EOS and unknown."""

    eos_id = 1
    pad_id = 0
    vocab_size = 259

    def encode(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - 3 for i in ids if i >= 3).decode(errors="replace")


@pytest.fixture(scope="session")
def vocabulary() -> ByteVocabulary:
    return ByteVocabulary()


def make_request(identity: str = "task/0", **attributes) -> Request:
    """A request about an open answer `yes`, unless told otherwise."""
    answer = attributes.pop("answer", "yes")
    prompt = attributes.pop("prompt", f"question of {identity}")
    values = {
        "cluster": "cluster",
        "held_out": False,
        "metrics": ("exact_match",),
        "target": answer,
        "references": (answer,),
        "options": (),
        "option_texts": (),
        "answer_text": answer,
        "tokens": (*ByteVocabulary().encode(prompt), 1),
    } | attributes
    return Request(
        id=identity, task=identity.rpartition("/")[0], prompt=prompt, answer=answer, **values
    )


@pytest.fixture(name="make_request", scope="session")
def _make_request() -> Callable[..., Request]:
    return make_request


# name, cluster, held out, options, accuracy before, accuracy after
MADE_UP = (
    ("micro_addition", "arithmetic", False, 0, 0.02, 0.71),
    ("micro_subtraction", "arithmetic", False, 0, 0.01, 0.64),
    ("micro_last_letters", "strings", False, 0, 0.00, 0.97),
    ("micro_reverse_words", "strings", False, 0, 0.03, 0.88),
    ("micro_odd_one_out", "classification", False, 4, 0.11, 0.62),
    ("micro_sentiment", "classification", False, 2, 0.31, 0.93),
    ("micro_next_day", "dates", False, 7, 0.06, 0.99),
    ("micro_entailment", "logic", True, 2, 0.28, 0.52),
    ("micro_syllogism", "logic", True, 3, 0.20, 0.38),
    ("micro_count_vowels", "counting", True, 0, 0.04, 0.21),
    ("micro_word_order", "sorting", True, 0, 0.00, 0.00),
)


def made_up_run(shift: float = 0.0, items: int = 120):
    """(requests, predictions before, predictions after) with the rates above."""
    requests, before, after = [], {}, {}
    for name, cluster, held_out, options, low, high in MADE_UP:
        texts = tuple(f"choice {i}" for i in range(options))
        for index in range(items):
            draws = Draws(17, name, index)
            answer = draws.choice(texts) if texts else str(draws.below(12))
            request = make_request(
                f"{name}/{index}",
                cluster=cluster,
                held_out=held_out,
                prompt=f"Question {index} of {name}: what follows from <this> & that?",
                answer=answer,
                options=texts,
                option_texts=texts,
            )
            requests.append(request)
            wrong = texts[(texts.index(answer) + 1) % options] if texts else "something else"
            before[request.id] = answer if draws.chance(low) else draws.choice([wrong, "", "The"])
            after[request.id] = answer if draws.chance(min(1.0, high + shift)) else wrong
    return requests, before, after


@pytest.fixture(scope="session")
def run_of_micro():
    return made_up_run


def training_rows(steps: int = 3000) -> list[dict[str, float]]:
    """Rows as the trainer writes them to metrics.jsonl."""
    generator = np.random.default_rng(5)
    rows = []
    for step in range(10, steps + 1, 10):
        loss = 0.6 + 5.0 * np.exp(-step / 500) + generator.normal(0, 0.08)
        rows.append(
            {
                "step": step,
                "loss": float(loss),
                "accuracy": float(0.9 * (1 - np.exp(-step / 600)) + generator.normal(0, 0.012)),
                "tokens_per_second": float(21_000 + generator.normal(0, 900)),
                "learning_rate": 1e-3,
            }
        )
    rows.append({"step": steps + 1, "loss": float("nan")})
    return rows


@pytest.fixture(scope="session", name="training_rows")
def _training_rows():
    return training_rows()
