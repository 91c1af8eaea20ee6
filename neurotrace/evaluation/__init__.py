"""Models under an intervention, for evaluation frameworks; each file needs its framework (an extra).

source      what both are told: the model, the intervention, where it acts
lm_eval     lm-evaluation-harness' `--model neurotrace`
inspect_ai  Inspect's `--model neurotrace/...`, and the trust score as a scorer

May import: all but cli.
To add a framework: a file here, an extra and its entry point in pyproject.toml.
"""
