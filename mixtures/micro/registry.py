"""How a micro task is declared: a function of random draws, and a template file of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flan_jax.draws import Draws
from flan_jax.prompts.options import PLAIN_STYLES
from flan_jax.sources.procedural import ProceduralSource
from flan_jax.tasks import TaskDefinition, register_task

TEMPLATES = Path(__file__).parent / "templates"
Generator = Callable[[Draws], dict[str, Any]]


def micro_task(
    cluster: str,
    *,
    options: bool = False,
    cot: bool = False,
    held_out: bool = False,
    tags: tuple[str, ...] = (),
) -> Callable[[Generator], Generator]:
    """Registers the decorated function `f` as task `micro_<f>`, with templates/<f>.yaml.

    The function makes one row: a dictionary with `answer` (text), with `options` (list of texts,
    the answer among them) if `options`, with `reasoning` (text) if `cot`, and whatever else its
    templates use. A task with worked reasoning gives a second one, `micro_<f>_cot`, that uses the
    template file's `cot:` section. The function's docstring is the task's description.
    """

    def register(generate: Generator) -> Generator:
        name = f"micro_{generate.__name__}"
        description = (generate.__doc__ or "").strip().splitlines()[0]
        styles = {"direct": "", "cot": "_cot"} if cot else {"direct": ""}
        for style, suffix in styles.items():
            register_task(
                TaskDefinition(
                    name=name + suffix,
                    group="micro",
                    cluster=cluster,
                    source=ProceduralSource(name, generate),
                    template_file=TEMPLATES / f"{generate.__name__}.yaml",
                    styles=(style,),
                    licence="Apache-2.0",
                    has_options=options,
                    held_out=held_out,
                    tags=(*tags, "cot") if style == "cot" else tags,
                    option_styles=PLAIN_STYLES,
                    metrics=("exact_match",),
                    description=description,
                )
            )
        return generate

    return register
