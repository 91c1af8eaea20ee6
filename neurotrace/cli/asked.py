"""What `run` and `demo` are asked, checked, and made ready: model, pairs that behave, the study to call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from neurotrace.cli.options import Source, pairs_of, reading_of
from neurotrace.cli.together import ALONE, Study, Together
from neurotrace.core.errors import InputError
from neurotrace.core.files import read_text

if TYPE_CHECKING:
    from neurotrace.core.pairs import PromptPair
    from neurotrace.core.prompts import Item
    from neurotrace.models.encoding import EncodedPairs, Reading
    from neurotrace.models.protocol import HookedModel


@dataclass(frozen=True)
class Asked:
    """The command line's settings for the main study."""

    source: Source
    probes: Sequence[str]
    out: Path
    methods: Sequence[str] = ()  # empty: the study's own defaults, as below
    interventions: Sequence[str] = ()
    ks: Sequence[int] = ()
    split: str = "group"
    folds: int = 5
    seed: int = 0
    max_pairs: int = 0
    at_most: int = 0
    answers: str = "first"
    positions: str = "read"
    units: str = "neurons"
    neutral: Path | None = None
    damage_task: Path | None = None
    chat: str | None = None
    chat_system: str | None = None
    together: Together = ALONE
    as_json: bool = False
    overwrite: bool = False
    judge_trust: bool = False


def check(asked: Asked) -> None:
    if asked.folds < 2:
        raise InputError(f"--folds {asked.folds}: expected at least 2")
    if asked.at_most < 0:
        raise InputError(f"--at-most {asked.at_most}: expected 0, for all, or more")
    reading_of(asked.answers)
    if asked.positions not in ("read", "onward"):
        raise InputError(f"--positions {asked.positions}: expected read or onward")
    if asked.units not in ("neurons", "all"):
        raise InputError(f"--units {asked.units}: expected neurons or all")
    if asked.chat_system is not None and asked.chat is None:
        raise InputError("--chat-system goes with --chat user or --chat assistant")
    if asked.chat not in (None, "user", "assistant"):
        raise InputError(f"--chat {asked.chat}: expected user or assistant")
    if asked.neutral:
        _texts(asked.neutral)


@dataclass(frozen=True)
class Ready:
    """The study of what a model answers; on a worker, too."""

    study: partial[Any]  # of the model and its pairs; takes `units` and `progress`
    rendering: dict[str, Any] | None  # for a chat model

    @classmethod
    def of(
        cls,
        asked: Asked,
        loaded: HookedModel,
        items: Sequence[Item] = (),
        studied: EncodedPairs | None = None,
    ) -> Ready:
        """With `studied`, what another process found to behave: the model is not asked again."""
        from neurotrace.interventions.benchmark import item_ids
        from neurotrace.interventions.damage import neutral_texts
        from neurotrace.studies.selection import DEFAULT_KINDS, DEFAULT_METHODS
        from neurotrace.studies.study import study

        item_ids(loaded, items)  # what can't be asked would stop the run at its end
        rendering = None
        if studied is None:
            pairs = pairs_of(asked.probes, asked.max_pairs, asked.seed)
            if asked.chat:
                from neurotrace.probe_sets.chat import chat_pairs, chat_record

                pairs = chat_pairs(loaded, pairs, role=asked.chat, system=asked.chat_system)
                rendering = chat_record(loaded, role=asked.chat, system=asked.chat_system)
            studied = behaving(
                loaded, pairs, asked.source.name, asked.at_most, asked.seed, reading_of(asked.answers)
            )
        texts = _texts(asked.neutral) if asked.neutral else neutral_texts(loaded)
        call = partial(
            study,
            loaded,
            studied,
            methods=asked.methods or DEFAULT_METHODS,
            kinds=asked.interventions or DEFAULT_KINDS,
            ks=asked.ks or None,
            split=asked.split,
            folds=asked.folds,
            seed=asked.seed,
            neutral=texts,
            positions=cast(Any, asked.positions),
        )
        return cls(call, rendering)


def behaving(
    model: HookedModel,
    pairs: Sequence[PromptPair],
    name: str,
    at_most: int,
    seed: int,
    answers: Reading = "first",
) -> EncodedPairs:
    """The pairs that the model, called `name`, answers both ways; at most so many of a family, 0: all."""
    from neurotrace.core.process import bars
    from neurotrace.models.encoding import encode, nothing_left
    from neurotrace.models.origins import engine_of, keeping_runs
    from neurotrace.probe_sets.mining import mine_pairs

    with keeping_runs(model):  # what prompts begin with in common is run once
        if at_most:
            mined = mine_pairs(model, pairs, max_pairs=at_most, answers=answers, seed=seed, progress=bars)
            found = mined.encoded
        else:
            found = encode(model, pairs, answers=answers, progress=bars)
        if (engine := engine_of(model)) is not None:
            engine.kept.only([*found.memorization, *found.reasoning])
    if not len(found):
        raise nothing_left(name, found)
    return found


def study_of(asked: Asked, studied: EncodedPairs) -> Study:
    """For a worker."""
    return Ready.of(asked, asked.source.load(), studied=studied).study


def _texts(path: Path) -> list[str]:
    try:
        lines = [line for line in read_text(path).splitlines() if line.strip()]
    except InputError as error:
        raise InputError(f"--neutral {error}") from None
    if not lines:
        raise InputError(f"--neutral {path}: no text in it; expected one text a line")
    return lines
