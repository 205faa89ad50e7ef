"""What is shown: a bar on a terminal, plain lines in a file, nothing from other processes."""

from __future__ import annotations

import io
import sys

import pytest

from flan_jax.train.display import LiveDisplay, PlainDisplay, QuietDisplay, make_display

METRICS = {"loss": 2.34567, "accuracy": 0.125, "tokens_per_second": 12345.6}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_kind_of_display(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_display(0, 10), LiveDisplay)
    assert isinstance(make_display(0, 10, enabled=False), QuietDisplay)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_display(0, 10), PlainDisplay)


def test_plain_lines_are_few_and_end_with_the_last_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [1000.0]
    monkeypatch.setattr("flan_jax.train.display.time.monotonic", lambda: now[0])
    with PlainDisplay(20, every_seconds=5.0) as display:
        for step in range(1, 21):
            display.update(step, METRICS)
            now[0] += 1.0
        display.say("done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/20  loss 2.346  accuracy 0.125  12,346 tokens/s"
    assert [line.split("  ")[0] for line in lines] == [
        "step 1/20",
        "step 6/20",
        "step 11/20",
        "step 16/20",
        "step 20/20",
        "done",
    ]


def test_live_bar(monkeypatch: pytest.MonkeyPatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with make_display(3, 10) as display:
        display.update(5, METRICS)
        display.say("step 5  validation [loss] 2.000")
    text = screen.getvalue()
    assert "training" in text
    assert "5/10" in text
    assert "loss 2.346" in text
    assert "12,346 tokens/s" in text
    assert "validation [loss] 2.000" in text  # brackets are no markup


def test_live_bar_is_taken_down_by_an_error(monkeypatch: pytest.MonkeyPatch):
    """Otherwise the cursor would stay hidden, and the bar's thread would go on."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(RuntimeError, match="oh"), make_display(0, 10):
        raise RuntimeError("oh")
    shown, hidden = "\x1b[?25h", "\x1b[?25l"
    assert screen.getvalue().rindex(shown) > screen.getvalue().rindex(hidden)


def test_quiet(capsys: pytest.CaptureFixture[str]):
    with make_display(0, 10, enabled=False) as display:
        display.update(10, METRICS)
        display.say("done")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
