"""The probe library: sets of pairs that ship, and the user's own.

making      what a set's `build.py` needs: templates with two sides, rows, writing
cards       the figures in a set's card, written by a command
checking    does a set keep its promises: valid, rebuilt bit for bit, card true
importing   the field's formats: clean/corrupt tables, CounterFact, any table with other columns
mining      the pairs that a given model answers both ways, and the share of each template
chat        pairs as a chat model reads them
"""
