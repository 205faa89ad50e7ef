"""The job's own files, as `rate`, `auc` and `toxicity` take them."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from flan_jax.cli.evaluating import auc, rate, toxicity
from flan_jax.evaluation.benchmarks import BenchmarkProtocol
from flan_jax.evaluation.generation import GenerationEvaluator
from flan_jax.sharding import PjitPartitioner
from flan_jax.sources.folder import ENVIRONMENT_VARIABLE
from tests.evaluation.test_answering import MODEL

pytestmark = pytest.mark.slow
SAMPLED = {"num_examples": 1, "temperature": 1.0, "max_decode_len": 6}
PROTOCOLS = (
    BenchmarkProtocol("open_ended", paths=5, name="open_ended", **SAMPLED),
    BenchmarkProtocol("identity_terms", paths=3, topk=40, name="identity_terms", **SAMPLED),
    BenchmarkProtocol("toxicity_wiki", num_examples=40),
    BenchmarkProtocol("winogender", num_examples=3),
)


@pytest.fixture(scope="module")
def folders(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Results of two untrained models."""
    partitioner = PjitPartitioner(num_partitions=1).for_decoding()
    mesh = partitioner.make_mesh(jax.devices()[:1])
    evaluator = GenerationEvaluator(PROTOCOLS, 64, batch_size=20)
    folders = []
    with pytest.MonkeyPatch.context() as patch, partitioner.use(mesh):
        patch.setenv(ENVIRONMENT_VARIABLE, str(test_data))
        sharding = partitioner.batch_sharding(mesh, 20)
        for seed in range(2):
            folder = tmp_path_factory.mktemp("results")
            params = MODEL.init(jax.random.key(seed))
            evaluator.run(MODEL, params, sharding, "untrained", 0, folder)
            folders.append(folder / "inference_eval")
    return folders


def test_pairs_are_made_of_the_samples_that_the_rule_chooses(folders, tmp_path: Path, capsys):
    page = tmp_path / "rating.html"
    assert rate.main([*(str(f / "open_ended") for f in folders), "--out", str(page)]) == 0
    assert "9 pairs" in capsys.readouterr().out
    rows = [
        json.loads(line)
        for file in (folders[0] / "open_ended").glob("*-000000.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    for row in rows:
        assert len(row["paths"]) == 5
        assert all(path["logprob"] <= 0 for path in row["paths"])


def test_the_area_is_that_of_the_options_likelihoods(folders, capsys):
    assert auc.main([str(folders[0] / "toxicity_wiki"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["positives"] + found["negatives"] == 40
    assert 0 <= found["interval"][0] <= found["value"] <= found["interval"][1] <= 100


def test_continuations_are_judged_by_group(folders, tmp_path: Path, capsys):
    words = tmp_path / "words.tsv"
    words.write_text("idiot\t0.8\n", encoding="utf-8")
    folder = str(folders[0] / "identity_terms")
    toxicity.main([folder, "--scorer", "lexicon", "--lexicon", str(words), "--format", "json"])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert set(groups) == {"age", "disability", "ethnicity", "gender", "orientation", "religion",
                           "all"}  # fmt: skip
    assert groups["all"]["prompts"] == 6
    assert groups["all"]["continuations"] == 3


def test_winogender_is_scored_by_kind(folders):
    files = sorted(file.name for file in (folders[0] / "winogender").glob("*-000000.jsonl"))
    assert files == [f"{kind}-000000.jsonl" for kind in ("gotcha", "neutral", "stereotypical")]
