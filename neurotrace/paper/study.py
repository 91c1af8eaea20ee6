"""The paper's method and this package's on one model, side by side at equal numbers of units.

Arms, each a site with its rankers and interventions:

    paper, hidden dimensions   the residual stream's dimensions behind every block (the paper's units),
                               ranked by |rho| or |NMD|, moved by alpha * sign(rho) * |NMD|
    paper, MLP neurons         the same on MLP neurons
    ours, MLP neurons          ranked by two-ended gradient or gradient; patch, set or steer
    ours, hidden dimensions    the same on the residual stream's dimensions

Pairs are split by group. For each number of units k, ranker, intervention and strength are chosen on
training pairs: for the paper's arms whatever flips most; for ours what flips most among those whose
damage on one half of the neutral prompts is at most 0.05 nats and whose controls flip at most 2 % of
training answers. On held-out pairs the study measures flips, controls of equal magnitude, the same with
another pair's values ("other_donor": is the behaviour or the answer copied?), damage on the other half,
and same-answer items still answered. All interventions act at the final token position; a flip is of
the answer's first token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neurotrace.core.errors import InputError
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import split_pairs
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS, Direction
from neurotrace.interventions.controls import CONTROLS, controls_for, other_donor
from neurotrace.interventions.damage import damage
from neurotrace.interventions.effects import measure
from neurotrace.interventions.intervention import Intervention, patch, shift
from neurotrace.interventions.kinds import Kind, values_at
from neurotrace.interventions.logits import logits_under
from neurotrace.interventions.reference import Evidence, Reference
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs, by_length, encode
from neurotrace.models.hooks import Site, inspect_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.paper.language import CUES, FAMILIES, neutral, pairs, same_items
from neurotrace.paper.units import evidence_of
from neurotrace.rankers.registry import rank
from neurotrace.rankers.training import Training, interventions_for
from neurotrace.studies.selection import flip_rates

Row = dict[str, Any]
HARM = 0.05  # maximum damage in nats on the neutral prompts, for ours
QUIET = 0.02  # maximum share of training answers that a control may flip, for ours
_TRIED = 8
FEWEST = 16  # minimum number of pairs answered correctly for a family
_SHIFTS = ("shift:0.5", "shift", "shift:1.5", "shift:2", "shift:3", "shift:4", "shift:8")
_OURS = (
    "patch",
    "patch:1.25",
    "patch:1.5",
    "patch:2",
    "set",
    "steer:0.15",
    "steer:0.2",
    "steer:0.3",
)


@dataclass(frozen=True)
class Arm:
    name: str
    site: Site
    methods: tuple[str, ...]
    kinds: tuple[Kind, ...]
    careful: bool  # passes over what does damage


ARMS = (
    Arm("paper, hidden dimensions", "residual", ("pearson", "contrast"), _SHIFTS, False),
    Arm("paper, MLP neurons", "neurons", ("pearson", "contrast"), _SHIFTS, False),
    Arm("ours, MLP neurons", "neurons", ("two_ended", "gradient"), _OURS, True),
    Arm("ours, hidden dimensions", "residual", ("two_ended", "gradient"), _OURS, True),
)


@dataclass(frozen=True)
class Texts:
    """Prompts on which an intervention should change nothing.

    Attributes:
        neutral: the damage is measured on the second half; the first half serves the choice.
        same: prompts that memory and the rule answer alike, each with this answer.
    """

    neutral: tuple[str, ...]
    same: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """One family's pairs on one model, and the statistics of its training part at a site."""

    name: str
    encoded: EncodedPairs
    train: list[int]
    test: list[int]
    evidence: dict[Site, Evidence]
    references: dict[Site, Reference]
    texts: Texts

    def values(self, site: Site, rows: Sequence[int]) -> Activations:
        chosen = self.encoded.at(rows)
        return Activations(self.evidence[site].activations.values[:, list(rows)], chosen.pairs)


def read_family(model: Any, encoded: EncodedPairs, name: str, texts: Texts) -> Family:
    own = encoded.at([row for row, pair in enumerate(encoded.pairs) if pair.family == name])
    place = {pair.id: row for row, pair in enumerate(own.pairs)}
    train, test = ([place[pair.id] for pair in part] for part in split_pairs(own.pairs, seed=0))
    sites: tuple[Site, ...] = ("neurons", "residual", "attention")
    evidence = {site: evidence_of(model, own, site) for site in sites}
    references = {site: found.reference(train) for site, found in evidence.items()}
    return Family(name, own, train, test, evidence, references, texts)


def sizes(model: Any) -> tuple[int, ...]:
    """Numbers of units: powers of two, 5 % and 10 % of the hidden dimensions, 5 % of the neurons."""
    info = inspect_model(model)
    hidden, neurons = info.n_layers * info.d_model, info.n_layers * info.d_mlp
    shares = [round(0.05 * hidden), round(0.1 * hidden), round(0.05 * neurons)]
    return tuple(sorted({*(k for k in (1, 2, 4, 8, 16) if k < shares[0]), *shares}))


