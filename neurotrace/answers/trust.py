"""The trust score: one row per prompt, computed from the neurons.

    id, prompt          a bare text's id is its place, from 0
    answer              the model's own next token
    signal, score       what `p_memory` is read from, and its value: the causal margin in nats, or what the
                        circuit's study found to be cheaper and as good, or better (`score.py`)
    memory_fall         drop of log p(answer) with the memory neurons off, nats
    reasoning_fall      the same with the reasoning neurons off
    margin              memory_fall - reasoning_fall
    p_memory            calibrated P(the answer comes from memory)
    p_survives          calibrated P(the answer stays right after a change of the question)
    consistency         share of the given changed versions on which the answer stays right
    abstain             the parts are outside the calibration's range, the margin is nearer 0 (these
                        neurons do not affect the answer), or, with `kind`, the prompt is of another kind
                        than the calibration's by its residual stream: the numbers have no meaning

The parts of the margin and the margin are NaN where another signal is read.

No named answers are needed to score; `calibrate` needs them, on prompts that had no part in finding the
circuit. An answer *survives* a changed version if the model gives the corresponding answer there: the
changed version's reasoned answer if it was the reasoned one, else the memorized answer again (which is
wrong there, because nothing is memorized about the changed item).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.answers.answered import Answered, answer, ask, prompt_ids
from neurotrace.answers.calibration import FEATURES, fit_calibration, fit_familiar
from neurotrace.answers.circuit import Circuit
from neurotrace.answers.margin import Margins, causal_margin
from neurotrace.answers.rivals import depths
from neurotrace.answers.score import MARGIN
from neurotrace.core.display import Bar, Shown, Table, View, clip, rate
from neurotrace.core.errors import InputError
from neurotrace.core.process import Progress, over
from neurotrace.core.prompts import Prompt
from neurotrace.engine.turns import takes_turns
from neurotrace.models.encoding import by_length
from neurotrace.models.hooks import inspect_model, site_name
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel
from neurotrace.models.sites import read_sites

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Trust(Shown):
    """One row per prompt; the columns are in the module's docstring, and `prompt` (its id or text)."""

    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def to_frame(self) -> pd.DataFrame:
        return self.table.to_pandas()

    def rows(self) -> list[dict[str, Any]]:
        """As plain dicts, NaN as None: JSON lines."""
        return [
            {name: None if value != value else value for name, value in row.items()}
            for row in self.table.to_pylist()
        ]

    def _view(self) -> View:
        shown = self.to_frame().head(10)
        bound = float(shown["score"].abs().max())
        cells = [
            (
                clip(row.prompt, 60),
                row.answer,
                rate(row.p_memory),
                rate(row.p_survives),
                Bar(row.score, bound, f"{row.score:+.2f}", signed=True),
                "abstains" if row.abstain else "",
            )
            for row in shown.itertuples()
        ]
        columns = ("prompt", "answer", "P(from memory)", "P(survives)", str(shown["signal"].iloc[0]), " ")
        count, abstains = len(self), int(np.sum(self.table["abstain"].to_numpy()))
        recalled = int(np.sum(self.table["p_memory"].to_numpy() > 0.5))
        return View(
            f"The model's own answers to {count} prompts: {recalled} rather from memory, "
            f"{count - recalled} from reasoning; {abstains} outside the calibration's range.",
            (Table(columns, cells),),
            "All rows: .to_frame(); as JSON lines: .rows(); a figure: nt.plot_margins(trust).",
        )

    def __repr__(self) -> str:
        return f"Trust({len(self)} prompts)"


