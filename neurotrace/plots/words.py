"""What figures and pages call a role, an intervention, a ranker: no name of the code is shown."""

from __future__ import annotations

import re

from neurotrace.core.display import percent
from neurotrace.core.sides import Direction

# in the report's order; the first four are those of the rule
CONTROLS = {
    "random": "random neurons",
    "norm": "neurons of equal write norm",
    "sign": "same neurons, half moved the other way",
    "low_rho": "least correlated neurons",
    "other_donor": "another pair's values",
}
_RANKERS = {
    "two_ended": "two-ended gradient",
    "hard_concrete": "learned mask (hard concrete)",
    "slimming": "learned mask (slimming)",
    "integrated": "integrated gradient",
    "log_increase": "log-probability increase",
    "direct": "direct logit attribution",
    "relp": "RelP",
    "pearson": "Pearson correlation",
}
_KINDS = {"set": "set to mean"}
# nats of KL from the unchanged model's next token, upper end of each word
DAMAGE = ((0.01, "hardly any"), (0.1, "small"), (1.0, "large"), (float("inf"), "severe"))


def role_words(role: str) -> str:
    """ "low_rho" -> "least correlated neurons"."""
    return CONTROLS.get(role, role.replace("_", " "))


def kind_words(kind: str) -> str:
    """ "steer:0.7+patch" -> "steer ×0.7 or patch": what each fold chose."""
    found = []
    for each in kind.split("+"):
        name, _, strength = each.partition(":")
        word = _KINDS.get(name, name.replace("_", " "))
        found.append(f"{word} ×{strength}" if strength else word)
    return " or ".join(found)


def ranker_words(method: str) -> str:
    """ "two_ended+gradient" -> "two-ended gradient or gradient"."""
    return " or ".join(_RANKERS.get(each, each.replace("_", " ")) for each in method.split("+"))


def candidate_words(candidate: str) -> str:
    """ "two_ended steer:0.7 8" -> "two-ended gradient, steer ×0.7, 8 neurons"."""
    method, _, rest = candidate.partition(" ")
    kind, _, k = rest.rpartition(" ")
    return f"{ranker_words(method)}, {kind_words(kind)}, {k} neurons" if kind else candidate


def why_words(why: str) -> str:
    """A verdict's reason with its control named in words."""
    return re.sub(r"the control (\w+)", lambda found: f"the control “{role_words(found[1])}”", why)


def turn_words(direction: str) -> str:
    """From which answers to which: "memory → reasoning"."""
    return "memory → reasoning" if direction == Direction.TO_REASONING else "reasoning → memory"


def damage_word(nats: float) -> str:
    """One word for a KL divergence on neutral text."""
    return next(word for bound, word in DAMAGE if nats < bound)


def interval(low: float, high: float) -> str:
    """A 95 % interval that no line break divides."""
    return f"[{percent(low)},\u00a0{percent(high)}]"


def count(number: int, noun: str) -> str:
    """ "1 neuron", "1,536 neurons"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
