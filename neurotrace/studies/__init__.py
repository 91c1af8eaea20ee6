"""Studies on held-out data, one file per question.

study            the main study: neurons, flips, verdict
selection        settings; neurons, intervention and number chosen on training pairs
verdict          does a small set decide? the rule and its words
held_out         measurements on held-out pairs
comparison       rankers side by side
faithfulness     rankings against exact effects
significance     p, false discoveries, intervals of scores
overlap          do two rankings name the same neurons?
timeline         the same along a model's checkpoints
injection        a fact trained into known neurons
injection_study  rankers against injected facts

May import: rankers, ablation, answers, interventions and below; never sweeps.
"""
