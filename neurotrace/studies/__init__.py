"""Questions answered on held-out data, a file a question.

study            the main job: neurons, flips, verdict
selection        what is tried; neurons, intervention and number chosen on training pairs
verdict          does a small set decide? the rule and its words
held_out         what is measured on held-out pairs
comparison       rankers side by side
faithfulness     rankings against exact effects
significance     p, false discoveries, intervals of scores
overlap          do two rankings name the same neurons?
timeline         the same along a model's checkpoints
locate           attention, heads, MLPs, residual stream: where is it decided?
injection        a fact taught through known neurons
injection_study  rankers against injected facts

May import: rankers, ablation, answers, interventions and below; never sweeps.
"""
