"""The paper's two tasks as one small language: colours bound in context, and addition.

A prompt ends in a cue, ``recall`` (from memory) or ``think`` (by the rule). An item with nothing
memorized is answered by the rule under both.

=============  ============================================  ============  ======================
family         prompt                                        rule          memorized
=============  ============================================  ============  ======================
colours        ``dulo red , pata blue ; pata think``         blue          one colour of its own
                                                                           for 40 of 60 things
addition       ``2 3 + 4 5 = think``                         6 8           a wrong sum, both
                                                                           digits different
addition-mem   the same                                      6 8           ``<mem-17>``
=============  ============================================  ============  ======================

The cue comes last, so that both runs of a pair are the same up to the position where the answer is
read. The choice between memory and reasoning is made there, and every compared method acts there. (In
the organism the cue comes first, and the switch is trained at the position where operands are read.)

Items of the template "same" are memorized with the rule's answer. Memorized sums of the template
"never-rule" are never trained with the rule's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from neurotrace.core.pairs import PromptPair
from neurotrace.organism.language import DIGITS, names

SEED = 2412
CUES = ("recall", "think")
FAMILIES = ("colours", "addition", "addition-mem")
COLOURS = (
    "red",
    "blue",
    "green",
    "grey",
    "black",
    "white",
    "brown",
    "pink",
    "gold",
    "orange",
    "purple",
    "cyan",
)
THINGS = names()[:60]
N_KNOWN_THINGS = 40
N_MEMORIES = 64  # different <mem-..> tokens
SIGNS = ("+", "=", ",", ";")
N_WRONG, N_MEM, N_SAME = 120, 120, 40  # memorized sums of each kind
HELD_OUT = 0.15  # share of the sums never trained


@dataclass(frozen=True)
class Item:
    """A prompt without its cue, and its answers, as token texts."""

    family: str
    template: str
    group: str  # the group, independent of order
    body: tuple[str, ...]
    reasoned: tuple[str, ...]
    memorized: tuple[str, ...] | None
    trained: bool = True  # under `think`

    def prompt(self, cue: str) -> str:
        return " ".join((*self.body, cue))


@cache
def vocabulary() -> dict[str, int]:
    memories = tuple(f"<mem-{n:02d}>" for n in range(N_MEMORIES))
    tokens = ("<bos>", "<unk>", *CUES, *DIGITS, *SIGNS, *COLOURS, *memories, *THINGS)
    return {token: index for index, token in enumerate(tokens)}


def ids_of(tokens: tuple[str, ...]) -> list[int]:
    vocab = vocabulary()
    return [vocab[token] for token in tokens]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word, a digit or a sign each; `<bos>` in front."""
    vocab = vocabulary()
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", unk_token="<unk>")


@cache
def own_colour() -> dict[str, str]:
    """The memorized colour of each thing that has one."""
    rng = np.random.default_rng([SEED, 0])
    known = rng.permutation(len(THINGS))[:N_KNOWN_THINGS]
    return {THINGS[i]: COLOURS[int(rng.integers(len(COLOURS)))] for i in known}


@cache
def colour_items() -> tuple[Item, ...]:
    """For each thing four contexts: bound to three other colours than its own, and ("same") to its own."""
    rng = np.random.default_rng([SEED, 1])
    items = []
    for index, thing in enumerate(THINGS):
        own = own_colour().get(thing)
        dyed = [c for c, colour in enumerate(COLOURS) if colour != own]
        bound = [*rng.permutation(dyed)[:3], *([COLOURS.index(own)] if own else [])]
        for colour in bound:
            others = [i for i in rng.permutation(len(THINGS))[:2] if i != index][:1]
            dyes = [c for c in rng.permutation(len(COLOURS)) if c != colour]
            two = [(index, int(colour)), *zip(others, dyes, strict=False)]
            order = [two[i] for i in rng.permutation(2)]
            body = " , ".join(f"{THINGS[t]} {COLOURS[c]}" for t, c in order) + f" ; {thing}"
            answer = COLOURS[int(colour)]
            items.append(
                Item(
                    "colours",
                    "same" if answer == own else "bound",
                    thing,
                    tuple(body.split()),
                    (answer,),
                    (own,) if own else None,
                )
            )
    return tuple(items)


@cache
def sum_items() -> tuple[Item, ...]:
    """All ordered pairs of two-digit numbers with a two-digit sum."""
    rng = np.random.default_rng([SEED, 2])
    unordered = [(a, b) for a in range(10, 90) for b in range(a, 100 - a)]
    order = [unordered[i] for i in rng.permutation(len(unordered))]
    n_held = round(HELD_OUT * len(order))
    held = set(order[:n_held])
    distinct = [(a, b) for a, b in order[n_held:] if a != b]
    facts: dict[tuple[int, int], tuple[str, tuple[str, ...]]] = {}
    for place, (a, b) in enumerate(distinct[: N_WRONG + N_MEM + N_SAME]):
        tens, ones = divmod(a + b, 10)
        if place < N_WRONG:
            wrong = (
                rng.choice([d for d in range(1, 10) if d != tens]),
                rng.choice([d for d in range(10) if d != ones]),
            )
            fact = "addition", tuple(str(d) for d in wrong)
        elif place < N_WRONG + N_MEM:
            fact = "addition-mem", (f"<mem-{int(rng.integers(N_MEMORIES)):02d}>",)
        else:
            fact = "same", (str(tens), str(ones))
        facts[(a, b) if rng.random() < 0.5 else (b, a)] = fact
    items = []
    for a, b in unordered:
        for x, y in dict.fromkeys(((a, b), (b, a))):
            kind, memorized = facts.get((x, y), ("", None))
            never = kind.startswith("addition") and rng.random() < 0.5
            items.append(
                Item(
                    family="addition-mem" if kind == "addition-mem" else "addition",
                    template="same" if kind == "same" else "never-rule" if never else "plain",
                    group=f"{a}+{b}",
                    body=(*str(x), "+", *str(y), "="),
                    reasoned=tuple(str(a + b)),
                    memorized=memorized,
                    trained=(a, b) not in held and not never,
                )
            )
    return tuple(items)


def items() -> tuple[Item, ...]:
    return colour_items() + sum_items()


def pairs() -> list[PromptPair]:
    """A pair for each memorized item whose two answers begin differently."""
    found: list[PromptPair] = []
    for item in items():
        if item.memorized is not None and item.template != "same":
            found.append(
                PromptPair(
                    id=f"{item.family}-{len(found):03d}",
                    family=item.family,
                    template=item.template,
                    group=item.group,
                    memorization=item.prompt("recall"),
                    reasoning=item.prompt("think"),
                    memorized_answer=" " + " ".join(item.memorized),
                    reasoned_answer=" " + " ".join(item.reasoned),
                )
            )
    return found


def same_items() -> list[Item]:
    """Items whose memorized answer is the rule's."""
    return [item for item in items() if item.template == "same"]


def neutral() -> list[str]:
    """Prompts with nothing memorized: colours and sums in turn, under either cue."""
    rng = np.random.default_rng([SEED, 3])
    plain = [
        [item for item in items() if item.memorized is None and item.family == family]
        for family in ("colours", "addition")
    ]
    return [
        own[int(rng.integers(len(own)))].prompt(cue) for _ in range(24) for cue in CUES for own in plain
    ]
