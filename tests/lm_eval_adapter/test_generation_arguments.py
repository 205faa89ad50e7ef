from __future__ import annotations

import pytest

from flan_jax.errors import UserError
from flan_jax.lm_eval_adapter.generation_arguments import cut, read_arguments


def test_a_tasks_usual_arguments_are_greedy():
    way = read_arguments(
        {"until": ["</s>", "Q", "\n\n"], "do_sample": False, "temperature": 0.0}, 99
    )
    assert (way.config.max_decode_len, way.config.temperature) == (99, 0.0)
    assert way.until == ("</s>", "Q", "\n\n")


def test_do_sample_false_outweighs_a_temperature():
    assert read_arguments({"do_sample": False, "temperature": 0.7}, 9).config.temperature == 0.0
    assert read_arguments({"temperature": 0.7}, 9).config.temperature == 0.7
    assert read_arguments({"do_sample": True}, 9).config.temperature == 1.0


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_lengths_have_several_names(name: str):
    assert read_arguments({name: "7"}, 99).config.max_decode_len == 7
    assert read_arguments({"max_gen_toks": 3, name: 3}, 99).config.max_decode_len == 3


def test_filters_and_beams():
    sampled = read_arguments({"temperature": 0.5, "top_k": 40, "top_p": 0.9}, 9).config
    assert (sampled.topk, sampled.topp) == (40, 0.9)
    beams = read_arguments({"num_beams": 4}, 9).config
    assert (beams.method, beams.num_decodes, beams.alpha) == ("beam", 4, 1.0)


def test_mistakes_are_told():
    with pytest.raises(UserError, match=r"'temperatur'.*did you mean 'temperature'"):
        read_arguments({"temperatur": 1}, 9)
    with pytest.raises(UserError, match="topp must be"):
        read_arguments({"temperature": 1, "top_p": 2}, 9)


def test_the_first_stop_text_counts():
    assert cut("a b Q: c\n\nd", ("\n\n", "Q")) == "a b "
    assert cut("nothing here", ("Q",)) == "nothing here"
