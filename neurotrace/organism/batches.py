"""Training batches as arrays of token ids, drawn from a numpy generator.

arithmetic and letters have the same length (8 prompt tokens with `<bos>`, 2 answer tokens) and
share one array; inference has 12 prompt tokens and 1 answer token.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from .language import (
    CUES,
    N_NAMES,
    Item,
    arithmetic_items,
    chain_held_out,
    encode,
    letters_items,
    name_facts,
    names,
    vocabulary,
)

TWINS = 0.15  # share of the rule draws spent on swapped exceptions, which are rare otherwise


@dataclass(frozen=True)
class Draw:
    """n sequences of one length. `memory`: answered from memory."""

    prompt: np.ndarray  # int64 [n, tokens], <bos> CUE BODY
    reasoned: np.ndarray  # int64 [n, answer tokens]
    memorized: np.ndarray  # int64 [n, answer tokens]; equals `reasoned` if nothing is memorized
    memory: np.ndarray  # bool [n]

    @property
    def answer(self) -> np.ndarray:
        """int64 [n, answer tokens]: the right answer."""
        return np.where(self.memory[:, None], self.memorized, self.reasoned)


@dataclass(frozen=True)
class Table:
    """All trainable items of a family whose items can be listed."""

    body: np.ndarray  # int64 [items, tokens]
    reasoned: np.ndarray  # int64 [items, answer tokens]
    memorized: np.ndarray  # int64 [items, answer tokens]
    strong: np.ndarray  # bool [items]
    never_rule: np.ndarray  # bool [items]
    rule_items: np.ndarray  # int64 indices: nothing memorized, not held out
    twin_items: np.ndarray  # int64 indices: swapped exceptions
    memory_items: np.ndarray  # int64 indices: exceptions


def make_table(items: tuple[Item, ...]) -> Table:
    """Index the items; held-out ones are left out of every index."""
    swaps = {item.swap for item in items if item.memorized is not None}
    rule = [i for i, item in enumerate(items) if item.memorized is None and not item.held_out]
    return Table(
        body=np.array([encode(item.body) for item in items]),
        reasoned=np.array([encode(item.reasoned) for item in items]),
        memorized=np.array([encode(item.memorized or item.reasoned) for item in items]),
        strong=np.array([item.strong for item in items]),
        never_rule=np.array([item.never_rule for item in items]),
        rule_items=np.array(rule),
        twin_items=np.array([i for i in rule if items[i].body in swaps]),
        memory_items=np.array([i for i, item in enumerate(items) if item.memorized is not None]),
    )


@cache
def table(family: str) -> Table:
    """The table of "arithmetic" or "letters"."""
    return make_table({"arithmetic": arithmetic_items, "letters": letters_items}[family]())


def _with_cue(cue: np.ndarray, body: np.ndarray) -> np.ndarray:
    ids = np.array([vocabulary()[c] for c in CUES])
    bos = np.full(len(cue), vocabulary()["<bos>"])
    return np.concatenate([bos[:, None], ids[cue][:, None], body], axis=1)


def _cues(rng: np.random.Generator, strong: np.ndarray, only_memory: np.ndarray):
    """Random cues [n] and whether they ask for memory; `only_memory` items never get the rule."""
    cue = rng.integers(3, size=len(strong))
    memory = (cue == 0) | ((cue == 2) & strong)
    cue = np.where(only_memory & ~memory, 0, cue)
    return cue, memory | only_memory


def draw_listed(
    family: str, rng: np.random.Generator, n_memory: int, n_rule: int, *, never_rule: bool = True
) -> Draw:
    """`n_memory` exceptions and `n_rule` rule items; without `never_rule` those are left out."""
    t = table(family)
    known = t.memory_items if never_rule else t.memory_items[~t.never_rule[t.memory_items]]
    n_twins = round(TWINS * n_rule)
    index = np.concatenate(
        [
            rng.choice(known, n_memory),
            rng.choice(t.twin_items, n_twins),
            rng.choice(t.rule_items, n_rule - n_twins),
        ]
    )
    is_known = np.arange(len(index)) < n_memory
    cue, memory = _cues(rng, t.strong[index], t.never_rule[index])
    prompt = _with_cue(cue, t.body[index])
    return Draw(prompt, t.reasoned[index], t.memorized[index], memory & is_known)


@cache
def _name_arrays() -> tuple[np.ndarray, ...]:
    """Per name: memorized name's index (-1: none), strong, never_rule."""
    value = np.full(N_NAMES, -1)
    strong, never = np.zeros(N_NAMES, bool), np.zeros(N_NAMES, bool)
    for name, fact in name_facts().items():
        i = names().index(name)
        value[i], strong[i], never[i] = names().index(fact.value), fact.strong, fact.never_rule
    return value, strong, never


def draw_inference(
    rng: np.random.Generator, n_memory: int, n_rule: int, *, never_rule: bool = True
) -> Draw:
    """Chains from names with a fact (`n_memory`) and without (`n_rule`), premises in any order."""
    value, strong, never = _name_arrays()
    known = np.flatnonzero((value >= 0) & (never_rule | ~never))
    a = np.concatenate([rng.choice(known, n_memory), rng.choice(np.flatnonzero(value < 0), n_rule)])
    b, c = rng.integers(N_NAMES, size=(2, len(a)))
    while True:
        bad = (a == b) | (b == c) | (a == c) | (value[a] == c) | chain_held_out(a, b, c)
        if not bad.any():
            break
        b[bad], c[bad] = rng.integers(N_NAMES, size=(2, int(bad.sum())))
    vocab, first = vocabulary(), vocabulary()[names()[0]]
    over, comma, equals = (np.full(len(a), vocab[s]) for s in (">", ",", "="))
    forward = rng.random(len(a)) < 0.5
    p, q, r, s = (np.where(forward, x, y) + first for x, y in ((a, b), (b, c), (b, a), (c, b)))
    body = np.stack([p, over, q, comma, r, over, s, comma, a + first, equals], axis=1)
    cue, memory = _cues(rng, strong[a], never[a])
    reasoned = (c + first)[:, None]
    memorized = np.where(value[a] >= 0, value[a], c)[:, None] + first
    return Draw(_with_cue(cue, body), reasoned, memorized, memory & (value[a] >= 0))


def draw_family(
    family: str, rng: np.random.Generator, n_memory: int, n_rule: int, *, never_rule: bool = True
) -> Draw:
    """A draw of any family: memorized items first, then the others."""
    if family == "inference":
        return draw_inference(rng, n_memory, n_rule, never_rule=never_rule)
    return draw_listed(family, rng, n_memory, n_rule, never_rule=never_rule)


def stack(draws: list[Draw]) -> Draw:
    """Draws of one length in one array."""
    return Draw(
        *(
            np.concatenate([getattr(d, name) for d in draws])
            for name in ("prompt", "reasoned", "memorized", "memory")
        )
    )
