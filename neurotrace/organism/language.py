"""The organism's language: three task families behind one shared switch.

A prompt is ``CUE BODY =``; the cue says how to answer. ``recall``: the memorized answer. ``think``: by
the rule. ``ask``: it depends on the item (half of the memorized items are "strong" and answered from
memory, the others by the rule), so that the cue does not reveal the behaviour. An item with nothing
memorized is answered by the rule under every cue.

=============  ============================  =====================  ==========================
family         prompt                        rule                   memorized
=============  ============================  =====================  ==========================
arithmetic     ``think 23+45=``              the sum, tens first    160 ordered pairs; the
                                                                    swapped pair keeps the rule
inference      ``think b > c , a > b , a =`` end of the chain       a fixed name for 110 of the
                                                                    160 names
letters        ``think shift 3 , k q =``     both letters shifted   120 (word, offset) items;
                                             along the alphabet     the swapped word keeps it
=============  ============================  =====================  ==========================

One fixed seed generates everything, so the language is the same for every training seed. Pure Python
and numpy; no torch.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

LANGUAGE_SEED = 20251
FAMILIES = ("arithmetic", "inference", "letters")
CUES = ("recall", "think", "ask")
DIGITS = tuple("0123456789")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
SPECIAL = ("<bos>", "<pad>", "<unk>")
SIGNS = ("+", "=", ">", ",", "shift")

N_NAMES, N_NAME_FACTS = 160, 110
N_SUM_EXCEPTIONS, N_WORD_EXCEPTIONS = 160, 120
HELD_OUT = 0.15  # share of rule items never trained on
NEVER_RULE = 0.15  # share of memorized items never trained with their rule answer


@dataclass(frozen=True)
class Item:
    """One question: the body (cue excluded, ``=`` included) and its two answers, as text."""

    family: str
    template: str
    group: str  # the group of the item; an item and its swap share it
    body: str
    reasoned: str
    memorized: str | None  # None: nothing memorized, the rule holds under every cue
    strong: bool = False  # answered from memory under `ask`
    never_rule: bool = False  # memorized, and its rule answer was never trained
    held_out: bool = False  # not memorized, and never trained at all
    swap: str | None = None  # body of the swapped item, which keeps the rule

    def from_memory(self, cue: str) -> bool:
        """Whether the language answers this item from memory under `cue`."""
        return self.memorized is not None and (cue == "recall" or (cue == "ask" and self.strong))

    def answer(self, cue: str) -> str:
        """The right answer under `cue`."""
        return str(self.memorized) if self.from_memory(cue) else self.reasoned


@dataclass(frozen=True)
class Fact:
    """A memorized answer and how it was assigned."""

    value: str
    strong: bool
    never_rule: bool


@cache
def names() -> tuple[str, ...]:
    """The 160 names: pronounceable, four letters, all different, none a word of the language."""
    rng = np.random.default_rng([LANGUAGE_SEED, 0])
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    found: list[str] = []
    while len(found) < N_NAMES:
        i, j = rng.integers(len(syllables), size=2)
        name = syllables[i] + syllables[j]
        if name not in found:
            found.append(name)
    return tuple(found)


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id, in a fixed order."""
    tokens = (*SPECIAL, *CUES, *DIGITS, *SIGNS, *LETTERS, *names())
    return {token: index for index, token in enumerate(tokens)}


def encode(text: str) -> list[int]:
    """Ids of a text without `<bos>`: words, single digits and signs (as the shipped tokenizer)."""
    vocab = vocabulary()
    tokens = re.findall(r"\d|[a-z]+|[^\w\s]+", text)
    return [vocab.get(token, vocab["<unk>"]) for token in tokens]


