"""Prompt sets: those that ship, and the user's own.

making     what a set's `build.py` needs: templates with two sides, rows, writing
cards      the figures in a set's card, written by a command
checking   a set is valid, rebuilt bit for bit, its card true
importing  files of the field: the registry of formats, `import_pairs`
rows       a row of such a file, its cells read without guessing; facts put into contexts
fact_formats, table_formats  a function a format
mining     the pairs that a given model answers both ways
diagnosing what a model says instead of the answers, by cause
mending    prompts changed so that it answers them
drafting   pairs from a table of facts
chat       pairs as a chat model reads them

May import: models and core.
To add a set: a folder in probes/ with build.py and README.md.
"""
