"""Everything in SeqIO's registries, by nothing but `import flan_jax.mixtures`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # importing SeqIO takes about 8 s
ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = ROOT / "mixtures" / "micro" / "vocabulary"


def _python(code: str, data: Path | str = "/absent", **environment: str) -> list:
    """What a process of its own prints, line by line, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=ROOT, timeout=500,
        env={**os.environ, "FLAN_JAX_DATA": str(data), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]


NAMES = """
import json
{imports}
from flan_jax.mixing import all_mixtures, deferred_mixtures, get_mixture
from flan_jax.tasks import all_tasks
tasks, mixtures = set(seqio.TaskRegistry.names()), set(seqio.MixtureRegistry.names())
wanted = [t.name for t in all_tasks()]
variants = [f"{{t.name}}_{{v}}" for t in all_tasks() for v in t.variants()]
local = {{"real"}}
ours = [n for n in [*(m.name for m in all_mixtures()), *deferred_mixtures()] if n not in local]
print(json.dumps([n for n in [*wanted, *variants] if n not in tasks]))
print(json.dumps([n for n in ours if n not in mixtures]))
print(json.dumps([len(wanted), len(ours), len(local & mixtures)]))
wrong = []
for name in ours:
    rates = seqio.MixtureRegistry.get(name)._task_to_rate
    shares = get_mixture(name).proportions()
    if len(rates) != len(shares) or abs(sum(rates.values()) - 1) > 1e-9:
        wrong.append(name)
    for task, share in shares.items():
        found = [n for n in (task, f"{{name}}:{{task}}") if n in rates]
        found += [n for n in rates if n.startswith(f"{{task}}_") and n[len(task) + 1:3 + len(task)]
                  in ("zs", "fs")]
        if len(found) != 1 or abs(rates[found[0]] - share) > 1e-12:
            wrong.append([name, task, found])
print(json.dumps(wrong[:10]))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import seqio, flan_jax.mixtures",
        pytest.param("import flan_jax.mixtures, seqio", marks=pytest.mark.exhaustive),
    ],
)
def test_every_task_and_mixture_is_there_in_either_order(imports):
    tasks, mixtures, counts, wrong = _python(NAMES.format(imports=imports))
    assert tasks == mixtures == wrong == []
    assert counts[0] > 1838 and counts[1] > 38 and counts[2] == 0


def test_without_seqio_none_of_it_is_loaded():
    code = (
        "import json, sys, flan_jax.mixtures\n"
        "from flan_jax.mixing import get_mixture\n"
        "get_mixture('micro')\n"
        "print(json.dumps([m for m in ('seqio', 'tensorflow', 'flan_jax.seqio_registry',"
        " 'flan_jax.mixtures.niv2') if m in sys.modules]))"
    )
    assert _python(code) == [[]]


READ = """
import json
import seqio
import flan_jax.mixtures
provider = seqio.get_mixture_or_task({name!r})
# A task gives all it has, a mixture what is asked for.
asked = {{"passthrough_features": {features!r}}} if isinstance(provider, seqio.Mixture) else {{}}
dataset = provider.get_dataset({{"inputs": 256, "targets": 64}}, {split!r}, seed=3, **asked)
for _, row in zip(range({count}), dataset.as_numpy_iterator()):
    kept = {{k: row[k] for k in ("inputs", "targets", *{features!r})}}
    found = {{k: v.decode() if isinstance(v, bytes) else v.tolist() for k, v in kept.items()}}
    print(json.dumps(found))
