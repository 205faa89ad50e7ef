"""Micro tasks on strings, lists, counting, order, logic and patterns.

Every task has a checker here that finds the answer anew from the texts of a row, in another way
than the generator does, and a list of what a prompt must show for the question to be answerable.
"""

from __future__ import annotations

import calendar
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from flan_jax.mixtures.micro import counting, lists, logic, patterns, sorting, strings
from flan_jax.mixtures.micro.lexicon import CATEGORIES
from flan_jax.prompts.options import plain_block
from flan_jax.prompts.render import render, usable_templates
from flan_jax.prompts.template import fields_of
from flan_jax.tasks import TaskDefinition, all_tasks, get_task

Fields = Mapping[str, Any]
MODULES = (counting, lists, logic, patterns, sorting, strings)
ROWS = 300


def _modules_of(task: TaskDefinition) -> str:
    return getattr(getattr(task.source, "generate", None), "__module__", "")


TASKS = [t.name for t in all_tasks() if _modules_of(t) in {m.__name__ for m in MODULES}]
PLAIN = [name for name in TASKS if not name.endswith("_cot")]
COT = [name for name in TASKS if name.endswith("_cot")]
WITH_OPTIONS = [name for name in TASKS if get_task(name).has_options]
HELD_OUT = {"third_item", "fewer_of", "sort_descending", "who_is_least", "missing_in_pattern"}


@functools.cache
def rows(name: str, split: str = "train", count: int = ROWS) -> tuple[Fields, ...]:
    return tuple(get_task(name).fields(split, index) for index in range(count))


# What must be in every prompt: of each set of fields at least one.
_NEEDED_BY = (
    ("first_item second_item third_item last_item reverse_list count_items", ["things"]),
    ("item_after remove_item list_holds", ["things", "thing"]),
    ("more_of fewer_of", ["row"]),
    ("sort_numbers sort_descending second_smallest next_number", ["numbers"]),
    ("next_in_pattern missing_in_pattern", ["shown"]),
    ("last_letters sort_words", ["words"]),
    ("starts_with", ["letter", "words options"]),
    ("repeat_phrase", ["phrase", "times count"]),
    ("join_words spell_out", ["words", "mark mark_name"]),
    ("replace_word", ["text", "old", "new"]),
    ("odd_one_out", ["things options"]),
    ("count_word", ["row", "word"]),
    ("count_kind", ["things", "kinds"]),
    ("sort_months", ["months"]),
    ("extreme_number", ["numbers options", "which"]),
    ("first_birthday", ["facts"]),
    ("both_or_either", ["facts", "claim"]),
    ("if_then", ["rules", "light"]),
    ("who_is_most", ["facts", "most"]),
    ("who_is_least", ["facts", "least"]),
    ("truth_teller", ["habits", "saying", "thing", "colours options"]),
    ("use_code", ["code", "message"]),
    ("analogy", ["word", "kind", "other"]),
)
NEEDED = {name: needed for names, needed in _NEEDED_BY for name in names.split()}


# Checkers: the answer, found anew from the texts.


def _kind_of(word: str) -> str:
    kinds = [kind for kind, words in CATEGORIES.items() if word in words and kind != "colour"]
    assert len(kinds) == 1, (word, kinds)
    return kinds[0]


def _plural(kind: str) -> str:
    head, *rest = kind.split(" ")
    return " ".join([head + "s", *rest])


def _nth(position: int) -> Callable[[Fields], str]:
    pattern = re.compile(rf"(?:\w+, ){{{position}}}(\w+)")
    return lambda row: pattern.match(row["things"])[1]


def _selection_sort(text: str, key: Callable[[str], Any], reverse: bool = False) -> str:
    rest, out = text.split(", "), []
    while rest:
        best = functools.reduce(lambda a, b: b if (key(b) < key(a)) != reverse else a, rest)
        rest.remove(best)
        out.append(best)
    return ", ".join(out)


def _odd(things: str) -> str:
    words = things.split(", ")
    return next(
        word
        for word in words
        if all(_kind_of(word) != _kind_of(other) for other in words if other != word)
        and len({_kind_of(other) for other in words if other != word}) == 1
    )


