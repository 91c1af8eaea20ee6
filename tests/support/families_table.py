"""Every family through everything; `python tests/support/families_table.py > docs/families.md`.

`examine` is the suite: `test_families.py` runs it on each family and requires the row that the page
holds, so the page can't say what the code no longer does.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from families import FAMILIES, OTHER_LOGITS, WORDS, build, random_pairs
from planted import word_tokenizer
from ranker_laws import QUICK, obeyed
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.sides import DIRECTIONS, SIDES
from neurotrace.engine.parts import find_parts, hooked
from neurotrace.interventions.controls import random_signs
from neurotrace.interventions.intervention import make
from neurotrace.interventions.kinds import KINDS
from neurotrace.models.encoding import encode
from neurotrace.models.hooks import forward, inspect_model
from neurotrace.models.origins import engine_of, twin
from neurotrace.rankers.registry import RANKERS

SOME = [nt.Neuron(0, 1), nt.Neuron(0, 9), nt.Neuron(1, 33), nt.Neuron(3, 60)]


def some(model, encoded) -> list[nt.Neuron]:
    """`SOME`; in a mixture, those neurons of the same blocks that most prompts are sent to."""
    info = inspect_model(model)
    if info.experts is None:
        return SOME
    values = nt.collect(model, encoded).values.flatten(0, 1)
    used = (values != 0).float().mean(dim=0) + values.std(dim=0) / 1e3
    order = used.sort(dim=-1, descending=True).indices
    return [nt.Neuron(each.layer, int(order[each.layer, each.index])) for each in SOME]


@dataclass(frozen=True)
class Row:
    family: str
    model_class: str
    outcome: str
    path: str = ""
    bf16: str = ""

    def __str__(self) -> str:
        cells = (self.family, f"`{self.model_class}`", self.outcome, self.path, self.bf16)
        return f"| {' | '.join(cells)} |"


def boot(name: str, folder: Path, device: str, dtype: torch.dtype = torch.float32):
    return nt.load_model(build(name).to(device, dtype), word_tokenizer(folder, WORDS), name=name)


def examine(name: str, folder: Path, device: str = "cpu") -> Row:
    """A family's row of the table; an AssertionError where it is taken and something is wrong."""
    kind = type(build(name)).__name__
    try:
        model = boot(name, folder, device)
    except InputError as error:
        return Row(name, kind, f"refused: {reason(name, error)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the path, which the table names
        engine = engine_of(model)
    path = engine.path if engine else "none"
    encoded = encode(model, random_pairs(4), check=False)
    logits_are_the_twins(model)
    collected_is_what_the_projections_receive(model, encoded)
    without = every_ranker_ranks(model, encoded)
    engine_equals_hooks(model, encoded)
    whole_answers_by_engine_and_hooks(model)
    small_steps_are_predicted(model, encoded)
    outcome = "works" if path in ("shared", "frozen") else "works by the slow path"
    half = half_precision(name, folder, device, nt.gradient(model, encoded))
    return Row(name, kind, "; ".join([outcome, *without]), path, half)


def reason(name: str, error: InputError) -> str:
    """What was wrong, without the advice behind it."""
    said = str(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
    return re.split(r": use |: hooks on it |: which neuron |: rank by |: load it ", said)[0]


def logits_are_the_twins(model) -> None:
    ids = torch.tensor([[1, 7, 9, 2], [3, 8, 4, 1]], device=inspect_model(model).device)
    with torch.no_grad():
        ours, theirs = forward(model, ids), twin(model)(ids, use_cache=False).logits[:, -1]
    ours, theirs = ours - ours.mean(-1, keepdim=True), theirs - theirs.mean(-1, keepdim=True)
    assert torch.allclose(ours, theirs, atol=2e-4 * float(theirs.abs().max()))


def collected_is_what_the_projections_receive(model, encoded) -> None:
    """Through TransformerLens' hooks, and on transformers' own modules."""
    values = nt.collect(model, encoded).values
    assert torch.allclose(nt.moments(model, encoded).mean, values.mean(dim=1), atol=1e-5)
    try:
        parts = find_parts(twin(model))
    except ValueError:  # no engine either: TransformerLens' word stands alone
        return
    for side, of_side in zip(SIDES, values, strict=True):
        for ids, expected in zip(encoded.ids(side), of_side, strict=True):
            seen: list[torch.Tensor] = []

            def see(_, args, __, seen=seen) -> None:
                seen.append(args[0].reshape(-1, args[0].shape[-1])[-1].cpu())

            with torch.no_grad(), hooked([(p, "input", see) for p in parts.projections]):
                parts.model(ids[None].to(parts.device), use_cache=False)
            found = torch.stack(seen)
            assert torch.allclose(found, expected, atol=2e-4 * float(expected.abs().max()))


def every_ranker_ranks(model, encoded) -> list[str]:
    """Which rankers this family does without, and why; the others rank, and obey their laws."""
    without, found = [], {}
    for name in RANKERS:
        try:
            quick = QUICK.get(name, {})
            if name == "integrated" and inspect_model(model).experts is not None:
                quick = quick | {"kind": "patch:0.01"}  # a larger step sends tokens to other experts
            if name == "exact" and inspect_model(model).experts is not None:  # some of each expert
                width = inspect_model(model).d_mlp
                quick = {
                    "neurons": [nt.Neuron(layer, at) for layer in range(4) for at in range(1, width, 9)]
                }
            scores = RANKERS[name].function(model, encoded, **quick)
        except InputError as error:
            without.append(f"no `{name}`: {reason(inspect_model(model).name, error)}")
            continue
        measured = scores.value[~scores.value.isnan()]
        assert torch.isfinite(measured).all(), name
        assert (measured != 0).any(), name
        found[name] = scores
    obeyed(model, encoded, found)
    return without


def engine_equals_hooks(model, encoded) -> None:
    """Every intervention, slopes and exact effects: by the engine, and by full passes with hooks."""
    reference = nt.reference(model, encoded)
    interventions = [
        make(kind, some(model, encoded), reference, direction=direction)
        for kind in (*KINDS, "patch:1.5", "shift:3", "scale:-1")
        for direction in DIRECTIONS
    ]
    interventions += [random_signs(interventions[0], seed=3)]

    def both() -> tuple:
        return (
            nt.measure(model, encoded, interventions).to_frame(),
            nt.gradient(model, encoded).value,
            nt.exact(model, encoded.at([0, 1]), neurons=some(model, encoded)).value,
        )

    fast = both()
    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        assert twin(model) is None  # a user's hook: the engine would not see it, and steps back
        slow = both()
    moved = (fast[0]["L_after"] - fast[0]["L_before"]).abs().max()
    assert moved > 0.1  # or the comparison would be of zeros
    assert (fast[0]["L_after"] - slow[0]["L_after"]).abs().max() < 2e-4 * max(1.0, moved)
    assert (fast[0]["top_after"] == slow[0]["top_after"]).all()
    for one, other in zip(fast[1:], slow[1:], strict=True):
        size = float(other.nan_to_num().abs().max())
        assert size > 1e-3
        assert torch.allclose(one, other, atol=2e-4 * size + 1e-5, equal_nan=True)


def whole_answers_by_engine_and_hooks(model) -> None:
    """Two-token answers, changed at three places: L against a plain pass, and the engine against hooks."""
    pairs = [
        replace(
            pair,
            memorized_answer=pair.memorized_answer + pair.reasoned_answer,
            reasoned_answer=pair.memorized_answer + pair.memorized_answer,
        )
        for pair in random_pairs(3)
    ]
    encoded = encode(model, pairs, answers="whole", check=False)
    row = encoded.at([0])
    reference = nt.reference(model, encoded)
    changes = [
        make(kind, some(model, encoded), reference, direction="to_reasoning")
        for kind in ("patch:1.5", "shift:3")
    ]

    def both() -> tuple:
        places = ("read", "onward", (-3, -2, -1))
        return (
            [nt.measure(model, encoded, changes, positions=at).to_frame()["L_after"] for at in places],
            nt.gradient(model, encoded).value,
            nt.exact(model, row, neurons=some(model, encoded)).value,
        )

    expected = 0.0
    for sign, (sequence,) in zip((1, -1), row.answers[0], strict=True):
        ids = torch.cat([row.memorization[0], torch.tensor(sequence)])[None]
        with torch.no_grad():
            log_p = (
                twin(model)(ids.to(inspect_model(model).device), use_cache=False).logits[0].log_softmax(-1)
            )
        start = len(row.memorization[0]) - 1
        expected += sign * sum(float(log_p[start + at, token]) for at, token in enumerate(sequence))
    assert abs(float(row.on_memorization.logit_difference[0]) - expected) < 1e-3
    fast = both()
    with model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: None)]):
        slow = both()
    for one, other in zip(fast[0], slow[0], strict=True):
        assert (one - other).abs().max() < 1e-4 * max(1.0, float(other.abs().max()))
    assert not torch.allclose(torch.tensor(fast[0][0]), torch.tensor(fast[0][2]), atol=1e-3)
    for one, other in zip(fast[1:], slow[1:], strict=True):
        size = float(other.nan_to_num().abs().max())
        assert size > 1e-3
        assert torch.allclose(one, other, atol=2e-4 * size + 1e-5, equal_nan=True)


