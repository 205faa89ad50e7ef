"""Open-ended answers: the sample that stands for a model, pairs, the page, and the tally."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.cli.evaluating import rate
from flan_jax.errors import UserError
from flan_jax.evaluation.answer_files import AnswersError
from flan_jax.evaluation.open_ended import Answer, choose, pair, read_answers
from flan_jax.evaluation.preferences import Key, RatingsError, preference, tally
from flan_jax.evaluation.rating_page import key_path, write_rating_page


def test_the_papers_example():
    # Median -20: what is above -10 goes, such as -3; the best of the rest is taken.
    assert choose([-3.0, -12.0, -20.0, -25.0, -40.0]) == 1
    assert choose([-10.0, -12.0, -20.0, -25.0, -40.0]) == 0
    assert choose([-5.0]) == 0
    assert choose([-20.0, -20.0, -20.0]) == 0


@pytest.mark.parametrize("bad", [[], [0.5], [float("nan")]])
def test_only_log_probabilities_are_chosen_from(bad: list[float]):
    with pytest.raises(ValueError, match="log-probabilities"):
        choose(bad)


@given(st.lists(st.floats(-1e3, 0), min_size=1, max_size=9))
def test_the_choice_is_the_best_of_those_kept(logprobs: list[float]):
    index = choose(logprobs)
    kept = [value for value in logprobs if not value > median(logprobs) / 2]
    assert logprobs[index] == max(kept)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_of_both_kinds_are_read(tmp_path: Path):
    samples = [{"prediction": "too likely", "logprob": -1.0}]
    samples += [{"prediction": f"answer {i}", "logprob": -20.0 - i} for i in range(4)]
    inferred = {"id": "planning/0", "prompt": "Plan.", "prediction": "x", "predictions": samples}
    paths = [{"output": s["prediction"], "logprob": s["logprob"]} for s in samples]
    of_job = {
        "id": "planning/1", "input": {"inputs_pretokenized": "Plan."}, "output": "x",
        "prediction": "x", "paths": paths,
    }  # fmt: skip
    alone = {"id": "planning/2", "prompt": "Plan.", "prediction": "only"}
    path = write_rows(tmp_path / "a.jsonl", [inferred, of_job, alone])
    assert [each.text for each in read_answers(path)] == ["answer 0", "answer 0", "only"]
    assert read_answers(tmp_path) == read_answers(path)
    assert read_answers(path)[0].category == "planning"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no answers"),
        ('{"id": "a/0", "prompt": "p", "prediction": "x"}\n{', "line 2"),
        ('{"id": "a/0", "prompt": "p"}', "no 'prediction'"),
        ('{"id": "a/0", "prompt": "p", "prediction": 3}', "must be texts"),
        ('{"id": "a/0", "prompt": "p", "prediction": "x"}\n' * 2, "stands there twice"),
        ("[1]", "line 1"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, content: str, message: str):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(AnswersError, match=message):
        read_answers(tmp_path / "a.jsonl")


def test_folders_hold_answers_of_one_step(tmp_path: Path):
    row = {"id": "planning/0", "prompt": "Plan.", "prediction": "only"}
    with pytest.raises(AnswersError, match="no file of answers"):
        read_answers(tmp_path)
    write_rows(tmp_path / "planning-metrics.jsonl", [{"step": 1}])
    write_rows(tmp_path / "planning-000100.jsonl", [row])
    assert len(read_answers(tmp_path)) == 1
    write_rows(tmp_path / "planning-000200.jsonl", [row])
    with pytest.raises(AnswersError, match="of the steps 000100, 000200: name the files of one"):
        read_answers(tmp_path)
    with pytest.raises(AnswersError, match="expected a file of JSON lines"):
        read_answers(tmp_path / "absent.jsonl")


def answers(model: str, count: int = 40) -> list[Answer]:
    return [
        Answer(f"{'planning' if i % 2 else 'creativity'}/{i}", f"prompt {i}", f"{model} writes {i}")
        for i in range(count)
    ]


def test_pairs_are_shuffled_by_the_seed():
    pairs = pair(answers("A"), answers("B"), seed=1)
    assert pairs == pair(answers("A"), answers("B")[::-1], seed=1)
    assert pairs != pair(answers("A"), answers("B"), seed=2)
    assert 8 < sum(p.swapped for p in pairs) < 32
    assert [p.id for p in pairs] != sorted(p.id for p in pairs)
    for each in pairs:
        assert each.left.startswith("B" if each.swapped else "A")


def test_answers_must_go_together():
    with pytest.raises(AnswersError, match="1 prompts have an answer of one model only"):
        pair(answers("A"), answers("B", 39), seed=0)
    assert len(pair(answers("A"), answers("B", 39), seed=0, partial=True)) == 39
    other = [Answer(a.id, "other words", a.text) for a in answers("B")]
    with pytest.raises(AnswersError, match="different words"):
        pair(answers("A"), other, seed=0)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    first, second = answers("A"), answers("B")
    first[0] = Answer(first[0].id, first[0].prompt, "</script><b>bold</b> & {{ 1 }}")
    write_rating_page(tmp_path / "rating.html", pair(first, second, 0), ("base", "tuned"))
    return tmp_path / "rating.html"


def data_of(page: Path) -> dict:
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S
    )
    return json.loads(text)


def test_the_page_needs_nothing_else_and_tells_nothing(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|https?://|@import|fetch\(|XMLHttp", text)
    assert "base" not in text.replace("baseline", "") and "tuned" not in text
    assert "swapped" not in text
    pairs = data_of(page)["pairs"]
    assert len(pairs) == 40
    assert any("</script><b>bold</b> & {{ 1 }}" in (p["left"], p["right"]) for p in pairs)


def rated(page: Path, file: str, prefer: dict[str, str]) -> Path:
    """Ratings of someone who sees whose answers are where: `prefer` has the model by category."""
    data = data_of(page)
    ratings = {}
    for each in data["pairs"]:
        wanted = prefer[each["id"].rpartition("/")[0]]
        side = "left" if each["left"].startswith(wanted) else "right"
        ratings[each["id"]] = "tie" if wanted == "tie" else side
    path = page.with_name(file)
    path.write_text(json.dumps({"page": data["page"], "ratings": ratings}), encoding="utf-8")
    return path


def test_the_tally_knows_who_wrote_what(page: Path):
    # One answer of A is replaced in `page`, so B is easier to recognise.
    path = rated(page, "ratings.json", {"planning": "B", "creativity": "tie"})
    found = tally(Key.read(key_path(page)), [path])
    assert list(found.categories) == ["creativity", "planning", "all"]
    assert (found.categories["planning"].second, found.categories["planning"].share) == (20, 100.0)
    assert found.categories["creativity"].share is None
    assert found.categories["creativity"].with_ties == 50.0
    assert found.categories["all"].with_ties == 75.0
    low, high = found.categories["planning"].share_interval
    assert (round(low, 1), high) == (83.9, 100.0)  # Wilson, 20 of 20
    assert found.agreement is None


def test_several_raters_are_counted_with_their_agreement(page: Path):
    files = [
        rated(page, "1.json", {"planning": "B", "creativity": "B"}),
        rated(page, "2.json", {"planning": "B", "creativity": "tie"}),
    ]
    found = tally(Key.read(key_path(page)), files)
    assert found.agreement == 50.0
    assert found.categories["all"].ratings == 80
    assert found.categories["all"].prompts == 40


def test_ratings_of_another_page_are_refused(page: Path, tmp_path: Path):
    path = rated(page, "ratings.json", {"planning": "B", "creativity": "B"})
    write_rating_page(tmp_path / "other.html", pair(answers("A"), answers("B"), 5), ("a", "b"))
    with pytest.raises(RatingsError, match="give the key that was written with that page"):
        tally(Key.read(tmp_path / "other.key.json"), [path])
    path.write_text('{"page": "x"}')
    with pytest.raises(RatingsError, match="expected an object with `ratings`"):
        tally(Key.read(key_path(page)), [path])


@given(st.lists(st.lists(st.sampled_from([0, 0.5, 1]), min_size=1, max_size=3), min_size=1))
def test_preference_counts(prompts: list[list[float]]):
    found = preference(prompts)
    assert found.first + found.second + found.ties == found.ratings
    assert found.with_ties_interval.low <= found.with_ties + 1e-9
    assert found.with_ties - 1e-9 <= found.with_ties_interval.high
    mirrored = preference([[1 - value for value in ratings] for ratings in prompts])
    assert mirrored.with_ties == pytest.approx(100 - found.with_ties)


def test_the_command_makes_a_page_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = [
        write_rows(
            tmp_path / f"{name}.jsonl",
            [{"id": a.id, "prompt": a.prompt, "prediction": a.text} for a in answers(name[0])],
        )
        for name in ("A-model", "B-model")
    ]
    page = tmp_path / "rating.html"
    assert rate.main([*map(str, files), "--out", str(page), "--seed", "3"]) == 0
    assert "40 pairs" in capsys.readouterr().out
    ratings = rated(page, "ratings.json", {"planning": "B", "creativity": "A"})
    assert rate.main(["--tally", str(ratings), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["A-model", "B-model"]
    assert found["categories"]["planning"]["share"] == 100.0
    assert rate.main(["--tally", str(ratings), "--format", "plain"]) == 0
    assert "planning\t20\t0\t0\t20\t100.0\t83.9 to 100.0\t100.0" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected two files"):
        rate.main([str(files[0]), "--out", str(page)])