def _by_count(row: Fields, pick: int) -> str:
    ranked = Counter(row["row"].split()).most_common()
    assert len(ranked) == 2 and ranked[0][1] != ranked[1][1]
    assert {row["first"], row["second"]} == {word for word, _ in ranked}
    return ranked[pick][0]


def _first_birthday(row: Fields) -> str:
    months = list(calendar.month_name)
    found = re.findall(r"(\w+) in (\w+)", row["facts"])
    assert len(found) == 3
    return min(found, key=lambda pair: months.index(pair[1]))[0]


def _judge(row: Fields) -> str:
    facts = {
        name: verb == "likes"
        for name, verb in re.findall(r"(\w+) (likes|does not like) \w+\.", row["facts"])
    }
    things = set(re.findall(r"(\w+)\.", row["facts"]))
    assert len(facts) == 2 and len(things) == 1 and things.pop() in row["claim"].split()
    named = [word for word in row["claim"].split() if word in facts]
    assert len(named) == 2
    number = sum(facts.values())
    if row["claim"].startswith("both"):
        truth = number == 2
    elif row["claim"].startswith("neither"):
        truth = number == 0
    elif "but" in row["claim"].split():
        truth = number == 1 and facts[named[0]]
    else:
        assert " or both " in row["claim"]
        truth = number >= 1
    return "yes" if truth else "no"


def _ordered_people(facts: str) -> list[str]:
    pairs = re.findall(r"(\w+) is \w+ than (\w+)\.", facts)
    people = sorted({name for pair in pairs for name in pair})
    fitting = [
        order
        for order in itertools.permutations(people)
        if all(order.index(a) < order.index(b) for a, b in pairs)
    ]
    assert len(people) == 3 and len(fitting) == 1, "the facts must leave one order"
    return list(fitting[0])


_SCALE_OF = {
    "tallest": "taller", "shortest": "taller", "oldest": "older", "youngest": "older",
    "fastest": "faster", "slowest": "faster", "strongest": "stronger", "weakest": "stronger",
    "richest": "richer", "poorest": "richer",
}  # fmt: skip


def _extreme_person(row: Fields, field: str, place: int) -> str:
    assert set(re.findall(r"is (\w+) than", row["facts"])) == {_SCALE_OF[row[field]]}
    return _ordered_people(row["facts"])[place]


def _liar_puzzle(row: Fields) -> str:
    liar = re.search(r"(\w+) always lies\.", row["habits"])[1]
    honest = re.search(r"(\w+) always tells the truth\.", row["habits"])[1]
    speaker, thing, said = re.fullmatch(r"(\w+) says: The (\w+) is (\w+)\.", row["saying"]).groups()
    assert thing == row["thing"] and speaker in (liar, honest) and liar != honest
    # The colour is the one under which the saying fits the speaker.
    fitting = [x for x in row["colours"].split(" or ") if (said == x) == (speaker == honest)]
    assert len(fitting) == 1
    return fitting[0]


def _fillings(shown: list[str], gap: int) -> set[str]:
    """Words that the gap may hold if the row repeats a unit of one to three words."""
    words = set()
    for period in (1, 2, 3):
        classes: dict[int, set[str]] = {}
        for i, word in enumerate(shown):
            classes.setdefault(i % period, set())
            if i != gap:
                classes[i % period].add(word)
        if all(len(members) == 1 for members in classes.values()):
            words |= classes[gap % period]
    return words


def _only(words: set[str]) -> str:
    assert len(words) == 1, f"not one answer but {words}"
    return next(iter(words))


def _next_in_pattern(row: Fields) -> str:
    shown = row["shown"].split()
    return _only(_fillings([*shown, ""], len(shown)))


def _missing_in_pattern(row: Fields) -> str:
    shown = row["shown"].split()
    assert shown.count("?") == 1
    return _only(_fillings(shown, shown.index("?")))


def _next_number(row: Fields) -> str:
    numbers = [int(text) for text in row["numbers"].split(", ")]
    (step,) = {b - a for a, b in itertools.pairwise(numbers)}
    assert len(numbers) >= 3 and step
    return str(numbers[0] + step * len(numbers))