@takes_turns
def trust(
    model: HookedModel,
    prompts: Sequence[str | Prompt],
    circuit: Circuit,
    detector: Any = None,
    *,
    margin: bool = False,
    kind: bool = False,
    batch_size: int = 32,
    progress: Progress = None,
) -> Trust:
    """Score the model's own answer to each prompt.

    Args:
        prompts: texts, or `Prompt`s. A prompt's changed versions (those that name it in `perturbs`) are
            asked but not scored; they give its `consistency`.
        circuit: a calibrated one: see `calibrate`.
        detector: a fitted scikit-learn classifier over the two parts (memory_fall, reasoning_fall)
            whose P(class 1) replaces `p_memory`; default: the circuit's calibration. For a detector
            over other views (neurons, fused) use `read_views`.
        margin: read the causal margin even where the circuit's study found another signal as good; a
            detector always reads it.
        kind: also abstain on prompts of another kind than the calibration's; one more pass a prompt.

    Raises:
        InputError: no prompts; an uncalibrated circuit or one of another model; an empty or too long
            prompt; an unfitted detector, or one over other features.

    Example::

        scored = nt.trust(model, ["recall 31+28="], circuit)
        scored.to_frame()
    """
    import pyarrow as pa

    if circuit.calibration is None:
        raise InputError(
            "this circuit is not calibrated: circuit = nt.calibrate(model, held_out_prompts, circuit)"
        )
    scored = [p for p in prompts if isinstance(p, str) or p.perturbs is None]
    if not scored:
        raise InputError("no prompts to score: expected at least one that is not a changed version")
    cheaper = circuit.score if not margin and detector is None else None
    found: Margins | Answered
    if cheaper is None:
        found = causal_margin(model, scored, circuit, batch_size=batch_size, progress=progress)
        calibration, tokens, parts = circuit.calibration, found.answer, parts_of(found)
        own, falls = found.margin.numpy(), [getattr(found, name).numpy() for name in FEATURES]
    else:
        circuit.check(model)
        found = ask(model, scored, batch_size=batch_size, progress=progress)
        calibration, tokens = cheaper.calibration, found.top
        parts = cheaper.read(model, found, progress=progress)
        own, falls = parts[:, 0], [np.full(len(scored), np.nan, dtype=np.float32)] * 2
        if not np.isfinite(own).all():
            raise InputError("the score is not finite on these prompts: try dtype=float32")
    familiar, streams = circuit.calibration.familiar, None
    if kind and familiar is None:
        raise InputError(
            "kind=True: this circuit's calibration can't tell prompts of another kind; it takes prompts in "
            "four templates or more: circuit = nt.calibrate(model, held_out_prompts, circuit)"
        )
    if kind and familiar is not None:
        every = prompt_ids(model, [p if isinstance(p, str) else p.prompt for p in scored])
        streams = streams_at(model, every, familiar.block, progress=progress)
    tokenizer = tokenizer_of(model)
    consistency = np.full(len(scored), np.nan)
    if len(scored) < len(prompts):
        named = [p for p in prompts if isinstance(p, Prompt)]
        asked = answer(model, named, batch_size=batch_size, progress=progress)
        shares = consistencies(asked)
        ids = ["" if isinstance(p, str) else p.id for p in scored]
        consistency = np.array([shares.get(name, np.nan) for name in ids])
    p_memory = calibration.p_memory(parts) if detector is None else _detected(detector, parts)
    outside = replace(calibration, familiar=familiar).outside(parts, streams)
    return Trust(
        pa.table(
            {
                "id": [str(n) if isinstance(p, str) else p.id for n, p in enumerate(scored)],
                "prompt": [p if isinstance(p, str) else p.prompt for p in scored],
                "answer": [tokenizer.decode([token]) for token in tokens.tolist()],
                "signal": [cheaper.signal if cheaper else MARGIN] * len(scored),
                "score": own,
                "log_probability": found.log_probability.numpy(),
                "entropy": found.entropy.numpy(),
                **dict(zip(FEATURES, falls, strict=True)),
                "margin": falls[0] - falls[1],
                "p_memory": p_memory,
                "p_survives": calibration.p_survives(parts),
                "consistency": consistency,
                "abstain": outside,
            }
        )
    )


@takes_turns
def calibrate(
    model: HookedModel, prompts: Sequence[Prompt], circuit: Circuit, *, progress: Progress = None
) -> Circuit:
    """The circuit with its calibration, from prompts that had no part in finding it.

    Prompts that the model answers with neither named answer are left out. If the prompts include
    changed versions, `p_survives` is calibrated as well.

    Raises:
        InputError: one outcome only; the circuit is of another model.

    Example::

        train, held_out = nt.split_pairs(nt.load_pairs("arithmetic"))
        circuit = nt.calibrate(model, nt.prompts_of(held_out), nt.find_circuit(model, train))
    """
    asked = answer(model, prompts, progress=progress)
    scored = asked.where(lambda prompt: prompt.perturbs is None).decided()
    parts = parts_of(causal_margin(model, scored, circuit, progress=progress))
    shares = consistencies(asked)
    rows = [row for row, prompt in enumerate(scored.prompts) if prompt.id in shares]
    survived = [shares[scored.prompts[row].id] > 0.5 for row in rows]
    recalled = [outcome == "memory" for outcome in scored.outcome]
    block = familiar_block(model)
    streams = streams_at(model, scored.ids, block, progress=progress)
    familiar = None if streams is None else fit_familiar(streams, kinds_of(scored.prompts), block)
    found = fit_calibration(parts, recalled, parts[rows], survived)
    return replace(circuit, calibration=replace(found, familiar=familiar))


