"""What a checkpoint was trained on, and what a report says of it."""

from __future__ import annotations

import numpy as np

import flan_jax.mixtures  # noqa: F401  (the tasks that are scored)
from flan_jax.checkpoints.manager import CheckpointManager, SaveCheckpointConfig
from flan_jax.evaluation.protocol import EvalProtocol
from flan_jax.evaluation.report import Run, held_out_verdict, write_report
from flan_jax.evaluation.requests import plan
from flan_jax.evaluation.scores import HELD_IN, HELD_OUT, OVERALL, UNKNOWN, score
from flan_jax.evaluation.trained_on import trained_before, trained_on_of


def save(folder, step, document) -> str:
    manager = CheckpointManager(folder, SaveCheckpointConfig())
    manager.save(step, {"step": np.int32(step)}, document, wait=True)
    manager.close()
    return manager.path(step)


def stream(mixture):
    return {"stream": {"mixture_or_task_name": mixture}, "start_step": 0}


def test_mixtures_of_a_run_and_of_those_before_it(tmp_path):
    first = save(tmp_path / "first", 3, stream("cot") | {"initial_checkpoint": None})
    second = save(tmp_path / "second", 5, stream("micro") | {"initial_checkpoint": first})
    assert trained_on_of(first) == ("cot",)
    assert trained_on_of(second) == ("micro", "cot")
    gone = str(tmp_path / "gone" / "checkpoint_1")
    third = save(tmp_path / "third", 7, stream("micro") | {"initial_checkpoint": gone})
    assert trained_on_of(third) == ("micro", gone)
    silent = save(tmp_path / "silent", 1, {"start_step": 0})
    assert trained_on_of(silent) is None
    assert trained_before(silent) == (silent,)


def test_models_from_elsewhere_do_not_say(tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert trained_on_of(str(folder)) is None
    assert trained_before(str(folder)) == ()
    assert trained_before(None) == ()


def _scores(vocabulary, trained):
    tasks = ("micro_count_items", "micro_fewer_of")
    protocol = EvalProtocol("quiz", tasks, num_examples=3)
    requests = plan(protocol, vocabulary, 512, trained=trained)
    return score(requests, {request.id: "5" for request in requests})


def test_only_what_is_known_to_be_held_out_is_called_so(vocabulary, tmp_path):
    known = _scores(vocabulary, "micro")
    assert list(known.summary()) == [HELD_IN, HELD_OUT, OVERALL]
    assert known.held_out.members == ("micro_fewer_of",)
    # Trained on this very task, whatever its definition says.
    seen = _scores(vocabulary, ("micro", "micro_fewer_of"))
    assert list(seen.summary()) == [HELD_IN, OVERALL]
    unknown = _scores(vocabulary, None)
    assert list(unknown.summary()) == [UNKNOWN, OVERALL]
    assert unknown.as_dict()["tasks"]["micro_fewer_of"]["held_out"] is None
    run = Run("Zero-shot", unknown)
    assert "not known what the model was trained on" in held_out_verdict(run)
    page = write_report(tmp_path / "report.html", title="Quiz", runs=[run]).read_text()
    assert "Unknown exposure" in page and ">Held-out<" not in page
    page = write_report(tmp_path / "report.html", title="Quiz", runs=[Run("Zero-shot", known)])
    assert ">Held-out<" in page.read_text()
