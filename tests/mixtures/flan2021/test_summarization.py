"""Summarization tasks of Muffin: rows in the builders' shape to fields."""

from __future__ import annotations

import re

import pytest

from flan_jax.mixtures.flan2021 import summarization
from flan_jax.mixtures.flan2021.excerpts import INPUT_WORDS, TARGET_WORDS, leading, shares
from flan_jax.tasks import get_task

SENTENCE = "The council voted nine to two for the new bridge over the river. "

AESLC = {
    "email_body": (
        "Attached is the revised list of counterparties.\nPlease let me know by Friday if\n\n\n"
        "anything is missing.\nThanks, Dana\n"
    ),
    "subject_line": "Revised counterparty\nlist\n",
}
CNN = {
    "article": (
        "(CNN) -- A ferry with 120 people on board ran aground off the coast of Maine on Tuesday "
        "morning. All passengers were taken to land within two hours. Nobody was injured, the "
        "coast guard said, but fuel leaked into the bay. The captain told investigators that fog "
        "had hidden the rocks."
    ),
    "highlights": (
        "Ferry with 120 on board runs aground off Maine .\nAll passengers safe, coast guard says "
        ".\nFuel leaks into the bay ."
    ),
    "id": "0001",
    "publisher": "cnn",
}
GIGAWORD = {
    "document": (
        "the central bank of norway left its key interest rate unchanged on wednesday , as most "
        "economists had expected ."
    ),
    "summary": "norway keeps interest rate unchanged",
}
MULTI_NEWS = {
    "document": (
        "A retired teacher from Ohio has won the state lottery for the second time in a year. \n \n"
        " She says she will give most of it away. ||||| Lightning struck twice for an Ohio woman "
        "who collected a second jackpot on Monday. ||||| "
    ),
    "summary": (
        "– A retired teacher in Ohio has won the lottery again, less than a year after her first "
        "jackpot, and she plans to give most of the money away."
    ),
}
NEWSROOM = {
    "title": "City opens its first night library",
    "text": (
        "The public library on Fifth Street will stay open until 2 a.m. from next month. Students "
        "had asked for longer hours for years.\n\nThe city council agreed to pay for two guards."
    ),
    "summary": "After years of requests, the library on Fifth Street will stay open until 2 a.m.",
    "url": "http://example.com/library",
    "date": "20150301",
    "density": 1.5,
    "density_bin": "low",
    "coverage": 0.8,
    "coverage_bin": "medium",
    "compression": 9.0,
    "compression_bin": "low",
}
MOVIE = {
    "_critic_consensus": "Sharp, warm, <em>The Long Way Home</em> makes up in wit for its length.",
    "_critics": {
        "key": ["1", "2", "3"],
        "value": [
            "A funny, tender film that is twenty minutes too long.",
            " ",
            "The script sparkles; the pace does not.",
        ],
    },
    "_movie_id": "the_long_way_home",
    "_movie_name": "the_long_way_home",
}
DEBATE = {
    "_argument_sentences": {
        "key": ["0", "1"],
        "value": [
            "Students in uniform are not judged by what their parents can afford.",
            "Schools that introduced uniforms report less bullying.",
        ],
    },
    "_claim": "Uniforms make students more equal.",
    "_claim_id": "17",
    "_debate_name": "This House believes that schools should require uniforms",
}
SAMSUM = {
    "id": "13828600",
    "dialogue": (
        "Mia: Are we still on for tonight?\r\nTom: Sure, but I'll be late\r\n"
        "Tom: <file_photo>\r\nMia: Wow, what a traffic jam! Then I'll order for both of us"
    ),
    "summary": "Tom is stuck in traffic. Mia will order for both of them tonight. ",
}
XSUM = {
    "document": (
        "The 34-year-old joined the club from Leeds in 2012 and made 143 appearances.\n"
        "He broke his leg in January and has not played since.\n"
        '"It was the hardest choice of my life," he said.'
    ),
    "summary": "Rotherham defender Mark Hall has retired from football because of a leg injury.",
}
WIKI_LINGUA = {
    "gem_id": "wiki_lingua_english_en-validation-3",
    "gem_parent_id": "wiki_lingua_english_en-validation-3",
    "source": (
        "Cold water shrinks the fibers less than hot water does. Fill a basin and add a spoonful "
        "of mild soap. Press the sweater under water without rubbing it, as rubbing makes wool "
        "felt. Lay the sweater on a towel and pull it gently into its old shape. It may take two "
        "days to dry."
    ),
    "target": "Wash the sweater by hand in cold water. Dry it flat on a towel.",
    "references": ["Wash the sweater by hand in cold water. Dry it flat on a towel."],
    "source_aligned": {"en": ""},
    "target_aligned": {"en": ""},
}
ROWS = {
    "aeslc": AESLC,
    "cnn_dailymail": CNN,
    "gigaword": GIGAWORD,
    "multi_news": MULTI_NEWS,
    "newsroom": NEWSROOM,
    "opinion_abstracts_rotten_tomatoes": MOVIE,
    "opinion_abstracts_idebate": DEBATE,
    "samsum": SAMSUM,
    "xsum": XSUM,
    "wiki_lingua_english_en": WIKI_LINGUA,
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_kept_and_fill_every_template(name):
    task = get_task(name)
    assert task.source.keep(ROWS[name])
    fields = task.to_fields(ROWS[name])
    for templates in task.sections().values():
        for template in templates:
            inputs, targets = template.render(fields)
            assert inputs and targets
            assert not re.search(r"[<>|]", inputs + targets), template.where


@pytest.mark.parametrize("name", ROWS)
def test_rows_without_their_answer_are_left_out(name):
    field = {
        "aeslc": "subject_line",
        "cnn_dailymail": "highlights",
        "opinion_abstracts_rotten_tomatoes": "_critic_consensus",
        "opinion_abstracts_idebate": "_claim",
        "wiki_lingua_english_en": "target",
    }.get(name, "summary")
    assert not get_task(name).source.keep({**ROWS[name], field: " \n"})


def test_email():
    assert summarization.aeslc(AESLC) == {
        "body": (
            "Attached is the revised list of counterparties.\nPlease let me know by Friday if\n\n"
            "anything is missing.\nThanks, Dana"
        ),
        "answer": "Revised counterparty list",
    }


def test_highlights_end_without_a_blank_before_the_period():
    assert summarization.cnn_dailymail(CNN)["answer"].splitlines() == [
        "Ferry with 120 on board runs aground off Maine.",
        "All passengers safe, coast guard says.",
        "Fuel leaks into the bay.",
    ]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"document": "shares of UNK fell on monday"}, False),
        ({"summary": "oil falls to ## dollars"}, False),
        ({"document": "shares of <unk> fell on monday"}, False),
        ({"summary": ""}, False),
    ],
)
def test_gigaword_leaves_masked_rows_out(change, kept):
    assert summarization.is_unmasked({**GIGAWORD, **change}) is kept