def small_steps_are_predicted(model, encoded) -> None:
    """A small part of the way to the donor: first order must agree with doing it."""
    kind = "patch:0.002"
    estimate = nt.gradient(model, encoded, kind=kind)
    neurons = [n for direction in DIRECTIONS for n in estimate.top(6, direction=direction)]
    done = nt.exact(model, encoded, kind=kind, neurons=neurons)
    for neuron in neurons:
        place = neuron.layer, neuron.index
        difference = abs(float(done.value[place] - estimate.value[place]))
        assert difference < 0.1 * abs(float(done.value[place])) + 5e-5, str(neuron)


def half_precision(name: str, folder: Path, device: str, full: nt.Scores) -> str:
    """Whether bf16 passes the self-check and ranks as float32 does."""
    try:
        model = boot(name, folder, device, torch.bfloat16)
    except InputError as error:
        return f"refused: {reason(name, error)}"
    assert inspect_model(model).dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = nt.gradient(model, encode(model, random_pairs(4), check=False))
    both = torch.stack([scores.value.nan_to_num().flatten(), full.value.nan_to_num().flatten()])
    alike = float(torch.corrcoef(both)[0, 1])
    if alike <= 0.95 and inspect_model(model).experts is not None:
        return "loads; rounding sends tokens to other experts"
    assert alike > 0.95
    return "yes"


