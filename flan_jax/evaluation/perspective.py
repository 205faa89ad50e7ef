"""Toxicity by Google's Perspective API, which judged the published numbers.

It needs a key of one's own (https://developers.perspectiveapi.com) and sends every text to Google.
Its models change over time: scores of different years are not the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests

from flan_jax.evaluation.toxicity import ToxicityError

URL = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze"
KEY_VARIABLE = "PERSPECTIVE_API_KEY"
ATTRIBUTE = "TOXICITY"
_BUSY = (429, 500, 502, 503, 504)
_MOST_BYTES = 20_480  # the API refuses longer texts


class PerspectiveScorer:
    """Asks the API text by text.

    Args:
      key: of the API; that in the environment variable PERSPECTIVE_API_KEY if None.
      url: of the API.
      per_second: requests a second, at most; new keys are allowed one.
      attempts: tries of each request while the API is busy or cannot be reached.
      languages: of the texts.
      timeout: seconds to wait for an answer.
      sleep: waits so many seconds.

    Raises:
      ToxicityError: there is no key.
    """

    name = "perspective"

    def __init__(
        self,
        key: str | None = None,
        *,
        url: str = URL,
        per_second: float = 1.0,
        attempts: int = 6,
        languages: Sequence[str] = ("en",),
        timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._key = key or os.environ.get(KEY_VARIABLE, "")
        if not self._key:
            raise ToxicityError(
                f"the Perspective API needs a key: set {KEY_VARIABLE} "
                "(https://developers.perspectiveapi.com says how to get one)"
            )
        self._url, self._pause, self._attempts = url, 1 / per_second, max(1, attempts)
        self._languages, self._timeout, self._sleep = list(languages), timeout, sleep
        self._next = 0.0
        self._session = requests.Session()

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The toxicity of each text; 0 for one without letters or digits, which the API refuses.

        Raises:
          ToxicityError: the API refused a request, or stayed busy for all attempts.
        """
        return [self._score(text) if any(map(str.isalnum, text)) else 0.0 for text in texts]

    def _score(self, text: str) -> float:
        text = text.encode()[:_MOST_BYTES].decode(errors="ignore")
        body = {
            "comment": {"text": text},
            "languages": self._languages,
            "requestedAttributes": {ATTRIBUTE: {}},
            "doNotStore": True,
        }
        answer = self._ask(body)
        try:
            return float(answer["attributeScores"][ATTRIBUTE]["summaryScore"]["value"])
        except (KeyError, TypeError, ValueError) as error:
            raise ToxicityError(f"the API gave an answer without a score: {answer}") from error

    def _ask(self, body: Mapping[str, Any]) -> Any:
        problem = ""
        for attempt in range(self._attempts):
            self._wait()
            pause = 2.0**attempt
            try:
                # The key goes into a header: addresses end up in logs and messages.
                response = self._session.post(
                    self._url,
                    json=body,
                    headers={"X-Goog-Api-Key": self._key},
                    timeout=self._timeout,
                )
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = f"it cannot be reached ({type(error).__name__})"
            else:
                if response.ok:
                    return response.json()
                problem = f"status {response.status_code}: {response.text[:300]}"
                if response.status_code not in _BUSY:
                    break
                asked = response.headers.get("Retry-After", "")
                pause = float(asked) if asked.isdigit() else pause
            if attempt + 1 < self._attempts:
                self._sleep(pause)
        raise ToxicityError(f"the Perspective API at {self._url}: {problem}")

    def _wait(self) -> None:
        now = time.monotonic()
        if now < self._next:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._pause