def test_gigaword_has_plain_quotation_marks():
    row = {"document": "`` it 's a ` first ' , '' he said .", "summary": "minister : `` a first ''"}
    fields = summarization.gigaword(row)
    assert fields["text"] == "\" it 's a ' first ' , \" he said ."
    assert fields["answer"] == 'minister : " a first "'


def test_articles_of_multi_news_are_told_apart():
    fields = summarization.multi_news(MULTI_NEWS)
    assert fields["articles"][0].split("\n\n") == [
        "A retired teacher from Ohio has won the state lottery for the second time in a year.",
        "She says she will give most of it away.",
    ]
    assert len(fields["articles"]) == 2
    assert fields["numbered_articles"].startswith("Article 1: A retired teacher")
    assert "\n\nArticle 2: Lightning struck twice" in fields["numbered_articles"]
    assert fields["answer"].startswith("A retired teacher in Ohio")
    assert fields["first_beginning"] == fields["articles"][0]


def test_a_single_article_is_no_row_of_multi_news():
    assert not summarization.has_articles({**MULTI_NEWS, "document": "One article. ||||| \n"})


def test_articles_of_multi_news_share_the_prompt():
    row = {**MULTI_NEWS, "document": f"Short one. ||||| {SENTENCE * 90} ||||| {SENTENCE * 300}"}
    fields = summarization.multi_news(row)
    lengths = [len(article.split()) for article in fields["articles"]]
    assert lengths[0] == 2
    assert sum(lengths) <= INPUT_WORDS
    assert min(lengths[1:]) > 0.9 * (INPUT_WORDS - 2) / 2
    assert all(article.endswith("river.") for article in fields["articles"][1:])