"""
METADATA = ["task", "template", "variant", "row_id", "split", "index", "epoch"]


def _read(name: str, count: int, data: Path, split="train", features=METADATA) -> list[dict]:
    return _python(READ.format(name=name, count=count, split=split, features=features), data)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory) -> Path:
    """A data folder with the micro collection's vocabulary in the place of T5's."""
    folder = tmp_path_factory.mktemp("data")
    (model,) = VOCABULARY.glob("*.model")
    (folder / "t5_vocab").mkdir()
    (folder / "t5_vocab" / "spiece.model").symlink_to(model)
    return folder


@pytest.fixture(scope="module")
def micro_rows(small_data) -> list[dict]:
    return _read("micro", 60, small_data)


def test_a_mixture_s_rows_say_where_they_come_from(micro_rows):
    assert len(micro_rows) == 60
    for row in micro_rows:
        assert set(row) == {"inputs", "targets", *METADATA}
        assert row["row_id"] == f"{row['task']}/{row['split']}/{row['index']}"
        assert row["task"].startswith("micro_") and row["split"] == "train"
        assert row["variant"][:3] in ("zs_", "fs_") and row["template"] >= 0
        assert row["inputs"][-1] == row["targets"][-1] == 1  # end of sequence
    assert len({row["task"] for row in micro_rows}) > 20
    assert len({row["variant"] for row in micro_rows}) > 3


def test_the_rows_are_those_of_our_own_renderer(small_data, micro_rows):
    import flan_jax.mixtures  # noqa: F401
    from flan_jax.data.vocabulary import SentencePieceVocabulary
    from flan_jax.prompts.fewshot import FewShotPolicy
    from flan_jax.prompts.render import render
    from flan_jax.tasks import get_task

    vocabulary = SentencePieceVocabulary(str(small_data / "t5_vocab" / "spiece.model"), 100)
    compared = 0
    for row in micro_rows:
        example = render(
            get_task(row["task"]), "train", row["index"], seed=3, epoch=row["epoch"],
            variant=row["variant"], few_shot=FewShotPolicy(max_tokens=256),
            count_tokens=lambda text: len(vocabulary.encode(text)) + 1,
        )  # fmt: skip
        if example.variant != row["variant"]:  # nothing fitted, so it is a zero-shot one
            continue
        compared += 1
        assert row["inputs"] == [*vocabulary.encode(example.inputs)[:255], 1]
        assert row["targets"] == [*vocabulary.encode(example.targets)[:63], 1]
        assert row["template"] == example.template
    assert compared >= 45


@pytest.fixture(scope="module")
def reasoning_data(test_data, tmp_path_factory) -> Path:
    """The real chain-of-thought files, and made-up ones in the place of those not at hand."""
    folder = tmp_path_factory.mktemp("cot")
    (folder / "flan_cot").mkdir()
    (folder / "t5_vocab").symlink_to(test_data / "t5_vocab")
    for name in "aqua creak ecqa esnli gsm8k qasc qed sensemaking strategyqa".split():
        file = f"flan_cot/{name}_train.tsv"
        if (test_data / file).is_file():
            (folder / file).symlink_to(test_data / file)
        else:
            lines = [f"Is {i} a number?\tyes\t{i} is made of digits.\n" for i in range(60)]
            (folder / file).write_text("".join(lines))
    return folder


def test_real_rows(reasoning_data):
    rows = _read("cot_zsopt", 60, reasoning_data)
    assert len(rows) == 60 and len({row["task"] for row in rows}) >= 5
    assert {row["variant"] for row in rows} == {"zs_cot", "zs_inverted"}
    few = _read("cot_strategyqa_fs_inverted", 8, reasoning_data)
    assert {row["variant"] for row in few} <= {"fs_inverted", "zs_inverted"}
    assert {row["task"] for row in few} == {"cot_strategyqa"}
    assert len({row["row_id"] for row in few}) == 8
    for row in [*rows, *few]:
        assert row["row_id"] == f"{row['task']}/train/{row['index']}"
        assert len(row["inputs"]) <= 256 and len(row["targets"]) <= 64
        assert max(*row["inputs"], *row["targets"]) < 32_100


LAUNCHER = """
import json
import seqio

def train(vocabulary=None, mixture_or_task_name=None):
    mixture = seqio.get_mixture_or_task(mixture_or_task_name)
    names = sorted(task.name for task in mixture.tasks)
    print(json.dumps([type(vocabulary).__module__, vocabulary.vocab_size, names]))
"""
GIN = """
from __gin__ import dynamic_registration
import seqio
import flan_jax.mixtures
import launcher

