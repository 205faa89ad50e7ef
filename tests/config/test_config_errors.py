"""The full text of every kind of problem, and that all of them come in one message."""

from __future__ import annotations

import gin
import pytest

from flan_jax.config import ConfigError, load

SET = ["MODEL_DIR = '/tmp/x'", "TRAIN_STEPS = 5"]


def test_good_config_loads_and_runs(good):
    load([good], SET, required=("cfg_train",))
    found = gin.get_configurable("cfg_train")()
    assert found["total_steps"] == 5
    assert found["train_dataset_cfg"].batch_size == 128
    assert found["model"].vocabulary.size == 256
    assert found["learning_rate_fn"](0) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cfg_models.Model.emb_dim = 64 65",
            "x.gin:1: syntax error: Expected newline: 'cfg_models.Model.emb_dim = 64 65'",
        ),
        (
            "cfg_models.Model.emb_dim =",
            "x.gin:1: syntax error: a value must follow '=': 'cfg_models.Model.emb_dim ='",
        ),
        (
            "cfg_utils.FeedConfig.pack = true",
            "x.gin:1: syntax error: cannot read the value true: a string needs quotes; did you "
            "mean 'True'?: 'cfg_utils.FeedConfig.pack = true'",
        ),
        (
            "# a comment\n\ncfg_train.tags = ['a', 'b'\ncfg_train.total_steps = 3",
            "x.gin:3: syntax error: a bracket or string opened here is never closed: "
            "\"cfg_train.tags = ['a', 'b'\"",
        ),
        (
            "cfg_train.tags = ['a',\n",
            "x.gin:1: syntax error: a bracket or string opened here is never closed: "
            "\"cfg_train.tags = ['a',\"",
        ),
        (
            "cfg_utils.FeedConfig:\n  pack = True\n  batch_size: 3\n",
            "x.gin:3: syntax error: Expected '=': 'batch_size: 3'",
        ),
        (
            "just words",
            "x.gin:1: syntax error: Couldn't parse statement, expected ':' or '=': 'just words'",
        ),
    ],
)
def test_syntax_errors(write, complaints, text, message):
    assert complaints([write("x.gin", text)]) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "cfg_utils.FeedConfg.pack = True",
            "no configurable is called 'cfg_utils.FeedConfg'; did you mean 'cfg_utils.FeedConfig'?",
        ),
        (
            "cfg_model.Coach.names = ()",
            "no configurable is called 'cfg_model.Coach'; did you mean 'cfg_trainer.Coach'?",
        ),
        (
            "cfg_left.FeedConfig.pack = True",
            "no configurable is called 'cfg_left.FeedConfig'; did you mean 'cfg_utils.FeedConfig'?",
        ),
        (
            "cfg_train.totl_steps = 5",
            "cfg_script.cfg_train has no parameter 'totl_steps'; did you mean 'total_steps'?",
        ),
        (
            "TestVocabulary.qqq = 5",
            "cfg_vocab.TestVocabulary has no parameter 'qqq'; its parameters: size",
        ),
        (
            "cfg_train.secret = 5",
            "cfg_script.cfg_train does not let 'secret' be configured; it can be given: model, "
            "train_dataset_cfg, model_dir, total_steps, eval_period, learning_rate_fn, "
            "trainer_cls, tags, broken",
        ),
        (
            "twin.x = 5",
            "'twin' is ambiguous: write one of cfg_left.twin, cfg_right.twin",
        ),
        (
            "cfg_train.model = @cfg_models.Modl()",
            "in the reference @cfg_models.Modl(): no configurable is called 'cfg_models.Modl'; "
            "did you mean 'cfg_models.Model'?",
        ),
        (
            "cfg_train.tags = ['a', %TAGG]",
            "macro %TAGG, used by cfg_script.cfg_train.tags, is nowhere set",
        ),
        (
            "cfg_train.model_dir = %gin.REQUIRED",
            "cfg_script.cfg_train.model_dir is required and not set: pass "
            "--gin.cfg_script.cfg_train.model_dir=VALUE or set it in a gin file",
        ),
        ("STEPS = 5", "macro STEPS is set but nothing uses it"),
        (
            "total_steps = 5\ncfg_train.total_steps = 6",
            "macro total_steps is set but nothing uses it; did you mean "
            "'cfg_script.cfg_train.total_steps'?",
        ),
        ("include 'nowhere.gin'", None),
    ],
)
def test_names(write, complaints, text, message):
    lines = complaints([write("x.gin", "\n" + text)])
    if message is None:
        assert lines[0].startswith("x.gin:2: gin file 'nowhere.gin' not found; looked in .")
    else:
        assert lines == [f"x.gin:2: {message}"]


def test_kwargs_take_any_name(write):
    load([write("x.gin", "cfg_utils.anything.whatever = 1")])
    assert gin.get_configurable("anything")() == {"whatever": 1}


