"""`export`: an intervention written in another program's form, read back and proven equal to ours.

form         changes               expresses
hooks        last or all tokens    everything
checkpoint   all tokens            all but patches; constant shifts where MLPs can have a bias
gguf         all tokens            the same, of a model that came from a GGUF file
vector       all tokens            constant shifts, but for block 0
json         -                     everything

What was measured of it is in `export.json` beside it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurotrace.core.errors import InputError, one_of
from neurotrace.core.neurons import by_layer
from neurotrace.core.pairs import PromptPair
from neurotrace.core.writing import prepare_folder, remove, save_file
from neurotrace.engine.turns import takes_turns
from neurotrace.exports import describe, gguf_file, scripts
from neurotrace.exports.attach import last_logits, parts_of, plain_model
from neurotrace.exports.checkpoint import read_checkpoint, write_checkpoint
from neurotrace.exports.proof import Proof, prove
from neurotrace.exports.vector import added, read_vector, write_vector
from neurotrace.folders.sealing import sealing
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.encoding import EncodedPairs
from neurotrace.models.hooks import forward, inspect_model, post_name
from neurotrace.models.identity import model_identity
from neurotrace.models.loading import load_model
from neurotrace.models.origins import tokenizer_of
from neurotrace.models.protocol import HookedModel

RECORD, CHECKPOINT, GGUF, VECTOR, DESCRIPTION = (
    "export.json",
    "checkpoint",
    "model.gguf",
    "vector.gguf",
    "intervention.json",
)
_FORMAT = "neurotrace.export/1"


@dataclass(frozen=True)
class Asked:
    """What is to be exported, of which model, and where to."""

    model: HookedModel
    intervention: Intervention
    folder: Path
    pairs: Sequence[PromptPair] | EncodedPairs
    source: Path | None  # of the model, where it is a GGUF file

    def proven(self, exported: Any, *, last: bool = False) -> Proof:
        return prove(self.model, self.intervention, exported, self.pairs, last=last)


@dataclass(frozen=True)
class Export:
    """What `export` wrote, and how far it is from our hooks.

    Attributes:
        proofs: a form's name -> what was measured of it; nothing of a description.
    """

    form: str
    folder: Path
    proofs: dict[str, Proof]

    def __repr__(self) -> str:
        return "\n".join(
            [f"Export({self.form} in {self.folder})"]
            + [f"{name}: {proof}" for name, proof in self.proofs.items()]
        )


@takes_turns
def export(
    model: HookedModel,
    intervention: Intervention,
    to: str,
    out: str | Path,
    *,
    pairs: Sequence[PromptPair] | EncodedPairs = (),
    source: str | Path | None = None,
    overwrite: bool = False,
) -> Export:
    """Write an intervention for another program, and measure that the model answers as it does here.

    Args:
        to: ``"hooks"``, ``"checkpoint"``, ``"gguf"``, ``"vector"`` or ``"json"``.
        out: a folder.
        pairs: whose logits and flips are compared; default: the logits of the neutral texts. A patch
            needs some.
        source: the model's file, for ``"gguf"``.

    Raises:
        InputError: the form can't express the intervention; the model has no plain transformers model
            behind it; a file can't be written; the form was written and answers otherwise.

    Example::

        (change,) = run.interventions(family="letters", direction="to_reasoning", fold="all")
        nt.export(model, change.without_donor(), "checkpoint", "letters-to-reasoning", pairs=run.pairs)
    """
    if to not in FORMS:
        raise InputError(f"to={to!r}: {one_of(to, FORMS)}")
    intervention.check(model)
    if intervention.needs_donor and not len(pairs) and to != "json":
        raise InputError(f"{intervention.kind} takes its values from a donor run: pass pairs=")
    if to != "json":
        parts_of(plain_model(model))  # a refusal leaves no folder
    names, write = FORMS[to]
    folder = prepare_folder(out, (*names, RECORD), overwrite=overwrite)
    asked = Asked(model, intervention, folder, pairs, None if source is None else Path(source))
    with sealing(folder, (*names, RECORD), {"format": _FORMAT, "to": to, **model_identity(model)}):
        proofs = write(asked)
        record = {
            "format": _FORMAT,
            "to": to,
            "model": inspect_model(model).name,
            "intervention": describe.description(intervention),
            "proofs": {name: proof.record() for name, proof in proofs.items()},
        }
        save_file(folder / RECORD, (json.dumps(record, indent=1) + "\n"))
        for name, proof in proofs.items():
            if not proof.holds:
                for file in names:
                    remove(folder / file)
                raise InputError(
                    f"{name} of {inspect_model(model).name} answers otherwise than our hooks, and was "
                    f"removed: its logits differ by up to {proof.difference:.2g}, {proof.relative:.1g} of "
                    f"the largest, expected at most {proof.tolerance:g} ({folder / RECORD}); use --to hooks"
                )
    return Export(to, folder, proofs)


def _hooks(asked: Asked) -> dict[str, Proof]:
    module = plain_model(asked.model)
    scripts.write_scripts(module, asked.intervention, asked.folder)
    plain, lens = (_imported(asked.folder / name) for name in (scripts.TRANSFORMERS, scripts.LENS))
    layers = by_layer(asked.intervention.neurons)
    names = {
        plain: [scripts.path_of(module, parts_of(module).projections[layer]) for layer in layers],
        lens: [post_name(layer) for layer in layers],
    }

    def given(script: Any, donor: Tensor | None) -> dict[str, Tensor] | None:
        if donor is None:
            return None
        columns = zip(names[script], layers.values(), strict=True)
        return {name: donor[:, chosen] for name, chosen in columns}

    def by_transformers(where: str) -> Any:
        def answer(ids: Tensor, donor: Tensor | None) -> Tensor:
            handles = plain.attach(module, where, given(plain, donor))
            try:
                return last_logits(module, ids)
            finally:
                plain.detach(handles)

        return answer

    def by_lens(ids: Tensor, donor: Tensor | None) -> Tensor:
        with torch.no_grad(), asked.model.hooks(fwd_hooks=lens.hooks("last", given(lens, donor))):
            return forward(asked.model, ids).float().cpu()

    proofs = {
        f"{scripts.TRANSFORMERS}, last token": asked.proven(by_transformers("last"), last=True),
        f"{scripts.LENS}, last token": asked.proven(by_lens, last=True),
    }
    if not asked.intervention.needs_donor:
        proofs[f"{scripts.TRANSFORMERS}, all tokens"] = asked.proven(by_transformers("all"))
    return proofs


def _imported(path: Path) -> Any:
    """The script as a module: the text is ours, but for numbers and for names that can't end a string."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _checkpoint(asked: Asked) -> dict[str, Proof]:
    module, place = plain_model(asked.model), asked.folder / CHECKPOINT
    write_checkpoint(module, tokenizer_of(asked.model), asked.intervention, place)
    back = read_checkpoint(place, like=module)
    return {CHECKPOINT: asked.proven(lambda ids, _: last_logits(back, ids))}