HEAD = """# Model families

The table tests one tiny random model of each family, built from transformers' configs
(`tests/support/families.py`) and booted by TransformerLens {version} with transformers
{transformers}. *works* means:

- the hooks pass the self-check at load, and the logits equal those of transformers;
- `collect` returns the inputs of transformers' down projections;
- every ranker obeys its law (`tests/support/ranker_laws.py`): the last layer's `direct` equals
  `gradient`, `integrated` adds up to the effect on its layer, `exact` equals the measured effect, what
  a neuron writes is what transformers' own model does when the neuron changes a little, and so on;
- the gradient predicts the effect of a small patch;
- answers of two tokens, changed at three places of the prompt and the answer, have the same L by both ways;
- every intervention, slope and exact effect is the same by the suffix engine and by full passes
  with hooks.

*path* is the engine's method (`neurotrace/engine`): shared and frozen are fast; naive and none are
full passes. *bf16*: the same model in bfloat16 passes the self-check, and its gradient scores
correlate with those in float32 by over 0.95.

`python tests/support/families_table.py > docs/families.md` writes this page.
`tests/models/test_families.py` repeats the tests and requires the page to be current.

{works} families work ({slow} of them by the slow path), {refused} are refused. In a sparse mixture of
experts the neurons are those of the experts ([mixtures](mixtures.md)); in bfloat16 rounding may send a
token to another expert, so the logits are compared on nine prompts and most of them must agree.

| family | class | outcome | path | bf16 |
|---|---|---|---|---|
{rows}

transformer-lens 3.9 (`make test-tl39`) boots some more families with logits that differ from those
of transformers. They are refused there: {before_4}. With this version a `HookedTransformer` and a
bridge of the same weights give the same scores within 1e-4 (`tests/models/test_generations.py`).

Causal language models that both libraries know and that were not tried: {untried}.
"""


def main() -> None:
    rows = []
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(examine(name, Path(folder)))
        print(rows[-1], file=sys.stderr)
    print(page(rows), end="")


def page(rows: list[Row]) -> str:
    """`docs/families.md`, all of it."""
    outcomes = [row.outcome for row in rows]
    known = {name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() if isinstance(name, str)}
    untried = known & set(SUPPORTED_ARCHITECTURES) - {row.model_class for row in rows}
    return HEAD.format(
        version=version("transformer-lens"),
        transformers=version("transformers"),
        works=sum(outcome.startswith("works") for outcome in outcomes),
        slow=sum("slow path" in outcome for outcome in outcomes),
        refused=sum(outcome.startswith("refused") for outcome in outcomes),
        rows="\n".join(str(row) for row in rows),
        before_4=", ".join(n for n in FAMILIES if FAMILIES[n].before_4 == OTHER_LOGITS),
        untried=", ".join(f"`{name}`" for name in sorted(untried)),
    )


if __name__ == "__main__":
    main()
