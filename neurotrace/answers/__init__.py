"""Does an answer come from memory? The causal margin, the trust score, and what they are compared with.

answered     what the model answers to single prompts
circuit      the memory and reasoning neurons
margin       the causal margin
calibration  the margin as a probability
trust        the trust score, a row a prompt
monitor      the same for each token as it is written
baselines    signals that need no intervention
judging      the trust score found, calibrated and judged on different prompts
tables       a trust study's tables
views        features of a prompt for detectors
detection    every detector on every task

May import: interventions, detectors and below; never ablation.
To add a baseline: a column in baselines.py.
"""