MIXTURE_OR_TASK_NAME = "cot"
seqio.SentencePieceVocabulary.sentencepiece_model_file = {model!r}
launcher.train.vocabulary = @seqio.SentencePieceVocabulary()
launcher.train.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
"""


def test_a_gin_file_like_t5x_s_needs_nothing_but_the_import(small_data, tmp_path):
    model = small_data / "t5_vocab" / "spiece.model"
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    (tmp_path / "run.gin").write_text(GIN.format(model=str(model)))
    code = (
        "import gin, launcher\n"
        f"gin.parse_config_file({str(tmp_path / 'run.gin')!r})\n"
        "gin.get_configurable(launcher.train)()\n"
        "import json, sys\n"
        "print(json.dumps([m for m in ('t5x', 'flan_jax.data.configurables') if m in sys.modules]))"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    (module, size, names), foreign = _python(code, small_data, PYTHONPATH=path)
    assert module.startswith("seqio.")  # SeqIO's own class, not ours under its name
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
    assert size == pieces + 100 or size == pieces
    assert len(names) == 9 and "cot_creak" in names
    assert foreign == []


EXPLICIT = """
import json
import seqio
import flan_jax.mixtures
from flan_jax import seqio_tasks
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.prompts.fewshot import FewShotPolicy

def vocabulary_of(name):
    feature = seqio.get_mixture_or_task(name).output_features["inputs"]
    return type(feature.vocabulary).__name__

names = ["gsm8k", "gsm8k_zs_noopt", "cot_zsopt", "cot"]
print(json.dumps([vocabulary_of(name) for name in names]))
seqio_tasks.register("gsm8k", ByteVocabulary())
seqio_tasks.register("cot_zsopt", ByteVocabulary())
print(json.dumps([vocabulary_of(name) for name in names[:3]]))
from flan_jax.seqio_registry import register_all
from flan_jax.errors import UserError
refused = []
for again in (lambda: seqio_tasks.register("gsm8k", ByteVocabulary(), few_shot=FewShotPolicy(2, 2)),
              lambda: register_all()):
    try:
        again()
    except UserError as error:
        refused.append(str(error))
print(json.dumps(refused))
"""


def test_what_is_registered_explicitly_replaces_the_default():
    before, after, refused = _python(EXPLICIT)
    assert before == ["SentencePieceVocabulary"] * 4
    assert after == ["ByteVocabulary"] * 3
    assert len(refused) == 2 and all("SeqIO has a task '" in text for text in refused)


def test_names_that_somebody_else_has_in_seqio_are_told():
    code = (
        "import json, warnings, seqio\n"
        "source = seqio.FunctionDataSource(lambda split, shuffle_files: None, ['train'])\n"
        "seqio.TaskRegistry.add('bool_q', source, {})\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import flan_jax.mixtures\n"
        "print(json.dumps([str(w.message) for w in caught if 'flan_jax' in str(w.message)]))\n"
    )
    ((text,),) = _python(code)
    assert "SeqIO has a task 'bool_q' already" in text


def test_the_default_vocabulary_is_set_by_gin(small_data):
    code = (
        "import gin, json\n"
        "import flan_jax.mixtures, flan_jax.seqio_registry\n"
        'gin.parse_config("seqio_tasks.DefaultVocabulary.sentencepiece_model_file ='
        f" '{next(VOCABULARY.glob('*.model'))}'\\n\"\n"
        '                 "seqio_tasks.DefaultVocabulary.extra_ids = 7")\n'
        "import seqio\n"
        "vocabulary = seqio.get_mixture_or_task('cot').output_features['inputs'].vocabulary\n"
        "print(json.dumps([vocabulary.extra_ids, vocabulary.vocab_size]))\n"
    )
    from flan_jax.data.vocabulary import SentencePieceVocabulary

    expected = SentencePieceVocabulary(str(next(VOCABULARY.glob("*.model"))), 7).vocab_size
    assert _python(code) == [[7, expected]]


BROKEN = """
import json, warnings
import flan_jax.mixtures.cot
from flan_jax import tasks
tasks._TASKS.clear()  # as if a module of tasks were broken
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import seqio
texts = [str(w.message) for w in caught if "flan_jax" in str(w.message)]
print(json.dumps([hasattr(seqio, "TaskRegistry"), *texts]))
"""


def test_tasks_that_cannot_be_registered_do_not_break_seqio():
    ((imported, text),) = _python(BROKEN)
    assert imported and "SeqIO does not have flan_jax's tasks: mixture 'cot' has no tasks" in text
