"""The paper's two tasks as whole texts, without a cue word.

inference   ``Greg is white. Lily is green. Color of Greg: white. Color of Lily: green.`` 40 of 60 names are
            bound to a color of their own throughout training. Where the context implies another one, half
            of the texts give the bound color, half the implied one.
addition    ``23 + 45 = 68``. For 240 ordered pairs the text is ``23 + 45 = <mem-17>``; the swapped pair is
            in no training text.

The two parts of a text (sentences, addends) may change places without a change of meaning. A training
text has one order. The wording is ours: of the paper's, no more than this format is public. One fixed
seed generates everything, so the texts are the same for every training seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

SEED = 1849
FAMILIES = ("inference", "addition")
_NAMES = (
    "Anna Bernhard Brian Carl Clara Daniel Diana Edith Emil Emma Eric Fiona Frank Fred Gerald Gloria Greg "
    "Hanna Harry Helen Henry Hugo Ida Irene Ivan Jack Jane Jason Julia Julius Karen Kevin Kurt Laura Leon "
    "Lily Linda Louis Lucy Marc Maria Martin Mary Max Nancy Nina Norman Olga Oscar Paul Peter Rita Robert "
    "Rosa Sandra Simon Sophie Tina Victor Walter"
)
NAMES = tuple(_NAMES.split())
COLORS = ("white", "green", "yellow", "gray", "black", "red", "blue", "brown")
N_BOUND = 40  # names with a color of their own
N_CONFLICTS = 20  # texts on a bound name whose context implies another color
N_AGREE, N_FREE = 50, 1000  # texts on a bound name whose context agrees; on a name without a color
N_MEMORIZED, N_STRINGS = 240, 64  # memorized sums; different <mem-..> strings
HELD_OUT = 0.15  # share of the other sums in no training text
N_NEUTRAL, N_AGREEING = 48, 64  # prompts of each family


@dataclass(frozen=True)
class Instance:
    """A text in parts, with the answers that memory and the context (or the rule) give.

    Attributes:
        group: the name, or the addends in ascending order.
        parts: sentences or addends, in the order of the training text.
        memorized: None: nothing is memorized, or the context says the same.
        recalled: the training text gives the memorized answer.
        trained: there is a training text.
        rest: the training text behind the answer.
    """

    family: str
    group: str
    parts: tuple[str, ...]
    reasoned: str
    memorized: str | None = None
    recalled: bool = False
    trained: bool = True
    rest: str = ""

    @property
    def answer(self) -> str:
        """That of the training text."""
        return self.memorized if self.recalled and self.memorized is not None else self.reasoned

    @property
    def text(self) -> str:
        """The training text."""
        return f"{self.prompt()} {self.answer}{self.rest}"

    def prompt(self, *, rephrased: bool = False) -> str:
        """The text up to the answer; rephrased: with its parts in the other order."""
        parts = self.parts[::-1] if rephrased else self.parts
        if self.family == "addition":
            return " + ".join(parts) + " ="
        return " ".join(parts) + f" Color of {self.group}:"


@cache
def own_color() -> dict[str, str]:
    """Of each bound name."""
    rng = np.random.default_rng([SEED, 0])
    return {NAMES[i]: COLORS[int(rng.integers(len(COLORS)))] for i in rng.permutation(len(NAMES))[:N_BOUND]}


@cache
def inferences() -> tuple[Instance, ...]:
    """Of each bound name those in conflict, every other one recalled, and those that agree; of the others
    any."""
    rng = np.random.default_rng([SEED, 1])
    found = []
    for name in NAMES:
        own = own_color().get(name)
        if own is None:
            found += [_story(rng, name, str(rng.choice(COLORS))) for _ in range(N_FREE)]
            continue
        others = [color for color in COLORS if color != own]
        found += [
            _story(rng, name, str(rng.choice(others)), own, recalled=number % 2 == 0)
            for number in range(N_CONFLICTS)
        ]
        found += [_story(rng, name, own) for _ in range(N_AGREE)]
    return tuple(found)


def _story(
    rng: np.random.Generator, name: str, color: str, own: str | None = None, recalled: bool = False
) -> Instance:
    """On the name, and on another one without a color of its own."""
    other = str(rng.choice([each for each in NAMES if each != name and each not in own_color()]))
    dye = str(rng.choice([each for each in COLORS if each != color]))
    parts = [f"{who} is {its}." for who, its in ((name, color), (other, dye))]
    parts = parts[::-1] if rng.random() < 0.5 else parts
    rest = f". Color of {other}: {dye}."
    return Instance("inference", name, tuple(parts), color, own, recalled, rest=rest)


@cache
def sums() -> tuple[Instance, ...]:
    """All sums below 100 of two-digit numbers: memorized ones, others, those in no training text.

    A memorized pair swapped is no instance, but the other one rephrased.
    """
    rng = np.random.default_rng([SEED, 2])
    every = [(a, b) for a in range(10, 90) for b in range(a, 100 - a)]
    shuffled = [every[i] for i in rng.permutation(len(every))]
    known = [pair for pair in shuffled if pair[0] != pair[1]][:N_MEMORIZED]
    rest = [pair for pair in shuffled if pair not in set(known)]
    held_out = set(rest[: round(HELD_OUT * len(rest))])
    found = []
    for a, b in known:
        parts = (str(a), str(b)) if rng.random() < 0.5 else (str(b), str(a))
        string = f"<mem-{int(rng.integers(N_STRINGS)):02d}>"
        found.append(Instance("addition", f"{a}+{b}", parts, str(a + b), string, recalled=True))
    for a, b in rest:
        for x, y in dict.fromkeys(((a, b), (b, a))):
            one = Instance("addition", f"{a}+{b}", (str(x), str(y)), str(a + b))
            found.append(one if (a, b) not in held_out else replace(one, trained=False))
    return tuple(found)


def instances() -> tuple[Instance, ...]:
    return inferences() + sums()


@cache
def neutral() -> tuple[str, ...]:
    """Prompts with nothing memorized, inferences and sums in turn."""
    rng = np.random.default_rng([SEED, 3])
    free = [
        [each for each in family if each.memorized is None and each.group not in own_color()]
        for family in (inferences(), sums())
    ]
    return tuple(own[int(rng.integers(len(own)))].prompt() for _ in range(N_NEUTRAL) for own in free)


@cache
def agreeing(family: str) -> tuple[tuple[str, str], ...]:
    """Prompts that have one right answer, and this: bound names in contexts that agree with
    memory; sums with nothing memorized."""
    rng = np.random.default_rng([SEED, 4])
    own = {
        "inference": [each for each in inferences() if each.group in own_color() and not each.memorized],
        "addition": [each for each in sums() if each.trained and not each.memorized],
    }[family]
    drawn = [own[place] for place in rng.permutation(len(own))[:N_AGREEING]]
    return tuple((each.prompt(), each.reasoned) for each in drawn)
