from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flan_jax.evaluation import charts
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.report import (
    Run,
    held_out_verdict,
    percent,
    pick_samples,
    points,
    scores_table,
    write_report,
)
from flan_jax.evaluation.scores import compare, score

VOID = {"meta", "line", "circle", "polyline", "link", "br", "input"}


class Page(HTMLParser):
    """Cells of tables, texts of elements by class, all attributes; checks that tags match."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, dict]] = []
        self.elements: list[tuple[str, dict, str]] = []
        self.parts: list[list[str]] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            self.elements.append((tag, dict(attributes), ""))
            return
        self.open.append((tag, dict(attributes)))
        self.parts.append([])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), ""))

    def handle_data(self, data):
        for parts in self.parts:
            parts.append(data)

    def handle_endtag(self, tag):
        expected, attributes = self.open.pop()
        assert tag == expected, f"</{tag}> closes <{expected}>"
        self.elements.append((tag, attributes, " ".join("".join(self.parts.pop()).split())))

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return [
            text
            for name, found, text in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == v for key, v in attributes.items())
        ]


@pytest.fixture(scope="module")
def made(run_of_micro, tmp_path_factory, training_rows):
    requests, before, after = run_of_micro()
    run = Run("Zero-shot", score(requests, after), score(requests, before),
              EvalProtocol("zero", ("micro",)))  # fmt: skip
    few_requests, _, few_after = run_of_micro(0.02)
    few = Run("Two-shot", score(few_requests, few_after))
    samples = pick_samples(run, requests, after, before)
    path = write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        title="Tiny <T5> & micro",
        runs=[run, few],
        curves=training_rows,
        samples=samples,
        config_text="train.steps = 3000  # <not a tag>",
        facts={"Parameter hash": "0d11aa93", "Seed": 0},
    )
    return run, samples, path.read_text(encoding="utf-8")


def test_report_is_one_file_without_anything_from_elsewhere(made):
    _, _, text = made
    assert not re.search(r"<(script|link|img|iframe)|@import|url\(|src=", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert len(text) < 500_000


def test_report_is_well_formed_and_escaped(made):
    page = Page(made[2])
    assert page.texts("h1") == ["Tiny <T5> & micro"]
    assert "train.steps = 3000 # <not a tag>" in page.texts("code")
    idents = [found["id"] for _, found, _ in page.elements if "id" in found]
    assert len(idents) == len(set(idents))


def test_report_is_accessible(made):
    page = Page(made[2])
    headers = [found for tag, found, _ in page.elements if tag == "th"]
    assert headers and all(h.get("scope") in ("col", "row", "rowgroup") for h in headers)
    svgs = [found for tag, found, _ in page.elements if tag == "svg"]
    assert len(svgs) == 4 + 4
    idents = {found.get("id"): text for tag, found, text in page.elements if tag == "title"}
    for svg in svgs:
        assert svg["role"] == "img" and idents[svg["aria-labelledby"]]
    assert any(tag == "html" and found.get("lang") == "en" for tag, found, _ in page.elements)


def test_report_holds_the_numbers(made):
    run, _, text = made
    page = Page(text)
    comparison = compare(run.before, run.after)
    cards = page.texts("div", class_="card")
    for name, card in zip(("held-in", "held-out"), cards[:2], strict=True):
        after, before = run.after.summary()[name], run.before.summary()[name]
        difference = comparison.summary[name]
        for number in (
            f"{percent(before.value)}% → {percent(after.value)}%",
            f"{percent(after.low)} to {percent(after.high)}",
            f"{points(difference.value)} points ({points(difference.low)} to "
            f"{points(difference.high)})",
            f"{percent(after.baseline)}%",
            f"mean of {after.tasks} tasks, {after.n:,} items",
        ):
            assert number in card, (name, number)
    rows = page.texts("tr")
    for name, result in run.after.tasks.items():
        (row,) = [r for r in rows if r.startswith(name) and "→" in r and "%" not in r]
        difference = comparison.tasks[name]
        numbers = (result.value, result.low, result.high, result.majority)
        assert all(percent(value) in row for value in numbers)
        assert points(difference.value) in row
        assert f"→ {result.unparsed}" in row
    assert "0d11aa93" in text


def test_samples_are_shown_with_their_marks(made):
    _, samples, text = made
    assert [s.held_out for s in samples] == sorted((s.held_out for s in samples), reverse=True)
    page = Page(text)
    marks = page.texts("span", class_="mark ok") + page.texts("span", class_="mark wrong")
    assert len(marks) == 2 * len(samples)
    right = sum(bool(s.after_correct) + bool(s.before_correct) for s in samples)
    assert len(page.texts("span", class_="mark ok")) == right
    for sample in samples:
        assert " ".join(sample.prompt.split()) in page.texts("div", class_="clip")


def test_samples_are_drawn_by_seed_and_not_by_success(run_of_micro):
    requests, _, after = run_of_micro()
    run = Run("r", score(requests, after))
    one = pick_samples(run, requests, after, seed=1)
    assert one == pick_samples(run, requests[::-1], after, seed=1)
    assert one != pick_samples(run, requests, after, seed=2)
    assert all(sample.before is None for sample in one)


def _held_out_run(make_request, before, after, answers="ab", count=200):
    requests = [
        make_request(f"t{t}/{i}", held_out=True, answer=answers[i % len(answers)])
        for t in range(2)
        for i in range(count)
    ]

    def texts(rule):
        return {r.id: rule(int(r.id.split("/")[1]), r.answer) for r in requests}

    return Run("r", score(requests, texts(after)), before and score(requests, texts(before)))


def test_verdict_follows_from_the_numbers(make_request):
    def wrong(i, answer):
        return "x"

    def constant(i, answer):
        return "a"

    def good(i, answer):
        return answer if i % 10 else "x"

    def mixed(i, answer):
        return answer if (i // 2) % 2 else "x"

    risen = held_out_verdict(_held_out_run(make_request, wrong, good))
    assert "accuracy rose by 90.0 points" in risen and "above the baseline of 50.0%" in risen
    assert "2 of 2 above, 0 below, 0 not distinguishable" in risen
    at_chance = held_out_verdict(_held_out_run(make_request, wrong, mixed))
    assert "rose by 50.0" in at_chance and "not distinguishable from the baseline" in at_chance
    fallen = held_out_verdict(_held_out_run(make_request, good, wrong))
    assert "fell by 90.0" in fallen and "below the baseline" in fallen
    assert "0 of 2 above, 2 below" in fallen
    same = held_out_verdict(_held_out_run(make_request, constant, constant))
    assert "no answer changed" in same and "not distinguishable" in same
    alone = held_out_verdict(_held_out_run(make_request, None, good))
    assert "accuracy is 90.0%" in alone


def test_unclear_change_is_called_unclear(make_request):
    def before(i, answer):
        return answer if i % 4 else "x"

    def after(i, answer):
        return answer if i % 4 != 1 or i == 1 else "x"

    assert "did not change measurably" in held_out_verdict(
        _held_out_run(make_request, before, after)
    )


def test_without_held_out_tasks_nothing_is_claimed(make_request):
    requests = [make_request(f"t/{i}") for i in range(5)]
    run = Run("r", score(requests, {r.id: "yes" for r in requests}))
    assert "say nothing about tasks" in held_out_verdict(run)


def test_report_without_extras(make_request, tmp_path):
    requests = [make_request(f"t/{i}") for i in range(5)]
    run = Run("Only", score(requests, {r.id: "yes" for r in requests}))
    path = write_report(tmp_path / "deep" / "r.html", title="t", runs=[run])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.texts("h2") == ["Only", "Only scores", "How to read this"]


@pytest.mark.parametrize("by", ["cluster", "task"])
def test_terminal_table_holds_the_numbers(made, by):
    run = made[0]
    console = Console(width=160, file=io.StringIO())
    console.print(scores_table(run.after, run.before, by=by))
    text = console.file.getvalue()
    body = run.after.clusters if by == "cluster" else run.after.tasks
    for name, result in {**body, **run.after.summary()}.items():
        (line,) = [line for line in text.splitlines() if re.search(rf"[│┃] {name}\b", line)]
        assert percent(result.value) in line and percent(result.baseline) in line
    with pytest.raises(ValueError, match="by must be"):
        scores_table(run.after, by="tasks")


@pytest.mark.parametrize(
    "share, text", [(0.1234, "12.3"), (-0.0001, "0.0"), (-0.05, "−5.0"), (1.0, "100.0")]
)
def test_percent(share, text):
    assert percent(share) == text


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_round_and_cover(low, span):
    ticks = charts.nice_ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    slack = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_curves_leave_out_what_is_no_number(training_rows):
    curves = charts.curves_of([*training_rows, {"loss": 1.0}, {"step": 5, "note": "x"}])
    steps, losses = curves["loss"]
    assert len(steps) == len(training_rows) - 1 and np.isfinite(losses).all()
    assert "note" not in curves


def test_thinning_keeps_the_mean():
    steps, values = np.arange(8000.0), np.random.default_rng(0).random(8000)
    thin_steps, thin_values = charts.thin(steps, values)
    assert len(thin_steps) == len(thin_values) == charts.MAX_POINTS
    assert thin_values.mean() == pytest.approx(values.mean())


def test_interval_chart_draws_where_the_numbers_are():
    row = charts.IntervalRow(
        "<name>", charts.Estimate(0.5, charts.Interval(0.25, 0.75)), baseline=1.0
    )
    text = str(charts.interval_chart([charts.IntervalGroup("", [row])], "t", "i"))
    left, width = charts._LABEL_WIDTH, charts._PLOT_WIDTH
    assert f'cx="{left + width / 2}"' in text
    assert f'x1="{left + width / 4}" x2="{left + 3 * width / 4}"' in text
    assert f'class="baseline" x1="{float(left + width)}"' in text
    assert "&lt;name&gt;: 50.0% (25.0 to 75.0), baseline 100.0%" in text