def test_undefined_macro_is_suggested(good, complaints):
    lines = complaints([good], [*SET, "cfg_train.eval_period = %TRAIN_STEP"])
    assert lines == [
        "command line: --gin.cfg_train.eval_period=%TRAIN_STEP: macro %TRAIN_STEP, used by "
        "cfg_script.cfg_train.eval_period, is nowhere set; did you mean 'TRAIN_STEPS'?"
    ]


def test_misspelt_macro_on_the_command_line(good, complaints):
    lines = complaints([good], ["MODEL_DIR = '/tmp/x'", "TRAIN_STEP = 5"])
    assert lines == [
        "good.gin:2: TRAIN_STEPS is required and not set: pass --gin.TRAIN_STEPS=VALUE or set it "
        "in a gin file",
        "command line: --gin.TRAIN_STEP=5: macro TRAIN_STEP is set but nothing uses it; did you "
        "mean 'TRAIN_STEPS'?",
    ]


def test_macros_used_only_by_unused_macros_are_unused(write, complaints):
    lines = complaints([write("x.gin", "A = 1\nB = %A\nC = [%B]")])
    assert [line.split(" is")[0] for line in lines] == [
        "x.gin:1: macro A",
        "x.gin:2: macro B",
        "x.gin:3: macro C",
    ]


def test_macros_of_misspelt_parameters_are_not_reported_again(write, complaints):
    text = "STEPS = 1\nN = %STEPS\ncfg_train.totl_steps = %N\ncfg_tran:\n  tags = [%STEPS]\n"
    assert complaints([write("x.gin", text)]) == [
        "x.gin:3: cfg_script.cfg_train has no parameter 'totl_steps'; did you mean 'total_steps'?",
        "x.gin:4: no configurable is called 'cfg_tran'; did you mean 'cfg_train'?",
    ]


def test_macros_may_be_allowed_to_stay_unused(write):
    load([write("x.gin", "A = 1\nALLOW_UNUSED_MACROS = ['A']")])


def test_circular_macros(write, complaints):
    lines = complaints([write("x.gin", "A = %B\nB = [%A]\ncfg_train.tags = %A")])
    assert lines == [
        "x.gin:1: macro A is defined by itself",
        "x.gin:2: macro B is defined by itself",
    ]


def test_overridden_uses_excuse_macros_of_files_but_not_of_the_command_line(good, complaints):
    direct = ["MODEL_DIR = '/tmp/x'", "cfg_train.total_steps = 7"]
    load([good], ["TRAIN_STEPS = 9", *SET, "cfg_train.eval_period = %TRAIN_STEPS"])
    lines = complaints([good], [*direct, "TRAIN_STEPS = 5"])
    assert lines == [
        "command line: --gin.TRAIN_STEPS=5: macro TRAIN_STEPS has no effect: "
        "cfg_script.cfg_train.total_steps uses it at good.gin:7, but command line: "
        "--gin.cfg_train.total_steps=7 overrides that; set cfg_script.cfg_train.total_steps instead"
    ]


def test_file_macro_made_moot_is_fine(write):
    name = write("x.gin", "STEPS = 5\ncfg_train.total_steps = %STEPS")
    assert load([name], ["cfg_train.total_steps = 7"]).values() == {
        "STEPS": 5,
        "cfg_script.cfg_train.total_steps": 7,
    }


def test_missing_parameters_of_what_is_reachable(write, complaints):
    text = (
        "cfg_train.model = @small/cfg_models.Model()\n"
        "small/cfg_models.Model.emb_dim = 8\n"
        "cfg_train.total_steps = 5\n"
        "cfg_train.model_dir = 'x'\n"
        "CFG = @train/cfg_utils.FeedConfig()\n"
        "cfg_utils.FeedConfig.batch_size = 3\n"
        "train_eval/cfg_utils.FeedConfig.mixture_or_task_name = 'elsewhere'\n"
        "cfg_train.trainer_cls = @cfg_trainer.Coach\n"  # its caller gives it what it needs
    )
    name = write("x.gin", text + "cfg_utils.anything.unreached = %CFG\n")
    assert complaints([name], required=("cfg_train",)) == [
        "x.gin:1: small/cfg_models.Model is called without the required parameter 'vocabulary': "
        "set small/cfg_models.Model.vocabulary",
        "configuration: cfg_script.cfg_train is called without the required parameter "
        "'train_dataset_cfg': set cfg_script.cfg_train.train_dataset_cfg",
    ]
    name = write("y.gin", text + "cfg_train.train_dataset_cfg = %CFG\n")
    assert complaints([name], required=("cfg_train",))[1:] == [
        "y.gin:5: train/cfg_utils.FeedConfig is called without the required parameters "
        "'mixture_or_task_name', 'task_feature_lengths': set "
        "train/cfg_utils.FeedConfig.mixture_or_task_name and so on",
    ]


def test_scope_of_a_macro_reaches_what_it_calls(write):
    # gin calls the macro CFG in the scope CFG, and so whatever it refers to.
    name = write(
        "x.gin",
        "CFG = @cfg_models.Model()\ncfg_trainer.Coach.model = %CFG\n"
        "CFG/cfg_models.Model.emb_dim = 8\nCFG/Model.vocabulary = @TestVocabulary()\n"
        "Coach.learning_rate_fn = @constant_rate()\n",
    )
    load([name], required=("cfg_trainer.Coach",))
    assert gin.get_configurable("cfg_trainer.Coach")().model.emb_dim == 8


