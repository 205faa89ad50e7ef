"""Question and topic classification: rows in the builders' shape become the right classes."""

from __future__ import annotations

import pytest

import flan_jax.mixtures.flan2021.classification  # noqa: F401 - registers the tasks
from flan_jax.prompts.template import FEW_SHOT, load_templates
from flan_jax.tasks import get_task


def _fields(name: str, row: dict) -> dict:
    to_fields = get_task(name).to_fields
    assert to_fields is not None
    return dict(to_fields(row))


# A row of each coarse class, numbered as the builder numbers them.
@pytest.mark.parametrize(
    ("tokens", "label", "question", "answer"),
    [
        ("How did serfdom develop in and then leave Russia ?", 0,
         "How did serfdom develop in and then leave Russia?", "description"),
        ("What films featured the character Popeye Doyle ?", 1,
         "What films featured the character Popeye Doyle?", "entity"),
        ("What is the full form of .com ?", 2, "What is the full form of .com?", "abbreviation"),
        ("What contemptible scoundrel stole the cork from my lunch ?", 3,
         "What contemptible scoundrel stole the cork from my lunch?", "human"),
        ("When was Ozzy Osbourne born ?", 4, "When was Ozzy Osbourne born?", "numeric"),
        ("What sprawling U.S. state boasts the most airports ?", 5,
         "What sprawling U.S. state boasts the most airports?", "location"),
    ],
)  # fmt: skip
def test_trec(tokens: str, label: int, question: str, answer: str):
    fields = _fields("trec", {"text": tokens, "label-coarse": label, "label-fine": 0})
    assert (fields["question"], fields["answer"]) == (question, answer)
    assert fields["options"].index(answer) == label


@pytest.mark.parametrize(
    ("title", "label", "answer"),
    [
        ("Venezuelans Vote Early in Referendum on Chavez Rule", 0, "World"),
        ("Phelps, Thorpe Advance in 200 Freestyle", 1, "Sports"),
        ("Wall St. Bears Claw Back Into the Black", 2, "Business"),
        ("Microsoft Pushes Off SP2 Release", 3, "Science/Tech"),
    ],
)
def test_ag_news_topics(title: str, label: int, answer: str):
    fields = _fields("ag_news_subset", {"title": title, "description": "x", "label": label})
    assert (fields["title"], fields["answer"]) == (title, answer)
    assert fields["options"] == ["World", "Sports", "Business", "Science/Tech"]


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        ("Wall Street's dwindling\\band of ultra-cynics", "Wall Street's dwindling band of "
         "ultra-cynics"),
        ("Tesco #39;s boss doesn #39;t know", "Tesco's boss doesn't know"),
        ("the players #39; union in the  #39;90s", "the players' union in the '90s"),
        ("rose to  #36;2.7 billion", "rose to $2.7 billion"),
        ("the S amp;P 500 and Johnson  amp; Johnson", "the S&P 500 and Johnson & Johnson"),
        ("quot;A record, quot; he said of  quot;it quot;.", '"A record," he said of "it".'),
        ('see &lt;A HREF="http://x.com/q?t=GOOG.O"&gt;GOOG.O&lt;/A&gt; now', "see GOOG.O now"),
        ("it is 5 &lt; 6 here", "it is 5 < 6 here"),
    ],
)  # fmt: skip
def test_ag_news_text_is_mended(raw: str, mended: str):
    row = {"title": raw, "description": raw, "label": 2}
    fields = _fields("ag_news_subset", row)
    assert (fields["title"], fields["text"]) == (mended, mended)


def test_ag_news_needs_title_and_text():
    keep = get_task("ag_news_subset").source.keep  # type: ignore[attr-defined]
    assert keep({"title": "Oil up", "description": "Oil is up.", "label": 2})
    assert not keep({"title": "Oil up", "description": " ", "label": 2})
    assert not keep({"title": "", "description": "Oil is up.", "label": 2})


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("trec", ["description", "entity", "abbreviation", "human", "numeric", "location"]),
        ("ag_news_subset", ["World", "Sports", "Business", "Science/Tech"]),
    ],
)
def test_wording_names_all_classes_or_none(name: str, labels: list[str]):
    """A template that lists some of the classes and forgets one would rule out right answers."""
    file = get_task(name).template_file
    listing = 0
    for template in (*load_templates(file), *load_templates(file, FEW_SHOT)):
        own = f"{template.inputs} {template.instruction}"
        named = [label for label in labels if label in own]
        assert len(named) in (0, len(labels)), (template.where, named)
        listing += bool(named)
    assert listing >= 5
