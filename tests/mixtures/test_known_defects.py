"""Defects of the public Flan 2022 collection that no other test watches; see docs/collection.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flan_jax.mixtures  # noqa: F401 - announces the tasks
from flan_jax.draws import Draws
from flan_jax.errors import UserError
from flan_jax.fingerprint import mixture_hash
from flan_jax.mixing import MixtureDefinition, get_mixture
from flan_jax.mixtures.counts import ALL, dataset_of, tasks_of
from flan_jax.prompts.options import FLAN_STYLES, drawn_block
from flan_jax.realised import MixtureMissingError, realise
from flan_jax.sources.downloads import Download
from flan_jax.sources.tfds_folders import TFDS_VARIABLE
from flan_jax.tasks import all_tasks
from tests.mixtures.stand_ins import stand_in_data

ROOT = Path(__file__).parents[2]


def test_a_mixture_has_tasks():
    with pytest.raises(UserError, match="'empty' has no tasks"):
        MixtureDefinition("empty", {})


@pytest.fixture
def only_p3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder with nothing but T0-SF's data."""
    with stand_in_data(tmp_path):
        pass
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path / "some"))
    monkeypatch.setenv(TFDS_VARIABLE, str(tmp_path / "none"))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "p3").symlink_to(tmp_path / "p3")


def test_missing_data_stop_a_run_or_are_left_out_by_name(only_p3: None):
    mixture = get_mixture("flan2022")
    with pytest.raises(MixtureMissingError, match=r"data of 1,645 of 1,838 tasks are missing"):
        realise(mixture)
    rest = realise(mixture, allow_missing=True)
    assert set(rest.mixture.rates) == {task.name for task in tasks_of("t0_sf")}
    assert len(rest.missing) == 1_645 and "aeslc" in rest.missing


def test_a_cap_holds_for_each_natural_instructions_task():
    mixture = get_mixture("niv2")
    sizes = {task.name: task.num_train or 0 for task in mixture.tasks()}
    assert sum(size > 5_000 for size in sizes.values()) == 577
    assert mixture.rates == {name: min(size, 5_000) for name, size in sizes.items()}


def test_no_option_is_one_too_many():
    options = [f"answer {i}" for i in range(40)]
    for seed in range(50):
        block = drawn_block(options, Draws(seed), FLAN_STYLES)
        assert len(set(block.labels)) == 40
        assert all(option in block.text for option in options)


def test_every_task_says_under_which_licence_its_rows_are():
    """Or that the dataset's page does not state one."""
    for task in tasks_of(ALL):
        assert len(task.licence.strip()) > 2, task.name


def test_nothing_is_fetched_from_dumps_of_rendered_prompts():
    hosts = set()
    for task in all_tasks():
        for download in task.source.downloads():
            if isinstance(download, Download):
                hosts.add(re.match(r"https://[^/]+/(?:datasets/)?[^/]+/[^/]+", download.url)[0])
    dumps = re.compile("conceptofmind|lorahub|DataProvenance|open-orca", re.IGNORECASE)
    assert len(hosts) >= 5
    assert not [host for host in hosts if dumps.search(host)]


def test_pubmedqa_is_in_training():
    """Papers that call PubmedQA held out overlook that Natural Instructions has it."""
    found = [task.name for task in tasks_of("niv2") if dataset_of(task) == "pubmed_qa"]
    assert len(found) == 5


def test_the_hash_of_the_collection_is_the_same_in_another_process():
    code = (
        "import flan_jax.mixtures\n"
        "from flan_jax.fingerprint import mixture_hash\n"
        "from flan_jax.mixing import get_mixture\n"
        "print(mixture_hash(get_mixture('flan2022')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mixture_hash(get_mixture("flan2022"))


def test_no_template_stands_twice_in_its_section():
    for task in {task.template_file: task for task in tasks_of(ALL)}.values():
        for section, templates in task.sections().items():
            wordings = [(t.inputs, t.targets, t.instruction, t.layout) for t in templates]
            assert len(set(wordings)) == len(wordings), (task.template_file, section)


def test_lengths_are_flans_own():
    text = (ROOT / "gin" / "mixtures" / "flan2022.gin").read_text(encoding="utf-8")
    assert "{'inputs': 2048, 'targets': 512}" in text


def test_no_answer_runs_on_from_the_list_of_options():
    """In few-shot prompts something must stand between the last option and the answer."""
    with_options = {task.template_file: task for task in tasks_of(ALL) if task.has_options}
    assert len(with_options) > 30
    for task in with_options.values():
        for template in task.templates_of("fs_opt"):
            if template.layout and template.inputs.rstrip().endswith("{{ options }}"):
                assert template.layout.before_target.strip(), template.where