def _decode(row: Fields) -> str:
    text = row["message"]
    assert len(set(text.split())) == len(text.split())
    return " ".join(
        re.search(rf"(?:^|, ){letter} = (\w+)", row["code"])[1] for letter in text.split(" ")
    )


def _rule(row: Fields) -> str:
    (thing,) = re.findall(rf"If the light is {row['light']}, take the (\w+)\.", row["rules"])
    return thing


def _spelled(row: Fields) -> str:
    first, second = row["words"].split(" ")
    gaps = re.compile(r"(?<=\w)(?=\w)")
    return f"{gaps.sub(row['mark'], first)} {gaps.sub(row['mark'], second)}"


def _analogy(row: Fields) -> str:
    assert _kind_of(row["word"]) == row["kind"]
    return _kind_of(row["other"])


CHECKERS: dict[str, Callable[[Fields], str]] = {
    "last_letters": lambda row: "".join(re.findall(r"(\w)\b", row["words"])),
    "starts_with": lambda row: re.search(rf"\b{row['letter']}\w*", row["words"])[0],
    "repeat_phrase": lambda row: (f"{row['phrase']} " * int(row["count"])).rstrip(),
    "join_words": lambda row: row["words"].replace(", ", row["mark"]),
    "spell_out": _spelled,
    "replace_word": lambda row: re.sub(rf"\b{row['old']}\b", row["new"], row["text"]),
    "first_item": _nth(0),
    "second_item": _nth(1),
    "third_item": _nth(2),
    "last_item": lambda row: row["things"].rpartition(", ")[2],
    "item_after": lambda row: re.search(rf"\b{row['thing']}, (\w+)", row["things"])[1],
    "remove_item": lambda row: re.sub(rf", {row['thing']}\b|^{row['thing']}, ", "", row["things"]),
    "reverse_list": lambda row: re.sub(
        r"\w+", lambda match: match[0][::-1], row["things"][::-1].replace(" ,", ", ")
    ),
    "list_holds": lambda row: (
        "yes" if f", {row['thing']}," in f", {row['things']}," else "no"
    ),
    "odd_one_out": lambda row: _odd(row["things"]),
    "count_items": lambda row: str(row["things"].count(",") + 1),
    "count_word": lambda row: str(len(re.findall(rf"\b{row['word']}\b", row["row"]))),
    "count_kind": lambda row: str(
        sum(_plural(_kind_of(word)) == row["kinds"] for word in row["things"].split(", "))
    ),
    "more_of": lambda row: _by_count(row, 0),
    "fewer_of": lambda row: _by_count(row, 1),
    "sort_numbers": lambda row: _selection_sort(row["numbers"], int),
    "sort_descending": lambda row: _selection_sort(row["numbers"], int, reverse=True),
    "sort_words": lambda row: _selection_sort(row["words"], lambda word: word[0]),
    "sort_months": lambda row: _selection_sort(row["months"], list(calendar.month_name).index),
    "extreme_number": lambda row: _selection_sort(row["numbers"], int).split(", ")[
        {"largest": -1, "smallest": 0}[row["which"]]
    ],
    "second_smallest": lambda row: next(
        text
        for text in row["numbers"].split(", ")
        if sum(int(other) < int(text) for other in row["numbers"].split(", ")) == 1
    ),
    "first_birthday": _first_birthday,
    "both_or_either": _judge,
    "if_then": _rule,
    "who_is_most": lambda row: _extreme_person(row, "most", 0),
    "who_is_least": lambda row: _extreme_person(row, "least", -1),
    "truth_teller": _liar_puzzle,
    "next_in_pattern": _next_in_pattern,
    "missing_in_pattern": _missing_in_pattern,
    "next_number": _next_number,
    "use_code": _decode,
    "analogy": _analogy,
}  # fmt: skip


# The answer, read off the reasoning; and whether the reasoning fits the row.


def _count_kind_reasoning(row: Fields) -> str:
    kinds, found = re.fullmatch(r"The ([\w ]+) are: ([\w, ]+)\.", row["reasoning"]).groups()
    assert kinds == row["kinds"]
    found = found.split(", ")
    wanted = [word for word in row["things"].split(", ") if _plural(_kind_of(word)) == kinds]
    assert found == wanted
    return str(len(found))


