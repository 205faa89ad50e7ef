"""T5X's flags for argparse, and the quoting of their values."""

from __future__ import annotations

import argparse
import subprocess
import sys

import gin
import pytest

from flan_jax.config import (
    ConfigError,
    GinFlags,
    add_gin_arguments,
    gin_flags,
    load,
    quote_if_bare,
    rewrite_gin_arguments,
)


def parse(*argv: str) -> GinFlags:
    parser = argparse.ArgumentParser()
    add_gin_arguments(parser)
    return gin_flags(parser.parse_args(rewrite_gin_arguments(argv)))


def test_all_flags_in_order():
    assert parse(
        "--gin_file=a.gin",
        "--gin.TRAIN_STEPS=5",
        "--gin_file",
        "b.gin",
        "--gin_bindings=train.total_steps = 6",
        "--gin_search_paths=x,y",
        "--gin_search_paths= z",
        "--gin.train/FeedConfig.batch_size=8",
        "--gin.MODEL=@models.EncoderDecoderModel()",
    ) == GinFlags(
        gin_files=("a.gin", "b.gin"),
        bindings=(
            "TRAIN_STEPS = 5",
            "train.total_steps = 6",
            "train/FeedConfig.batch_size = 8",
            "MODEL = @models.EncoderDecoderModel()",
        ),
        search_paths=("x", "y", "z"),
    )


def test_defaults_do_not_pile_up():
    assert parse("--gin_file=a.gin").gin_files == ("a.gin",)
    assert parse() == GinFlags((), (), (".",))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("/tmp/x", "'/tmp/x'"),
        ("'/tmp/x'", "'/tmp/x'"),
        ('"/tmp/x"', '"/tmp/x"'),
        ("gs://bucket/a b", "'gs://bucket/a b'"),
        ("it's", '"it\'s"'),
        ("train", "'train'"),
        ("train[:10%]", "'train[:10%]'"),
        ("constant * rsqrt_decay", "'constant * rsqrt_decay'"),
        ("true", "'true'"),
        ("1,2", "'1,2'"),
        ("5#1", "'5#1'"),
        ("2024-01-01", "'2024-01-01'"),
        ("v1.0", "'v1.0'"),
        ("\\d+", "'\\\\d+'"),
        ("5", "5"),
        ("-5", "-5"),
        ("1e-3", "1e-3"),
        ("None", "None"),
        ("True", "True"),
        ("  7 ", "7"),
        ("(1, 'a')", "(1, 'a')"),
        ("{'inputs': %N}", "{'inputs': %N}"),
        ("%TRAIN_STEPS", "%TRAIN_STEPS"),
        ("@train/utils.FeedConfig()", "@train/utils.FeedConfig()"),
        ("[1, 2", "[1, 2"),  # broken: reported, not turned into a string
        ("'/tmp/x", "'/tmp/x"),
        ("", ""),
    ],
)
def test_quoting(given, text):
    assert quote_if_bare(given) == text


@pytest.mark.parametrize("value", ["/tmp/x", "'/tmp/x'", '"/tmp/x"'])
def test_t5x_quotes_and_none_mean_the_same(value):
    flags = parse(f"--gin.cfg_train.model_dir={value}")
    load(flags.gin_files, flags.bindings, flags.search_paths)
    assert gin.query_parameter("cfg_train.model_dir") == "/tmp/x"


def test_value_may_hold_equals_signs_and_hashes():
    flags = parse("--gin.cfg_train.model_dir=/a=b#c")
    load((), flags.bindings)
    assert gin.query_parameter("cfg_train.model_dir") == "/a=b#c"


def test_missing_equals_sign():
    with pytest.raises(ConfigError) as caught:
        parse("--gin.TRAIN_STEPS", "5")
    assert str(caught.value).splitlines()[1] == (
        "command line: --gin.TRAIN_STEPS: expected --gin.TRAIN_STEPS=VALUE, with '=' and no "
        "spaces around it"
    )


def test_empty_and_broken_values_are_reported(complaints):
    flags = parse("--gin.cfg_train.total_steps=", "--gin.cfg_train.tags=['a'")
    assert complaints((), flags.bindings) == [
        "command line: --gin.cfg_train.total_steps=: syntax error: a value must follow '=': "
        "'cfg_train.total_steps ='",
        "command line: --gin.cfg_train.tags=['a': syntax error: a bracket or string opened here "
        "is never closed: \"cfg_train.tags = ['a'\"",
    ]


def test_arguments_after_a_double_dash_are_left_alone():
    assert rewrite_gin_arguments(["--gin.A=1", "--", "--gin.B=2"]) == [
        "--gin_bindings=A = 1",
        "--",
        "--gin.B=2",
    ]


def test_help_explains_quoting(capsys):
    parser = argparse.ArgumentParser()
    add_gin_arguments(parser)
    parser.print_help()
    text = " ".join(capsys.readouterr().out.split())
    assert """--gin.MODEL_DIR="'/tmp/x'" mean the same""" in text
    assert "or a macro (%NAME)" in text


def test_start_up_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, flan_jax.config; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'tensorflow', 'torch'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