def _gguf(asked: Asked) -> dict[str, Proof]:
    if asked.source is None or asked.source.suffix != ".gguf":
        raise InputError(
            f"--to gguf edits the GGUF file that a model came from: pass it as source= (--model), got "
            f"{asked.source}"
        )
    place = asked.folder / GGUF
    gguf_file.write_gguf(asked.intervention, asked.source, place)
    info = inspect_model(asked.model)
    back = plain_model(load_model(place, device=info.device, dtype=info.dtype))
    return {GGUF: asked.proven(lambda ids, _: last_logits(back, ids))}


def _vector(asked: Asked) -> dict[str, Proof]:
    module, place = plain_model(asked.model), asked.folder / VECTOR
    write_vector(module, asked.intervention, place)
    vectors = read_vector(place)

    def answer(ids: Int[Tensor, "prompt pos"], _: Tensor | None) -> Float[Tensor, "prompt vocab"]:
        with added(module, vectors):
            return last_logits(module, ids)

    return {VECTOR: asked.proven(answer)}


def _json(asked: Asked) -> dict[str, Proof]:
    describe.write_description(asked.intervention, asked.folder / DESCRIPTION)
    return {}


# a form's files, and what writes and measures it
FORMS: dict[str, tuple[tuple[str, ...], Callable[[Asked], dict[str, Proof]]]] = {
    "hooks": ((scripts.TRANSFORMERS, scripts.LENS), _hooks),
    "checkpoint": ((CHECKPOINT,), _checkpoint),
    "gguf": ((GGUF,), _gguf),
    "vector": ((VECTOR,), _vector),
    "json": ((DESCRIPTION,), _json),
}
