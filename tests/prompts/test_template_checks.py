"""What can be said of templates without rows: every fault is found, and honest wording is not."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import sentencepiece

from flan_jax.prompts.fewshot import Layout
from flan_jax.prompts.similarity import alike
from flan_jax.prompts.template import Template
from flan_jax.prompts.template_checks import check_section
from flan_jax.prompts.word_checks import bare_lines, form_faults, option_talk, unwritable
from flan_jax.prompts.wording import FIELD, OPTIONS, prompt_readings, readings

ANSWER = "{{ answer }}"
SOUND = tuple(Template(f"No. {n}: {{{{ text }}}}{{{{ options }}}}", ANSWER) for n in range(10))


def texts(pattern: str, options: bool = True) -> list[str]:
    return [reading.text.replace(FIELD, "@") for reading in readings(pattern, options)]


def found(*templates: Template, has_options: bool = True, section: str = "templates") -> list[str]:
    """The faults that `templates` add to sound ones."""
    faults = check_section(section, (*SOUND, *templates), has_options)
    return [f"{fault.severity} {fault.where}: {fault.message}" for fault in faults]


def one(*templates: Template, **arguments) -> str:
    messages = found(*templates, **arguments)
    assert len(messages) == 1, messages
    return messages[0]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("Say {{ a }}.", ["Say @."]),
        ("{% if t %}T: {{ t }}\n{% endif %}x", ["T: @\nx", "x"]),
        ("{% if not t %}no{% else %}yes{% endif %}, {% if t %}b{% endif %}", ["yes, b", "no, "]),
        ("{% if a and b %}both{% else %}not{% endif %}", ["both", "not"]),
        ("turn{{ 's' if n > 1 }}", ["turns", "turn"]),
        ("{{ 'up' if answer == 'x' else 'down' }}", ["up", "down"]),
        ("{% if k == 'x' %}X{% elif k == 'y' %}Y{% else %}Z{% endif %}", ["X", "Y", "Z"]),
        ("{% for i in items %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}", ["@, @"]),
        ("{{ a ~ '/' ~ b }}", ["@/@"]),
        ("{{ a[:1] | upper }}{{ a[1:] }}", ["@"]),
        ("{{ items | join(', ') }}", ["@"]),
    ],
)  # fmt: skip
def test_a_pattern_has_a_reading_for_each_way_its_conditions_may_hold(pattern, expected):
    assert texts(pattern) == expected


def test_options_are_a_mark_or_nothing():
    assert texts("Which?{{ options }}\nSay:") == [f"Which?{OPTIONS}\nSay:"]
    assert texts("Which?{{ options }}\nSay:", options=False) == ["Which?\nSay:"]
    pattern = "Judge.{% if options %} Choose below.{% endif %}{{ options }}"
    assert texts(pattern) == [f"Judge. Choose below.{OPTIONS}"]
    assert texts(pattern, options=False) == ["Judge."]


def test_many_conditions_do_not_multiply_without_end():
    pattern = " ".join(f"{{% if c{n} %}}w{n}{{% endif %}}" for n in range(12))
    found = texts(pattern)
    assert len(found) == 14
    assert " ".join(f"w{n}" for n in range(12)) in found


def test_a_few_shot_pattern_reads_as_one_exemplar():
    template = Template("{{ a }} ", ANSWER, layout=Layout("Q: ", "\nA: "))
    (reading,) = prompt_readings(template, True)
    assert reading.text == f"Q: {FIELD}\nA: {FIELD}"
    assert reading.words() == ["q", "<a>", "a", "<answer>"]


def test_sound_templates():
    assert found() == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Read the  text.", "two spaces in a row"),
        ("Read. \nSay.", "white space at the end of a line"),
        ("What is it ?", "a space before punctuation"),
        ("First , then", "a space before punctuation"),
        ("Yes,no", "no space after punctuation"),
        ("It ends.Then", "no space after punctuation"),
        ("Text:@", "no space after punctuation"),
        ("Read@", "a word runs into a field"),
        ("@Answer", "a word runs into a field"),
        ("@@", "two fields with nothing between them"),
        ("Say. %", "white space before the options"),
        ("Say.\n%", "white space before the options"),
        ("Say.% Answer:", "text right after the options"),
        ("Say what what it is.", "a word stands there twice"),
        ("Find a answer.", "'a' for 'an'"),
        ("Find an question.", "'a' for 'an'"),
        ('He says "@.', "a quotation mark without its partner"),
        ("Read (the text.", "a bracket is not closed: ')' is missing"),
        ("Read the text].", "a ']' without its partner"),
        ("Mixed (a [b) c].", "without its partner"),
    ],
)
def test_slips_of_form(text, fault):
    marked = text.replace("@", FIELD).replace("%", OPTIONS)
    messages = list(form_faults(marked))
    assert len(messages) >= 1
    assert fault in messages[0]


@pytest.mark.parametrize(
    "text",
    [
        "A and B speak. Do A and B agree?",
        "One use, an hour, a unit, a European, an honest one; a one-word reply.",
        "She had had it, and said that that was so.",
        'The "@" (see @) is: @!',
        "1) first\n2) second\na) third",
        '@\'s friend wrote "@".\n\n@ / @',
        "What is missing at the ? in this row? @",
        "At 10:30, 1,000 e.g. of them... or: @, @",
        "Which?%\n\nAnswer:",
        "- @\n  - @",
    ],
)
def test_honest_form(text):
    assert list(form_faults(text.replace("@", FIELD).replace("%", OPTIONS))) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Pick one.", "Pick"),
        ("Choose the right answer: @", "Choose"),
        ("Which of the following is true? @", "Which of the following"),
        ("@\nWhich of these is right?", "Which of these"),
        ("@ Your options:", "options"),
        ("@\nAnswer with the letter of the right choice.", "right choice"),
        ("@\nAnswer with one of the labels below.", "below"),
        ("@ Is it the following?", "the following"),
        ("@ Use the labels given below.", "given below"),
    ],
)
def test_talk_of_options(text, said):
    assert option_talk(text.replace("@", FIELD)) == said


@pytest.mark.parametrize(
    "text",
    [
        "Read the text below.\n@",
        "Is the following true? @",
        "@ Choose between yes and no.",
        "Pick out the names. @",
        "@ Positive or negative?",
        "These two sentences: @ Do they agree?",
        "It is optional. @",
    ],
)
def test_no_talk_of_options(text):
    assert option_talk(text.replace("@", FIELD)) is None


def test_option_talk_counts_where_the_options_are_not_shown():
    talk = Template("{{ text }} Pick the best option.{{ options }}", ANSWER, where="f: t[10]")
    message = one(talk)
    assert message.startswith("problem f: t[10]: speaks of options ('option') where none are shown")
    assert "needs_options" in message
    only = "{{ text }}{% if options %} Pick the best option.{% endif %}{{ options }}"
    for sound in (
        Template(talk.inputs, ANSWER, needs_options=True),
        Template(talk.inputs, ANSWER, allow=("option_talk",)),
        Template(only, ANSWER),
    ):
        assert found(sound) == []


def test_option_talk_in_an_opening():
    shot = Template("{{ text }}{{ options }}", ANSWER, instruction="Choose one option each time.")
    layout = Layout("T: ", "\nA: ")
    shots = tuple(
        Template(t.inputs, ANSWER, layout=Layout("", f"\n{n}: ")) for n, t in enumerate(SOUND)
    )
    faulty = Template(shot.inputs, ANSWER, instruction=shot.instruction, layout=layout)
    (fault,) = check_section("few_shot", (*shots, faulty), True)
    assert "speaks of options ('option')" in fault.message


def test_a_task_without_options_may_have_them_in_its_rows():
    plain = tuple(Template(f"No. {n}: {{{{ text }}}}", ANSWER) for n in range(10))
    talk = Template("{{ text }} Mark the right choice.", ANSWER)
    (fault,) = check_section("templates", (*plain, talk), False)
    assert fault.severity == "note"
    assert "templates 10 speak of options ('right choice')" in fault.message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (Template("Hello you all there", "Hello"), "uses no field of the row"),
        (Template("{{ text }} is {{ answer }}.", ANSWER), "`inputs` has the field 'answer'"),
        (
            Template("{{ a }} and {{ b }} are?", "{{ b }} {{ answer }}"),
            "`inputs` has the field 'b', which the target asks for",
        ),
        (Template("{{ text }}. What?", ANSWER, needs_options=True), "nothing shows {{ options }}"),
        (Template("{% if t %}{{ t }}{% endif %}", ANSWER), "the inputs are empty if a condition"),
        (Template("What of {{ t }}?", "{% if a %}{{ answer }}{% endif %}"), "targets are empty"),
        (Template("{{ text }} costs {5}?", ANSWER), "cannot write: '{' '}'"),
        (Template("{{ text }} \u2192 what?", ANSWER), "cannot write: '\u2192'"),
        (Template("Read {{ text }} now. ", ANSWER), "white space, which is cut off"),
        (Template("No. 3: {{ text }}{{ options }}", ANSWER), "the same as template 3"),
        (Template("no 3 {{ text }} {{ answer[:0] }}", "{{ x }} "), None),
    ],
)
def test_faults_of_one_template(template, message):
    messages = [m for m in found(template) if m.startswith("problem")]
    if message is None:
        assert messages == []
    else:
        assert len(messages) == 1 and message in messages[0]


def test_an_opening_or_instruction_must_not_hold_the_target():
    zero_shot = Template(
        "{{ text }} or what?", ANSWER, instruction="So {{ answer }}.", shot="{{ text }}"
    )
    assert "`instruction` has the field 'answer'" in one(zero_shot)
    shots = [Template("{{ text }}", ANSWER, layout=Layout(f"{n} ", "\n= ")) for n in range(10)]
    layout = Layout("T: ", "\nA: ")
    faulty = Template("{{ text }}", ANSWER, instruction="It is {{ answer }}.", layout=layout)
    (fault,) = check_section("few_shot", (*shots, faulty), False)
    assert "`opening` has the field 'answer'" in fault.message


def test_options_shown_by_a_task_without_them():
    faults = check_section("templates", SOUND, False)
    assert len([f for f in faults if "has_options" in f.message]) == 10


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout("Q: ", ""), "before_target is empty"),
        (Layout("Q: ", "\nA:"), "should end in white space"),
        (Layout("Q: ", "A: "), "a word runs into a field"),
        (Layout("Q: ", "\nA: ", "#"), "exemplars run together"),
        (Layout("Q:", "\nA: "), "no space after punctuation"),
    ],
)
def test_faults_of_a_layout(layout, message):
    shots = [Template("{{ text }}", ANSWER, layout=Layout(f"{n} ", "\n= ")) for n in range(10)]
    faulty = Template("{{ text }}", ANSWER, layout=layout)
    faults = check_section("few_shot", (*shots, faulty), False)
    assert {f.severity for f in faults} == {"problem"}
    assert message in "; ".join(f.message for f in faults)


def test_frames_that_are_all_the_same_are_noted():
    layout = Layout("Q: ", "\nA: ")
    shots = [Template(f"No. {n}: {{{{ t }}}}", ANSWER, layout=layout) for n in range(10)]
    (fault,) = check_section("few_shot", tuple(shots), False)
    assert (fault.severity, fault.message) == (
        "note",
        "only 1 different frames for 10 few-shot patterns",
    )


def test_too_few_templates_and_too_few_that_show_options():
    (fault,) = check_section("templates", SOUND[:9], True)
    assert fault.message == "9 templates; Flan uses ten for each task"
    hidden = tuple(Template(f"Hidden {n}: {{{{ text }}}}", ANSWER) for n in range(11))
    assert "problem templates: only 10 of 21 templates show the options" in found(*hidden)
    needing = tuple(Template(t.inputs, ANSWER, needs_options=n > 1) for n, t in enumerate(SOUND))
    (fault,) = check_section("templates", needing, True)
    assert "only 2 of the templates with options also work without" in fault.message


ORIGINAL = "Read the review and say whether its author liked it.\n\nReview: {{ text }}"


@pytest.mark.parametrize(
    ("copy", "severity"),
    [
        ("Read the review and say whether its writer liked it.\n\nReview: {{ text }}", "problem"),
        ("Read this review and say whether the author liked it.\n\nReview: {{ text }}", "problem"),
        ("Review: {{ text }}\n\nSay whether the author of the review liked it.", "note"),
        ("Did the author of this review enjoy what they saw?\n\n{{ text }}", None),
        ("Review: {{ text }}\nDid its author like it?", None),
    ],
)  # fmt: skip
def test_near_copies(copy, severity):
    pairs = list(alike((Template(ORIGINAL, ANSWER), Template(copy, ANSWER))))
    found = [("problem" if pair.copy else "note") for pair in pairs]
    assert found == ([severity] if severity else [])


def test_templates_that_ask_for_different_fields_are_no_copies():
    assert not list(alike((Template(ORIGINAL, ANSWER), Template(ORIGINAL, "{{ title }}"))))


def test_few_shot_patterns_may_differ_by_their_layout():
    def shot(before: str, after: str) -> Template:
        return Template("{{ text }}", ANSWER, layout=Layout(before, after))

    assert not list(alike((shot("Q: ", "\nA: "), shot("[Q] ", "\n[A] "))))
    (pair,) = alike((shot("Q: ", "\nA: "), shot("Q:  ", "\na: ")))
    assert pair.copy


def test_allowed_copies():
    twice = (*SOUND, Template(SOUND[0].inputs, ANSWER, allow=("near_duplicate",)))
    assert check_section("templates", twice, True) == ()


def test_lines_that_run_into_the_next():
    assert bare_lines(f"Fact check\nText: {FIELD}\n# Heading\nEnd") == ["Fact check"]
    assert "T5 sees no line break: 'Fact check'" in one(Template("Fact check\nT: {{ a }}", ANSWER))


def test_what_counts_as_unwritable_is_what_t5s_vocabulary_cannot_write(test_data: Path):
    model = test_data / "t5_vocab" / "spiece.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    letters = [*string.printable.strip(), " ", *map(chr, range(0xA1, 0x500))]
    letters += map(chr, range(0x2010, 0x2100))
    for letter in letters:
        known = processor.unk_id() not in processor.EncodeAsIds(f"a{letter}a")
        if unwritable(letter):
            # Compatibility forms become what the vocabulary has, which is not what was written.
            assert not known or processor.DecodeIds(processor.EncodeAsIds(letter)) != letter
        else:
            assert known, letter
