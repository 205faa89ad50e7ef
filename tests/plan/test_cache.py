"""Reports are found again by what they depend on, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from flan_jax.plan import cache
from flan_jax.plan.cache import ReportCache

PROGRAM = {"bindings": ["FSDP = 8"], "step": "train"}


def key(program=None, topology: str = "v4:2x2x1", options=None) -> str:
    return cache.key_of(cache.ingredients(program or PROGRAM, topology, options or {}))


def test_a_report_is_found_by_its_key(tmp_path: Path):
    reports = ReportCache(tmp_path / "plans")
    made_of = cache.ingredients(PROGRAM, "v4:2x2x1", {})
    assert reports.get(cache.key_of(made_of)) is None
    reports.put(cache.key_of(made_of), made_of, {"fits": True, "step_time_s": 0.1})
    assert reports.get(key()) == {"fits": True, "step_time_s": 0.1}


def test_everything_that_matters_is_in_the_key():
    others = [
        key({**PROGRAM, "step": "eval"}),
        key({**PROGRAM, "bindings": ["FSDP = 4"]}),
        key(topology="v4:2x2x2"),
        key(options={"xla_a": "1"}),
    ]
    assert len({key(), *others}) == 5
    assert key(options={"xla_a": "1", "xla_b": "2"}) == key(options={"xla_b": "2", "xla_a": "1"})


def test_other_versions_and_other_sources_make_another_key(monkeypatch: pytest.MonkeyPatch):
    before = key()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_version", lambda package: "9.9.9")
        assert key() != before
    monkeypatch.setattr(cache, "sources_hash", lambda: "other")
    assert key() != before


def test_sources_are_hashed_by_name_and_content(tmp_path: Path):
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "a.py"
    hashes = set()
    for name, text in (("a.py", "x = 1\n"), ("a.py", "x = 2\n"), ("b.py", "x = 2\n")):
        model.unlink(missing_ok=True)
        model = tmp_path / "models" / name
        model.write_text(text)
        cache.sources_hash.cache_clear()
        hashes.add(cache.sources_hash(tmp_path))
    cache.sources_hash.cache_clear()
    (tmp_path / "notes.py").write_text("does not matter\n")
    assert cache.sources_hash(tmp_path) in hashes
    assert len(hashes) == 3


def test_all_that_is_hashed_exists():
    """A file that was moved would drop out of the key unnoticed."""
    root = Path(cache.__file__).parent.parent
    assert [name for name in cache.SOURCES if not (root / name).exists()] == []


def test_a_damaged_report_is_made_anew(tmp_path: Path):
    reports = ReportCache(tmp_path)
    reports.put("k", {}, {"fits": True})
    (tmp_path / "k.json").write_text("{")
    assert reports.get("k") is None


def test_without_a_folder_nothing_is_kept():
    reports = ReportCache(None)
    reports.put("k", {}, {"fits": True})
    assert reports.get("k") is None
