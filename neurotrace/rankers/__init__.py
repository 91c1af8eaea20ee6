"""Rankers: one file a method, one signature, `(model, pairs, *, donor, kind, ...) -> Scores`.

What a ranking predicts is the intervention named in it: the effect on L of doing it to one neuron of
the recipient run. `random` is a ranker too: every claim is compared with it.

registry  `RANKERS`: every ranker by its name, what it costs, what it ranks from in a study
training  what a study ranks from
masks     what the learned masks share

May import: ablation and below; never sweeps.
To add one: a file with its function, and a row of `RANKERS` in registry.py.
"""
