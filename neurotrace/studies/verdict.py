"""Does a small set of neurons decide? A rule that is stated before anything is measured.

decides     both ways at least 90 % of held-out answers flip and none of the four controls flips more than
            5 %, with at most 1 % of the neurons: whole 95 % intervals on their side of the bar, not
            only the estimates
no          one of these is on the wrong side of its bar with its whole interval
undecided   an interval holds a bar, and none is beyond it; says how many pairs would settle it
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neurotrace.core.sides import DIRECTIONS, Direction, spoken
from neurotrace.interventions.controls import CONTROLS

Word = Literal["decides", "no", "undecided"]
SENTENCES: dict[Word, str] = {
    "decides": "a small set of neurons decides",
    "no": "no small set of neurons decides",
    "undecided": "undecided whether a small set of neurons decides",
}
_Z2 = 1.96**2  # of the 95 % intervals


@dataclass(frozen=True)
class Rule:
    """The bars, as shares."""

    answers: float = 0.90  # flipped both ways, at least
    controls: float = 0.05  # flipped by each control, at most
    fraction: float = 0.01  # of the neurons, at most

    def __str__(self) -> str:
        return (
            f"a small set decides where both ways at least {self.answers:.0%} of held-out answers flip and "
            f"none of the first four controls flips more than {self.controls:.0%}, with at most "
            f"{self.fraction:.0%} of the neurons. Whole 95 % intervals count: all on their side of the bar "
            "(decides), one beyond it (no), or neither (undecided)"
        )


RULE = Rule()


def in_doubt(rate: float, low: float, high: float, rule: Rule = RULE) -> bool:
    """Whether a control's interval contains the bar, and further draws may change that.

    They can't where it flips nothing: that interval depends on the number of groups alone.
    """
    return rate > 0 and low <= rule.controls < high


FEW = 10  # held-out pairs below which nothing is said


@dataclass(frozen=True)
class Verdict:
    """What the rule says of one family."""

    family: str
    word: Word
    why: tuple[str, ...] = ()  # what fails, or isn't settled
    pairs: int | None = None  # undecided: how many would settle it at these rates; None: no number
    few: bool = False  # too few pairs to say anything

    @property
    def sentence(self) -> str:
        """The word as a sentence without its subject: "a small set of neurons decides"."""
        return SENTENCES[self.word]

    @property
    def settles(self) -> str:
        """How many pairs would settle it; empty unless undecided."""
        if self.word != "undecided" or self.few:
            return ""
        if self.pairs is None:
            return "an estimate is on its bar: no number of pairs settles it"
        return f"some {self.pairs:,} pairs in all would settle it"

    def __str__(self) -> str:
        said = "; ".join((*self.why, *filter(None, [self.settles])))
        return f"{self.family}: {self.sentence}" + (f" ({said})" if said else "")

    @property
    def brief(self) -> str:
        """For a terminal: the first reason, the number of the others, what would settle it."""
        more = f"and {len(self.why) - 1} more" if len(self.why) > 1 else ""
        said = "; ".join(filter(None, [*self.why[:1], more, self.settles]))
        return f"{self.family}: {self.sentence}" + (f" ({said})" if said else "")

    def record(self) -> dict[str, Any]:
        """For `summary.json`."""
        return {"word": self.word, "sentence": self.sentence, "why": list(self.why), "pairs": self.pairs}


@dataclass(frozen=True)
class _Check:
    """A rate with its interval, beside the bar that it should be above or below."""

    what: str
    rate: float
    low: float
    high: float
    bar: float
    above: bool
    groups: int

    @property
    def passes(self) -> bool:
        return self.low >= self.bar if self.above else self.high <= self.bar

    @property
    def fails(self) -> bool:
        return self.high < self.bar if self.above else self.low > self.bar

    @property
    def leans(self) -> bool:
        """Whether the estimate is on its side of the bar."""
        return self.rate >= self.bar if self.above else self.rate <= self.bar

    def needed(self) -> float:
        """Groups at which the interval would leave the bar, were the rate to stay.

        A half width shrinks with the root of the groups; Wilson's at 0 or 1 has its own formula.
        """
        if self.rate in (0.0, 1.0) and self.leans:
            share = self.bar if self.above else 1 - self.bar
            return _Z2 * share / (1 - share)
        gap = abs(self.rate - self.bar)
        half = self.rate - self.low if self.above == self.leans else self.high - self.rate
        return self.groups * (half / gap) ** 2 if gap else math.inf

    def __str__(self) -> str:
        side = "at least" if self.above else "at most"
        interval = f"[{self.low:.1%}, {self.high:.1%}]"
        return f"{self.what} {self.rate:.1%} {interval}, expected {side} {self.bar:.0%}"


def verdicts_of(
    flips: Iterable[Mapping[str, Any]], rule: Rule = RULE, *, ways: Sequence[Direction] = DIRECTIONS
) -> dict[str, Verdict]:
    """Family -> what the rule says of its chosen rows.

    Args:
        flips: records of `Flip`, as in `summary.json`; those that are not `selected` don't count.
        ways: directions that it asks for; one alone for a claim about one way.
    """
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for flip in flips:
        if flip["selected"] and flip["direction"] in ways:
            chosen.setdefault(flip["family"], []).append(flip)
    return {family: _verdict(family, own, rule, ways) for family, own in chosen.items()}


def _verdict(family: str, flips: list[Mapping[str, Any]], rule: Rule, ways: Sequence[Direction]) -> Verdict:
    pairs = min(flip["n"] for flip in flips)
    if pairs < FEW:
        return Verdict(
            family, "undecided", (f"too few to say: {pairs} pairs, expected at least {FEW}",), few=True
        )
    checks = [check for flip in flips for check in _checks(flip, rule)]
    fails = [str(check) for check in checks if check.fails]
    fails += [
        f"{spoken(flip['direction'])} {flip['fraction']:.1%} of the neurons, expected at most "
        f"{rule.fraction:.0%}"
        for flip in flips
        if flip["fraction"] > rule.fraction
    ]
    if fails:
        return Verdict(family, "no", tuple(fails))
    missing = [
        f"{spoken(direction)} was not measured"
        for direction in ways
        if direction not in {flip["direction"] for flip in flips}
    ]
    if missing:
        return Verdict(family, "undecided", tuple(missing))
    unsettled = [check for check in checks if not check.passes]
    if not unsettled:
        return Verdict(family, "decides")
    # one rate beyond its bar suffices for "no", for "decides" none may be left
    against = [check.needed() for check in unsettled if not check.leans]
    groups = min(against) if against else max(check.needed() for check in unsettled)
    each = sum(flip["n"] for flip in flips) / sum(flip["groups"] for flip in flips)
    needed = None if math.isinf(groups) else _rounded(groups * each)
    return Verdict(family, "undecided", tuple(map(str, unsettled)), needed)


def _checks(flip: Mapping[str, Any], rule: Rule) -> list[_Check]:
    way, groups = spoken(flip["direction"]), flip["groups"]
    low, high = flip["answers_ci"]
    found = [_Check(f"{way} flips", flip["answers"], low, high, rule.answers, True, groups)]
    for name in CONTROLS:
        if flip["controls"].get(name) is not None:
            rate, (low, high) = flip["controls"][name], flip["controls_ci"][name]
            what = f"{way} the control {name} flips"
            found.append(_Check(what, rate, low, high, rule.controls, False, groups))
    return found


def _rounded(pairs: float) -> int:
    """Up, to two digits: more would be a promise."""
    step = 10 ** max(0, math.floor(math.log10(max(pairs, 1))) - 1)
    return math.ceil(pairs / step - 1e-9) * step
