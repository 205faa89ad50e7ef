"""Building on Apache Beam gives the same store, to the byte."""

from __future__ import annotations

import pytest

from flan_jax.errors import UserError
from flan_jax.mixing import define_mixture
from flan_jax.store import build_store
from flan_jax.store.beam import beam_runner
from tests.store.helpers import MODULE_NAME, contents


def _needs_beam():
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install 'flan_jax[beam]'")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_the_same_store_as_on_this_machine(content, tmp_path, mode):
    _needs_beam()
    mixture = content()
    options = [f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    runner = beam_runner(options, [MODULE_NAME])
    report = build_store(mixture, tmp_path / "beam", runner=runner)
    assert report.counts()["built"] == 3
    build_store(mixture, tmp_path / "here")
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")
    again = build_store(mixture, tmp_path / "beam", runner=runner)
    assert again.counts()["unchanged"] == 3


@pytest.mark.slow
def test_a_task_that_fails_stops_no_other(content, tmp_path):
    _needs_beam()
    content()
    mixture = define_mixture("m", ["one", "absent", "two"])
    runner = beam_runner((), [MODULE_NAME])
    report = build_store(mixture, tmp_path / "s", runner=runner)
    assert report.counts() == {"built": 2, "resumed": 0, "unchanged": 0, "failed": 1}
    assert "absent.jsonl is not in the data folder" in report.failed[0].detail
    (tmp_path / "data" / "absent.jsonl").write_text('{"q": "?", "a": "!", "about": ""}\n')
    (tmp_path / "data" / "absent.validation.jsonl").write_text("")
    report = build_store(mixture, tmp_path / "s", runner=runner)
    assert report.counts() == {"built": 1, "resumed": 2, "unchanged": 0, "failed": 0}


def test_without_beam_the_way_to_it_is_told(monkeypatch):
    import builtins

    imported = builtins.__import__

    def without(name, *rest, **named):
        if name.partition(".")[0] == "apache_beam":
            raise ModuleNotFoundError("No module named 'apache_beam'", name="apache_beam")
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'flan_jax\[beam\]'"):
        beam_runner()
