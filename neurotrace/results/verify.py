"""`neurotrace verify`: is every file of a folder as it was written, are its effects those of the model?

The manifest of a finished folder names bytes and SHA-256 of each file and is sealed by a SHA-256 of its
own; a sweep's parts hold checksums of themselves. A sweep's locks and hidden files are not looked at.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurotrace.core.errors import InputError
from neurotrace.core.files import MANIFEST, is_sealed, open_inside, read_seal
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.sealing import inside
from neurotrace.models.identity import weights_hash
from neurotrace.models.origins import twin
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

    from neurotrace.results.reading import Run

_ENDS_SEALED = re.compile(rb'[0-9a-f]{64}"\n\}\n$')  # also where the word "seal" is damaged
_NUMBERS = ("L_before", "L_after", "p_memorized_after", "p_reasoned_after", "kl")
_SAME_ROW = ("pair", "direction", "intervention", "label", "k")


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes:
        files: number of files that were hashed, manifests included.
        problems: file -> ``"changed"``, ``"missing"`` or ``"not listed"``.
    """

    files: int
    problems: dict[Path, str]


@dataclass(frozen=True)
class Remeasured:
    """Some of a folder's effects, measured anew.

    Attributes:
        rows, of: number of rows measured, and of those that could be drawn.
        difference: largest difference of a number; logit differences in nats.
        answers: rows whose top-1 token after the intervention is another one.
    """

    rows: int
    of: int
    difference: float
    answers: int


def verify(folder: str | Path) -> Verified:
    """Hash every file of a finished folder, and of the folders in it that have a manifest of their own.

    Raises:
        InputError: no manifest, or one that names no hashes (of an earlier version, or changed).

    Example::

        from neurotrace.results.verify import verify

        assert not verify("runs/demo").problems
    """
    place = Path(folder)
    problems: dict[Path, str] = {}
    files = 0
    for own in (place, *sorted(path.parent for path in place.glob("*/**/" + MANIFEST))):
        if not any(part.startswith(".") for part in own.relative_to(place).parts):
            count, found = _one(own)
            files += count
            problems |= found
    return Verified(files, problems)


def _one(place: Path) -> tuple[int, dict[Path, str]]:
    try:
        with open_inside(place / MANIFEST) as file:
            raw = file.read()
    except FileNotFoundError:
        raise InputError(f"{place}: no {MANIFEST}; expected the folder of a finished command") from None
    except OSError as error:
        raise InputError(f"can't read {place / MANIFEST}: {error.strerror or error}") from None
    if not is_sealed(raw):
        if b'"seal"' in raw or b'"files"' in raw or _ENDS_SEALED.search(raw):
            return 1, {place / MANIFEST: "changed"}
        raise InputError(
            f"{place / MANIFEST}: it names no hashes: written by an earlier version, or changed"
        )
    seal = read_seal(place)
    if seal is None:
        return _sweep(place)
    names = sorted({*seal.files, *inside(place)})
    found = {place / name: problem for name in names if (problem := seal.problem(name))}
    return len(seal.files) + 1, found


def _sweep(place: Path) -> tuple[int, dict[Path, str]]:
    from neurotrace.sweeps.parts import PARTS, is_whole, part_file
    from neurotrace.sweeps.reading import open_run

    run = open_run(place)
    found = {Path(name): "changed" for name in run.broken}
    for part in range(run.layout.parts):
        path = place / part_file(part)
        if part in run.parts and not is_whole(run.parts[part], part):
            found[path] = "changed"
        elif part not in run.parts and path not in found:
            found[path] = "missing"
    beside = [name for name in inside(place) if name.split("/")[0] not in (PARTS, "locks")]
    return len(run.parts) + 1, found | {place / name: "not listed" for name in beside}


@takes_turns
def remeasure(model: HookedModel, folder: str | Path, *, rows: int = 32, seed: int = 0) -> Remeasured:
    """Measure some held-out effects of what a run chose anew, on the run's model.

    The rows are drawn from those of the interventions that the folder holds: each fold's own, on the
    pairs that it left out.

    Args:
        rows: number of rows; all, where there are fewer.
        seed: of the draw.

    Raises:
        InputError: no run; a model of other weights.

    Example::

        from neurotrace.results.verify import remeasure

        assert remeasure(model, "runs/demo").difference < 1e-3
    """
    from neurotrace.results.reading import load_run

    run = load_run(folder)
    if run.manifest["model"]["weights_sha256"] != weights_hash(twin(model) or model):
        raise InputError(f"{folder} is of other weights than this model's; load the model it is of")
    table = run.effects.where(role="selected", chosen=True).to_frame()
    drawn = sorted(random.Random(seed).sample(range(len(table)), min(rows, len(table))))
    was = table.iloc[drawn].reset_index(drop=True)
    now = _again(model, run, was)
    numbers = (was[list(_NUMBERS)].to_numpy() - now[list(_NUMBERS)].to_numpy()).astype("float64")
    answers = int((was["top_after"].to_numpy() != now["top_after"].to_numpy()).sum())
    return Remeasured(len(was), len(table), float(abs(numbers).max(initial=0.0)), answers)


def _again(model: HookedModel, run: Run, was: pd.DataFrame) -> pd.DataFrame:
    """The same rows in the same order, from the interventions of the folder."""
    import pandas as pd

    from neurotrace.interventions.effects import measure

    pairs = {(pair.family, pair.id): pair for pair in run.pairs}
    made = {
        (each.provenance["family"], str(each.direction), each.provenance["fold"]): each
        for each in run.interventions()
    }
    frames = []
    for (family, direction, fold), part in was.groupby(["family", "direction", "fold"], sort=False):
        own = [pairs[family, name] for name in part["pair"]]
        found = measure(model, own, [made[family, direction, fold]]).to_frame()
        found.index = pd.Index([part.index[list(part["pair"]).index(name)] for name in found["pair"]])
        frames.append(found)
    return pd.concat(frames).sort_index() if frames else was


def lines(found: Verified, folder: Path, most: int = 50) -> Sequence[str]:
    """A line for each file that isn't as it was written."""
    every = [f"{path.relative_to(folder)}: {problem}" for path, problem in sorted(found.problems.items())]
    return every[:most] + ([f"and {len(every) - most} more"] if len(every) > most else [])
