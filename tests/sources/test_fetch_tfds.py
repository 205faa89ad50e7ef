"""Fetching TFDS datasets: a real tiny one, prepared by TFDS in a worker thread."""

from __future__ import annotations

import pytest
import tensorflow_datasets as tfds

from flan_jax.sources.downloads import TfdsDownload
from flan_jax.sources.fetch import fetch
from flan_jax.sources.tfds import TfdsSource

pytestmark = pytest.mark.slow  # TFDS imports TensorFlow


class FlanJaxTinyFetch(tfds.core.GeneratorBasedBuilder):
    """Three rows; with a config whose files have to be put there by hand."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="made"),
        tfds.core.BuilderConfig(name="by_hand"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask for rows.txt."

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        texts = ["one", "two", "three"]
        if self.builder_config.name == "by_hand":
            texts = (dl_manager.manual_dir / "rows.txt").read_text().split()
        return {"train": self._generate_examples(texts)}

    def _generate_examples(self, texts):
        for i, text in enumerate(texts):
            yield i, {"text": text}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_MANUAL_DIR", raising=False)
    monkeypatch.setenv("FLAN_JAX_DATA", str(tmp_path))
    return tmp_path


def rows(config: str) -> set[str]:
    source = TfdsSource(f"flan_jax_tiny_fetch/{config}:1.0.0", {"train": "train"})
    source.check_present()
    return {source.row("train", i)["text"] for i in range(source.num_examples("train"))}


def test_a_builder_is_prepared_once_and_then_there(folder):
    wanted = [TfdsDownload("flan_jax_tiny_fetch/made:1.0.0")]
    (outcome,) = fetch(wanted, folder).outcomes
    assert (outcome.status, outcome.name) == ("fetched", "flan_jax_tiny_fetch/made:1.0.0")
    assert rows("made") == {"one", "two", "three"}
    (again,) = fetch(wanted, folder).outcomes
    assert again.status == "there"


def test_files_that_tfds_cannot_download(folder):
    how = "Ask the authors for rows.txt."
    wanted = [TfdsDownload("flan_jax_tiny_fetch/by_hand:1.0.0", manual=how)]
    (outcome,) = fetch(wanted, folder).outcomes
    assert outcome.status == "manual"
    assert how in outcome.detail and str(folder / "manual") in outcome.detail
    (folder / "manual").mkdir(exist_ok=True)
    (folder / "manual/rows.txt").write_text("four five")
    (outcome,) = fetch(wanted, folder).outcomes
    assert outcome.status == "fetched", outcome.detail
    assert rows("by_hand") == {"four", "five"}