def test_newsroom_may_lack_a_headline():
    untitled = summarization.newsroom({**NEWSROOM, "title": ""})
    task = get_task("newsroom")
    for templates in task.sections().values():
        for template in templates:
            if "title" in template.target_fields:
                assert not template.usable_for(untitled)
            else:
                inputs, targets = template.render(untitled)
                assert inputs and targets
                assert '""' not in inputs and not re.search(r"(Headline|Title):", inputs)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("the_long_way_home", "The Long Way Home"),
        ("lord_of_the_rings", "Lord of the Rings"),
        ("WALL-E", "WALL-E"),
        ("La vie d'Adèle", "La vie d'Adèle"),
    ],
)
def test_movie_titles(name, title):
    assert summarization.movie_title(name) == title


def test_reviews_are_numbered_and_at_most_ten():
    fields = summarization.rotten_tomatoes(MOVIE)
    assert fields["numbered_reviews"] == (
        "1. A funny, tender film that is twenty minutes too long.\n"
        "2. The script sparkles; the pace does not."
    )
    assert fields["answer"] == ("Sharp, warm, The Long Way Home makes up in wit for its length.")
    values = [f"Review {number}." for number in range(40)]
    many = summarization.rotten_tomatoes({**MOVIE, "_critics": {"key": values, "value": values}})
    assert many["reviews"] == values[:10]
    assert not summarization.has_reviews({**MOVIE, "_critics": {"key": [""], "value": [" "]}})


def test_claim_of_a_debate():
    fields = summarization.idebate(DEBATE)
    assert fields["answer"] == "Uniforms make students more equal."
    assert fields["debate_name"] == "This House believes that schools should require uniforms"
    assert len(fields["arguments"]) == 2


def test_chat_has_plain_line_ends_and_no_angle_brackets():
    fields = summarization.samsum(SAMSUM)
    assert fields["dialogue"].split("\n") == [
        "Mia: Are we still on for tonight?",
        "Tom: Sure, but I'll be late",
        "Tom: [photo]",
        "Mia: Wow, what a traffic jam! Then I'll order for both of us",
    ]
    assert fields["answer"].endswith("tonight.")


def test_wiki_lingua_takes_all_references():
    row = {**WIKI_LINGUA, "references": ["Wash it cold.", WIKI_LINGUA["target"]]}
    fields = summarization.wiki_lingua(row)
    assert fields["answers"] == (WIKI_LINGUA["target"], "Wash it cold.")
    assert summarization.wiki_lingua({**WIKI_LINGUA, "references": []})["answers"] == (
        WIKI_LINGUA["target"],
    )


def test_long_articles_are_shortened_to_what_fits():
    fields = summarization.xsum({**XSUM, "document": SENTENCE * 300})
    assert INPUT_WORDS / 2 < len(fields["text"].split()) <= INPUT_WORDS
    assert TARGET_WORDS / 2 < len(fields["beginning"].split()) <= TARGET_WORDS
    assert fields["text"].endswith("river.") and fields["beginning"].endswith("river.")


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("One two. Three four.", 4, "One two. Three four."),
        ("One two three. Four five six.", 5, "One two three."),
        ("One. Two three four five six seven eight.", 7, "One. Two three four five six seven ..."),
        ('He said "yes." Then he left us.', 4, 'He said "yes."'),
        ("a b c d", 3, "a b c ..."),
    ],
)
def test_leading(text, words, expected):
    assert leading(text, words) == expected


def test_shares_leave_short_texts_whole():
    assert shares([10, 500, 700], 610) == [10, 300, 300]
    assert shares([10, 20], 610) == [10, 20]
    assert sum(shares([5, 5, 5], 7)) <= 7


@pytest.mark.parametrize("name", ["newsroom", "samsum", "xsum"])
def test_manual_downloads_say_how(name):
    assert "https://" in get_task(name).source.manual