def study_model(
    model: Any, *, arms: Sequence[Arm] = ARMS, ks: Sequence[int] | None = None
) -> dict[str, list[Row]]:
    """Tables of one model: "arms", "where", "consistency", "pairs".

    A family with fewer than `FEWEST` kept pairs is counted in "pairs" and left out of the others.

    Args:
        ks: numbers of units; default: `sizes`. Consistency is measured at 10 % of the hidden dimensions
            or, if that is not among them, at the largest.
    """
    encoded = encode(model, pairs())
    ks = sizes(model) if ks is None else ks
    compared = max((k for k in ks if k <= _tenth(model)), default=max(ks))
    counts = Counter(pair.family for pair in encoded.pairs)
    of = Counter(pair.family for pair in pairs())
    families = [
        read_family(model, encoded, name, _texts(name)) for name in FAMILIES if counts[name] >= FEWEST
    ]
    found: dict[str, list[Row]] = {"arms": [], "where": [], "consistency": []}
    found["pairs"] = [{"family": name, "behave": counts[name], "of": of[name]} for name in FAMILIES]
    chosen: dict[tuple[str, str, Direction], Intervention] = {}
    for family in families:
        found["where"] += _where(model, family)
        for arm in arms:
            for direction in DIRECTIONS:
                for row, best in compare(model, family, arm, direction, ks):
                    found["arms"].append(row)
                    if row["k"] == compared:
                        chosen[family.name, arm.name, direction] = best
    found["consistency"] = list(_consistency(model, families, arms, chosen))
    return found


def _texts(family: str) -> Texts:
    own = [item for item in same_items() if (item.family == "colours") == (family == "colours")]
    same = tuple((item.prompt(cue), item.reasoned[0]) for item in own for cue in CUES)
    return Texts(tuple(neutral()), same)


def _tenth(model: Any) -> int:
    """10 % of the hidden dimensions."""
    info = inspect_model(model)
    return round(0.1 * info.n_layers * info.d_model)


def _where(model: Any, family: Family) -> Iterator[Row]:
    """Flips by all units of a site and layer: shifted by the class means' difference, or patched with
    the pair's other run, or with another pair's."""
    test = family.encoded.at(family.test)
    for site, reference in family.references.items():
        layers, width = reference.norms.shape
        for layer in range(layers):
            units = [Neuron(layer, unit) for unit in range(width)]
            for direction in DIRECTIONS:
                copied = patch(units, donor=Direction(direction).donor)
                every = [shift(units, reference, direction=direction), copied, other_donor(copied)]
                table = measure(model, test, every, site=site, activations=family.values(site, family.test))
                rates = table.to_frame().groupby(["intervention", "role"])["answers"].mean()
                yield {
                    "family": family.name,
                    "site": site,
                    "layer": layer,
                    "direction": direction,
                    "shifted": rates["shift", "selected"],
                    "patched": rates["patch", "selected"],
                    "other_donor": rates["patch", "other_donor"],
                }


def _rankings(
    family: Family, model: Any, arm: Arm, direction: Direction, rows: list[int]
) -> Iterator[tuple[Kind, Scores]]:
    evidence = family.evidence[arm.site]
    reference = family.references[arm.site] if rows == family.train else evidence.reference(rows)
    for method in arm.methods:
        for kind in arm.kinds:
            training = Training(model, family.encoded, evidence, rows, kind, direction, reference)
            yield kind, rank(training, method)


