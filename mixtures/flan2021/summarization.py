"""Muffin tasks that ask for a summary, a headline or a subject line. Names and splits are Flan's.

AESLC, CNN/Daily Mail, Gigaword, Multi-News, Newsroom, the two Opinion Abstracts, SAMSum, XSum and
WikiLingua. Texts that a model's input cannot hold are shortened (see `excerpts`). Input-inverted
prompts ask for the beginning of a long text, which fits a target, and not for all of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flan_jax.mixtures.flan2021.excerpts import INPUT_WORDS, TARGET_WORDS, leading, shares
from flan_jax.mixtures.flan2021.question_text import collapse
from flan_jax.mixtures.flan2021.registry import register
from flan_jax.sources.base import Row

METRICS = ("rougeL", "rouge1", "rouge2")
# Opinions shown of a movie or a debate: as many as Flan shows.
OPINIONS = 10

_LINE_END = re.compile(r"[ \t]*(?:\r\n|\r|\n)")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+[ \t]*")
_BEFORE_PERIOD = re.compile(r"[ \t]+\.(?=\s|$)")


def _lines(text: str) -> str:
    """`text` with plain line ends, no blanks before them and no more than one empty line."""
    return _BLANK_LINES.sub("\n\n", _LINE_END.sub("\n", text)).strip()


def numbered(items: Sequence[str]) -> str:
    """`items` as lines "1. …", "2. …"."""
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=1))


def _article(text: str, summary: str) -> Row:
    text = _lines(text)
    return {
        "text": leading(text, INPUT_WORDS),
        "beginning": leading(text, TARGET_WORDS),
        "answer": summary,
    }


def has_email(row: Row) -> bool:
    """Whether a row of AESLC has both a body and a subject."""
    return bool(row["email_body"].strip() and row["subject_line"].strip())


def aeslc(row: Row) -> Row:
    """An email and its subject line."""
    body = leading(_lines(row["email_body"]), INPUT_WORDS)
    return {"body": body, "answer": collapse(row["subject_line"])}


def has_article(row: Row) -> bool:
    """Whether a row of CNN/Daily Mail has an article and highlights."""
    return bool(row["article"].strip() and row["highlights"].strip())


def cnn_dailymail(row: Row) -> Row:
    """A news article and its highlights, one a line, without blanks before their periods."""
    return _article(row["article"], _BEFORE_PERIOD.sub(".", _lines(row["highlights"])))


def has_summary(row: Row) -> bool:
    """Whether a row has both a document and a summary."""
    return bool(row["document"].strip() and row["summary"].strip())


def is_unmasked(row: Row) -> bool:
    """Whether a row of Gigaword shows all its words and digits, as Flan requires.

    The dataset masks rare words (`UNK`, `<unk>`) and digits (`#`).
    """
    text = f"{row['document']} {row['summary']}"
    return has_summary(row) and not any(mask in text for mask in ("UNK", "<unk>", "#"))


def gigaword(row: Row) -> Row:
    """The first sentence of a newswire story and its headline, both in lower case.

    The Penn Treebank's quotation marks become plain ones: T5's vocabulary has no backtick.
    """
    return {"text": _plain_quotes(row["document"]), "answer": _plain_quotes(row["summary"])}


def _plain_quotes(text: str) -> str:
    return collapse(text.replace("``", '"').replace("''", '"').replace("`", "'"))


# What stands between the articles of a row of Multi-News, and before most of its summaries.
_ARTICLE_BREAK = "|||||"
_SUMMARY_DASH = "–-— \n"


def _articles(document: str) -> list[str]:
    return [article for part in document.split(_ARTICLE_BREAK) if (article := _lines(part))]


def has_articles(row: Row) -> bool:
    """Whether a row of Multi-News has several articles and a summary."""
    return len(_articles(row["document"])) > 1 and bool(row["summary"].strip(_SUMMARY_DASH))


def multi_news(row: Row) -> Row:
    """Several articles about one event and a summary of them all.

    Articles share the space that a prompt has; short ones are shown whole.
    """
    whole = _articles(row["document"])
    kept = shares([len(article.split()) for article in whole], INPUT_WORDS)
    # Of a great many articles, some get no word.
    shown = [leading(text, words) for text, words in zip(whole, kept, strict=True) if words]
    headed = (f"Article {number}: {text}" for number, text in enumerate(shown, start=1))
    return {
        "articles": shown,
        "numbered_articles": "\n\n".join(headed),
        "first_beginning": leading(whole[0], TARGET_WORDS),
        "answer": _lines(row["summary"]).lstrip(_SUMMARY_DASH),
    }


def has_text(row: Row) -> bool:
    """Whether a row of Newsroom has a text and a summary."""
    return bool(row["text"].strip() and row["summary"].strip())


def newsroom(row: Row) -> Row:
    """An article, its headline (which may be missing) and its summary."""
    return {**_article(row["text"], collapse(row["summary"])), "title": collapse(row["title"])}


_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
# Words that titles of works keep in lower case unless they come first.
_SMALL_WORDS = frozenset("a an and as at but by for from in nor of on or the to with".split())


def movie_title(name: str) -> str:
    """A movie's name as a title: `the_king_of_comedy` is "The King of Comedy"."""
    words = name.replace("_", " ").split()
    if name != name.lower():
        return " ".join(words)
    return " ".join(
        word if place and word in _SMALL_WORDS else word[:1].upper() + word[1:]
        for place, word in enumerate(words)
    )


def _opinions(values: Sequence[str]) -> list[str]:
    texts = (collapse(_TAG.sub(" ", value)) for value in values)
    return [text for text in texts if text][:OPINIONS]


