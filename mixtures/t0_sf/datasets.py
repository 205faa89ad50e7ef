"""The datasets that P3's prompts are about: what they are, and under which licence."""

from __future__ import annotations

from typing import NamedTuple


class SourceDataset(NamedTuple):
    """A dataset.

    Attributes:
      title: its name and what it holds.
      licence: as its own page or repository states it; `not stated` if neither does.
      homepage: where it is described.
      large: P3's files of it are so large that the hub has them in several parts.
    """

    title: str
    licence: str
    homepage: str
    large: bool = False


_AI2 = "https://allenai.org/data"
_CARD = "https://huggingface.co/datasets"
_RESEARCH = "non-commercial research only"

# By their names on the hub when P3 was made.
DATASETS = {
    "adversarial_qa": SourceDataset(
        "AdversarialQA, questions written against a model",
        "CC-BY-SA-4.0",
        "https://adversarialqa.github.io",
    ),
    "amazon_polarity": SourceDataset(
        "Amazon Review Polarity, good and bad product reviews",
        "not stated",
        f"{_CARD}/amazon_polarity",
        large=True,
    ),
    "app_reviews": SourceDataset(
        "App Reviews, reviews of Android apps", "not stated", f"{_CARD}/app_reviews"
    ),
    "cos_e": SourceDataset(
        "CoS-E, CommonsenseQA with explanations",
        "BSD-3-Clause",
        "https://github.com/salesforce/cos-e",
    ),
    "dbpedia_14": SourceDataset(
        "DBpedia, Wikipedia's articles by class",
        "CC-BY-SA-3.0 and GFDL",
        f"{_CARD}/dbpedia_14",
        large=True,
    ),
    "dream": SourceDataset(
        "DREAM, dialogs with questions", _RESEARCH, "https://dataset.org/dream/"
    ),
    "duorc": SourceDataset(
        "DuoRC, questions on the plots of films", "MIT", "https://duorc.github.io", large=True
    ),
    "kilt_tasks": SourceDataset(
        "HotpotQA in KILT, questions over two articles",
        "CC-BY-SA-4.0; KILT MIT",
        "https://hotpotqa.github.io",
    ),
    "qasc": SourceDataset("QASC, school science, eight choices", "CC-BY-4.0", f"{_AI2}/qasc"),
    "quail": SourceDataset(
        "QuAIL, reading with questions of nine kinds",
        "CC-BY-NC-SA-4.0",
        "https://text-machine-lab.github.io/blog/2020/quail/",
    ),
    "quarel": SourceDataset(
        "QuaRel, stories about qualitative relations", "CC-BY-4.0", f"{_AI2}/quarel"
    ),
    "quartz": SourceDataset(
        "QuaRTz, questions on qualitative relations", "CC-BY-4.0", f"{_AI2}/quartz"
    ),
    "quoref": SourceDataset(
        "Quoref, questions that need coreference", "CC-BY-4.0", f"{_AI2}/quoref"
    ),
    "race": SourceDataset(
        "RACE, English examinations of Chinese schools",
        _RESEARCH,
        "https://www.cs.cmu.edu/~glai1/data/race/",
    ),
    "ropes": SourceDataset(
        "ROPES, background knowledge applied to a situation", "CC-BY-4.0", f"{_AI2}/ropes"
    ),
    "sciq": SourceDataset(
        "SciQ, science examinations, four choices", "CC-BY-NC-3.0", f"{_AI2}/sciq"
    ),
    "social_i_qa": SourceDataset(
        "Social IQa, questions on social situations",
        "not stated",
        "https://leaderboard.allenai.org/socialiqa",
    ),
    "web_questions": SourceDataset(
        "WebQuestions, questions asked of a search engine",
        "CC-BY-4.0",
        "https://nlp.stanford.edu/software/sempre/",
    ),
    "wiki_bio": SourceDataset(
        "WikiBio, biographies with their infoboxes",
        "CC-BY-SA-3.0",
        "https://github.com/DavidGrangier/wikipedia-biography-dataset",
        large=True,
    ),
    "wiki_hop": SourceDataset(
        "WikiHop, questions over several articles",
        "CC-BY-SA-3.0",
        "https://qangaroo.cs.ucl.ac.uk",
        large=True,
    ),
    "wiki_qa": SourceDataset(
        "WikiQA, questions and candidate sentences",
        "Microsoft Research Data License",
        "https://www.microsoft.com/en-us/download/details.aspx?id=52419",
    ),
    "wiqa": SourceDataset("WIQA, what-if questions on processes", "not stated", f"{_AI2}/wiqa"),
}
