"""Why a model does not answer pairs as they say: what it says instead, grouped by cause.

`diagnose` only asks and sorts; `mending` changes the prompts. A cause is read off the model's five most
probable tokens after each prompt that it fails, and off the tokens of the pair itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from neurotrace.core.display import Shown, Table, View, clip
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.sides import SIDES, Side
from neurotrace.engine.turns import takes_turns
from neurotrace.models.encoding import Dropped, ask, by_length, last_logits
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import context_length, tokenizer_of
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd

# cause -> what it means, and what is worth trying
CAUSES = {
    "space": "right but for the leading space, or a capital: move the space between prompt and answer",
    "bare space": "a space by itself is a token before the answer: end the prompts with the space",
    "shared beginning": "both answers begin with the same token: move what they share into the prompts",
    "open ending": "the prompt can go on otherwise: end it so that only the answer is left",
    "no answer begun": "a line break or a sign follows: show examples, or state the form of the answer",
    "ignores the prompt": "it says the memorized answer where the reasoned one is asked: show examples",
    "follows the prompt": "it says the reasoned answer where the memorized one is asked: ask it plainly",
    "copies": "it repeats a word of the prompt: show examples",
    "not known": "the answer is not among its five most probable tokens: show examples, or leave it out",
    "nearly": "the answer is among its five most probable tokens: show examples",
    "unknown word": "the tokenizer has no token for a word of the pair: use other words",
    "too long": "the prompt is longer than the model takes: shorten it",
}
_FUNCTION_WORD = re.compile(
    "an?|the|of|in|on|at|to|by|for|from|with|as|and|or|that|this|its?|is|was|not|been?|also|now|one|"
    "called|named|known|located|found|about",
    re.IGNORECASE,
)
_RIGHT = {"no reasoned answer": ("memorization",), "no memorized answer": ("reasoning",)}


@dataclass(frozen=True)
class Failure:
    """One prompt that is not answered as its pair says.

    Attributes:
        says: the five most probable next tokens, as text, each with its probability.
    """

    pair: PromptPair
    side: Side
    cause: str
    says: tuple[tuple[str, float], ...]

    @property
    def prompt(self) -> str:
        return str(getattr(self.pair, self.side))

    @property
    def wanted(self) -> str:
        return self.pair.memorized_answer if self.side == "memorization" else self.pair.reasoned_answer


@dataclass(frozen=True)
class Diagnosis(Shown):
    """Which pairs behave (both prompts are answered as the pair says), and why the others do not."""

    model: str
    pairs: tuple[PromptPair, ...]
    behaving: tuple[PromptPair, ...]
    failures: tuple[Failure, ...]

    @property
    def share(self) -> float:
        """Of the pairs, those that behave."""
        return len(self.behaving) / len(self.pairs)

    @property
    def sides(self) -> float:
        """Of the prompts, those that are answered as named."""
        return 1 - len(self.failures) / (2 * len(self.pairs))

    def causes(self) -> dict[str, int]:
        """Cause -> number of prompts, most frequent first; `CAUSES` says what each means."""
        return dict(Counter(each.cause for each in self.failures).most_common())

    def to_frame(self) -> pd.DataFrame:
        """A row for each prompt that fails: pair, family, template, side, cause, prompt, wanted, says."""
        import pandas as pd

        columns = ["pair", "family", "template", "side", "cause", "prompt", "wanted", "says"]
        rows = [
            (e.pair.id, e.pair.family, e.pair.template, e.side, e.cause, e.prompt, e.wanted, list(e.says))
            for e in self.failures
        ]
        return pd.DataFrame(rows, columns=columns)

    def _view(self) -> View:
        rows: list[tuple[Any, ...]] = []
        for family, template in dict.fromkeys((p.family, p.template) for p in self.pairs):
            own = [p for p in self.pairs if (p.family, p.template) == (family, template)]
            good = sum((p.family, p.template) == (family, template) for p in self.behaving)
            failed = [e for e in self.failures if (e.pair.family, e.pair.template) == (family, template)]
            rows.append((family, template, f"{good} of {len(own)}", "", "", "", ""))
            for (side, cause), count in Counter((e.side, e.cause) for e in failed).most_common():
                first = next(e for e in failed if (e.side, e.cause) == (side, cause))
                says = ", ".join(f"{text!r} {p:.0%}" for text, p in first.says)
                shown = repr(first.prompt if len(first.prompt) < 60 else "…" + first.prompt[-58:])
                rows.append(("", "", f"{count} {side}", cause, shown, repr(first.wanted), says))
        columns = ("family", "template", "behave", "cause", "prompt", "expected", "says")
        means = [(name, CAUSES[name]) for name in self.causes()]
        return View(
            f"{len(self.behaving)} of {len(self.pairs)} pairs behave on {clip(self.model, 60)}: "
            "both prompts are answered as the pair says.",
            (
                Table(columns, rows),
                *([Table(("cause", "what it means, what to try"), means)] if means else ()),
            ),
            "Each prompt that fails: .to_frame(). Mends tried in turn: nt.mend_pairs, probes check --fix.",
        )


@takes_turns
def diagnose(
    model: HookedModel, pairs: Sequence[PromptPair], *, batch_size: int = 32, progress: Progress = None
) -> Diagnosis:
    """What the model says to each pair's prompts, and the cause where it is not the pair's answer.

    Args:
        batch_size: prompts of equal length that run together; changes no result.

    Example::

        found = nt.diagnose(model, nt.load_pairs("capitals"))
        found.causes()
    """
    asked = ask(model, pairs, batch_size=batch_size, progress=progress)
    tokenizer = tokenizer_of(model)
    failed: list[tuple[Dropped, Side]] = []
    for each in asked.dropped:
        good = _RIGHT.get(each.reason, ())
        failed += [(each, side) for side in SIDES if side not in good]
    says = _top_five(model, [getattr(each.pair, side) for each, side in failed], batch_size)
    failures = [
        Failure(each.pair, side, _cause(each, side, top, tokenizer), top)
        for (each, side), top in zip(failed, says, strict=True)
    ]
    order = {pair.id: place for place, pair in enumerate(pairs)}
    return Diagnosis(
        inspect_model(model).name,
        tuple(pairs),
        tuple(asked.pairs),
        tuple(sorted(failures, key=lambda e: (order[e.pair.id], SIDES.index(e.side)))),
    )


def _top_five(
    model: HookedModel, prompts: Sequence[str], batch_size: int
) -> list[tuple[tuple[str, float], ...]]:
    """Of each prompt; empty where it is longer than the model takes."""
    tokenizer, limit = tokenizer_of(model), context_length(model)
    ids = [torch.tensor(tokenizer(prompt).input_ids, dtype=torch.long) for prompt in prompts]
    fits = [row for row, each in enumerate(ids) if len(each) and not (limit and len(each) > limit)]
    found: list[tuple[tuple[str, float], ...]] = [()] * len(prompts)
    for rows, batch in by_length([ids[row] for row in fits], batch_size):
        chances = last_logits(model, batch).float().cpu().softmax(-1)
        values, places = chances.topk(min(5, chances.shape[-1]))
        for row, some, at in zip(rows, values.tolist(), places.tolist(), strict=True):
            texts = [tokenizer.decode([one]) for one in at]
            found[fits[row]] = tuple(zip(texts, some, strict=True))
    return found


def _cause(dropped: Dropped, side: Side, says: Sequence[tuple[str, float]], tokenizer: Any) -> str:
    pair = dropped.pair
    wanted, other = pair.memorized_answer, pair.reasoned_answer
    if side == "reasoning":
        wanted, other = other, wanted
    if dropped.reason in ("unknown word", "too long"):
        return dropped.reason
    if dropped.reason == "answer merges with the prompt":
        return "space"
    if dropped.reason == "same first token":
        whole = tokenizer(pair.memorization + pair.memorized_answer).input_ids
        first = whole[len(tokenizer(pair.memorization).input_ids)]
        return "shared beginning" if tokenizer.decode([first]).strip() else "bare space"
    said = says[0][0] if says else ""
    word = said.strip()
    if not word:
        return "no answer begun" if "\n" in said else "bare space"
    if _begins(wanted, word):
        return "space" if not wanted.startswith(said) else "nearly"
    if _begins(other, word):
        return "ignores the prompt" if side == "reasoning" else "follows the prompt"
    if not any(sign.isalnum() for sign in word):
        return "no answer begun"
    if _FUNCTION_WORD.fullmatch(word):
        return "open ending"
    if any(_begins(wanted, text.strip()) for text, _ in says if text.strip()):
        return "nearly"
    return "copies" if word in getattr(pair, side).split() else "not known"


def _begins(answer: str, word: str) -> bool:
    return answer.strip().lower().startswith(word.lower())
