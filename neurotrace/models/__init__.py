"""The model: loading, hooks, logits, activations, gradients.

protocol     `HookedModel`: what this package requires of a TransformerLens model
hooks        TransformerLens' classes and hook names; a model's hooks checked once
sites        other sites than neurons: read, changed, differentiated
loading      `load_model`, `hook`
identity     a model's name and the hash of its weights
origins      where a loaded model came from; whether it was changed since; the engine that serves it
sameness     everything that a forward pass depends on, recorded and compared
checks       of weights and causality, at load
encoding     pairs as token ids, with the model's answers
activations  `collect`, `moments`
gradients    slopes of L
written      what neurons write, also behind a norm or a multiplier

May import: core, engine, organism. Only `hooks` and `sites` know TransformerLens.
To add a quantity read from the model: a function here that chooses between engine and hooks.
"""
