"""The rating page in a real browser: keys and clicks rate, ratings are saved, nothing is sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from flan_jax.evaluation.open_ended import Answer, pair
from flan_jax.evaluation.preferences import Key, tally
from flan_jax.evaluation.rating_page import key_path, write_rating_page
from tests.evaluation.browser import Tab, find_browser, tab

pytestmark = pytest.mark.slow
COUNT = 4


def answers(model: str) -> list[Answer]:
    text = "a first line\n  and <b>another</b> by "
    return [Answer(f"planning/{i}", f"Plan day {i}.", text + model) for i in range(COUNT)]


async def press(page: Tab, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        await page.call("Input.dispatchKeyEvent", type=kind, key=key)


async def until(page: Tab, expression: str) -> None:
    for _ in range(100):
        if await page.evaluate(expression):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await page.evaluate("document.body.innerText"))


async def rate_all(page: Tab, file: Path, downloads: Path, picture: Path) -> None:
    await page.open(file)
    assert "pair 1 of 4, 0 rated" in await page.evaluate("document.body.innerText")
    shown = await page.evaluate("document.querySelector('#left .text').textContent")
    assert "\n  and <b>another</b> by " in shown
    await page.screenshot(picture)
    await press(page, "ArrowLeft")
    await until(page, "document.getElementById('count').textContent == 'pair 2 of 4, 1 rated'")
    await page.click("#right")
    await until(page, "document.getElementById('count').textContent == 'pair 3 of 4, 2 rated'")
    await press(page, "ArrowDown")
    await press(page, "ArrowUp")  # back to the tie, which becomes a preference
    await until(page, "document.getElementById('tie').getAttribute('aria-pressed') == 'true'")
    await press(page, "ArrowRight")
    await press(page, "ArrowLeft")
    await until(page, "document.getElementById('count').textContent.includes('4 rated')")
    # They outlive the page.
    await page.open(file)
    await until(page, "document.getElementById('count').textContent.includes('4 rated')")
    await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    await page.click("#save")
    for _ in range(100):
        if (downloads / "ratings.json").is_file():
            break
        await asyncio.sleep(0.05)
    assert not page.errors
    assert {url.partition(":")[0] for url in page.requests} <= {"file", "blob"}
    assert all(url == file.resolve().as_uri() or url.startswith("blob:") for url in page.requests)


def test_a_rater_gets_through_the_page(tmp_path: Path):
    browser = find_browser()
    if browser is None:
        pytest.skip("no browser: install chromium, or set FLAN_JAX_BROWSER to one")
    file = tmp_path / "rating.html"
    pairs = pair(answers("A"), answers("B"), seed=0)
    write_rating_page(file, pairs, ("base", "tuned"))
    downloads = tmp_path / "downloads"
    downloads.mkdir()

    async def run() -> None:
        async with tab(browser, tmp_path / "profile") as page:
            await rate_all(page, file, downloads, tmp_path / "page.png")

    asyncio.run(run())
    saved = json.loads((downloads / "ratings.json").read_text(encoding="utf-8"))
    expected = dict(zip([p.id for p in pairs], ["left", "right", "right", "left"], strict=True))
    assert saved["ratings"] == expected
    found = tally(Key.read(key_path(file)), [downloads / "ratings.json"])
    second = sum((expected[p.id] == "left") == p.swapped for p in pairs)
    assert found.categories["all"].second == second
