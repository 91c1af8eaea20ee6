"""An intervention taken to other programs, each form measured against ours before it counts.

export      `export`: the forms by name, written and proven
attach      the intervention on a plain transformers model, by PyTorch's own hooks
scripts     a Python file for transformers, one for TransformerLens; neither needs neurotrace
weights     the weights that do the same, where weights can
checkpoint  a safetensors folder with those weights
gguf_file   a GGUF file with those weights
vector      a control vector for llama.cpp and repeng
describe    a JSON description
proof       the largest difference of logits, and the flips

May import: interventions and below.
To add a form: a file with one writer, a row of `FORMS` in export.py.
"""
