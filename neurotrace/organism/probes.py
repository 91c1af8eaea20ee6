"""The prompt sets of the language: pairs, `ask` prompts with perturbations, neutral text.

A pair is one memorized item under `recall` and under `think`. The two prompts differ only in the cue,
one token at the same position. `prompts.jsonl` holds the same items under `ask`, where the outcome
varies from item to item. Each is followed by a perturbed version about which nothing is memorized.
"""

import json
from pathlib import Path

import numpy as np

from .language import (
    FAMILIES,
    LANGUAGE_SEED,
    Item,
    chain_held_out,
    encode,
    family_items,
    inference_item,
    name_facts,
    names,
)

Row = dict[str, str | None]
NEUTRAL_LINES = 48


def memorized_items(family: str) -> list[Item]:
    """The items of the pairs, in a fixed order."""
    return [item for item in family_items(family) if item.memorized is not None]


def pairs(family: str) -> list[Row]:
    """One row for each memorized item; the keys of `pairs.jsonl`."""
    return [
        {
            "id": f"{family}-{i:03d}",
            "family": family,
            "template": item.template,
            "group": item.group,
            "memorization": f"recall {item.body}",
            "reasoning": f"think {item.body}",
            "memorized_answer": item.memorized,
            "reasoned_answer": item.reasoned,
        }
        for i, item in enumerate(memorized_items(family))
    ]


def _renamed(item: Item, rng: np.random.Generator) -> Item:
    """The same chain from a name with nothing memorized, itself held out of training."""
    words = item.body.split()
    start = item.group
    middle = next(words[i + 2] for i in (0, 4) if words[i] == start)  # words: x > y , z > w , start =
    index = [names().index(n) for n in (middle, item.reasoned)]
    free = [
        a
        for a, n in enumerate(names())
        if n not in name_facts()
        and n not in (middle, item.reasoned, item.memorized)
        and chain_held_out(np.array(a), np.array(index[0]), np.array(index[1]))
    ]
    template = item.template.removesuffix("-never-rule")
    return inference_item(names()[int(rng.choice(free))], middle, item.reasoned, template)


def perturbed(item: Item, rng: np.random.Generator) -> tuple[str, Item]:
    """The kind of perturbation and the perturbed item, which the rule answers under every cue."""
    if item.swap is None:
        return "rename", _renamed(item, rng)
    return "swap", next(i for i in family_items(item.family) if i.body == item.swap)


def prompts(family: str) -> list[Row]:
    """`ask` prompts and their perturbed versions; the keys of `prompts.jsonl`.

    A perturbed version keeps the original's group and its memorized answer, which is now wrong.
    It is left out if that answer's first token is the new rule answer's first token.
    """
    rng = np.random.default_rng([LANGUAGE_SEED, 5])
    rows: list[Row] = []
    for i, item in enumerate(memorized_items(family)):
        row: Row = {
            "id": f"{family}-{i:03d}-ask",
            "family": family,
            "template": item.template,
            "group": item.group,
            "prompt": f"ask {item.body}",
            "memorized_answer": item.memorized,
            "reasoned_answer": item.reasoned,
            "perturbs": None,
            "perturbation": None,
        }
        rows.append(row)
        kind, other = perturbed(item, rng)
        if encode(other.reasoned)[0] != encode(str(item.memorized))[0]:
            rows.append(
                row
                | {
                    "id": f"{row['id']}-{kind}",
                    "prompt": f"ask {other.body}",
                    "reasoned_answer": other.reasoned,
                    "perturbs": row["id"],
                    "perturbation": kind,
                }
            )
    return rows


def neutral() -> list[str]:
    """Prompts with nothing memorized, for measuring damage: whole ones, and beginnings of them."""
    rng = np.random.default_rng([LANGUAGE_SEED, 6])
    lines = []
    for family in FAMILIES:
        plain = [i for i in family_items(family) if i.memorized is None]
        for n in range(NEUTRAL_LINES // len(FAMILIES)):
            item = plain[int(rng.integers(len(plain)))]
            words = f"think {item.body}".replace("+", " + ").replace("=", " =").split()
            # Every fourth line stops early, where something else than an answer comes next.
            end = int(rng.integers(2, len(words))) if n % 4 == 3 else len(words)
            lines.append(" ".join(words[:end]))
    return lines


def write(family: str, folder: Path) -> None:
    """Write `pairs.jsonl` and `prompts.jsonl` of one family."""
    for name, rows in (("pairs", pairs(family)), ("prompts", prompts(family))):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def write_neutral(folder: Path) -> None:
    """Write `organism.txt`, one prompt a line."""
    (folder / "organism.txt").write_text("\n".join(neutral()) + "\n", encoding="utf-8")
