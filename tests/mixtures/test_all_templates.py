"""The static checks of the linter over every template of the house: no problem is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece

import flan_jax.mixtures
from flan_jax.prompts.linter import lint
from flan_jax.prompts.template import Template, load_templates, sections_of
from flan_jax.prompts.template_checks import FEWEST_TEMPLATES
from flan_jax.prompts.wording import prompt_readings, readings
from flan_jax.tasks import TaskDefinition, all_tasks

# Each template file with the first of its tasks that shows options and the first that does not.
FILES: dict[Path, dict[bool, TaskDefinition]] = {}
for _task in all_tasks():
    FILES.setdefault(_task.template_file, {}).setdefault(_task.has_options, _task)
ROOT = Path(flan_jax.mixtures.__file__).parent
# Written for a vocabulary of its own, which is not T5's, and with fewer templates.
OWN = ("micro", "micro_corpus")


def _group(path: Path) -> str:
    return next(iter(FILES[path].values())).group


def _name(path: Path) -> str:
    return f"{_group(path)}-{path.stem}"


def _templates(path: Path) -> list[Template]:
    found = [template for s in sections_of(path) for template in load_templates(path, s)]
    return list(dict.fromkeys(found))


def _unknown(processor: sentencepiece.SentencePieceProcessor, text: str) -> list[str]:
    return [c for c in text if processor.unk_id() in processor.EncodeAsIds(f"a{c}a")]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_problems(path: Path):
    for task in FILES[path].values():
        problems = lint(task, templates_only=True).problems
        assert not problems, "\n".join(f"{p.where}: {p.message}" for p in problems)


@pytest.mark.parametrize("path", [p for p in FILES if _group(p) not in OWN], ids=_name)
def test_enough_templates_in_every_section(path: Path):
    counts = {section: len(load_templates(path, section)) for section in sections_of(path)}
    assert {s: n for s, n in counts.items() if n < FEWEST_TEMPLATES} == {}


@pytest.mark.parametrize("path", [p for p in FILES if _group(p) not in OWN], ids=_name)
def test_t5s_vocabulary_writes_every_word(path: Path, test_data: Path):
    model = test_data / "t5_vocab" / "spiece.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for template in _templates(path):
        said = [*readings(template.targets, True), *readings(template.instruction, True)]
        for reading in (*said, *prompt_readings(template, True), *prompt_readings(template, False)):
            bad = processor.unk_id() in processor.EncodeAsIds(reading.own)
            assert not bad, (template.where, _unknown(processor, reading.own))


def test_every_template_file_belongs_to_a_task():
    used = {path.resolve() for path in FILES}
    for path in FILES:  # a section may be the name of another file
        used |= {
            (path.parent / template.where.partition(": ")[0]).resolve()
            for template in _templates(path)
        }
    beside = {file.resolve() for path in FILES for file in path.parent.glob("*.yaml")}
    assert sorted(file.name for file in beside - used) == []