def _odd_reasoning(row: Fields) -> str:
    same, kinds, odd = re.fullmatch(
        r"([\w, ]+) are ([\w ]+), but (\w+) is not\.", row["reasoning"]
    ).groups()
    same = re.split(r", | and ", same)
    assert {_plural(_kind_of(word)) for word in same} == {kinds} != {_plural(_kind_of(odd))}
    assert Counter([*same, odd]) == Counter(row["things"].split(", "))
    return odd


def _more_reasoning(row: Fields) -> str:
    counts = {word: int(n) for word, n in re.findall(r"(\w+): (\d+)\.", row["reasoning"])}
    assert counts == Counter(row["row"].split())
    high, low = map(int, re.search(r"(\d+) is more than (\d+)\.$", row["reasoning"]).groups())
    assert high > low and sorted(counts.values()) == [low, high]
    return next(word for word, n in counts.items() if n == high)


def _second_reasoning(row: Fields) -> str:
    ordered = re.findall(r"\d+", row["reasoning"])
    assert sorted(ordered) == sorted(row["numbers"].split(", "))
    assert all(int(a) < int(b) for a, b in itertools.pairwise(ordered))
    return ordered[1]


def _birthday_reasoning(row: Fields) -> str:
    pattern = r"(\w+) comes before (\w+) and (\w+)\."
    early, *late = re.fullmatch(pattern, row["reasoning"]).groups()
    order = list(calendar.month_name).index
    assert all(order(early) < order(month) for month in late)
    assert sorted([early, *late]) == sorted(re.findall(r" in (\w+)", row["facts"]))
    return re.search(rf"(\w+) in {early}\b", row["facts"])[1]


def _judge_reasoning(row: Fields) -> str:
    (a, x), (b, y) = re.findall(r"(\w+): (yes|no)\.", row["reasoning"])
    for name, word in ((a, x), (b, y)):
        assert (f"{name} likes" in row["facts"]) == (word == "yes")
    rule = row["reasoning"].partition(f"{b}: {y}. ")[2]
    holds = {
        "Both must be yes.": {"yesyes"},
        "One yes is enough.": {"yesyes", "yesno", "noyes"},
        "Both must be no.": {"nono"},
        "The first must be yes and the second no.": {"yesno"},
    }[rule]
    assert row["claim"].index(a) < row["claim"].index(b)
    return "yes" if x + y in holds else "no"


def _chain_reasoning(row: Fields) -> str:
    pairs = re.findall(r"(\w+) is (\w+) than (\w+)", row["reasoning"])
    assert all(f"{a} is {more} than {b}." in row["facts"] for a, more, b in pairs)
    (first, _, link), (again, _, _) = pairs
    assert link == again
    return first


def _liar_reasoning(row: Fields) -> str:
    name, verb, negated, colour = re.fullmatch(
        r"(\w+) (lies|tells the truth), so the \w+ is (not )?(\w+)\.", row["reasoning"]
    ).groups()
    assert f"{name} always {verb}." in row["habits"] and row["saying"].startswith(f"{name} says")
    assert row["saying"].endswith(f" is {colour}.") and (verb == "lies") == (negated is not None)
    return _only({x for x in row["colours"].split(" or ") if (x == colour) != bool(negated)})


def _sequence_reasoning(row: Fields) -> str:
    step, word, last, sign, by, result = re.fullmatch(
        r"Each number is (\d+) (more|less) than the one before\. (\d+) ([+-]) (\d+) = (\d+)\.",
        row["reasoning"],
    ).groups()
    assert step == by and row["numbers"].endswith(f" {last}")
    assert (word, sign) in {("more", "+"), ("less", "-")}
    assert int(last) + int(sign + by) == int(result)
    return result


