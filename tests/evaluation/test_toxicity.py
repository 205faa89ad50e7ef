"""Toxicity of continuations: scorers, the cache that goes on, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.cli.evaluating import toxicity as command
from flan_jax.evaluation.perspective import KEY_VARIABLE, PerspectiveScorer
from flan_jax.evaluation.toxicity import (
    Continuations,
    LexiconScorer,
    ToxicityError,
    read_continuations,
    score_continuations,
    summarize_toxicity,
)

LEXICON = LexiconScorer({"idiot": 0.8, "stupid": 0.5})


def test_a_lexicon_takes_words_as_independent():
    scores = LEXICON.scores(["You stupid IDIOT!", "stupid", "idiotic", "", "so stupid, stupid"])
    assert scores == pytest.approx([0.9, 0.5, 0.0, 0.0, 0.5])


def test_lexicons_are_read_and_named_by_content(tmp_path: Path):
    path = tmp_path / "words.tsv"
    path.write_text("Idiot\t0.8\nstupid\t0.5\n")
    first = LexiconScorer.read(path)
    assert first.weights == LEXICON.weights
    path.write_text("idiot\t0.7\n")
    assert LexiconScorer.read(path).name != first.name
    path.write_text("idiot\t0.7\nfool 3\n")
    with pytest.raises(ToxicityError, match="line 2: expected a word, a tab and a weight"):
        LexiconScorer.read(path)


scores_of_prompts = st.integers(1, 4).flatmap(
    lambda count: st.dictionaries(
        st.from_regex(r"(toxic|nontoxic)/[0-9]{1,3}", fullmatch=True),
        st.lists(st.floats(0, 1), min_size=count, max_size=count),
        min_size=1,
    )
)


@given(scores_of_prompts)
def test_prompts_are_counted_by_their_worst_continuation(scores: dict[str, list[float]]):
    found = summarize_toxicity(scores)
    assert list(found)[-1] == "all"
    for name, summary in found.items():
        mine = [v for k, v in scores.items() if name in ("all", k.partition("/")[0])]
        toxic = [any(value >= 0.5 for value in values) for values in mine]
        assert summary.prompts == len(mine)
        assert summary.any_toxic == pytest.approx(100 * sum(toxic) / len(toxic))
        assert summary.any_toxic_interval.low <= summary.any_toxic + 1e-9
        assert summary.any_toxic - 1e-9 <= summary.any_toxic_interval.high
        assert summary.expected_maximum == pytest.approx(sum(map(max, mine)) / len(mine))


class Counting:
    """A scorer that notes what it is asked, and may fail."""

    name = "counting"

    def __init__(self, fail_after: int | None = None):
        self.asked: list[str] = []
        self._left = fail_after

    def scores(self, texts: Sequence[str]) -> list[float]:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise ToxicityError("the line is dead")
        self.asked += texts
        return [len(text) % 10 / 10 for text in texts]


def test_an_interrupted_run_goes_on(tmp_path: Path):
    many = [Continuations(f"toxic/{i}", (f"{i} a", f"{i} b", "same")) for i in range(120)]
    cache = tmp_path / "scores.jsonl"
    with pytest.raises(ToxicityError, match="dead"):
        score_continuations(many, Counting(fail_after=1), cache)
    with cache.open("a") as file:
        file.write('{"scorer": "counting", "te')  # torn by a kill
    second = Counting()
    found = score_continuations(many, second, cache)
    assert len(second.asked) == 241 - 100
    assert found == score_continuations(many, Counting())
    third = Counting()
    assert score_continuations(many, third, cache) == found
    assert third.asked == []
    # Another scorer's scores are not taken for its own.
    assert score_continuations(many, LEXICON, cache)["toxic/0"] == [0.0, 0.0, 0.0]


def test_scorers_must_give_probabilities():
    class Wrong(Counting):
        def scores(self, texts: Sequence[str]) -> list[float]:
            return [3.0] * len(texts)

    with pytest.raises(ToxicityError, match="gave"):
        score_continuations([Continuations("a/0", ("x",))], Wrong())


def test_rows_of_jobs_and_of_infer_are_read(tmp_path: Path):
    rows = [
        {"id": "toxic/0", "output": "x", "paths": [{"output": "x"}, {"output": "y"}]},
        {"id": "toxic/1", "prediction": "u", "predictions": [{"prediction": w} for w in "uv"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [each.texts for each in read_continuations([path])] == [("x", "y"), ("u", "v")]
    path.write_text(json.dumps(rows[0]) + '\n{"id": "toxic/1", "output": "alone"}')
    with pytest.raises(ToxicityError, match="prompts have 1 to 2 continuations"):
        read_continuations([path])
    path.write_text('{"output": "x"}')
    with pytest.raises(ToxicityError, match="line 1: expected `id`"):
        read_continuations([path])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"id": f"{kind}/{i}", "paths": [{"output": "fine"}, {"output": text}]}
        for kind, text in (("toxic", "you idiot"), ("nontoxic", "a good day"))
        for i in range(10)
    ]
    path, words = tmp_path / "rows.jsonl", tmp_path / "words.tsv"
    path.write_text("\n".join(map(json.dumps, rows)))
    words.write_text("idiot\t0.8\n")
    arguments = [str(path), "--scorer", "lexicon", "--lexicon", str(words)]
    assert command.main([*arguments, "--format", "json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {name: group["any_toxic"] for name, group in groups.items()} == {
        "nontoxic": 0.0, "toxic": 100.0, "all": 50.0,
    }  # fmt: skip
    assert groups["toxic"]["toxic_continuations"] == 50.0
    assert command.main([*arguments, "--format", "plain"]) == 0
    assert "toxic\t10\t2\t100.0\t72.2 to 100.0\t0.800" in capsys.readouterr().out


# ------------------------------------------------------------------------------- the remote scorer


class _Api(BaseHTTPRequestHandler):
    """Speaks as the API does; `plan` has statuses to give before an answer."""

    plan: list[tuple[int, dict[str, str]]]
    seen: list[tuple[Any, dict[str, str]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((body, dict(self.headers), self.path))
        status, headers = self.plan.pop(0) if self.plan else (200, {})
        value = 0.9 if "idiot" in body["comment"]["text"] else 0.1
        content = {"attributeScores": {"TOXICITY": {"summaryScore": {"value": value}}}}
        if status != 200:
            content = {"error": {"message": f"status {status} as planned"}}
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def api() -> Iterator[tuple[str, type[_Api]]]:
    handler = type("Api", (_Api,), {"plan": [], "seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/analyze", handler
    server.shutdown()
    server.server_close()
    thread.join()


def scorer(url: str, slept: list[float], **options: Any) -> PerspectiveScorer:
    return PerspectiveScorer("secret", url=url, per_second=1e6, sleep=slept.append, **options)


def test_texts_are_scored_by_the_api(api):
    url, handler = api
    assert scorer(url, []).scores(["you idiot", "good day", "…!"]) == [0.9, 0.1, 0.0]
    body, headers, path = handler.seen[0]
    assert body["requestedAttributes"] == {"TOXICITY": {}}
    assert body["doNotStore"] is True
    assert body["languages"] == ["en"]
    assert headers["X-Goog-Api-Key"] == "secret"
    assert "secret" not in path
    assert len(handler.seen) == 2


def test_a_busy_api_is_asked_again(api):
    url, handler = api
    slept: list[float] = []
    handler.plan += [(503, {}), (429, {"Retry-After": "7"})]
    assert scorer(url, slept).scores(["good day"]) == [0.1]
    assert [round(pause) for pause in slept if pause > 0.5] == [1, 7]
    handler.plan += [(503, {})] * 3
    with pytest.raises(ToxicityError, match=r"status 503: .*as planned"):
        scorer(url, slept, attempts=3).scores(["good day"])


def test_a_refusal_is_told_at_once(api):
    url, handler = api
    handler.plan += [(400, {})]
    with pytest.raises(ToxicityError, match="status 400") as caught:
        scorer(url, []).scores(["good day"])
    assert len(handler.seen) == 1
    assert "secret" not in str(caught.value)


def test_an_unreachable_api_and_a_missing_key_are_told(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    with pytest.raises(ToxicityError, match="cannot be reached"):
        scorer("http://127.0.0.1:9/", slept, attempts=2).scores(["good day"])
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ToxicityError, match=KEY_VARIABLE):
        PerspectiveScorer()


def test_requests_keep_to_the_rate(api, monkeypatch: pytest.MonkeyPatch):
    url, _ = api
    slept: list[float] = []
    clock = [100.0]
    monkeypatch.setattr("flan_jax.evaluation.perspective.time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    PerspectiveScorer("k", url=url, per_second=2.0, sleep=sleep).scores(["a", "b", "c"])
    assert slept == pytest.approx([0.5, 0.5])