def has_reviews(row: Row) -> bool:
    """Whether a movie has reviews, a name and a consensus."""
    said = row["_critic_consensus"].strip() and row["_movie_name"].strip("_ ")
    return bool(said) and bool(_opinions(row["_critics"]["value"]))


def rotten_tomatoes(row: Row) -> Row:
    """The first reviews of a movie and the critics' consensus."""
    reviews = _opinions(row["_critics"]["value"])
    return {
        "movie": movie_title(row["_movie_name"]),
        "reviews": reviews,
        "numbered_reviews": numbered(reviews),
        "first_review": reviews[0],
        "answer": collapse(_TAG.sub("", row["_critic_consensus"])),
    }


def has_arguments(row: Row) -> bool:
    """Whether a row of iDebate has arguments, a claim and the debate's name."""
    said = row["_claim"].strip() and row["_debate_name"].strip()
    return bool(said) and bool(_opinions(row["_argument_sentences"]["value"]))


def idebate(row: Row) -> Row:
    """The sentences of an argument and the claim they make."""
    arguments = _opinions(row["_argument_sentences"]["value"])
    return {
        "debate_name": collapse(row["_debate_name"].replace("_", " ")),
        "arguments": arguments,
        "numbered_arguments": numbered(arguments),
        "answer": collapse(row["_claim"]),
    }


_ATTACHMENT = re.compile(r"<(?:file_)?(\w+)>")


def has_dialogue(row: Row) -> bool:
    """Whether a row of SAMSum has messages and a summary; one has no messages."""
    return bool(row["dialogue"].strip() and row["summary"].strip())


def samsum(row: Row) -> Row:
    """A chat, one message a line, and its summary. `<file_photo>` becomes "[photo]"."""
    lines = (collapse(line) for line in _ATTACHMENT.sub(r"[\1]", row["dialogue"]).splitlines())
    return {
        "dialogue": "\n".join(line for line in lines if line),
        "answer": collapse(row["summary"]),
    }


def xsum(row: Row) -> Row:
    """A news article without its introduction, and the introduction: one sentence."""
    return _article(row["document"], collapse(row["summary"]))


def has_guide(row: Row) -> bool:
    """Whether a row of WikiLingua has instructions and a summary."""
    return bool(row["source"].strip() and row["target"].strip())


def wiki_lingua(row: Row) -> Row:
    """Instructions and their summary."""
    answer = collapse(row["target"])
    others = (collapse(reference) for reference in row["references"])
    answers = tuple(dict.fromkeys((answer, *filter(None, others))))
    return {**_article(row["source"], answer), "answers": answers}


register(
    "aeslc",
    to_fields=aeslc,
    keep=has_email,
    metrics=METRICS,
    licence="not stated",
    description="AESLC: the subject line of an email",
)
register(
    "cnn_dailymail",
    to_fields=cnn_dailymail,
    keep=has_article,
    metrics=METRICS,
    licence="Apache-2.0",
    description="CNN/Daily Mail: the highlights of a news article",
)
register(
    "gigaword",
    to_fields=gigaword,
    keep=is_unmasked,
    metrics=METRICS,
    licence="LDC user agreement",
    description="Gigaword: the headline of a newswire sentence",
)
register(
    "multi_news",
    to_fields=multi_news,
    keep=has_articles,
    metrics=METRICS,
    licence="non-commercial research use",
    description="Multi-News: one summary of several articles about an event",
)
register(
    "newsroom",
    to_fields=newsroom,
    keep=has_text,
    metrics=METRICS,
    manual=(
        "register at https://summari.es/download/, download the dataset, and put train.jsonl, "
        "dev.jsonl and test.jsonl into TFDS's folder for manual downloads"
    ),
    licence="non-commercial research use (agreement at summari.es)",
    description="Newsroom: summaries of articles of 38 publishers",
)
register(
    "opinion_abstracts_rotten_tomatoes",
    to_fields=rotten_tomatoes,
    keep=has_reviews,
    metrics=METRICS,
    licence="not stated",
    description="Rotten Tomatoes: the critics' consensus on a movie",
)
register(
    "opinion_abstracts_idebate",
    to_fields=idebate,
    keep=has_arguments,
    metrics=METRICS,
    licence="not stated",
    description="iDebate: the claim that an argument makes",
)
register(
    "samsum",
    to_fields=samsum,
    keep=has_dialogue,
    metrics=METRICS,
    manual=(
        "download corpus.7z from the ancillary files of https://arxiv.org/abs/1911.12237v2, unpack "
        "it, and put train.json, val.json and test.json into TFDS's folder for manual downloads"
    ),
    licence="CC-BY-NC-ND-4.0",
    description="SAMSum: summaries of messenger conversations",
)
register(
    "xsum",
    to_fields=xsum,
    keep=has_summary,
    metrics=METRICS,
    manual=(
        "download and extract the articles as "
        "https://github.com/EdinburghNLP/XSum/blob/master/XSum-Dataset/README.md says, pack the "
        "folder xsum-extracts-from-downloads as xsum-extracts-from-downloads.tar.gz, and put that "
        "into TFDS's folder for manual downloads"
    ),
    licence="not stated",
    description="XSum: BBC articles in one sentence",
)
register(
    "wiki_lingua_english_en",
    to_fields=wiki_lingua,
    keep=has_guide,
    metrics=METRICS,
    licence="CC-BY-NC-SA-3.0",
    description="WikiLingua: wikiHow instructions in short",
)
