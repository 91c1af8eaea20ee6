"""Renders the card of a packaged organism from the JSON files that `measure` wrote."""

from pathlib import Path
from typing import Any

from .language import CUES, FAMILIES

SET_TEXT = """\
# organism

A {layers}-layer GPT-2 ({parameters:,} parameters, 384 neurons a layer, relu) trained from scratch
on a made-up language in which a cue says whether a prompt is answered from memory or by a rule.
It is the positive control: the neurons that decide are *known*.

**The small set is true by construction, not emergent.** Interchange-intervention training made
{n} planted neurons of layer {plant_layer} ({share:.2%} of {neurons:,}) carry the switch.
{how}
Nothing here says that models trained in the ordinary way have such a set; `organism-natural` is
the same language without planting. The known neurons are a *set*: single neurons have small
effects, and the set flips the answer. `truth.json` names the planted neurons, and under `live` those
with an effect of their own.
"""

GRADED = "Parts of the set were interchanged too, so that each planted neuron carries a share."

NATURAL_TEXT = """\
# organism-natural

A {layers}-layer GPT-2 ({parameters:,} parameters, {neurons:,} neurons, relu) trained on the same
language as `organism`, with nothing planted. It is the negative control.
**There is no truth file**: nothing is known about its single neurons.

The verdict "a small set of neurons decides" must be **NO** here. It is yes only if selected
neurons, at most 1 % of all, flip at least 90 % of the answers in *both* directions.
"""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _seeds(measured: list[dict[str, Any]]) -> str:
    seeds = [str(m["training"]["seed"]) for m in measured]
    return "seed " + seeds[0] if len(seeds) == 1 else "seeds " + ", ".join(seeds)


def _round_trip(measured: dict[str, Any]) -> str:
    change = measured["training"].get("largest_accuracy_change_by_fp16")
    return "not measured" if change is None else f"{change:.4f}"


def _runs(measured: list[dict[str, Any]]) -> str:
    header = ["", *(f"seed {m['training']['seed']}" for m in measured)]
    rows = [
        [
            "training seconds, one thread, machine shared with other work",
            *(str(m["training"]["seconds"]) for m in measured),
        ]
    ]
    for family in FAMILIES:
        rows.append(
            [
                f"{family}: pairs kept of built",
                *(f"{m['pairs'][family]['kept']} of {m['pairs'][family]['built']}" for m in measured),
            ]
        )
    rows.append(["largest change of any accuracy by the fp16 round trip", *map(_round_trip, measured)])
    if measured[0].get("live"):
        for kind in ("reasoning", "memory"):
            counts = [str(len(m["live"][kind])) for m in measured]
            rows.append([f"live {kind} neurons", *counts])
    return _table(header, rows)


def _accuracy(measured: list[dict[str, Any]]) -> str:
    header = ["family", "items, cue", *(f"seed {m['training']['seed']}" for m in measured)]
    rows = [
        [family, key, *(f"{m['accuracy'][family][key]:.3f}" for m in measured)]
        for family in FAMILIES
        for key in measured[0]["accuracy"][family]
    ]
    return _table(header, rows)


def _both(row: dict[str, float], prefix: str = "") -> str:
    return f"{row[prefix + 'to_reasoning']:.3f} / {row[prefix + 'to_memorization']:.3f}"


def _set(measured: list[dict[str, Any]]) -> str:
    header = ["family", "set to", *(f"seed {m['training']['seed']}" for m in measured)]
    kinds = {
        "patch": "donor's values",
        "mean": "donor class's mean",
        "patch never-rule": "donor's values, never-rule items only",
        "random": "donor's values, as many random neurons of the layer (5 draws)",
    }
    rows = [
        [family, text, *(_both(m["set"][family], kind + " ") for m in measured)]
        for family in FAMILIES
        for kind, text in kinds.items()
    ]
    best = [
        max(
            r[f"flips {d}"]
            for rows in m["single"].values()
            for r in rows.values()
            for d in ("to_reasoning", "to_memorization")
        )
        for m in measured
    ]
    rows.append(
        ["any", "one planted neuron alone: most flips, either way", *(f"{value:.3f}" for value in best)]
    )
    return _table(header, rows)


