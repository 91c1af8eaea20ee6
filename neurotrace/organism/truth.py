"""The measurements of a card, and `truth.json`: the planted neurons with an effect.

A planted neuron is *live* if its own donor patch changes L in the right direction by 0.25 nats or more,
mean over the pairs of *every* family, in at least one direction. It is a "reasoning" neuron if it is
more active under `think` than under `recall` (mean over families), else a "memory" neuron.
"""

import json
import time
from pathlib import Path

import numpy as np
from transformers import GPT2LMHeadModel

from .flips import DIRECTIONS, LIVE_EFFECT, FamilyPairs, family_pairs, flip, top_by_gradient
from .language import FAMILIES
from .measure import Neuron, accuracies, load, name

RULE = (
    f"planted, and its single donor patch moves logit(memorized) - logit(reasoned) the right way "
    f"by at least {LIVE_EFFECT} nats, mean over pairs, in every family, in at least one direction; "
    f"'reasoning' if more active under think than under recall, else 'memory'"
)


def single_neurons(
    model: GPT2LMHeadModel, pairs: dict[str, FamilyPairs], neurons: list[Neuron]
) -> dict[str, dict[str, dict[str, float]]]:
    """Per neuron and family: mean activation on both sides, effect and flips in both directions."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for neuron in neurons:
        rows = out[name(neuron)] = {}
        for family, p in pairs.items():
            layer, unit = neuron
            recall, think = p.activations[:, :, layer, unit].mean(1).tolist()
            row = {"recall": recall, "think": think}
            for direction in DIRECTIONS:
                flipped, change = flip(model, p, [neuron], direction)
                row[f"effect {direction}"] = float(change.mean())
                row[f"flips {direction}"] = float(flipped.mean())
            rows[family] = {key: round(value, 4) for key, value in row.items()}
    return out


def live_neurons(single: dict[str, dict[str, dict[str, float]]]) -> dict[str, list[str]]:
    """The live planted neurons, by kind; see the module's docstring."""
    live: dict[str, list[str]] = {"reasoning": [], "memory": []}
    for neuron, rows in single.items():
        reasoning = all(r["effect to_reasoning"] <= -LIVE_EFFECT for r in rows.values())
        memory = all(r["effect to_memorization"] >= LIVE_EFFECT for r in rows.values())
        if reasoning or memory:
            rises = sum(r["think"] - r["recall"] for r in rows.values()) > 0
            live["reasoning" if rises else "memory"].append(neuron)
    return live


def set_flips(
    model: GPT2LMHeadModel,
    pairs: dict[str, FamilyPairs],
    neurons: list[Neuron],
    *,
    draws: int = 5,
) -> dict[str, dict[str, float]]:
    """Per family: share of pairs flipped by the whole set, and by equally many random neurons.

    The random ones come from the same layers, none is in the set; mean over `draws` draws.
    """
    rng, d_mlp = np.random.default_rng(0), pairs[FAMILIES[0]].activations.shape[-1]
    layers = [n[0] for n in neurons]
    controls = []
    for _ in range(draws):
        units = rng.permutation(d_mlp)
        free = [int(u) for u in units if not any(u == n[1] for n in neurons)]
        controls.append([(layer, free[i]) for i, layer in enumerate(layers)])
    out = {}
    for family, p in pairs.items():
        row: dict[str, float] = {}
        for direction in DIRECTIONS:
            patched = flip(model, p, neurons, direction)[0]
            row[f"patch {direction}"] = float(patched.mean())
            row[f"patch never-rule {direction}"] = float(patched[p.never_rule].mean())
            row[f"mean {direction}"] = float(flip(model, p, neurons, direction, "mean")[0].mean())
            random = [flip(model, p, draw, direction)[0].mean() for draw in controls]
            row[f"random {direction}"] = float(np.mean(random))
        out[family] = {key: round(value, 4) for key, value in row.items()}
    return out


def gradient_flips(
    model: GPT2LMHeadModel, pairs: dict[str, FamilyPairs], shares: tuple[float, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Per share of all neurons: held-out flips by donor patch of the top ones by signed gradient.

    The ranking comes from one half of the groups, the flips from the other, and vice versa.
    """
    total = pairs[FAMILIES[0]].activations[0, 0].numel()
    out: dict[str, dict[str, dict[str, float]]] = {}
    for share in shares:
        count = int(share * total)  # rounded down: "at most 1 %" must hold
        rows = out[f"{share:.1%} ({count})"] = {}
        for family, p in pairs.items():
            rows[family] = {}
            for direction in DIRECTIONS:
                hits = np.zeros(len(p.half), bool)
                for half in (p.half, ~p.half):
                    top = top_by_gradient(p, ~half, direction, count)
                    hits[half] = flip(model, p, top, direction)[0][half]
                rows[family][direction] = round(float(hits.mean()), 4)
    return out


def measure(folder: Path) -> dict[str, object]:
    """All measurements for the card of one trained organism; reads the folder's `training.json`."""
    started = time.perf_counter()
    training = json.loads((folder / "training.json").read_text())
    model = load(folder)
    pairs = {family: family_pairs(model, family) for family in FAMILIES}
    result: dict[str, object] = {
        "training": training,
        "accuracy": accuracies(model),
        "pairs": {f: {"built": p.built, "kept": len(p.half)} for f, p in pairs.items()},
        "gradient": gradient_flips(model, pairs, (0.0053, 0.01, 0.05, 0.10)),
    }
    plant = training["design"]["plant"]
    if plant:
        planted = [(plant["layer"], unit) for unit in plant["units"]]
        single = single_neurons(model, pairs, planted)
        live = live_neurons(single)
        alive = [n for n in planted if name(n) in live["reasoning"] + live["memory"]]
        result |= {"planted": [name(n) for n in planted], "live": live, "single": single}
        result["set"] = set_flips(model, pairs, alive) if alive else None
    result["measured_in_seconds"] = round(time.perf_counter() - started)
    return result


def write_truth(folder: Path, measured: dict[str, object]) -> None:
    """`truth.json` of a planted organism."""
    keys = ("planted", "live")
    truth = {key: measured[key] for key in keys} | {
        "rule": RULE,
        "measured": {key: measured[key] for key in ("pairs", "set", "single", "accuracy")},
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
