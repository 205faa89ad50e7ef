"""Micro tasks of arithmetic, dates, tables, reading, classification and translation.

Each answer is found a second time from the text that the model is shown, in another way than the
generator made it: equations are parsed, calendars come from the standard library, passages are
read by regular expressions.
"""

from __future__ import annotations

import calendar
import re
from collections import Counter
from datetime import datetime, timedelta
from types import ModuleType

import pytest

from flan_jax.mixtures.micro import arithmetic, classification, dates, reading, tables, translation
from flan_jax.mixtures.micro.lexicon import CATEGORIES
from flan_jax.tasks import TaskDefinition, all_tasks, get_task

MODULES: dict[str, ModuleType] = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (arithmetic, dates, tables, reading, classification, translation)
}
ROWS = 300
OURS = [task for task in all_tasks() if task.group == "micro" and task.cluster in MODULES]
TASKS = [task for task in OURS if task.styles == ("direct",)]
COT_TASKS = [task for task in OURS if task.styles == ("cot",)]
NAMES = [task.name.removeprefix("micro_") for task in TASKS]

by_name = pytest.mark.parametrize("name", NAMES)
by_cot_task = pytest.mark.parametrize("task", COT_TASKS, ids=lambda task: task.name)


def rows_of(name: str) -> list[dict]:
    task = get_task(f"micro_{name}")
    return [dict(task.fields("train", index)) for index in range(ROWS)]


# --- Independent answers -------------------------------------------------------------------------


def _sum_of(text: str) -> int:
    return sum(int(part) for part in text.split("+"))


def _larger_sum(row: dict) -> str:
    return sorted((row["left"], row["right"]), key=_sum_of)[-1]


def _twice_or_half(row: dict) -> str:
    small, large = sorted((int(row["a"]), int(row["answer"])))
    assert small + small == large and (large == row["a"]) == (row["factor"] == "half")
    return row["answer"]


def _shift_day(day: str, days: int) -> str:
    start = datetime(2024, 1, 1)  # a Monday
    date = start + timedelta(days=list(calendar.day_name).index(day) + days + 7)
    return date.strftime("%A")


def _days_between(row: dict) -> str:
    return str(next(n for n in range(1, 8) if _shift_day(row["start"], n) == row["end"]))


def _last_in_week(row: dict) -> str:
    pairs = re.findall(r"(\w+) on (\w+)", row["visits"])
    return max(pairs, key=lambda pair: list(calendar.day_name).index(pair[1]))[0]


def _clock(row: dict) -> str:
    hour = int(row["start"].removesuffix(" o'clock"))
    for _ in range(row["hours"]):
        hour = 1 if hour == 12 else hour + 1
    return f"{hour} o'clock"


def _table(row: dict) -> list[list[str]]:
    return [line.split(" | ") for line in row["table"].splitlines()]


def _table_cell(row: dict) -> str:
    cells = {name: {"colour": colour, "number": number} for name, colour, number in _table(row)}
    return cells[row["name"]][row["column"]]


def _table_who(row: dict) -> str:
    (name,) = [cells[0] for cells in _table(row) if row["value"] in cells[1:]]
    return name


def _by_number(row: dict) -> list[str]:
    return [cells[0] for cells in sorted(_table(row), key=lambda cells: int(cells[2]))]


def _where_now(row: dict) -> str:
    return dict(re.findall(r"(\w+) goes to the (\w+)\.", row["passage"]))[row["person"]]


def _who_gave(row: dict) -> str:
    for giver, thing, getter in re.findall(r"(\w+) gives the (\w+) to (\w+)\.", row["passage"]):
        answers = {
            f"Who gives the {thing}?": giver,
            f"Who gets the {thing}?": getter,
            f"What does {giver} give?": thing,
            f"What does {getter} get?": thing,
        }
        if row["question"] in answers:
            return answers[row["question"]]
    raise AssertionError(row)


def _colour_of(row: dict) -> str:
    match = re.search(rf"The {row['thing']} is (\w+)\.", row["passage"])
    assert match
    return match[1]


def _stop(row: dict, when: str) -> str:
    (place,) = re.findall(rf"goes to the (\w+) {when}\.", row["passage"])
    return place


KIND_OF = {word: kind for kind, words in CATEGORIES.items() for word in words}


def _category_rule(row: dict) -> str:
    kind = row["kind"].split(" ", 1)[1]
    return row["hit"] if KIND_OF[row["word"]] == kind else row["miss"]


def _list_topic(row: dict) -> str:
    (kind,) = {KIND_OF[word] for word in row["words"].split(", ")}
    return kind


def _odd_one(row: dict) -> str:
    words = row["words"].split(", ")
    counts = Counter(KIND_OF[word] for word in words)
    assert sorted(counts.values()) == [1, 3]
    return next(word for word in words if counts[KIND_OF[word]] == 1)


