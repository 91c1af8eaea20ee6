"""Figure of single pairs: before and after an intervention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neurotrace.core.display import percent
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.interventions.effects import Effects
from neurotrace.models.encoding import EncodedPairs
from neurotrace.plots.style import MEMORIZED, REASONED, clip, finish
from neurotrace.plots.words import count, kind_words, turn_words

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_STEPS = 10  # pairs whose probabilities agree to a tenth share a row
_TOLD = 3  # pairs of a row whose prompts the hover text shows
_COLUMNS = ["p_memorized_before", "p_memorized_after", "p_reasoned_before", "p_reasoned_after"]


def plot_pairs(
    effects: Effects,
    *,
    pairs: Sequence[PromptPair] | EncodedPairs = (),
    limit: int = 24,
    title: str | None = None,
) -> go.Figure:
    """Before and after: an arrow for each named answer's probability on the recipient prompt.

    Pairs whose probabilities agree to a tenth share a row, which says how many they are. Takes the rows of
    one intervention in one direction; see `Effects.where`.

    Args:
        pairs: the pairs whose prompts and answers the hover text shows.
        limit: maximum number of rows, the largest first.

    Example::

        effects = nt.measure(model, test, [nt.patch(scores.top(8))])
        nt.plot_pairs(effects, pairs=test)
    """
    import plotly.graph_objects as go

    table = effects.to_frame()
    kinds = table[["direction", "intervention", "role", "k", "label"]].drop_duplicates()
    if len(kinds) != 1:
        raise InputError(
            f"these effects hold {len(kinds)} interventions; pick one: "
            "effects.where(direction=..., intervention=..., role='selected', k=...)"
        )
    table = table.drop_duplicates("pair")
    found = {pair.id: pair for pair in (pairs.pairs if isinstance(pairs, EncodedPairs) else pairs)}
    alike = _alike(table)
    shown = alike[:limit][::-1]  # the largest on top
    figure = go.Figure()
    for answer, colour, lift in (("memorized", MEMORIZED, 0.16), ("reasoned", REASONED, -0.16)):
        words = "from memory" if answer == "memorized" else "by reasoning"
        for row, part in enumerate(shown):
            start, end = (float(part[f"p_{answer}_{when}"].mean()) for when in ("before", "after"))
            hover = _told(part, found)
            figure.add_scatter(
                x=[start, end],
                y=[row + lift] * 2,
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={
                    "color": colour,
                    "size": [7, 11],
                    "symbol": ["circle-open", "arrow" if abs(end - start) > 0.02 else "circle"],
                    "angleref": "previous",
                },
                text=[hover] * 2,
                hovertemplate=f"%{{text}}<br>answer {words}: p {start:.2f} → {end:.2f}<extra></extra>",
                showlegend=False,
            )
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[
            clip(part["pair"].iloc[0], 26) if len(part) == 1 else f"{len(part)} pairs" for part in shown
        ],
        range=[-0.6, len(shown) - 0.4],
    )
    read = "answer" if "first_before" in table else "first token"
    figure.update_xaxes(title=f"probability of the {read}", range=[-0.03, 1.03])
    figure.update_layout(margin={"b": 66})
    one = kinds.iloc[0]
    flipped = int(table["answers"].sum())
    change = f"{kind_words(one['intervention'])} of {count(int(one['k']), 'neuron')}"
    rest = sum(len(part) for part in alike[limit:])
    return finish(
        figure,
        title
        or f"{turn_words(one['direction'])}: {flipped} of {count(len(table), 'pair')} flip "
        f"({percent(flipped / len(table))})",
        subtitle=f"By {change}. Arrows run from before to after; blue: the answer from memory, "
        "orange: the answer by reasoning" + (f"; {count(rest, 'pair')} not shown" if rest else ""),
        height=70 + 30 * max(2, len(shown)),
    )


def _alike(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The pairs whose rounded probabilities agree, the most frequent first."""
    key = (table[_COLUMNS] * _STEPS).round().astype(int).apply(tuple, axis=1)
    parts = [part for _, part in table.groupby(key, sort=False)]
    return sorted(parts, key=lambda part: -len(part))


def _told(part: pd.DataFrame, found: dict[str, PromptPair]) -> str:
    lines = [_both_prompts(name, found.get(name)) for name in part["pair"].head(_TOLD)]
    if len(part) > _TOLD:
        lines.append(f"and {len(part) - _TOLD} more")
    return "<br>".join(lines)


def _both_prompts(name: str, pair: PromptPair | None) -> str:
    if pair is None:
        return clip(name)
    return "<br>".join(
        f"{clip(prompt, 90)} → {clip(answer)}"
        for prompt, answer in (
            (pair.memorization, pair.memorized_answer),
            (pair.reasoning, pair.reasoned_answer),
        )
    )
