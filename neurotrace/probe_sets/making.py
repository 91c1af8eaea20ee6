"""Helpers for a set's `build.py`: templates with two sides, items that fill them, writing the file.

A template is one text for both prompts: of ``[a|b]`` the memorization prompt has ``a``, the reasoning
prompt ``b``; ``{name}`` is the item's word of that name. Nothing else differs within a pair.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from neurotrace.core.writing import save_file

_SIDES = re.compile(r"\[([^|\]]*)\|([^|\]]*)\]")


@dataclass(frozen=True)
class Item:
    """The item of a pair, before a template puts it into words."""

    id: str
    group: str
    memorized: str  # as it follows the prompt, leading space included
    reasoned: str
    words: Mapping[str, str]


def fill(template: str, words: Mapping[str, str]) -> tuple[str, str]:
    """The memorization prompt and the reasoning prompt."""
    return (
        _SIDES.sub(r"\1", template).format(**words),
        _SIDES.sub(r"\2", template).format(**words),
    )


def rows(family: str, templates: Mapping[str, str], items: Iterable[Item]) -> list[dict[str, str]]:
    """Every item in every template; the keys of `pairs.jsonl`."""
    made = []
    for item in items:
        for name, template in templates.items():
            memorization, reasoning = fill(template, item.words)
            made.append(
                {
                    "id": f"{family}-{item.id}-{name}",
                    "family": family,
                    "template": name,
                    "group": item.group,
                    "memorization": memorization,
                    "reasoning": reasoning,
                    "memorized_answer": item.memorized,
                    "reasoned_answer": item.reasoned,
                }
            )
    return made


def prompt_rows(
    about: Mapping[str, str], prompt: str, changed: Mapping[str, str] | None = None, *, how: str = "rename"
) -> list[dict[str, str | None]]:
    """A prompt's row and that of its changed version; the keys of `prompts.jsonl`.

    Args:
        about: id, family, template, group and the two answers.
        changed: what the changed version has instead, its prompt among it; None: there is none.
        how: the kind of change, which ends the version's id.
    """
    order = ("id", "family", "template", "group", "prompt", "memorized_answer", "reasoned_answer")
    whole = {**about, "prompt": prompt}
    row: dict[str, str | None] = {name: whole[name] for name in order}
    made = [row | {"perturbs": None, "perturbation": None}]
    if changed is not None:
        name = about["id"]
        made.append(row | {"id": f"{name}-{how}", **changed, "perturbs": name, "perturbation": how})
    return made


def slug(text: str) -> str:
    """`text` as a part of an id: "the United Kingdom" becomes "united-kingdom"."""
    return re.sub(r"[^a-z0-9]+", "-", text.removeprefix("the ").lower()).strip("-")


def write_rows(target: Path, made: Iterable[Mapping[str, str | None]]) -> Path:
    """Write JSON lines to the file `target`, or to `pairs.jsonl` in it; all of them or nothing."""
    path = target / "pairs.jsonl" if os.path.isdir(target) else target
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in made]
    save_file(path, "".join(lines))
    return path