def _good_or_bad(row: dict) -> str:
    score = 0
    for word in row["text"].split():
        score += (word in row["good"].split(", ")) - (word in row["bad"].split(", "))
    assert score != 0
    return "good" if score > 0 else "bad"


def _invented_noun(row: dict) -> str:
    (name,) = re.findall(rf"A (\w+) is {row['meaning']}\.", row["glossary"])
    return name


def _key(row: dict) -> dict[str, str]:
    return dict(re.findall(r"(\w+) = (\w+)", row["key"]))


def _code_to_words(row: dict) -> str:
    words = {code: word for word, code in _key(row).items()}
    return " ".join(words[code] for code in row["code"].split())


def _number_words(row: dict) -> str:
    table = dict(
        pair.split(":")
        for pair in (
            "0:zero 1:one 2:two 3:three 4:four 5:five 6:six 7:seven 8:eight 9:nine 10:ten "
            "11:eleven 12:twelve"
        ).split()
    )
    if row["wanted"] == "digits":
        table = {word: digit for digit, word in table.items()}
    return " ".join(table[number] for number in row["given"].split())


def _position_code(row: dict) -> str:
    numbered = dict(enumerate(row["words"].split(", "), start=1))
    return " ".join(numbered[int(number)] for number in row["code"].split())


def _swapped(row: dict) -> str:
    colour, thing = row["phrase"].split()
    assert colour in CATEGORIES["colour"] and thing not in CATEGORIES["colour"]
    return f"{_key(row)[thing]} {_key(row)[colour]}"


SIDES = {"after": 1, "before": -1}
ANSWERS = {
    "add_things": lambda row: str(len(range(row["a"])) + len(range(row["b"]))),
    "add_then_take": lambda row: str(len((["x"] * row["a"] + ["x"] * row["b"])[row["c"] :])),
    "twice_or_half": _twice_or_half,
    "larger_sum": _larger_sum,
    "how_many_more": lambda row: str(len(range(row["a"], row["goal"]))),
    "neighbour_day": lambda row: _shift_day(row["day"], SIDES[row["side"]]),
    "two_days_away": lambda row: _shift_day(row["day"], 2 * SIDES[row["side"]]),
    "last_in_week": _last_in_week,
    "days_between": _days_between,
    "clock_later": _clock,
    "table_cell": _table_cell,
    "table_who": _table_who,
    "table_most": lambda row: _by_number(row)[-1],
    "table_least": lambda row: _by_number(row)[0],
    "table_count": lambda row: str(row["table"].count(f"| {row['colour']} |")),
    "where_now": _where_now,
    "who_gave": _who_gave,
    "colour_of": _colour_of,
    "true_by_passage": lambda row: "yes" if row["claim"] in row["passage"] else "no",
    "first_or_third_stop": lambda row: _stop(row, row["when"]),
    "second_stop": lambda row: _stop(row, "second"),
    "category_rule": _category_rule,
    "even_odd_rule": lambda row: row["even" if str(row["number"])[-1] in "02468" else "odd"],
    "list_topic": _list_topic,
    "good_or_bad": _good_or_bad,
    "invented_noun": _invented_noun,
    "category_odd_one": _odd_one,
    "words_to_code": lambda row: " ".join(_key(row)[word] for word in row["words"].split()),
    "code_to_words": _code_to_words,
    "number_words": _number_words,
    "position_code": _position_code,
    "swapped_language": _swapped,
}


@by_name
def test_answer_follows_from_the_fields(name: str):
    for row in rows_of(name):
        assert row["answer"] == ANSWERS[name](row), row


# --- Reasoning -----------------------------------------------------------------------------------


def _equations(reasoning: str) -> list[int]:
    results = []
    for a, sign, b, result in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", reasoning):
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(result), reasoning
        results.append(int(result))
    assert results
    return results


def _ends_larger(row: dict) -> bool:
    results = _equations(row["reasoning"])
    claim = re.search(r"(\d+) is more than (\d+)\.$", row["reasoning"])
    assert claim and [int(part) for part in claim.groups()] == sorted(results, reverse=True)
    return row["reasoning"].startswith(row["left"]) and _sum_of(row["answer"]) == max(results)


def _ends_days(row: dict) -> bool:
    steps = re.findall(r"(\w+) is (\d)\.", row["reasoning"])
    days = [_shift_day(row["start"], n) for n in range(1, len(steps) + 1)]
    return steps == [(day, str(n)) for n, day in enumerate(days, start=1)] and (
        steps[-1] == (row["end"], row["answer"])
    )


def _ends_count(row: dict) -> bool:
    found = [cells[0] for cells in _table(row) if cells[1] == row["colour"]]
    return (
        re.findall(rf"(\w+) has {row['colour']}\.", row["reasoning"]) == found
        and row["reasoning"].endswith(f" That makes {row['answer']}.")
    )  # fmt: skip


