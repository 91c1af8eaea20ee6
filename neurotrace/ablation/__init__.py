"""Exact effects (ablation, patching) of single neurons, of sets, and of the top k only.

task        the settings of a sweep, checked before any pass
batch       the number of changed rows in one pass
reads       what is read of a pair: first tokens, or whole answers
passes      the rows of one pair, by the engine or by hooks
group_sums  means and intervals clustered by group
neurons     `ablate`: every neuron
sets        `ablate_sets`, `greedy_set`
experts     `ablate_experts`: a mixture's routers
top         `ablate_top`: the k strongest without measuring all

May import: interventions and below; never answers.
"""
