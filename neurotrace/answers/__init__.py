"""Does an answer come from memory? The causal margin, the trust score and baselines.

answered     the model's answers to single prompts
circuit      the memory and reasoning neurons
margin       the causal margin, of an answer and of each generated token
calibration  the margin as a probability
trust        the trust score of each prompt
score        what the trust score is read from: the margin, or what is cheaper and as good
rivals       signals that switch no neuron off: the outside view, confidence, detectors that read
learners     how those learn that are learned
judging      evaluation: the score found, calibrated and tested on different prompts
tables       a trust study's tables
views        features of a prompt for detectors
detection    every detector on every task

May import: interventions, detectors and below; never ablation.
To add a rival of the margin: a function and an entry in rivals.py.
"""
