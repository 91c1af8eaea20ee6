"""The neuron explorer: the data of every neuron in one piece of HTML, without a server.

For every neuron it holds the scores and the mean and deviation of the activation on both sides. For the
strongest thousand it also holds exact effects on single pairs with an interval, the distributions of
the activation, the tokens written most for and against, and the nearest neighbours. The data is
compressed in the page; the browser unpacks it on demand (`templates/explorer.js`).
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from neurotrace.ablation.neurons import ablation_effects
from neurotrace.core.display import POLICY
from neurotrace.core.errors import InputError, renamed
from neurotrace.core.files import read_json
from neurotrace.core.neurons import Neuron
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress
from neurotrace.core.scores import Scores
from neurotrace.core.sides import DIRECTIONS, SIDES, spoken
from neurotrace.core.writing import save_file
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.kinds import Kind
from neurotrace.models.activations import Activations, collect
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import inspect_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import unembedding
from neurotrace.models.written import MeanWritten, mean_written
from neurotrace.plots.words import ranker_words

if TYPE_CHECKING:
    from neurotrace.studies.study import Study

_FORMAT = "neurotrace.explorer/1"
_FIELDS = {
    **{"model": str, "layers": int, "width": int, "sample": str},
    **{"scores": list, "moments": list, "details": str},
}
_TEMPLATES = Path(__file__).parent / "templates"
_BINS, _TOKENS, _NEIGHBOURS, _EXTREMES, _LEAST, _MOST = 20, 8, 8, 3, 100, 400


@dataclass(frozen=True)
class Explorer:
    """Displays in a notebook; `page()` is a complete page, `fragment()` a part of another page."""

    data: Mapping[str, Any]

    def fragment(self) -> str:
        """HTML for a page that holds `style_and_script()` already."""
        # no "<" in the JSON: a prompt with </script> would end it
        text = json.dumps(self.data).replace("<", "\\u003c")
        return (
            '<div class="nt-explorer"><p>The map needs JavaScript.</p></div>'
            f'<script type="application/json" class="nt-data">{text}</script>'
            "<script>{const data = document.currentScript.previousElementSibling;"
            "neurotraceExplorer(data.previousElementSibling, JSON.parse(data.textContent));}</script>"
        )

    def page(self) -> str:
        """A whole HTML page that opens offline."""
        title = html.escape(f"Neurons of {self.data['model']}")
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">{POLICY}<title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<style>body{margin:12px;color-scheme:light dark}</style>"
            f"{style_and_script()}</head><body><main>{self.fragment()}</main></body></html>"
        )

    def save(self, path: str | Path) -> None:
        """Write a page (.html), or only the data (.json), which `load` reads."""
        whole = self.page() if Path(path).suffix == ".html" else json.dumps(self.data)
        save_file(Path(path), whole)

    @classmethod
    def load(cls, path: str | Path) -> Explorer:
        """Read the .json that `save` wrote; `InputError` for anything else."""
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise InputError(f"{path}: not written by Explorer.save of this version")
        wrong = [name for name, kind in _FIELDS.items() if not isinstance(data.get(name), kind)]
        if wrong:
            raise InputError(f"{path}: {', '.join(wrong)} missing or no {_FIELDS[wrong[0]].__name__}")
        return cls(data)

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.page())}" title="neuron explorer" '
            'style="width:100%;height:900px;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        return (
            f"Explorer({self.data['model']}: {self.data['layers']} layers × {self.data['width']} "
            f"neurons, {len(self.data['scores'])} rankings)"
        )


@renamed(mode="kind")
@takes_turns
def explore(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    scores: Study | Scores | Sequence[Scores],
    *,
    neurons: int | None = None,
    pairs_each: int = 12,
    max_pairs: int = 128,
    kind: Kind = "patch",
    progress: Progress = None,
) -> Explorer:
    """Compute the data of the explorer.

    Args:
        scores: the rankings for the map: one, several, or a study's.
        neurons: number of the strongest neurons with exact effects and the other details; default:
            400 / n for n families (100 at least).
        pairs_each: number of pairs, each of another group, for a family's exact effects.
        max_pairs: maximum number of pairs, drawn at random, for means, histograms and written values.
        kind: the intervention of the exact effects.

    Raises:
        InputError: no scores, or scores of a model of another shape.

    Example::

        nt.explore(model, pairs, scores, neurons=100).save("explorer.html")
    """
    info = inspect_model(model)
    encoded = encode(model, pairs)
    rankings = _rankings(scores)
    for _, _, each in rankings:
        if tuple(each.value.shape) != (info.n_layers, info.d_mlp):
            raise InputError(
                f"scores by {each.method} are {tuple(each.value.shape)}, {info.name} has "
                f"{info.n_layers} layers × {info.d_mlp} neurons: rank this model's neurons"
            )
    drawn = random.Random(0).sample(range(len(encoded)), min(max_pairs, len(encoded)))
    some = encoded.at(sorted(drawn))
    activations = collect(model, some, progress=progress)
    moments = activations.moments()
    sample = "all pairs" if len(some) == len(encoded) else f"{len(some)} of {len(encoded)} pairs"
    for name, values in (("contrast", moments.contrast), ("Pearson", moments.pearson)):
        if all(name.lower() != each.method for _, _, each in rankings):
            unit = "activation" if name == "contrast" else "correlation"
            rankings.append((f"{name}, {sample}", "", Scores(name, values, unit, signed=False)))
    most = neurons or max(_LEAST, _MOST // len({pair.family for pair in encoded.pairs}))
    top = strongest([each for _, _, each in rankings], most)
    written = mean_written(model, some, progress=progress)
    details: dict[str, Any] = {
        "places": [neuron.layer * info.d_mlp + neuron.index for neuron in top],
        "pairs": [_texts(pair) for pair in encoded.pairs],
        "effects": list(_effects(model, encoded, top, pairs_each, kind, progress)),
        "activations": [_histogram(activations, neuron) for neuron in top],
        "prompts": [_extremes(activations, neuron, sorted(drawn)) for neuron in top],
        "tokens": _tokens(written, top),
        "neighbours": _neighbours(written, top),
    }
    used = sorted(
        {place for each in details["effects"] for place in each["pairs"]}
        | {place for each in details["prompts"] for place, *_ in each}
    )
    details["pairs"] = [details["pairs"][place] for place in used]
    for each in details["effects"]:
        each["pairs"] = [used.index(place) for place in each["pairs"]]
    details["prompts"] = [[(used.index(p), *rest) for p, *rest in each] for each in details["prompts"]]
    parts = [(moments.mean[0], "mean"), (moments.variance[0].sqrt(), "sd")]
    parts += [(moments.mean[1], "mean"), (moments.variance[1].sqrt(), "sd")]
    return Explorer(
        {
            "format": _FORMAT,
            "model": info.name,
            **{"layers": info.n_layers, "width": info.d_mlp, **info.naming},
            "sample": sample,
            "scores": [
                {
                    "label": label,
                    "direction": direction,
                    "unit": each.unit,
                    "signed": each.signed,
                    **pack(each.value),
                }
                for label, direction, each in rankings
            ],
            "moments": [{"name": name, "block": pack(values)} for values, name in parts],
            "details": _zip(json.dumps(details, allow_nan=False).encode()),
        }
    )


def style_and_script() -> str:
    """Style and script that a page must contain once, for any number of explorers."""
    css, js = ((_TEMPLATES / f"explorer.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return f"<style>{css}</style><script>{js}</script>"


def pack(values: Float[Tensor, "layer neuron"]) -> dict[str, Any]:
    """Half-precision shares of the largest magnitude, low bytes before high ones, compressed.

    Eleven bits: no score is shown to more than three digits.
    """
    data = values.detach().float().cpu().numpy().ravel()
    scale = float(np.nanmax(np.abs(data), initial=0.0)) or 1.0
    half = np.ascontiguousarray((data / scale).astype("<f2")).view("u1").reshape(-1, 2)
    return {"scale": scale, "data": _zip(half.T.tobytes())}


def strongest(rankings: Sequence[Scores], count: int) -> list[Neuron]:
    """The strongest of every ranking and direction in turn, until there are `count`."""
    lists = []
    for scores in rankings:
        measured = int((~scores.value.isnan()).sum())
        wanted = scores.provenance.get("direction")
        for direction in DIRECTIONS if scores.signed else DIRECTIONS[:1]:
            # more neurons from the direction of the ranking than from the other end
            depth = count if wanted in (None, direction) else count // 4
            if depth:
                lists.append(scores.top(min(depth, measured), direction=direction))
    found: dict[Neuron, None] = {}
    for place in range(max(len(each) for each in lists)):
        for each in lists:
            if place < len(each) and len(found) < count:
                found[each[place]] = None
    return list(found)


def _rankings(scores: Study | Scores | Sequence[Scores]) -> list[tuple[str, str, Scores]]:
    """(label, direction or "", scores) of each ranking."""
    if isinstance(scores, Scores):
        scores = [scores]
    if isinstance(scores, Sequence):
        named = [("", str(each.provenance.get("direction", "")), each) for each in scores]
    else:
        named = [
            (f"{family}, ", direction if each.signed else "", each)
            for (family, _, direction), each in scores.scores.items()
            if each.signed or direction == DIRECTIONS[0]
        ]
    if not named:
        raise InputError("no scores to explore: pass nt.gradient(model, pairs) or a study")
    return [
        (
            f"{prefix}{ranker_words(each.method)}" + (f", {spoken(direction)}" if direction else ""),
            direction,
            each,
        )
        for prefix, direction, each in named
    ]


def _effects(
    model: HookedModel,
    encoded: EncodedPairs,
    top: Sequence[Neuron],
    each: int,
    kind: Kind,
    progress: Progress,
) -> Any:
    """Exact effects of every top neuron on a few pairs, for each family and direction."""
    width = inspect_model(model).d_mlp
    places = [neuron.layer * width + neuron.index for neuron in top]
    for family in dict.fromkeys(pair.family for pair in encoded.pairs):
        first_of: dict[str, int] = {}  # one pair per group, so that the pairs are independent
        for row, pair in enumerate(encoded.pairs):
            if pair.family == family:
                first_of.setdefault(pair.group, row)
        every = list(first_of.values())
        rows = every[:: max(1, len(every) // each)][:each]
        for direction in DIRECTIONS:
            donor = direction.donor
            table = ablation_effects(
                model, encoded.at(rows), top, kind=kind, donor=donor, progress=progress
            ).table
            n = len(rows)
            before = table["L_before"].to_numpy().reshape(n, -1)[:, 0]
            # neurons are returned in ascending order: restore the ranking's order
            data = table["effect"].to_numpy().reshape(n, -1)[:, np.argsort(np.argsort(places))]
            half = stats.t.ppf(0.975, n - 1) * data.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.nan
            mean = data.mean(axis=0)
            yield {
                "family": family,
                "direction": direction,
                "mode": kind,
                "pairs": rows,
                "before": _short(before),
                "effect": [_short(one) for one in data.T],
                "mean": _short(mean),
                "low": _short(mean - half),
                "high": _short(mean + half),
            }


def _histogram(activations: Activations, neuron: Neuron) -> dict[str, Any]:
    sides = [activations.side(side)[:, neuron.layer, neuron.index].numpy() for side in SIDES]
    low, high = float(min(s.min() for s in sides)), float(max(s.max() for s in sides))
    ends = (low, high if high > low else low + 1.0)
    counts = [np.histogram(side, bins=_BINS, range=ends)[0].tolist() for side in sides]
    return dict(zip(SIDES, counts, strict=True)) | {"low": _digits(low), "high": _digits(ends[1])}


def _extremes(
    activations: Activations, neuron: Neuron, rows: Sequence[int]
) -> list[tuple[int, int, float]]:
    """(pair, side, activation) of the highest and the lowest activations; `rows`: the pairs."""
    both = torch.cat([activations.side(side)[:, neuron.layer, neuron.index] for side in SIDES])
    order = both.argsort(descending=True, stable=True).tolist()
    few = list(dict.fromkeys([*order[:_EXTREMES], *order[-_EXTREMES:]]))
    return [(rows[at % len(rows)], at // len(rows), _digits(float(both[at]))) for at in few]


def _tokens(written: MeanWritten, top: Sequence[Neuron]) -> list[dict[str, list[tuple[str, float]]]]:
    """What each neuron writes straight into the logits, around their mean, before the last norm."""
    model = written.model
    words, tokenizer = unembedding(model).float(), tokenizer_of(model)
    if len(words) != inspect_model(model).d_model:  # a projection stands between
        return [{"for": [], "against": []} for _ in top]
    few = min(_TOKENS, words.shape[1])
    found = []
    every = _rows(written, top)
    for start in range(0, len(top), 64):
        rows = every[start : start + 64]
        logits = rows @ words
        logits = logits - logits.mean(dim=-1, keepdim=True)
        for sign in (1, -1):
            best = (sign * logits).topk(few, dim=-1)
            for place, (values, ids) in enumerate(zip(*best, strict=True)):
                listed = [
                    (tokenizer.decode([token]), _digits(sign * value))
                    for value, token in zip(values.tolist(), ids.tolist(), strict=True)
                ]
                if sign > 0:
                    found.append({"for": listed})
                else:
                    found[start + place]["against"] = listed
    return found


def _rows(written: MeanWritten, top: Sequence[Neuron]) -> Float[Tensor, "neuron d_model"]:
    """What each neuron writes."""
    of = {layer: written.rows(layer) for layer in {n.layer for n in top}}
    return torch.stack([of[n.layer][n.index] for n in top])


def _neighbours(written: MeanWritten, top: Sequence[Neuron]) -> list[list[tuple[int, float]]]:
    """Places of the neurons with the most similar write direction, with the cosine."""
    info = inspect_model(written.model)
    rows = torch.nn.functional.normalize(_rows(written, top), dim=-1)
    values, places = [], []
    for layer in range(info.n_layers):  # the best of each layer, then the best of those
        cosine = rows @ torch.nn.functional.normalize(written.rows(layer), dim=-1).t()
        best = cosine.topk(min(_NEIGHBOURS + 1, info.d_mlp), dim=-1)
        values.append(best.values)
        places.append(best.indices + layer * info.d_mlp)
    value, place = torch.cat(values, dim=-1).cpu(), torch.cat(places, dim=-1).cpu()
    order = value.topk(_NEIGHBOURS + 1, dim=-1).indices
    own = [n.layer * info.d_mlp + n.index for n in top]
    return [
        [
            (int(place[row, at]), _digits(float(value[row, at])))
            for at in order[row]
            if int(place[row, at]) != own[row]
        ][:_NEIGHBOURS]
        for row in range(len(top))
    ]


def _texts(pair: PromptPair) -> dict[str, str]:
    wanted = ("id", "memorization", "reasoning", "memorized_answer", "reasoned_answer")
    return {name: text for name, text in asdict(pair).items() if name in wanted}


def _zip(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def _short(values: Any) -> list[float | None]:
    return [_digits(float(value)) for value in np.atleast_1d(values)]


def _digits(value: float) -> Any:
    return float(f"{value:.4g}") if math.isfinite(value) else None
