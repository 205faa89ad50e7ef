"""The report in a real browser: its filters work, and it asks for nothing but itself."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flan_jax.evaluation.run_files import read_folders
from flan_jax.evaluation.suite_page import render_page
from flan_jax.evaluation.suite_report import suite_report
from flan_jax.evaluation.suite_samples import SampleTable, draw_samples
from tests.evaluation.browser import Tab, find_browser, tab
from tests.evaluation.suite_runs import colours, registered, write_run
from tests.evaluation.test_suite_report import SUITE

CARDS = "document.querySelectorAll('.sample').length"
COUNT = "document.getElementById('samples-count').textContent"
HEADS = "[...document.querySelectorAll('.sample header strong')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def made(vocabulary, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleTable]:
    """A page of two checkpoints and two protocols; prompts of one of them do not fit."""
    root = tmp_path_factory.mktemp("page")
    with registered(colours(), colours("colours_cot")):
        write_run(root / "small", 100, ["colours_direct"], vocabulary, skill=0.4)
        write_run(root / "small", 100, ["colours_cot"], vocabulary, inputs_length=70)
        write_run(root / "large", 200, ["colours_direct"], vocabulary, skill=0.9)
        checkpoints = read_folders([root / "small", root / "large"])
        samples = draw_samples(checkpoints, per_subtask=30)
        page = render_page(suite_report(checkpoints, SUITE, against="Flan-T5-XL"), samples)
    (root / "report.html").write_text(page, encoding="utf-8")
    return root / "report.html", samples


def in_browser(page: Path, profile: Path, steps: Callable[[Tab], Awaitable[Any]]) -> Any:
    browser = find_browser()
    if browser is None:
        pytest.skip("no browser: install chromium, or set FLAN_JAX_BROWSER to one")

    async def run() -> Any:
        async with tab(browser, profile) as opened:
            await opened.open(page)
            result = await steps(opened)
            await asyncio.sleep(0.2)  # for what might still be asked for
            await opened.evaluate("0")
            assert opened.requests == [page.resolve().as_uri()]
            assert opened.errors == []
            return result

    return asyncio.run(run())


def numbers(text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"[\d,]+", text)]


def expected(samples: SampleTable, keep: Callable[[dict, dict], bool]) -> int:
    return sum(keep(answer, samples.items[answer["item"]]) for answer in samples.answers)


def test_filters(made: tuple[Path, SampleTable], tmp_path: Path):
    page, samples = made
    total = len(samples.answers)

    async def steps(opened: Tab) -> None:
        async def shown() -> int:
            found, of = numbers(await opened.evaluate(COUNT))
            assert of == total
            assert await opened.evaluate(CARDS) == min(found, 20)
            return found

        assert await shown() == total > 60
        seen = []
        for verdict, keep in {
            "wrong": lambda a, _: a["correct"] < 1,
            "unparsed": lambda a, _: not a["parsed"],
            "right": lambda a, _: a["correct"] >= 1,
        }.items():
            await opened.click(f".chip[data-verdict={verdict}]")
            seen.append(await shown())
            assert seen[-1] == expected(samples, keep)
            pressed = "[...document.querySelectorAll('.chip[aria-pressed=true]')].length"
            assert await opened.evaluate(pressed) == 1
        assert 0 < seen[1] < seen[0] < total
        await opened.click(".chip[data-verdict=all]")

        await opened.click(".chip[data-flag=truncated]")
        cut = await shown()
        assert 0 < cut == expected(samples, lambda a, _: a.get("truncated", 0) > 0) < total
        await opened.click(".chip[data-flag=length]")
        both = expected(samples, lambda a, _: "truncated" in a and a.get("ended") == "length")
        assert await shown() == both < cut
        await opened.click(".chip[data-flag=length]")
        await opened.click(".chip[data-flag=truncated]")
        assert await shown() == total

        await opened.choose("#filter-protocol", "colours_direct")
        of_direct = expected(samples, lambda _, i: i["protocol"] == "colours_direct")
        assert await shown() == of_direct < total
        await opened.choose("#filter-checkpoint", "large")
        await opened.choose("#filter-subtask", "clouds")
        assert await shown() == 7
        assert await opened.evaluate(HEADS) == [
            f"colours_direct · clouds/{index}" for index in range(7)
        ]
        await opened.type("#filter-search", "number 3")
        assert await opened.evaluate(HEADS) == ["colours_direct · clouds/3"]

    in_browser(page, tmp_path / "profile", steps)


def test_more_samples_on_demand_and_prompts_as_text(made: tuple[Path, SampleTable], tmp_path: Path):
    page, samples = made

    async def steps(opened: Tab) -> None:
        assert await opened.evaluate(CARDS) == 20
        await opened.click("#samples-more")
        assert await opened.evaluate(CARDS) == 40
        # The made-up questions hold markup, which is shown and not obeyed.
        assert await opened.evaluate("document.querySelectorAll('.sample b').length") == 0
        prompts = await opened.evaluate("document.querySelector('.prompt .body').textContent")
        assert prompts in [item["prompt"] for item in samples.items] and "<b>&amp;" in prompts
        # Links of the first table open what they lead to.
        await opened.click(".overview tbody a")
        assert await opened.evaluate("document.querySelectorAll('details[open]').length") == 1

    in_browser(page, tmp_path / "profile", steps)


def test_a_request_would_be_seen_and_blocked(made: tuple[Path, SampleTable], tmp_path: Path):
    """The check above can fail: an image from elsewhere is refused, and is noticed."""
    page = tmp_path / "with_image.html"
    text = made[0].read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'))
    with pytest.raises(AssertionError, match=r"x\.png"):
        in_browser(page, tmp_path / "profile", lambda opened: opened.evaluate("0"))
    unguarded = tmp_path / "unguarded.html"
    unguarded.write_text(re.sub(r"<meta http-equiv[^\n]*", "", page.read_text(encoding="utf-8")))
    with pytest.raises(AssertionError, match=r"x\.png"):
        in_browser(unguarded, tmp_path / "profile2", lambda opened: opened.evaluate("0"))


def test_the_page_is_readable_without_scripts(made: tuple[Path, SampleTable]):
    """Scores are in the HTML itself; only the samples are put there by the script."""
    text = re.sub(r"<script.*?</script>", "", made[0].read_text(encoding="utf-8"), flags=re.S)
    assert "Normalized average" in text and "<svg" in text
    assert json.dumps(made[1].items[0]["prompt"]) not in text
