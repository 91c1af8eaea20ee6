"""Data types and files: pairs, neurons, scores, intervals, tables. Knows no model.

errors      `InputError`: a mistake of the user, in one line
sides       memorization and reasoning; the two directions of a flip
neurons     `Neuron(layer, index)`, written `L3.N771`
pairs       `PromptPair`; splits and folds that share no group
prompts     single prompts with two named answers
records     JSON lines read and checked
files       JSON, safetensors and Parquet read and checked
writing     files and folders written whole
scores      `Scores`: a number for each neuron, and its top k
statistics  intervals and p-values clustered by group
display     tables of results in a notebook and a terminal
process     its progress, versions, the command line

May import: nothing of ours.
To add: only what other packages need and what needs no model.
"""