def kinds_of(prompts: Sequence[Prompt]) -> list[str]:
    """What is left out to find how far an unseen prompt is: the template."""
    return [f"{prompt.family}/{prompt.template}" for prompt in prompts]


def familiar_block(model: HookedModel) -> int:
    """The block behind which prompts of another kind are told: two thirds up."""
    found = depths(inspect_model(model).n_layers)
    return found[len(found) * 2 // 3]


def streams_at(
    model: HookedModel, ids: Sequence[Int[Tensor, " pos"]], block: int, *, progress: Progress = None
) -> Float[np.ndarray, "prompt d_model"] | None:
    """The residual stream behind a block at each prompt's final position; None if the hook is missing."""
    if site_name("residual", block) not in model.hook_dict:
        return None
    found: dict[int, np.ndarray] = {}
    for rows, batch in over(progress, list(by_length(ids, 32)), "reading streams"):
        read = read_sites(model, batch, [("residual", block)])["residual", block].numpy()
        found |= dict(zip(rows, read, strict=True))
    return np.array([found[row] for row in range(len(ids))])


def consistencies(asked: Answered) -> dict[str, float]:
    """Id of a prompt -> share of its changed versions on which its answer stays right.

    Only of prompts that the model answers with a named answer and whose changed versions were asked.
    """
    place = {prompt.id: row for row, prompt in enumerate(asked.prompts)}
    outcome = asked.outcome
    kept: dict[str, list[bool]] = {}
    for row, prompt in enumerate(asked.prompts):
        origin = place.get(prompt.perturbs or "")
        if origin is None or outcome[origin] == "other":
            continue
        implied = asked.reasoned if outcome[origin] == "reasoning" else asked.memorized
        kept.setdefault(prompt.perturbs or "", []).append(bool(asked.top[row] == implied[row]))
    return {name: sum(survived) / len(survived) for name, survived in kept.items()}


def limem(asked: Answered) -> float:
    """LiMem (Xie et al., arXiv 2410.23123): accuracy times (1 - share of solved prompts still solved).

    A prompt counts as *solved* where the model gives the correct answer to the question asked, which is
    the reasoned one. An answer from memory is not solved, before the change or after it. Of the prompts
    whose changed versions were asked; with several versions of one prompt, their mean. High: much is
    solved and little of it survives the change. NaN where no changed version was asked.
    """
    solved = {
        prompt.id: outcome == "reasoning"
        for prompt, outcome in zip(asked.prompts, asked.outcome, strict=True)
    }
    changed: dict[str, list[bool]] = {}
    for prompt in asked.prompts:
        if prompt.perturbs in solved:
            changed.setdefault(prompt.perturbs, []).append(solved[prompt.id])
    if not changed:
        return float("nan")
    lost = [1 - sum(after) / len(after) if solved[name] else 0.0 for name, after in changed.items()]
    return float(sum(lost) / len(lost))


def parts_of(margins: Margins) -> Float[np.ndarray, "row feature"]:
    """The margin's parts as the columns that calibration and detectors read."""
    return np.stack([getattr(margins, name).double().numpy() for name in FEATURES], axis=1)


def _detected(detector: Any, parts: np.ndarray) -> np.ndarray:
    from sklearn.exceptions import NotFittedError

    width = getattr(detector, "n_features_in_", len(FEATURES))
    if width != len(FEATURES):
        raise InputError(
            f"this {type(detector).__name__} reads {width} features, a trust score gives it "
            f"{len(FEATURES)} ({', '.join(FEATURES)}): for other views ask it itself, "
            "detector.predict_proba of what nt.read_views(model, answered, views, circuit=circuit) gives"
        )
    try:
        found = np.asarray(detector.predict_proba(parts), dtype=float)
    except NotFittedError:
        raise InputError(
            f"this {type(detector).__name__} is not fitted: call fit(parts, from_memory) first"
        ) from None
    except AttributeError:
        raise InputError(
            f"expected a classifier with predict_proba over {' and '.join(FEATURES)}, "
            f"got a {type(detector).__name__}"
        ) from None
    return found[:, 1]