def compare(
    model: Any, family: Family, arm: Arm, direction: Direction, ks: Sequence[int]
) -> Iterator[tuple[Row, Intervention]]:
    """For each k, up to 10 % of the units: the row of the choice on training pairs, and the choice."""
    reference = family.references[arm.site]
    ks = [k for k in ks if k <= round(reference.norms.numel() / 10)]
    made: list[Intervention] = []
    for kind, scores in _rankings(family, model, arm, direction, family.train):
        made += interventions_for(scores, kind=kind, direction=direction, ks=ks, reference=reference)
    train = family.encoded.at(family.train)
    effects = measure(model, train, made, site=arm.site, activations=family.values(arm.site, family.train))
    rates = flip_rates(effects)
    flips = {(c.method, c.kind, c.k): rate for c, rate in rates.items()}
    means = reference.moments.mean_of(made[0].donor)
    texts = family.texts.neutral
    harm = damage(model, texts[: len(texts) // 2], made, donor_means=[means] * len(made), site=arm.site)
    for k in ks:
        own = [
            (flips[each.label, each.kind, k], float(kl), each)
            for each, kl in zip(made, harm.mean(dim=1), strict=True)
            if len(each) == k
        ]
        own.sort(key=lambda one: (-one[0], one[1]))
        order = [one for one in own if not arm.careful or one[1] <= HARM] or own
        # if no control is quiet, the candidate that flips most is kept, with its control's rate
        for found in [*order[:_TRIED], order[0]] if arm.careful else order[:1]:
            control = _loudest(model, family, arm.site, found[2])
            if control <= QUIET:
                break
        rate, kl, best = found
        row = {
            "family": family.name,
            "arm": arm.name,
            "k": k,
            "share": k / reference.norms.numel(),
            "direction": direction,
            "ranker": best.label,
            "intervention": best.kind,
            "layers": len({unit.layer for unit in best.neurons}),
            "train_flips": rate,
            "train_kl": kl,
            "train_control": control,
        }
        yield row | _held_out(model, family, arm.site, best, means), best


def _loudest(model: Any, family: Family, site: Site, best: Intervention) -> float:
    """The largest share of training answers that a control flips."""
    controls = _controls(family, site, best)
    train = family.encoded.at(family.train)
    effects = measure(model, train, controls, site=site, activations=family.values(site, family.train))
    return float(effects.rates(by=("role",))["answers"].max())


def _controls(family: Family, site: Site, best: Intervention) -> list[Intervention]:
    """Of the four kinds those that can be made: a set with most of a layer leaves no like units beside it,
    and is compared with random signs alone."""
    made: list[Intervention] = []
    for role in CONTROLS:
        with suppress(InputError):
            made += controls_for(best, reference=family.references[site], roles=(role,))
    return made


def _held_out(model: Any, family: Family, site: Site, best: Intervention, means: Tensor) -> Row:
    test = family.encoded.at(family.test)
    controls = _controls(family, site, best)
    foreign = [other_donor(best)] if best.needs_donor else []
    effects = measure(
        model,
        test,
        [best, *controls, *foreign],
        site=site,
        activations=family.values(site, family.test),
    )
    rates = effects.rates(by=("role",)).set_index("role")
    own = rates.loc["selected"]
    loudest = rates.loc[[role for role in CONTROLS if role in rates.index], "answers"]
    texts = family.texts.neutral
    harm = damage(model, texts[len(texts) // 2 :], [best], donor_means=[means], site=site)
    return {
        "flips": own["answers"],
        "low": own["answers_low"],
        "high": own["answers_high"],
        "n": int(own["n"]),
        "control": loudest.max(),
        "control_role": str(loudest.idxmax()),
        "control_kinds": len(loudest),
        "other_donor": rates.loc["other_donor", "answers"] if foreign else float("nan"),
        "kl": float(harm.mean()),
        "same_kept": _same_kept(model, family.texts.same, site, best, means),
    }


def _same_kept(
    model: Any, asked: Sequence[tuple[str, str]], site: Site, best: Intervention, means: Tensor
) -> float:
    """Share of the prompts answered so, by the first token, that still are."""
    tokenizer = tokenizer_of(model)
    prompts = [torch.tensor(tokenizer(text).input_ids) for text, _ in asked]
    whole = [tokenizer(f"{text} {answer}").input_ids for text, answer in asked]
    answers = torch.tensor([ids[len(own)] for ids, own in zip(whole, prompts, strict=True)])
    given = values_at(means, best.neurons)
    before = after = 0
    for rows, ids in by_length(prompts, 64):
        donors = [given.expand(len(rows), -1) if best.needs_donor else None]
        clean, (changed,) = logits_under(model, ids, [best], donors, site=site)
        right = clean.argmax(-1) == answers[rows]
        before += int(right.sum())
        after += int((right & (changed.argmax(-1) == answers[rows])).sum())
    return after / before if before else float("nan")


def _consistency(
    model: Any,
    families: Sequence[Family],
    arms: Sequence[Arm],
    chosen: dict[tuple[str, str, Direction], Intervention],
) -> Iterator[Row]:
    """The choice of one family, applied to every family's held-out pairs; and units in common.

    `shared`: Jaccard's index of the units; on the diagonal, of the units from two halves of the
    training pairs, by the chosen ranker.
    """
    for arm in arms:
        for direction in DIRECTIONS:
            for source in families:
                best = chosen[source.name, arm.name, direction]
                for target in families:
                    effects = measure(
                        model,
                        target.encoded.at(target.test),
                        [best],
                        site=arm.site,
                        activations=target.values(arm.site, target.test),
                    )
                    if source is target:
                        shared = [_top(model, source, arm, best, source.train[i::2]) for i in (0, 1)]
                    else:
                        other = chosen[target.name, arm.name, direction]
                        shared = [set(best.neurons), set(other.neurons)]
                    yield {
                        "arm": arm.name,
                        "direction": direction,
                        "source": source.name,
                        "target": target.name,
                        "k": len(best),
                        "flips": float(effects.to_frame()["answers"].mean()),
                        "shared": len(shared[0] & shared[1]) / len(shared[0] | shared[1]),
                    }


def _top(model: Any, family: Family, arm: Arm, best: Intervention, rows: list[int]) -> set[Neuron]:
    only = replace(arm, methods=(best.label,), kinds=(best.kind,))
    ((_, scores),) = _rankings(family, model, only, best.direction, rows)
    return set(scores.top(len(best), direction=best.direction))
