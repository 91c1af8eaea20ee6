"""Python files that apply an intervention and import nothing of this project."""

from __future__ import annotations

import textwrap
from pathlib import Path

from torch import nn

from neurotrace.core.neurons import by_layer
from neurotrace.core.writing import save_file
from neurotrace.exports.attach import parts_of
from neurotrace.interventions.intervention import Intervention
from neurotrace.models.hooks import post_name

TRANSFORMERS, LENS = "for_transformers.py", "for_transformerlens.py"

_TRANSFORMERS = '''"""{what}

Needs torch and a transformers model; made by neurotrace {version}.

    handles = attach(model)         # the last token of each forward pass; {calls}
    handles = attach(model, "all")  # every token
    detach(handles)

Pad on the left, or not at all. With nnsight: attach(LanguageModel(...)._model).
"""

import torch

# down projection: neurons, keep, gain, offset; a' = keep * a + gain * donor + offset
CHANGE = {change}


def attach(model, where="last", donor=None):
    batch = []

    def see(module, args, kwargs):
        first = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        batch[:] = [len(first)]

    def changing(name, units, keep, gain, offset):
        def hook(module, args):
            new = args[0].clone()
            rows = new.view(batch[0], -1, new.shape[-1])
            at = slice(-1, None) if where == "last" else slice(None)
            old = rows[:, at][..., units]
            k, g, o = (torch.tensor(column).to(new) for column in (keep, gain, offset))
            given = 0 if donor is None else g * donor[name].to(new)[:, None]
            rows[:, at, units] = torch.where(k == 0, 0, k * old) + o + given
            return (new, *args[1:])

        return hook

    if donor is None and any(any(row[2]) for row in CHANGE.values()):
        raise ValueError("this change takes its values from a donor run: pass donor=read(model, ids)")
    handles = [model.register_forward_pre_hook(see, with_kwargs=True)]
    for name, row in CHANGE.items():
        handles.append(model.get_submodule(name).register_forward_pre_hook(changing(name, *row)))
    return handles


def detach(handles):
    for handle in handles:
        handle.remove()
'''

_READ = '''

def read(model, input_ids):
    """The neurons' values at the last token of donor prompts of equal length."""
    found, handles = {}, []
    for name, (units, *_) in CHANGE.items():
        def hook(module, args, name=name, units=units):
            found[name] = args[0].detach().view(*input_ids.shape, -1)[:, -1][:, units]

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    with torch.no_grad():
        model(input_ids)
    detach(handles)
    return found
'''

_LENS = '''"""{what}

Needs torch and a TransformerLens model; made by neurotrace {version}.

    model.run_with_hooks(tokens, fwd_hooks=hooks())       # the last token of each forward pass
    with model.hooks(fwd_hooks=hooks("all")): ...         # every token
"""

import torch

# hook point: neurons, keep, gain, offset; a' = keep * a + gain * donor + offset
CHANGE = {change}


def hooks(where="last", donor=None):
    def changing(name, units, keep, gain, offset):
        def hook(value, hook=None):
            new, at = value.clone(), slice(-1, None) if where == "last" else slice(None)
            k, g, o = (torch.tensor(column).to(new) for column in (keep, gain, offset))
            given = 0 if donor is None else g * donor[name].to(new)[:, None]
            new[:, at, units] = torch.where(k == 0, 0, k * value[:, at][..., units]) + o + given
            return new

        return hook

    if donor is None and any(any(row[2]) for row in CHANGE.values()):
        raise ValueError("this change takes its values from a donor run: pass donor=")
    return [(name, changing(name, *row)) for name, row in CHANGE.items()]
'''


def write_scripts(module: nn.Module, intervention: Intervention, folder: Path) -> None:
    """`for_transformers.py` and `for_transformerlens.py`.

    Args:
        module: the transformers model, whose modules' names go into the former.
    """
    from neurotrace import __version__

    layers = by_layer(intervention.neurons)
    paths = {layer: path_of(module, parts_of(module).projections[layer]) for layer in layers}
    lens = {layer: post_name(layer) for layer in layers}
    patch = intervention.needs_donor
    about = {"what": _said(intervention), "version": __version__}
    calls = "donor=read(model, ids) first" if patch else "of a prompt, then of each new token"
    text = _TRANSFORMERS.format(change=_rows(intervention, paths), calls=calls, **about)
    save_file(folder / TRANSFORMERS, (text + (_READ if patch else "")))
    save_file(folder / LENS, _LENS.format(change=_rows(intervention, lens), **about))


def path_of(module: nn.Module, part: nn.Module) -> str:
    """The part's dotted name, as `get_submodule` takes it."""
    return next(name for name, own in module.named_modules() if own is part)


def _said(intervention: Intervention) -> str:
    """A line for a docstring, without what could end it: its words may be of others."""
    about = intervention.provenance
    count = f"{len(intervention)} neuron{'s' * (len(intervention) > 1)}"
    of = f"of {about.get('model', 'a model')}, family {about.get('family', 'unknown')}"
    text = f"{intervention.kind} of {count} {of}, {intervention.direction}."
    return "".join(char if char.isprintable() and char not in '"\\' else "_" for char in text)


def _rows(intervention: Intervention, names: dict[int, str]) -> str:
    """The changes as Python: numbers of single precision written so that none is rounded."""
    lines = ["{"]
    for layer, chosen in by_layer(intervention.neurons).items():
        units = [intervention.neurons[place].index for place in chosen]
        columns = [getattr(intervention, name)[chosen].tolist() for name in ("keep", "gain", "offset")]
        lines.append(f'    "{names[layer]}": (')
        for column in (units, *columns):
            lines.append(
                textwrap.fill(f"{column},", 100, initial_indent=" " * 8, subsequent_indent=" " * 9)
            )
        lines.append("    ),")
    return "\n".join([*lines, "}"])