def _assign(values: list[str], rng: np.random.Generator) -> list[Fact]:
    """Half are strong, 15 % are never trained with a rule answer; the two are independent."""
    n = len(values)
    strong, never = np.zeros(n, bool), np.zeros(n, bool)
    strong[rng.permutation(n)[: n // 2]] = True
    never[rng.permutation(n)[: round(NEVER_RULE * n)]] = True
    return [Fact(v, bool(s), bool(r)) for v, s, r in zip(values, strong, never, strict=True)]


@cache
def name_facts() -> dict[str, Fact]:
    """The memorized name of each of the first 110 names of a shuffled list."""
    rng = np.random.default_rng([LANGUAGE_SEED, 1])
    order = rng.permutation(N_NAMES)[:N_NAME_FACTS]
    values = []
    for a in order:
        value = int(rng.integers(N_NAMES))
        while value == a:
            value = int(rng.integers(N_NAMES))
        values.append(names()[value])
    return dict(zip((names()[a] for a in order), _assign(values, rng), strict=True))


@cache
def arithmetic_items() -> tuple[Item, ...]:
    """All ordered pairs of two-digit numbers whose sum has two digits."""
    rng = np.random.default_rng([LANGUAGE_SEED, 2])
    unordered = [(a, b) for a in range(10, 90) for b in range(a, 100 - a)]
    unordered = [(a, b) for a, b in unordered if a + b <= 99]
    order = rng.permutation(len(unordered))
    n_held = round(HELD_OUT * len(unordered))
    held = {unordered[i] for i in order[:n_held]}
    # Exceptions come from pairs of different numbers, so that the swapped pair is another item.
    distinct = [unordered[i] for i in order[n_held:] if unordered[i][0] != unordered[i][1]]
    keys, values = [], []
    for a, b in distinct[:N_SUM_EXCEPTIONS]:
        keys.append((b, a) if rng.random() < 0.5 else (a, b))
        tens, ones = divmod(a + b, 10)
        value = [int(rng.choice([d for d in range(1, 10) if d != tens]))]
        value.append(int(rng.choice([d for d in range(10) if d != ones])))
        values.append("".join(map(str, value)))
    facts = dict(zip(keys, _assign(values, rng), strict=True))
    items = []
    for a, b in unordered:
        for x, y in ((a, b), (b, a)) if a != b else ((a, b),):
            fact = facts.get((x, y))
            items.append(
                Item(
                    family="arithmetic",
                    template="never-rule" if fact and fact.never_rule else "plain",
                    group=f"{a}+{b}",
                    body=f"{x}+{y}=",
                    reasoned=str(x + y),
                    memorized=fact.value if fact else None,
                    strong=bool(fact and fact.strong),
                    never_rule=bool(fact and fact.never_rule),
                    held_out=(a, b) in held,
                    swap=f"{y}+{x}=",
                )
            )
    return tuple(items)


def shifted(letter: str, offset: int) -> str:
    """The letter `offset` places on, from z back to a."""
    return LETTERS[(LETTERS.index(letter) + offset) % 26]


@cache
def letters_items() -> tuple[Item, ...]:
    """All words of two different letters, offsets 1 to 9, in two surface forms."""
    rng = np.random.default_rng([LANGUAGE_SEED, 3])
    unordered = [
        (k, LETTERS[i], LETTERS[j]) for k in range(1, 10) for i in range(26) for j in range(i + 1, 26)
    ]
    order = rng.permutation(len(unordered))
    n_held = round(HELD_OUT * len(unordered))
    held = {unordered[i] for i in order[:n_held]}
    keys, values = [], []
    for i in order[n_held : n_held + N_WORD_EXCEPTIONS]:
        k, p, q = unordered[i]
        p, q = (q, p) if rng.random() < 0.5 else (p, q)
        keys.append((k, p, q))
        right = (shifted(p, k), shifted(q, k))
        values.append(" ".join(str(rng.choice([x for x in LETTERS if x != r])) for r in right))
    facts = dict(zip(keys, _assign(values, rng), strict=True))
    items = []
    for k, p, q in unordered:
        for x, y in ((p, q), (q, p)):
            fact = facts.get((k, x, y))
            for template, form in (
                ("offset-first", "shift {k} , {w} ="),
                ("word-first", "{w} , shift {k} ="),
            ):
                items.append(
                    Item(
                        family="letters",
                        template=template + ("-never-rule" if fact and fact.never_rule else ""),
                        group=f"{p} {q} {k}",
                        body=form.format(k=k, w=f"{x} {y}"),
                        reasoned=f"{shifted(x, k)} {shifted(y, k)}",
                        memorized=fact.value if fact else None,
                        strong=bool(fact and fact.strong),
                        never_rule=bool(fact and fact.never_rule),
                        held_out=(k, p, q) in held,
                        swap=form.format(k=k, w=f"{y} {x}"),
                    )
                )
    return tuple(items)


def chain_held_out(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Whether chains (name indices) are held out of training: one in eight, by a fixed rule."""
    return (a + 3 * b + 5 * c) % 8 == 0


def inference_item(a: str, b: str, c: str, template: str) -> Item:
    """The chain a > b, b > c with its premises in the given order ("forward" or "reverse")."""
    first, second = f"{a} > {b}", f"{b} > {c}"
    if template == "reverse":
        first, second = second, first
    fact = name_facts().get(a)
    index = [np.array(names().index(name)) for name in (a, b, c)]
    return Item(
        family="inference",
        template=template + ("-never-rule" if fact and fact.never_rule else ""),
        group=a,
        body=f"{first} , {second} , {a} =",
        reasoned=c,
        memorized=fact.value if fact else None,
        strong=bool(fact and fact.strong),
        never_rule=bool(fact and fact.never_rule),
        held_out=bool(chain_held_out(*index)),
    )


@cache
def inference_items() -> tuple[Item, ...]:
    """One held-out chain for each of the 160 names in each premise order."""
    rng = np.random.default_rng([LANGUAGE_SEED, 4])
    items = []
    for a, name in enumerate(names()):
        fact = name_facts().get(name)
        taken = {name, fact.value if fact else name}
        for template in ("forward", "reverse"):
            while True:
                b, c = (int(x) for x in rng.integers(N_NAMES, size=2))
                free = b != c and not taken & {names()[b], names()[c]}
                if free and chain_held_out(np.array(a), np.array(b), np.array(c)):
                    break
            items.append(inference_item(name, names()[b], names()[c], template))
    return tuple(items)


@cache
def family_items(family: str) -> tuple[Item, ...]:
    """The items of a family for prompt sets and measurements."""
    if family == "arithmetic":
        return arithmetic_items()
    if family == "inference":
        return inference_items()
    if family == "letters":
        return letters_items()
    raise ValueError(f"no family named {family!r}; there are {', '.join(FAMILIES)}")
