"""Translation tasks of Muffin: rows in the builders' shape to fields, and their direction."""

from __future__ import annotations

import pytest

from flan_jax.draws import Draws
from flan_jax.mixtures.flan2021 import translation
from flan_jax.tasks import get_task

PAIRS = {
    "para_crawl_enes": ("es", "Spanish", "La habitación tiene vistas al mar."),
    "wmt14_enfr": ("fr", "French", "La chambre a vue sur la mer."),
    "wmt16_translate_deen": ("de", "German", "Das Zimmer hat Meerblick."),
    "wmt16_translate_tren": ("tr", "Turkish", "Odanın deniz manzarası var."),
    "wmt16_translate_csen": ("cs", "Czech", "Pokoj má výhled na moře."),
    "wmt16_translate_fien": ("fi", "Finnish", "Huoneesta on merinäköala."),
    "wmt16_translate_roen": ("ro", "Romanian", "Camera are vedere la mare."),
    "wmt16_translate_ruen": ("ru", "Russian", "Номер с видом на море."),
}
ENGLISH = "The room has a view of the sea."


def _row(name):
    return {PAIRS[name][0]: f" {PAIRS[name][2]}\n", "en": ENGLISH}


@pytest.mark.parametrize("name", PAIRS)
def test_fields_and_languages(name):
    code, language, text = PAIRS[name]
    task = get_task(name)
    assert task.languages == ("en", code)
    assert task.to_fields(_row(name)) == {
        "lang1": language,
        "lang2": "English",
        "sent1": text,
        "answer": ENGLISH,
    }


@pytest.mark.parametrize("name", PAIRS)
def test_every_template_names_what_it_asks_for(name):
    """The side to be written never stands in the input, and inputs ask for the right language."""
    task = get_task(name)
    for direction in (translation.LANGUAGES["en"], PAIRS[name][1]):
        fields = task.to_fields(_row(name))
        if fields["lang2"] != direction:
            fields = {
                "lang1": fields["lang2"],
                "lang2": fields["lang1"],
                "sent1": fields["answer"],
                "answer": fields["sent1"],
            }
        for template in (t for section in task.sections().values() for t in section):
            inputs, targets = template.render(fields)
            shown, hidden = fields["sent1"], fields["answer"]
            asked = fields["lang2"]
            if not template.asks_answer:
                shown, hidden, asked = hidden, shown, fields["lang1"]
            assert targets == hidden
            assert shown in inputs and hidden not in inputs
            if template.layout is None:
                assert asked in inputs, template.where
            else:  # exemplars show the rest
                named = inputs + template.render_instruction(fields)
                assert "English" in named or PAIRS[name][1] in named, template.where


def test_both_directions_occur_and_are_a_function_of_the_draws():
    fields = translation.into_english("de")(_row("wmt16_translate_deen"))
    drawn = [translation.either_direction(fields, Draws(3, "row", i)) for i in range(400)]
    again = [translation.either_direction(fields, Draws(3, "row", i)) for i in range(400)]
    assert drawn == again
    into_german = [f for f in drawn if f["lang2"] == "German"]
    assert 150 < len(into_german) < 250
    assert into_german[0] == {
        "lang1": "English",
        "lang2": "German",
        "sent1": ENGLISH,
        "answer": "Das Zimmer hat Meerblick.",
    }
    assert all(f == fields for f in drawn if f["lang2"] == "English")


def test_tasks_draw_the_direction():
    for name in PAIRS:
        assert get_task(name).draw_fields is translation.either_direction


def test_pairs_with_an_empty_side_are_left_out():
    keep = get_task("para_crawl_enes").source.keep
    assert keep({"en": "Hello.", "es": "Hola."})
    assert not keep({"en": "Hello.", "es": " "})
    assert not keep({"en": "", "es": "Hola."})


@pytest.mark.parametrize(("name", "file"), [("csen", "czeng16pre"), ("ruen", "1mcorpus.zip")])
def test_manual_downloads_say_how(name, file):
    assert file in get_task(f"wmt16_translate_{name}").source.manual