def _single(measured: dict[str, Any]) -> str:
    header = [
        "neuron",
        "kind",
        "family",
        "mean under recall",
        "under think",
        "change of L, to reasoning",
        "to memorization",
    ]
    rows = []
    for neuron, families in measured["single"].items():
        kind = next((k for k, found in measured["live"].items() if neuron in found), "not live")
        for family, r in families.items():
            rows.append(
                [
                    neuron,
                    kind,
                    family,
                    f"{r['recall']:.2f}",
                    f"{r['think']:.2f}",
                    f"{r['effect to_reasoning']:+.2f}",
                    f"{r['effect to_memorization']:+.2f}",
                ]
            )
    return _table(header, rows)


def _gradient(measured: list[dict[str, Any]]) -> str:
    header = ["neurons", "family", *(f"seed {m['training']['seed']}" for m in measured)]
    rows = [
        [share, family, *(_both(m["gradient"][share][family]) for m in measured)]
        for share in measured[0]["gradient"]
        for family in FAMILIES
    ]
    return _table(header, rows)


def _language() -> str:
    return f"""\
Prompts are `CUE BODY =` with the cues {", ".join(f"`{c}`" for c in CUES)}; the families are
{", ".join(FAMILIES)}. `neurotrace/organism/language.py` draws them from one fixed
seed, the same for every training seed. `recall` asks for the memorized answer, `think` for the
rule's; under `ask` it depends on the item. Items with nothing memorized are answered by the rule
under any cue.
"""


def render(measured: list[dict[str, Any]]) -> str:
    """The card as Markdown; the first file is that of the packaged seed."""
    first = measured[0]["training"]
    design, plant = first["design"], first["design"]["plant"]
    neurons = 384 * design["layers"]
    facts = {"layers": design["layers"], "parameters": first["parameters"], "neurons": neurons}
    if plant:
        count = len(plant["units"])
        facts |= {
            "n": count,
            "plant_layer": plant["layer"],
            "share": count / neurons,
            "how": GRADED if design["graded"] else "",
        }
    parts = [(SET_TEXT if plant else NATURAL_TEXT).format(**facts), "## Language\n", _language()]
    parts += [
        "## Made with\n",
        f"""\
    python -m neurotrace.organism train --design {design["name"]} --seed {first["seed"]} --out DIR
    python -m neurotrace.organism measure DIR --json DIR/measured.json

{first["steps"]} steps, seeded by steps and not by time: bit-reproducible on one machine with one
thread. The package contains seed {first["seed"]}. Licence: MIT. Weights are stored in fp16; every number
below was measured on the stored weights, computed in fp32. Trained and measured: {_seeds(measured)};
there is no result for any other seed.
""",
    ]
    parts += ["## Runs\n", _runs(measured)]
    parts += [
        "## Accuracy\n",
        """\
Share of items whose whole answer is top-1. *Held out*: rule items never trained on. *Swapped*:
the same operands or letters as a memorized item in the other order; the rule holds. *Never-rule*:
memorized items that were never trained with their rule answer. A *memorized* item under `ask`
is answered from memory if it is a strong one, else by the rule; never-rule items excluded.
""",
        _accuracy(measured),
    ]
    parts += [
        "## Flips\n",
        """\
Share of kept pairs whose top-1 answer becomes the *other named answer*, written at `=`:
to reasoning (`recall` prompts) / to memorization (`think` prompts). Kept: pairs answered as named
on both sides. Class means come from the other half of the groups.
""",
    ]
    if plant:
        parts += [
            _set(measured),
            "\n## The planted neurons one by one (packaged seed)\n",
            """\
L = logit(memorized) - logit(reasoned), nats; the change is that of the neuron's donor patch alone.
""",
            _single(measured[0]),
        ]
    parts += [
        "\n## Top neurons by signed gradient\n",
        """\
Donor patch of the top neurons by gradient x (donor - recipient) at `=`, ranked on one half of
the groups and applied to the other: to reasoning / to memorization.
""",
        _gradient(measured),
    ]
    return "\n".join(parts)


def write(folder: Path, measured: list[dict[str, Any]]) -> None:
    """Write the card into the organism's folder."""
    (folder / "README.md").write_text(render(measured), encoding="utf-8")
