"""Words and files of the project: pairs, neurons, scores, intervals, tables. Knows no model.

errors      `InputError`: what a user can mend, in one line
sides       memorization and reasoning; the two directions of a flip
neurons     `Neuron(layer, index)`, written `L3.N771`
pairs       `PromptPair`; splits and folds that share no group
prompts     single prompts with two named answers
records     JSON lines read and checked
files       JSON, safetensors and Parquet read and checked; folders and files written whole
scores      `Scores`: a number for each neuron, and its top k
metrics     logits to numbers
statistics  intervals clustered by group
display     how results show themselves in a notebook and a terminal
process     progress bars, versions, the command line

May import: nothing of ours.
To add: what every other package may need and what needs no model.
"""