REASONS: dict[str, Callable[[Fields], str]] = {
    "last_letters": lambda row: "".join(re.findall(r"ends in (\w)\.", row["reasoning"])),
    "odd_one_out": _odd_reasoning,
    "count_kind": _count_kind_reasoning,
    "more_of": _more_reasoning,
    "second_smallest": _second_reasoning,
    "first_birthday": _birthday_reasoning,
    "both_or_either": _judge_reasoning,
    "who_is_most": _chain_reasoning,
    "truth_teller": _liar_reasoning,
    "next_number": _sequence_reasoning,
}


def _base(name: str) -> str:
    return name.removeprefix("micro_").removesuffix("_cot")


def test_every_task_is_checked():
    assert {_base(name) for name in PLAIN} == set(CHECKERS) == set(NEEDED)
    assert {_base(name) for name in COT} == set(REASONS)


def test_held_out_tasks():
    assert {_base(name) for name in TASKS if get_task(name).held_out} == HELD_OUT


@pytest.mark.parametrize("name", PLAIN)
def test_answers(name):
    checker = CHECKERS[_base(name)]
    for row in rows(name):
        assert row["answer"] == checker(row), row


@pytest.mark.parametrize("name", COT)
def test_reasoning_leads_to_the_answer(name):
    reason = REASONS[_base(name)]
    for row in rows(name):
        assert row["answer"] == reason(row), row
        assert len(row["reasoning"].split()) <= 30


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options(name):
    places = Counter()
    sizes = Counter()
    for row in rows(name):
        options = row["options"]
        assert 2 <= len(options) <= 5 and len(set(options)) == len(options)
        place = options.index(row["answer"])
        places[place / (len(options) - 1)] += 1
        sizes[len(options)] += 1
    # Neither the first nor the last place may give the answer away (300 rows: 5 sigma and more).
    expected = sum(count / size for size, count in sizes.items())
    for end in (0.0, 1.0):
        assert abs(places[end] - expected) < 45, (places, expected)


@pytest.mark.parametrize("name", PLAIN)
def test_no_answer_prevails(name):
    counts = Counter(row["answer"] for row in rows(name))
    labels = {label for row in rows(name) for label in row.get("options", ())}
    fair = 1 / len(labels) if labels == {"yes", "no"} else 0.3
    assert counts.most_common(1)[0][1] / ROWS < fair + 0.1, counts.most_common(3)


@pytest.mark.parametrize("name", TASKS)
def test_templates(name):
    task = get_task(name)
    templates = task.templates()
    assert len(templates) >= 10
    assert len({template.inputs for template in templates}) == len(templates)
    for template in templates:
        for needed in NEEDED[_base(name)]:
            wanted = set(needed.split()) - (set() if template.needs_options else {"options"})
            given = template.fields | ({"options"} if template.shows_options else set())
            assert wanted & given, f"{template.where} lacks {needed}"
        assert "answer" not in fields_of(template.inputs)
    if task.has_options:
        assert sum(template.shows_options for template in templates) >= 6
        assert sum(not template.needs_options for template in templates) >= 4
        assert all(t.shows_options for t in templates if t.needs_options)


@pytest.mark.parametrize("name", TASKS)
def test_rendered_texts(name):
    task = get_task(name)
    for row in rows(name, "validation", 100):
        block = plain_block(row["options"]).text if task.has_options else ""
        for template in task.templates():
            variants = [block] if template.needs_options else {"", block}
            for options in variants if template.shows_options else [""]:
                inputs, targets = template.render(row, options)
                for text in (inputs, targets):
                    assert text and text == text.strip()
                    assert not re.search(r"[{}]|  |None|\[|\n\n|\.\.(?!\.)(?<!\.\.\.)", text), text
                assert len(inputs.removesuffix(options).split()) <= 45, inputs
                if task.styles == ("cot",):
                    assert targets.endswith(f" answer is {row['answer']}.")
                    assert targets.count("answer is") == 1
                else:
                    assert targets == row["answer"]


@pytest.mark.parametrize("name", TASKS)
def test_validation_rows_differ(name):
    task = get_task(name)
    template = usable_templates(task, "zs_noopt")[0]
    inputs = {
        render(task, "validation", i, seed=0, variant="zs_noopt", template=template).inputs
        for i in range(200)
    }
    assert len(inputs) >= 150