def _ends_where(row: dict) -> bool:
    moves = re.findall(r"(\w+) goes to the (\w+)\.", row["passage"])
    told = re.findall(r"(\w+) goes to the (\w+)\.", row["reasoning"])
    return told == [move for move in moves if move[0] == row["person"]] and (
        told[-1][1] == row["answer"]
    )


def _ends_good(row: dict) -> bool:
    labels = re.findall(r"(\w+) is (good|bad)\.", row["reasoning"])
    totals = Counter(label for _, label in labels)
    told = re.search(r"That makes (\d) (\w+) and (\d) (\w+)\.$", row["reasoning"])
    assert told and [word for word, _ in labels] == row["text"].split()
    assert all(word in row[label].split(", ") for word, label in labels)
    return (
        totals[told[2]] == int(told[1]) > int(told[3]) == totals[told[4]]
        and told[2] == row["answer"] != told[4]
    )


def _ends_code(row: dict) -> bool:
    steps = re.findall(r"(\w+) is (\w+)\.", row["reasoning"])
    return all(_key(row)[word] == code for word, code in steps) and (
        row["answer"] == " ".join(code for _, code in steps)
    )


REASONING = {
    "add_then_take": lambda row: str(_equations(row["reasoning"])[-1]) == row["answer"],
    "larger_sum": _ends_larger,
    "days_between": _ends_days,
    "clock_later": lambda row: f"{_equations(row['reasoning'])[-1]} o'clock" == row["answer"],
    "table_count": _ends_count,
    "where_now": _ends_where,
    "good_or_bad": _ends_good,
    "words_to_code": _ends_code,
}


@by_cot_task
def test_reasoning_leads_to_the_answer(task: TaskDefinition):
    name = task.name.removeprefix("micro_").removesuffix("_cot")
    for row in rows_of(name):
        assert REASONING[name](row), row
        assert len(row["reasoning"].split()) <= 30


# --- Rows ----------------------------------------------------------------------------------------

# Tasks whose answers come from few words, each of which should be about as likely.
FEW_ANSWERS = {
    "neighbour_day": 7,
    "two_days_away": 7,
    "how_many_more": 8,
    "days_between": 6,
    "clock_later": 12,
    "table_count": 4,
    "true_by_passage": 2,
    "good_or_bad": 2,
    "list_topic": 7,
    "category_rule": 8,
    "even_odd_rule": 8,
}


@by_name
def test_answers_are_balanced(name: str):
    counts = Counter(row["answer"] for row in rows_of(name))
    if name in FEW_ANSWERS:
        share = ROWS / FEW_ANSWERS[name]
        assert len(counts) == FEW_ANSWERS[name]
        assert min(counts.values()) >= share / 2 - 1
        assert max(counts.values()) <= 1.6 * share + 1
    else:
        assert len(counts) >= 8
        assert max(counts.values()) <= 0.25 * ROWS


@by_name
def test_options_hold_the_answer_once(name: str):
    task = get_task(f"micro_{name}")
    positions = Counter()
    for row in rows_of(name):
        assert ("options" in row) == task.has_options
        if task.has_options:
            options = row["options"]
            assert 2 <= len(options) <= 5
            assert len(set(options)) == len(options)
            positions[options.index(row["answer"]) / (len(options) - 1)] += 1
    if task.has_options:
        # The answer comes first about as often as last.
        assert 0.6 < positions[0.0] / positions[1.0] < 1.7


@pytest.mark.parametrize(
    "name, share",
    [
        ("larger_sum", lambda row: row["answer"] == row["left"]),
        ("category_rule", lambda row: row["answer"] == row["hit"]),
        ("even_odd_rule", lambda row: row["answer"] == row["even"]),
        ("twice_or_half", lambda row: row["factor"] == "half"),
        ("number_words", lambda row: row["wanted"] == "digits"),
        ("first_or_third_stop", lambda row: row["when"] == "first"),
    ],
)
def test_two_sided_rows_are_balanced(name: str, share):
    assert 0.4 < sum(map(share, rows_of(name))) / ROWS < 0.6


def test_no_word_has_two_kinds():
    words = [word for members in classification.MEMBERS.values() for word in members]
    assert len(words) == len(set(words))
    assert "orange" not in words


def test_collection_has_its_share_of_kinds():
    clusters = Counter(task.cluster for task in TASKS)
    assert set(clusters) == set(MODULES) and min(clusters.values()) >= 4
    assert sum(task.held_out for task in TASKS) == 5
    assert not any(task.held_out for task in COT_TASKS)
    assert set(ANSWERS) == set(NAMES)
    assert {f"micro_{name}_cot" for name in REASONING} == {task.name for task in COT_TASKS}
