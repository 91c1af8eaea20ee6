"""Measure the effect of interventions on the model's answers, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core import statistics
from neurotrace.core.display import Shown, Table, View, rate
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair
from neurotrace.core.process import Progress, over
from neurotrace.core.sides import SIDES, Direction, spoken
from neurotrace.decoding.places import in_both
from neurotrace.decoding.sequences import Judged
from neurotrace.decoding.spans import places_named, spans_of
from neurotrace.decoding.tokens import Words
from neurotrace.engine import metrics
from neurotrace.engine.turns import takes_turns
from neurotrace.interventions.donors import donor_values, donors_of
from neurotrace.interventions.intervention import Intervention
from neurotrace.interventions.logits import Positions, check_finite, logits_under, units_of
from neurotrace.interventions.targets import routed
from neurotrace.interventions.whole import Reader, batches_of, mixed_batches
from neurotrace.models.activations import Activations
from neurotrace.models.encoding import EncodedPairs, encode
from neurotrace.models.hooks import Site, inspect_model
from neurotrace.models.origins import engine_of, tokenizer_of
from neurotrace.models.protocol import HookedModel

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Effects", "Positions", "engine_of", "logits_under", "measure"]
_SAME = ("read", "onward", "all")  # one rule for all pairs
_ROWS_SHOWN = 12  # number of interventions in a notebook's table


@dataclass(frozen=True)
class Effects(Shown):
    """One row for each (pair, intervention).

    Columns: `pair, family, template, group`; `direction, intervention, role, label, k, draw`;
    `L_before, L_after` (nats); `p_memorized_before|after, p_reasoned_before|after`;
    `top_before, top_after` (the model's top-1 token, as text); `prefers` (L changed sides),
    `answers` (the *other* named answer is the top-1 token), `kl` (KL(before || after) of the next
    token on this prompt, nats).

    Of pairs whose answers are read whole, L and the probabilities are of whole answers, and `answers` says
    that greedy decoding writes the other one; `first_before|after` is L of the first tokens.
    """

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def routing(self) -> str | None:
        """How a mixture of experts routed, "free" or "frozen"; None of a dense model."""
        found = (self.table.schema.metadata or {}).get(b"routing")
        return None if found is None else found.decode()

    def to_frame(self) -> pd.DataFrame:
        return self.table.to_pandas()

    def where(self, **values: Any) -> Effects:
        """The rows in which every named column has the given value."""
        import pyarrow.compute as pc

        table = self.table
        for name, value in values.items():
            if name not in table.column_names:
                raise InputError(f"no column {name!r}; there are {', '.join(table.column_names)}")
            table = table.filter(pc.equal(table[name], value))
        return Effects(table)

    def _view(self) -> View:
        rates = self.rates()
        tables = []
        for (family, direction), part in rates.head(_ROWS_SHOWN).groupby(
            ["family", "direction"], sort=False
        ):
            rows = [
                (
                    row.intervention,
                    row.role,
                    int(row.k),
                    rate(row.answers),
                    f"{row.answers_low:.0%}–{row.answers_high:.0%}",
                    rate(row.prefers),
                    f"{row.kl:.3f}",
                    int(row.n),
                )
                for row in part.itertuples()
            ]
            columns = ("change", "neurons", "k", "flipped", "95 %", "prefers", "KL", "pairs")
            tables.append(Table(columns, rows, f"{family}, {spoken(direction)}"))
        more = "All rows: .to_frame(); rates: .rates(); the curves: nt.plot_flips(effects)."
        if len(rates) > _ROWS_SHOWN:
            more = f"{len(rates) - _ROWS_SHOWN} more interventions. {more}"
        return View(
            f"{len(self):,} effects: {len(rates)} interventions, done pair by pair. A flip makes the "
            "other named answer the model's top-1 answer; KL in nats, on the pair's own prompt."
            + (f" Routing: {self.routing}." if self.routing else ""),
            tuple(tables),
            more,
        )

    def __repr__(self) -> str:
        pairs = len(set(self.table["pair"].to_pylist()))
        return f"Effects({len(self)} rows on {pairs} pairs)"

    def rates(
        self, by: Sequence[str] = ("family", "direction", "intervention", "k", "role")
    ) -> pd.DataFrame:
        """Flip rates with 95 % intervals clustered by group: a row for each value of `by`."""
        import pandas as pd

        rows = []
        for key, part in self.to_frame().groupby(list(by), sort=False):
            groups = part["group"].tolist()
            row = dict(zip(by, key, strict=True))
            for what in ("answers", "prefers"):
                low, high = statistics.rate_interval(part[what].to_numpy(), groups)
                row |= {what: float(part[what].mean()), f"{what}_low": low, f"{what}_high": high}
            row |= {"kl": float(part["kl"].mean()), "n": part["pair"].nunique(), "groups": len(set(groups))}
            rows.append(row)
        return pd.DataFrame(rows)


@takes_turns
def measure(
    model: HookedModel,
    pairs: Sequence[PromptPair] | EncodedPairs,
    interventions: Sequence[Intervention],
    *,
    positions: Positions | str = "read",
    site: Site = "neurons",
    activations: Activations | None = None,
    progress: Progress = None,
) -> Effects:
    """Apply every intervention to its recipient prompt of every pair.

    Args:
        interventions: any mixture of kinds, sizes and directions. With role ``"other_donor"`` a
            patch takes its values from the next pair of another group (other answers, same
            behaviour).
        positions: ``"read"``: the prompt's last token; ``"onward"``: there and at each token of a whole
            answer behind it; ``"all"`` positions of the prompt; places counted from its end,
            ``(-3, -2, -1)``; ``"cue"``: the tokens in which the pair's two prompts differ; ``"anywhere"``:
            every token from the first of these on (`decoding/places.py`); the name of a span that every
            pair has, ``"subject"``. A patch at ``"all"`` needs pairs whose two prompts have equally many
            tokens.
        site: ``"residual"`` and ``"attention"``: the interventions' neurons are then dimensions of the
            output of each block, or of its attention; ``"router"``: a mixture's experts, whose logits
            are changed (by full passes; patches need `activations`).
        activations: the activations of exactly these pairs, if you have collected them. Patches at the
            final token position take their values from there, and the donor prompts are not run again.

    Raises:
        InputError: no interventions; a patch at all positions on pairs whose prompts differ in length; at
            the cue or anywhere a pair whose tokens there stand at other places in its two prompts.

    Example::

        effects = nt.measure(model, test, [nt.patch(scores.top(8)), nt.zero(scores.top(8))])
        effects.rates()
    """
    import pyarrow as pa

    encoded = encode(model, pairs)
    if isinstance(positions, str) and positions in ("cue", "anywhere", *spans_of(encoded.pairs)):
        if activations is not None or any(each.role == "other_donor" for each in interventions):
            raise InputError(f"positions={positions!r}: leave out activations= and the role 'other_donor'")
        rest: dict[str, Any] = {"site": site, "progress": progress}
        named = places_named(tokenizer_of(model), encoded, positions)
        alike = in_both(named, [pair.id for pair in encoded.pairs])
        found = [measure(model, encoded.at(r), interventions, positions=at, **rest) for at, r in alike]
        return Effects(pa.concat_tables([each.table for each in found]).combine_chunks())
    info = inspect_model(model)
    if not interventions:
        raise InputError("no interventions to measure: pass nt.patch(neurons, donor=...) or others")
    widths, units = units_of(info, site)
    outside = [
        neuron
        for each in interventions
        for neuron in each.neurons
        if neuron.layer >= info.n_layers or neuron.index >= widths[neuron.layer]
    ]
    if outside:
        size = f"{info.n_layers} layers × {max(widths)} {units}"
        raise InputError(f"{outside[0]} is not in this model of {size}")
    if site != "neurons" and activations is None and any(i.needs_donor for i in interventions):
        raise InputError(f"a patch at site={site!r} wants activations= to take its values from")
    positions = _checked(positions, encoded)
    if positions == "all" and not encoded.aligned and any(i.needs_donor for i in interventions):
        raise InputError(
            "a patch at all positions needs prompts of equal length on both sides; "
            "patch at the final token position or set to a mean"
        )
    if activations is not None and activations.pairs != encoded.pairs:
        raise InputError("activations= are of other pairs than the ones to measure")
    parts: list[pa.Table] = []
    words = Words(tokenizer_of(model))
    reader = Reader(model, encoded)
    for direction in dict.fromkeys(each.direction for each in interventions):
        own = [each for each in interventions if each.direction == direction]
        likely = 1 if direction is Direction.TO_REASONING else 0
        label = f"intervening ({spoken(direction)})"
        if encoded.answers is not None:
            for places, ids in over(progress, batches_of(model, encoded, own), label):
                donors = donors_of(model, encoded, own, places, positions, activations)
                judged = reader.judged(places, ids, own, donors, likely, positions=positions, site=site)
                parts += _whole_rows(words, encoded.at(places), own, judged)
            continue
        for places, prompts in over(progress, mixed_batches(model, encoded, own, positions, site), label):
            given = donor_values(model, encoded, own, places, positions, activations)
            clean, changed = logits_under(model, prompts, own, given, positions=positions, site=site)
            parts += _rows(words, encoded.at(places), own, clean, changed)
    table = pa.concat_tables(parts).combine_chunks()
    return Effects(table.replace_schema_metadata(routed(model)) if routed(model) else table)


def _checked(positions: Positions | str, encoded: EncodedPairs) -> Positions:
    if positions in _SAME:
        return cast(Positions, positions)
    shortest = min(len(ids) for side in SIDES for ids in encoded.ids(side))
    given = tuple(positions) if isinstance(positions, list | tuple | range) else ()
    if not given or not all(isinstance(each, int) and -shortest <= each < 0 for each in given):
        raise InputError(
            f"positions={positions!r}: expected 'read', 'onward', 'all', 'cue', 'anywhere', a span that "
            f"all pairs have, or places from the prompt's end, {-shortest} to -1"
        )
    return given


def _rows(
    words: Words,
    part: EncodedPairs,
    interventions: Sequence[Intervention],
    clean: Float[Tensor, "pair vocab"],
    changed: Iterator[Float[Tensor, "pair vocab"]],
) -> list[pa.Table]:
    """For each intervention a table with a row for each pair."""
    import pyarrow as pa

    named = _named(part)
    # a softmax over the vocabulary costs as much as several layers: one a row
    clean_log_p = clean.log_softmax(dim=-1)
    before = _readout(words, clean, clean_log_p, clean.argmax(dim=-1), part, "before")
    tables = []
    for intervention, logits in zip(interventions, changed, strict=True):
        check_finite(intervention, logits)
        log_p, tops = logits.log_softmax(dim=-1), logits.argmax(dim=-1)
        after = _readout(words, logits, log_p, tops, part, "after")
        to_reasoning = intervention.direction is Direction.TO_REASONING
        wanted = part.reasoned if to_reasoning else part.memorized
        moved = after["L_after"] < 0 if to_reasoning else after["L_after"] > 0
        columns = {
            **named,
            **_made(intervention, len(part)),
            **before,
            **after,
            "prefers": moved,
            "answers": (tops == wanted).numpy(),
            "kl": metrics.kl_of(clean_log_p, log_p).numpy(),
        }
        tables.append(pa.table(columns))
    return tables


def _whole_rows(
    words: Words, part: EncodedPairs, interventions: Sequence[Intervention], judged: Judged
) -> list[pa.Table]:
    """The same of whole answers; run 0 is the unchanged model."""
    import pyarrow as pa

    difference, first = judged.log_p[0] - judged.log_p[1], judged.first[0] - judged.first[1]
    p_memorized, p_reasoned = judged.log_p.exp()
    assert judged.kl is not None

    def readout(run: int, when: str) -> dict[str, Any]:
        return {
            f"L_{when}": difference[run].numpy(),
            f"p_memorized_{when}": p_memorized[run].numpy(),
            f"p_reasoned_{when}": p_reasoned[run].numpy(),
            f"top_{when}": words(judged.top[run]),
            f"first_{when}": first[run].numpy(),
        }

    tables = []
    for run, intervention in enumerate(interventions, 1):
        to_reasoning = intervention.direction is Direction.TO_REASONING
        columns = {
            **_named(part),
            **_made(intervention, len(part)),
            **readout(0, "before"),
            **readout(run, "after"),
            "prefers": (difference[run] < 0 if to_reasoning else difference[run] > 0).numpy(),
            "answers": judged.wrote[1 if to_reasoning else 0, run].numpy(),
            "kl": judged.kl[run].numpy(),
        }
        tables.append(pa.table(columns))
    return tables


def _named(part: EncodedPairs) -> dict[str, list[str]]:
    fields = {"pair": "id", "family": "family", "template": "template", "group": "group"}
    return {name: [getattr(pair, own) for pair in part.pairs] for name, own in fields.items()}


def _made(intervention: Intervention, rows: int) -> dict[str, list[Any]]:
    made = {
        "direction": intervention.direction,
        "intervention": intervention.kind,
        "role": intervention.role,
        "label": intervention.label,
        "k": len(intervention),
        "draw": intervention.draw,
    }
    return {name: [value] * rows for name, value in made.items()}


def _readout(
    words: Words,
    logits: Float[Tensor, "pair vocab"],
    log_p: Float[Tensor, "pair vocab"],
    tops: Int[Tensor, " pair"],
    part: EncodedPairs,
    when: str,
) -> dict[str, Any]:
    rows = torch.arange(len(part))
    return {
        f"L_{when}": metrics.logit_difference(logits, part.memorized, part.reasoned).numpy(),
        f"p_memorized_{when}": log_p[rows, part.memorized].exp().numpy(),
        f"p_reasoned_{when}": log_p[rows, part.reasoned].exp().numpy(),
        f"top_{when}": words(tops),
    }
