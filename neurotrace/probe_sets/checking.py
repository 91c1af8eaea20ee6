"""Checks of a prompt set, and building a set again from its `build.py`.

A set that ships is a folder with `pairs.jsonl`, a card, and a `build.py` whose `build(folder)` writes
the same bytes every time.
"""

from __future__ import annotations

import runpy
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from neurotrace.core.errors import InputError, one_of
from neurotrace.core.pairs import PromptPair, load_pairs
from neurotrace.core.records import probe_names, probes_folder
from neurotrace.probe_sets.cards import digest, measured_digest

# words that every card must contain
_SAID = ("Licence", "Source", "memorized", "Known shortcuts", "Regenerate")


def set_folder(name: str) -> Path:
    """The folder of a set that ships."""
    if name not in probe_names():
        raise InputError(f"no set {name!r}: {one_of(name, probe_names())}")
    return probes_folder() / name


def build_set(folder: Path, out: Path) -> list[Path]:
    """Run the set's `build.py` into the folder `out`; returns the sets' files there."""
    script = runpy.run_path(str(folder / "build.py"))
    if "build" not in script:
        raise InputError(f"{folder / 'build.py'} has no function build(folder)")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't make {out}: {error.strerror or error}; name a folder with --out") from None
    script["build"](out)
    return sorted(out.glob("*.jsonl"))


def check_set(folder: Path) -> list[str]:
    """The problems of a packaged set; empty: none."""
    try:
        pairs = load_pairs(folder)
    except InputError as error:
        return [str(error)]
    return [*check_pairs(pairs), *_check_card(folder), *_check_build(folder)]


def check_pairs(pairs: Sequence[PromptPair]) -> list[str]:
    """The problems of valid pairs as minimal pairs; empty: none."""
    wrong = []
    for pair in pairs:
        if pair.memorization == pair.reasoning:
            wrong.append(f"{pair.id}: the two prompts are the same")
        for side in ("memorization", "reasoning"):
            prompt = getattr(pair, side)
            if prompt != prompt.strip():
                wrong.append(
                    f"{pair.id}: the {side} prompt begins or ends with a space, which most "
                    "tokenizers join to the answer"
                )
        first = {answer.split()[0] for answer in (pair.memorized_answer, pair.reasoned_answer)}
        if len(first) == 1:
            wrong.append(f"{pair.id}: both answers begin with {first.pop()!r}")
    texts = Counter((pair.memorization, pair.reasoning) for pair in pairs)
    wrong += [f"{n} pairs have the prompts {two[0]!r}" for two, n in texts.items() if n > 1]
    groups = Counter(family for family, _ in {(pair.family, pair.group) for pair in pairs})
    wrong += [f"family {name}: one group can't be split" for name, n in groups.items() if n < 2]
    return wrong


def _check_card(folder: Path) -> list[str]:
    path = folder / "README.md"
    if not path.is_file():
        return [f"no card: expected {path}"]
    card = path.read_text("utf-8")
    wrong = [f"the card says nothing of {word!r}" for word in _SAID if word.lower() not in card.lower()]
    measured = measured_digest(card)
    remedy = "run `neurotrace probes validate` with --model and --write"
    if measured is None:
        wrong.append(f"the card has no measured shares of pairs: {remedy}")
    elif measured != digest(folder):
        wrong.append(f"the card's shares were measured on other pairs: {remedy}")
    return wrong


def _check_build(folder: Path) -> list[str]:
    if not (folder / "build.py").is_file():
        return ["no build.py"]
    with tempfile.TemporaryDirectory() as place:
        made = build_set(folder, Path(place))
        names = {path.name for path in made}
        wrong = [
            f"build.py writes another {path.name} than the one that ships"
            for path in made
            if not (folder / path.name).is_file() or path.read_bytes() != (folder / path.name).read_bytes()
        ]
    return wrong if "pairs.jsonl" in names else [*wrong, "build.py writes no pairs.jsonl"]
