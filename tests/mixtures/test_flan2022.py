"""The published mixtures: their tasks, rates, shares and variants."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

import flan_jax.mixtures  # noqa: F401
from flan_jax.draws import Draws
from flan_jax.mixing import all_mixtures, deferred_mixtures, get_mixture
from flan_jax.mixtures.flan2022 import CAPS, PROPORTION_A, VARIANTS
from flan_jax.tasks import all_tasks, get_task

ROOT = Path(__file__).resolve().parent.parent.parent
CATALOGUE = ROOT / "mixtures" / "catalogue.csv"
# Tasks of each part. (The paper's ladder is 9, 89, 282 and 1,836 tasks; it counts Natural
# Instructions as 1,554, which has 1,556 without MMLU's.)
COUNTS = {"cot": 9, "muffin": 80, "t0_sf": 193, "niv2": 1556, "flan2021": 71, "dialog": 2}
# Sums of min(training examples, cap), from the sizes that google-research/FLAN declares.
SUMS = {"flan2021": 1_495_430, "niv2": 4_235_910}


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "FLAN_JAX_DATA": "/absent"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parts_have_the_published_number_of_tasks(name, count):
    if name == "dialog":  # TaskMaster is of the paper alone
        assert set(get_mixture(name).rates) == {"wiki_dialog", "qrecc"}
        return
    assert len(get_mixture(name).rates) == count


def test_the_ladder_is_the_papers():
    found = {
        name: len(get_mixture(f"flan2022_ladder_{name}").rates)
        for name in ("9", "89", "282", "1836")
    }
    assert found == {"9": 9, "89": 89, "282": 282, "1836": 1838}
    steps = [set(get_mixture(f"flan2022_ladder_{name}").rates) for name in found]
    assert all(small < large for small, large in itertools.pairwise(steps))


@pytest.mark.parametrize("name", ["flan2022", "flan2022_a"])
def test_the_whole_is_1838_tasks(name):
    assert len(get_mixture(name).rates) == 1838
    groups = Counter(task.group for task in get_mixture(name).tasks())
    muffin = groups["muffin"] + groups["dialog"] + groups["program_synthesis"]
    assert (muffin, groups["t0_sf"], groups["niv2"], groups["cot"]) == (80, 193, 1556, 9)
    assert not [task.name for task in get_mixture(name).tasks() if task.held_out]


@pytest.mark.parametrize(("name", "total"), SUMS.items())
def test_capped_sums_are_the_published_ones(name, total):
    assert sum(get_mixture(name).rates.values()) == total


@pytest.mark.parametrize("name", [*COUNTS])
def test_a_rate_is_the_published_size_up_to_the_cap_and_needs_no_data(name, monkeypatch, tmp_path):
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    cap = CAPS.get(name, CAPS["muffin"])
    mixture = get_mixture(name)
    for task in mixture.tasks():
        size = task.num_train or cap
        assert mixture.rates[task.name] == (size if size < cap else cap), task.name
    assert max(mixture.rates.values()) <= cap


def test_the_cap_of_natural_instructions_is_each_task_s():
    rates = get_mixture("niv2").rates
    assert max(rates.values()) == 5_000
    assert sum(rate == 5_000 for rate in rates.values()) > 100
    large = get_mixture("flan2022").proportions()
    names = [name for name in rates if rates[name] == 5_000]
    share = Fraction(242, 999) * 5_000 / SUMS["niv2"]
    assert large[names[0]] == pytest.approx(float(share))
    assert len({large[name] for name in names}) == 1


PAPER_A = {"muffin": 52, "t0_sf": 15, "cot": 3, "niv2": 30}
PAPER_B = {"muffin": 46, "t0_sf": 27.9, "cot": 1.8, "niv2": 24.2}  # sums to 99.9, as published
PUBLIC = {"flan2021": 40, "t0_sf": 32, "niv2": 20, "cot": 5, "dialog": 3}


@pytest.mark.parametrize(
    ("name", "shares"),
    [("flan2022", PAPER_B), ("flan2022_a", PAPER_A), ("flan2022_submix", PUBLIC)],
)
def test_shares_are_the_published_ones(name, shares):
    total = sum(shares.values())
    expected = {part: share / total for part, share in shares.items()}
    assert get_mixture(name).shares() == pytest.approx(expected)


def test_ablations_leave_parts_out_and_keep_the_ratio_of_the_rest():
    without = get_mixture("flan2022_no_cot").shares()
    assert without == pytest.approx({p: s / 97 for p, s in PROPORTION_A.items() if p != "cot"})
    assert get_mixture("flan2022_only_cot").shares() == {"cot": pytest.approx(1)}


def test_members_keep_their_inner_proportions():
    whole, part = get_mixture("flan2022").proportions(), get_mixture("t0_sf").proportions()
    ratios = [whole[name] / part[name] for name in part]
    assert ratios == pytest.approx([27.9 / 99.9] * len(ratios))


# The variants a task of each kind may show in a sub-mixture, and their share of its draws.
_COT = {
    "zsopt": {"zs_cot": 1 / 1.3, "zs_inverted": 0.3 / 1.3},
    "zsnoopt": {"zs_cot": 1 / 1.3, "zs_inverted": 0.3 / 1.3},
    "fsopt": {"fs_cot": 1 / 1.3, "fs_inverted": 0.3 / 1.3},
    "fsnoopt": {"fs_cot": 1 / 1.3, "fs_inverted": 0.3 / 1.3},
}


@pytest.mark.parametrize("suffix", _COT)
def test_sub_mixtures_of_reasoning_have_inverted_prompts_at_their_rate(suffix):
    mixture = get_mixture(f"cot_{suffix}")
    for task in mixture.tasks():
        weights = mixture.variants_of(task)
        total = sum(weights.values())
        shares = {v: w / total for v, w in weights.items() if w}
        assert shares == pytest.approx(_COT[suffix])
    task = get_task("cot_creak")
    drawn = Counter(mixture.draw_variant(task, Draws(suffix, i)) for i in range(4000))
    assert {v: n / 4000 for v, n in drawn.items()} == pytest.approx(_COT[suffix], abs=0.025)


@pytest.mark.parametrize("part", [*COUNTS])
@pytest.mark.parametrize("suffix", VARIANTS)
def test_sub_mixtures_draw_only_their_variants(part, suffix):
    whole, mixture = get_mixture(part), get_mixture(f"{part}_{suffix}")
    assert mixture.proportions() == whole.proportions()
    shots, options = suffix[:2], suffix[2:]
    for task in mixture.tasks():
        found = {variant for variant, weight in mixture.variants_of(task).items() if weight}
        assert all(variant.startswith(f"{shots}_") for variant in found), task.name
        shown = f"{shots}_{options if task.has_options else 'noopt'}"
        main = shown if "direct" in task.styles else f"{shots}_cot"
        assert found == {main, f"{shots}_inverted"} & set(task.variants()), task.name


def test_variants_of_the_whole_are_each_task_s_own():
    mixture = get_mixture("flan2022")
    assert mixture.variants is None and mixture.task_variants == {}
    assert mixture.variants_of(get_task("cot_creak")) == {
        "zs_cot": 1.0, "zs_inverted": 0.3, "fs_cot": 1.0, "fs_inverted": 0.3,
    }  # fmt: skip


def test_names_are_unique_and_seqio_takes_them():
    tasks = all_tasks()
    names = [name for task in tasks for name in (task.name, *task.aliases)]
    mixtures = [*(mixture.name for mixture in all_mixtures()), *deferred_mixtures()]
    variants = [f"{task.name}_{variant}" for task in tasks for variant in task.variants()]
    # SeqIO keeps tasks, their variants and mixtures in one space of names; aliases are ours alone.
    registered = [*(task.name for task in tasks), *variants, *mixtures]
    assert [n for n, count in Counter(registered).items() if count > 1] == []
    assert [n for n, count in Counter([*names, *mixtures]).items() if count > 1] == []
    assert [name for name in registered if not re.fullmatch(r"[\w.:]+", name)] == []


# ---------------------------------------------------------------------------------------- catalogue


def test_the_catalogue_is_in_step_with_the_modules():
    code = "import sys\nfrom flan_jax.mixtures.catalogue import text\nsys.stdout.write(text())"
    assert _python(code) == CATALOGUE.read_text(encoding="utf-8"), (
        "renew it: python -m flan_jax.mixtures.catalogue"
    )


def _lines() -> list[dict[str, str]]:
    with CATALOGUE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_name_of_the_catalogue_is_brought_by_its_module():
    """Each module alone registers what the catalogue says of it."""
    wanted: dict[str, list[str]] = {}
    for line in _lines():
        wanted.setdefault(line["module"], []).append(f"{line['kind']} {line['name']}")
    code = (
        "import importlib, json, sys\n"
        "from flan_jax import mixing, tasks\n"
        "import flan_jax.mixtures\n"
        "for module, wanted in json.load(sys.stdin).items():\n"
        "    importlib.import_module('flan_jax.mixtures.' + module)\n"
        "    names_of = [(t.name, *t.aliases) for t in tasks.registered_tasks()]\n"
        "    known = {f'task {n}' for found in names_of for n in found}\n"
        "    known |= {f'mixture {n}' for n in mixing.registered_mixtures()}\n"
        "    print([n for n in wanted if n not in known])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(wanted), capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert set(done.stdout.splitlines()) == {"[]"}


_FAMILIES = (
    "import sys\nimport flan_jax.mixtures\nfrom flan_jax.{module} import {get}\n"
    "found = {get}({name!r})\n"
    "print(sorted(m.removeprefix('flan_jax.mixtures.') for m in sys.modules"
    " if m.startswith('flan_jax.mixtures.')))\n"
    "print([m for m in ('tensorflow', 'tensorflow_datasets', 'seqio', 'jax') if m in sys.modules])"
)


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("bool_q", {"flan2021"}),
        ("cola", {"flan2021"}),
        ("cot_creak", {"cot"}),
        ("program_synthesis_dmcc_python", {"program_synthesis"}),
        ("task1393_superglue_copa_text_completion", {"niv2"}),
    ],
)
def test_asking_for_a_task_imports_its_family_alone(name, families):
    code = _FAMILIES.format(module="tasks", get="get_task", name=name)
    modules, heavy = (json.loads(line.replace("'", '"')) for line in _python(code).splitlines())
    assert {module.split(".")[0] for module in modules} == families
    assert heavy == []
    others = {line["module"] for line in _lines() if line["module"].startswith("flan2021.")}
    assert len(others & set(modules)) == (1 if families == {"flan2021"} else 0)


def test_the_whole_collection_is_defined_without_heavy_imports():
    code = _FAMILIES.format(module="mixing", get="get_mixture", name="flan2022")
    modules, heavy = (json.loads(line.replace("'", '"')) for line in _python(code).splitlines())
    assert {"niv2.tasks", "t0_sf.tasks", "cot.tasks", "flan2021.entailment"} <= set(modules)
    assert heavy == []