def test_unknown_root(complaints):
    assert complaints(required=("cfg_trian",)) == [
        "configuration: 'cfg_trian', which is to be run, is not registered with gin; did you mean "
        "'cfg_train'?"
    ]


def test_missing_import(write, complaints):
    name = write("x.gin", "import cfg_no_such_module\ncfg_no_such_module.f.x = 1")
    assert complaints([name]) == [
        "x.gin:1: cannot import 'cfg_no_such_module': there is no module 'cfg_no_such_module'; "
        "is its folder on PYTHONPATH?"
    ]


def test_failing_import(write, folder, monkeypatch, complaints):
    (folder / "cfg_raises.py").write_text("raise KeyError('oh')")
    (folder / "cfg_needs.py").write_text("import cfg_absent")
    monkeypatch.syspath_prepend(str(folder))
    name = write("x.gin", "import cfg_raises\nimport cfg_needs")
    assert complaints([name]) == [
        "x.gin:1: cannot import 'cfg_raises': it raised KeyError: 'oh'",
        "x.gin:2: cannot import 'cfg_needs': it needs 'cfg_absent', which is not installed",
    ]


def test_everything_at_once(write, complaints):
    write(
        "sub/model.gin",
        "cfg_models.Model.emb_dmi = 64\nWIDTH = 64\ncfg_models.Model.dropout_rate = '0.1'\n",
    )
    write("dup.gin", "cfg_models.Model.emb_dim = %WIDHT\n")
    name = write(
        "x.gin",
        "include 'sub/model.gin'\n"
        "cfg_train.model_dir = %gin.REQUIRED\n"
        "cfg_train.tags = [1 2]\n"
        "cfg_train.total_steps = 1e6\n"
        "include 'dup.gin'\n"
        "cfg_utils.FeedConfg:\n  pack = True\n  shuffle = False\n",
    )
    lines = complaints([name], ["EVAL = 5", "cfg_train.modl = 1"], required=("cfg_train",))
    assert [line.split(": ")[0] for line in lines] == [
        "x.gin:2",
        "x.gin:3",
        "x.gin:4",
        "x.gin:6",
        "sub/model.gin:1",
        "sub/model.gin:2",
        "sub/model.gin:3",
        "dup.gin:1",
        "command line",
        "command line",
        "configuration",
    ]
    assert not gin.config_str().strip()  # nothing was bound


def test_what_was_bound_survives_a_bad_config(good, complaints):
    load([good], SET)
    complaints([good], ["cfg_train.totl_steps = 1"])
    assert gin.query_parameter("TRAIN_STEPS/macro.value") == 5


def test_problems_are_available_as_data(good):
    with pytest.raises(ConfigError) as caught:
        load([good])
    first = caught.value.problems[0]
    assert (first.location.source, first.location.line) == ("good.gin", 1)
    assert first.message.startswith("MODEL_DIR is required")


def test_one_string_is_not_a_sequence_of_files(good):
    with pytest.raises(TypeError, match="sequences of strings"):
        load(good)


def test_objection_of_a_finalize_hook(good, monkeypatch):
    def object_to_everything(config):
        raise ValueError("not today")

    monkeypatch.setattr(gin.config, "_FINALIZE_HOOKS", [object_to_everything])
    with pytest.raises(ConfigError, match="gin refuses it: not today"):
        load([good], SET)


def test_no_single_slip_breaks_the_checks(good, folder):
    """Whatever one character is lost or turned into another, the answer is a ConfigError."""
    text = (folder / good).read_text()
    slips = 0
    for position in range(len(text)):
        other = ("", "@", "(", "'", "\n")[position % 5]
        slip = text[:position] + other + text[position + 1 :]
        (folder / "slip.gin").write_text(slip)
        try:
            load(["slip.gin"], SET, required=("cfg_train",))
        except ConfigError as error:
            slips += 1
            for problem in error.problems:  # each is somewhere, on one line
                assert problem.location.source and "\n" not in problem.message, slip
    assert slips > 0.8 * len(text)


def test_placeholders_stand_only_where_a_macro_is_said_to_be_required(good, complaints):
    placeholders = {"MODEL_DIR": "", "TRAIN_STEPS": 0, "BATCH_SIZE": 1, "NOWHERE": 2}
    load([good], [], required=("cfg_train",), placeholders=placeholders)
    found = gin.get_configurable("cfg_train")()
    assert (found["model_dir"], found["total_steps"]) == ("", 0)
    assert found["train_dataset_cfg"].batch_size == 128
    load([good], ["TRAIN_STEPS = 5"], required=("cfg_train",), placeholders=placeholders)
    assert gin.get_configurable("cfg_train")()["total_steps"] == 5
    (line,) = complaints([good], placeholders={"TRAIN_STEPS": 0})
    assert "MODEL_DIR is required and not set" in line
