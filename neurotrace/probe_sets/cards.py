"""The figures in a set's card: the share of its pairs that a model answers correctly, by template.

They are between two marks in the card's README.md, with the model and the digest of the `pairs.jsonl`
that was measured. `checking` compares the digest with the current file.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from neurotrace.core.display import line
from neurotrace.core.errors import InputError
from neurotrace.core.writing import write_atomically

if TYPE_CHECKING:
    from neurotrace.probe_sets.mending import Mended
    from neurotrace.probe_sets.mining import Mined

BEGIN, END = "<!-- behaviour -->", "<!-- /behaviour -->"
_DIGEST = re.compile(r"sha256 ([0-9a-f]{16})")


def digest(folder: Path) -> str:
    """The first 16 digits of the SHA-256 of the set's `pairs.jsonl`."""
    return hashlib.sha256((folder / "pairs.jsonl").read_bytes()).hexdigest()[:16]


def behaviour_table(mined: Mined, *, model: str, dtype: str, of: str) -> str:
    """The block for a card, marks included; `of` is the digest of the pairs."""
    lines = [
        BEGIN,
        f"{model}, {dtype}, all pairs of `pairs.jsonl` (sha256 {of}). *Memory*: the share of pairs for "
        "which the top-1 token after the memorization prompt begins the memorized answer; *reasoning*: "
        "the same for the reasoning prompt and the reasoned answer; *both*: both, with a 95 % interval "
        "clustered by group.",
        "",
        "| family | template | pairs | memory | reasoning | both | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in mined.shares().itertuples():
        lines.append(
            f"| {row.family} | {row.template} | {row.pairs} | {row.recalls:.0%} | {row.reasons:.0%} | "
            f"{row.behaves:.0%} | {row.low:.0%}–{row.high:.0%} |"
        )
    total = len(mined.pairs) + len(mined.dropped)
    why = ", ".join(f"{count} {reason}" for reason, count in mined.reasons().items()) or "none"
    lines += [
        "",
        f"{len(mined.pairs)} of {total} pairs are answered correctly on both prompts; the others: {why}.",
        END,
    ]
    return "\n".join(lines)


def measured_digest(card: str) -> str | None:
    """The digest in a card's block; None: it has no figures."""
    block = _block(card)
    found = _DIGEST.search(card[slice(*block)]) if block else None
    return found[1] if found else None


def write_behaviour(folder: Path, table: str) -> None:
    """Put the block into the card, in place of the one that is there."""
    path = folder / "README.md"
    card = path.read_text("utf-8")
    block = _block(card)
    if block is None:
        raise InputError(f"{path}: no place for the figures; put {BEGIN} and {END} where they go")
    start, end = block
    write_atomically(path, (card[:start] + table + card[end:]))


def _block(card: str) -> tuple[int, int] | None:
    start, end = card.find(BEGIN), card.find(END)
    return (start, end + len(END)) if 0 <= start < end else None


def mended_card(mended: Mended, source: str, seed: int) -> str:
    """The card of the changed pairs: where they come from, what was tried, what it gave."""
    kept = [f"- {s.family}: {s.mend}" for s in mended.steps if s.kept] or ["- nothing: no mend helped"]
    tried = [
        f"| {s.family} | {s.mend} | {s.before:.0%} | {s.after:.0%} | {'yes' if s.kept else 'no'} |"
        for s in mended.steps
    ]
    families = dict.fromkeys(pair.family for pair in mended.pairs)
    return "\n".join(
        [
            f"# Pairs of {line(source)}, changed for {line(mended.before.model)}",
            "",
            "Changed by `neurotrace probes check --fix`:",
            "",
            *kept,
            "",
            *(f"- {line(name)}: {mended.line(name)}" for name in families),
            "",
            f"Mends were chosen on a few pairs of each family (seed {seed}); the shares above are "
            "of all pairs, the few included. Examples in a prompt are pairs of other groups of the same "
            "template, which may be training or held-out pairs of a study.",
            "",
            "| family | tried | before | after | kept |",
            "|---|---|---|---|---|",
            *tried,
            "",
        ]
    )
