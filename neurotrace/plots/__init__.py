"""Figures: tables in, plotly figures out. They show nothing and know no model.

style      template, palette, writing to a file
effects    flips, pairs, curves
scores     maps, estimates, volcano
sites      patched sites
timeline   along checkpoints
detectors  transfer, sites and weights of detectors
trust      trust score
monitor    a monitored text
image      a page as an image

May import: studies and below, for the types of the tables.
To add a figure: a function from a table to a figure, its colours from style.py.
"""
