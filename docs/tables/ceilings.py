"""How far one neuron can be pushed before the output collapses: predicted and measured on SmolLM2.

python docs/tables/ceilings.py                    prints docs/rankers.md's table from ceilings.csv
python docs/tables/ceilings.py MODEL              measures, writes the CSV and prints

After "Leverage Is Not Reach" (Liu, arXiv 2606.19831): a dose a along a neuron's write v moves the residual
stream r behind its block to r + a·v. Its alignment with v depends on the dose in units of B = |r| / |v|
alone: cos = (c + x) / sqrt(1 + 2·c·x + x²), with x = a / B and c the alignment before. The *ceiling* is the
alignment at which the output collapses: the mean KL of the next token after neutral texts reaches 2 nats.

Of 240 random neurons, eight a block, half predict and half are judged:

block     x at the ceiling is the median of the same block's other neurons; c and B are the neuron's own
all       the same with one x for all blocks
direct    no other neuron is needed: the write goes straight into the last residual stream
constant  the mean ceiling of the others: no law at all
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from summary import markdown
from torch import Tensor

TABLE = Path(__file__).parent / "ceilings.csv"
PER_BLOCK, TEXTS, COLLAPSE, SEED = 8, 16, 2.0, 0
DOSES = torch.logspace(-1, 1.2, 14)  # in units of B
LAWS = ("block", "all", "direct", "constant")


def alignment(before: Any, dose: Any) -> Any:
    """Of r + a·v with v."""
    return (before + dose) / (1 + 2 * before * dose + dose**2) ** 0.5


def crossing(kls: np.ndarray) -> float:
    """The dose at which KL first reaches the bar, between two doses on a logarithmic scale.

    The first dose where it is beyond the bar from the start; NaN where it never reaches it.
    """
    above = kls >= COLLAPSE
    if not above.any():
        return float("nan")
    at = int(above.argmax())
    if not at:
        return float(DOSES[0])
    low, high = kls[at - 1], kls[at]
    share = (COLLAPSE - low) / (high - low)
    return float(DOSES[at - 1] * (DOSES[at] / DOSES[at - 1]) ** share)


@torch.no_grad()
def measured(path: str) -> pd.DataFrame:
    """A row for each neuron."""
    import neurotrace as nt
    from neurotrace.engine.metrics import kl
    from neurotrace.interventions.damage import neutral_ids
    from neurotrace.models.hooks import Point, inspect_model, w_out
    from neurotrace.models.sites import change_sites, end_logits, read_out, read_sites, tail_of

    model = nt.load_model(path)
    info = inspect_model(model)
    draw = torch.Generator().manual_seed(SEED)
    neurons = {n: torch.randperm(info.d_mlp, generator=draw)[:PER_BLOCK] for n in range(info.n_layers)}
    sites: list[Point] = [("residual", layer) for layer in neurons]
    sums: dict[str, Tensor] = {
        name: torch.zeros(info.n_layers, PER_BLOCK, len(DOSES))
        for name in ("kl", "direct", "before", "budget")
    }
    texts = neutral_ids(model, nt.neutral_texts(model)[:TEXTS])
    logits_of = read_out(model)
    for ids in texts:
        tail = tail_of(model, ids[None], 1)
        clean = end_logits(model, ids[None], 1)[:, -1].float().cpu()
        streams = {layer: values[0, 0] for (_, layer), values in read_sites(model, tail, sites).items()}
        last = streams[info.n_layers - 1]
        for layer, chosen in neurons.items():
            write = w_out(model, layer)[chosen].float().cpu()
            budget = streams[layer].norm() / write.norm(dim=1)
            doses = budget[:, None] * DOSES  # of each neuron
            rows = torch.arange(doses.numel())
            change = _add(rows, chosen.repeat_interleave(len(DOSES)), doses.flatten())
            wide = type(tail)(tail.ids.expand(len(rows), -1), tail.read, tail.past)
            pushed = change_sites(model, wide, {("neurons", layer): change}).float().cpu()
            sums["kl"][layer] += kl(clean, pushed).view(doses.shape)
            straight = logits_of((last + (doses[..., None] * write[:, None]).flatten(0, 1)).to(last))
            sums["direct"][layer] += kl(clean, straight.float().cpu()).view(doses.shape)
            cosine = torch.nn.functional.cosine_similarity(write, streams[layer][None])
            sums["before"][layer] += cosine[:, None]
            sums["budget"][layer] += budget[:, None]
    means = {name: total / len(texts) for name, total in sums.items()}
    found = []
    for layer, chosen in neurons.items():
        for n, index in enumerate(chosen.tolist()):
            doses = {name: crossing(means[name][layer, n].numpy()) for name in ("kl", "direct")}
            own = {"layer": layer, "index": index, "half": "judged" if n % 2 else "predicts"}
            shown = {name: float(means[name][layer, n, 0]) for name in ("before", "budget")}
            found.append(own | shown | {"dose": doses["kl"], "direct_dose": doses["direct"]})
    return pd.DataFrame(found)


def _add(rows: Tensor, columns: Tensor, doses: Tensor) -> Any:
    def change(own: Tensor) -> Tensor:
        pushed = own.clone()
        pushed[rows, -1, columns] += doses.to(own)
        return pushed

    return change


def judged(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """(errors of each law on the judged neurons, number of neurons that never collapse)."""
    table = table.assign(ceiling=alignment(table["before"], table["dose"]))
    known = table.dropna(subset=["dose"])
    others, own = (known[known["half"] == half] for half in ("predicts", "judged"))
    by_block = others.groupby("layer")["dose"].median().reindex(range(int(table["layer"].max()) + 1))
    doses = {
        "block": own["layer"].map(by_block.interpolate(limit_direction="both")),
        "all": pd.Series(others["dose"].median(), own.index),
        "direct": own["direct_dose"].fillna(float(DOSES[-1])),
    }
    predicted = {name: alignment(own["before"], dose) for name, dose in doses.items()}
    predicted["constant"] = pd.Series(others["ceiling"].mean(), own.index)
    errors = pd.DataFrame({name: (each - own["ceiling"]).abs() for name, each in predicted.items()})
    return errors.assign(layer=own["layer"], ceiling=own["ceiling"]), len(table) - len(known)


def interval(values: Sequence[float]) -> str:
    """Mean and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.percentile(draws.mean(1), [2.5, 97.5])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def show(table: pd.DataFrame) -> str:
    """The page's table, and the law's gain over the constant."""
    errors, never = judged(table)
    rows = [[law, interval(errors[law]), f"{errors[law].median():.3f}"] for law in LAWS]
    gain = interval(errors["constant"] - errors["block"])
    own = errors["ceiling"]
    said = (
        f"{len(own)} neurons judged, {never} of {len(table)} never collapse; ceilings {own.min():.2f} to "
    )
    said += f"{own.max():.2f}, sd {own.std():.2f}; constant minus block: {gain}"
    return markdown(["law", "mean absolute error", "median"], rows) + f"\n\n{said}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measured(sys.argv[1]).to_csv(TABLE, index=False, float_format="%.5f")
    print(show(pd.read_csv(TABLE)))
