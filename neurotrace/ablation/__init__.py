"""Exact effects of single neurons, of sets, and of the top k alone.

task        what is asked, checked before any pass
batch       how many changed rows go into one pass
passes      one pair's rows, by the engine or by hooks
group_sums  means and intervals clustered by group
neurons     `ablate`: every neuron
sets        `ablate_sets`, `greedy_set`
top         `ablate_top`: the k strongest without measuring all

May import: interventions and below; never answers.
"""
