"""The model: loading, hooks, logits, activations, gradients.

protocol     `HookedModel`: what this package requires of a TransformerLens model
hooks        TransformerLens' classes and hook names; a model's hooks checked once
sites        other sites than neurons: read, changed, differentiated; logits; a model's hash
loading      `load_model`
origins      where a loaded model came from; whether it was changed since; its engine
sameness     everything that a forward pass depends on, recorded and compared
checks       of weights and causality, at load
tokens       prompts and answers as token ids
encoding     pairs as token ids, with the model's answers
activations  `collect`, `moments`
gradients    slopes of L
written      what neurons write, also behind a norm or a multiplier

May import: core, engine, organism. Only `hooks` and `sites` know TransformerLens.
To add a quantity read from the model: a function here that chooses between engine and hooks.
"""
