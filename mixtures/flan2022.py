"""The mixtures of the Flan 2022 collection (Chung et al., 2022; Longpre et al., 2023).

Within a mixture a task's rate is its number of training examples up to a cap, as published: the
same on every machine, whatever data are there. `flan_jax.realised` tells what a mixture comes to on
a machine. Between mixtures the shares are the paper's, or the public repository's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from flan_jax.mixing import (
    MixtureDefinition,
    define_mixture,
    get_mixture,
    register_deferred_mixture,
)
from flan_jax.tasks import INVERTED_RATE, TaskDefinition, all_tasks

# Most examples a task counts as (Chung et al., 2022, table 23; dialog: google-research/FLAN). For
# Natural Instructions this is each of its tasks.
CAPS = {"muffin": 30_000, "t0_sf": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}

# Shares in percent (Chung et al., 2022, table 23): A for the scaling and ablation sections, B for
# all other models, the released Flan-T5 among them.
PROPORTION_A = {"muffin": 52.0, "t0_sf": 15.0, "cot": 3.0, "niv2": 30.0}
PROPORTION_B = {"muffin": 46.0, "t0_sf": 27.9, "cot": 1.8, "niv2": 24.2}
# google-research/FLAN, flan2022_submix.
PUBLIC_SHARES = {"flan2021": 40.0, "t0_sf": 32.0, "niv2": 20.0, "cot": 5.0, "dialog": 3.0}

# The variants of a sub-mixture. Input-inverted prompts belong to both halves.
VARIANTS: Mapping[str, Mapping[str, float]] = {
    "zsopt": {"zs_opt": 1.0, "zs_inverted": INVERTED_RATE},
    "zsnoopt": {"zs_noopt": 1.0, "zs_inverted": INVERTED_RATE},
    "fsopt": {"fs_opt": 1.0, "fs_inverted": INVERTED_RATE},
    "fsnoopt": {"fs_noopt": 1.0, "fs_inverted": INVERTED_RATE},
}
# The paper's growth order; its counts are 9, 89, 282 and 1,836 tasks.
LADDER = {
    "9": ("cot",),
    "89": ("cot", "muffin"),
    "282": ("cot", "muffin", "t0_sf"),
    "1836": tuple(PROPORTION_A),
}


def _in_flan2021(task: TaskDefinition) -> bool:
    return task.group == "muffin" and "not_in_public_flan" not in task.tags


def _in_muffin(task: TaskDefinition) -> bool:
    return task.group in ("muffin", "dialog", "program_synthesis")


def _in_dialog(task: TaskDefinition) -> bool:
    return task.group == "dialog" and "not_in_public_flan" not in task.tags


# The members of each part of the collection, and what the part is.
PARTS: Mapping[str, tuple[Callable[[TaskDefinition], bool], str]] = {
    "flan2021": (_in_flan2021, "the 71 tasks of Flan 2021 that the public Flan 2022 trains on"),
    "muffin": (_in_muffin, "the paper's 80 Muffin tasks: Flan 2021, dialog, program synthesis"),
    "t0_sf": (lambda task: task.group == "t0_sf", "the 193 prompts of T0 that are not in Flan"),
    "niv2": (lambda task: task.group == "niv2", "the 1,556 Natural Instructions tasks but MMLU's"),
    "cot": (lambda task: task.group == "cot", "the 9 chain-of-thought datasets"),
    "dialog": (_in_dialog, "WikiDialog and QReCC"),
    "program_synthesis": (
        lambda task: task.group == "program_synthesis",
        "the 5 tasks of programs to mend or to write, which the public repository leaves out",
    ),
}


def capped_rates(tasks: Iterable[TaskDefinition], cap: int) -> dict[str, float]:
    """min(training examples, cap) by task; a task whose number is not published counts as `cap`."""
    return {task.name: float(min(task.num_train or cap, cap)) for task in tasks}


def _part(name: str) -> MixtureDefinition:
    belongs, description = PARTS[name]
    tasks = [task for task in all_tasks() if not task.held_out and belongs(task)]
    rates = capped_rates(tasks, CAPS.get(name, CAPS["muffin"]))
    return define_mixture(name, rates, description=description)


def _variant(name: str, suffix: str) -> MixtureDefinition:
    rates = get_mixture(name).rates
    return define_mixture(
        f"{name}_{suffix}", rates, variants=VARIANTS[suffix], description=_told(name, suffix)
    )


def _told(name: str, suffix: str) -> str:
    shots = "zero-shot" if suffix.startswith("zs") else "few-shot"
    options = "without options shown" if "noopt" in suffix else "with options shown"
    return f"{name}, {shots}, {options}"


def _register(name: str, define: Callable[[], MixtureDefinition], description: str) -> None:
    register_deferred_mixture(name, functools.cache(define), description=description)


def _register_shares(name: str, shares: Mapping[str, float], description: str) -> None:
    _register(
        name,
        lambda: define_mixture(name, dict(shares), description=description),
        description,
    )


def _percent(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {share:g}%" for part, share in shares.items())


def _register_parts() -> None:
    for name, (_, description) in PARTS.items():
        _register(name, functools.partial(_part, name), description)
        for suffix in VARIANTS:
            variant = functools.partial(_variant, name, suffix)
            _register(f"{name}_{suffix}", variant, _told(name, suffix))


def _register_wholes() -> None:
    for name, shares, what in (
        ("flan2022", PROPORTION_B, "the Flan 2022 collection as it trained Flan-T5 (proportion B)"),
        ("flan2022_a", PROPORTION_A, "the Flan 2022 collection as in the ablations (proportion A)"),
        ("flan2022_submix", PUBLIC_SHARES, "the collection as the public repository mixes it"),
    ):
        _register_shares(name, shares, f"{what}: {_percent(shares)}")
    for count, parts in LADDER.items():
        shares = {part: PROPORTION_A[part] for part in parts}
        what = f"the paper's task-scaling ladder at {int(count):,} tasks: {', '.join(parts)}"
        _register_shares(f"flan2022_ladder_{count}", shares, what)
    without = {part: share for part, share in PROPORTION_A.items() if part != "cot"}
    _register_shares("flan2022_no_cot", without, "ablation: all but chain of thought, else A")
    _register_shares("flan2022_only_cot", {"cot": 1.0}, "ablation: chain of thought alone")


_register_parts()
_register_wholes()
