"""Figures: tables in, plotly figures out. They show nothing and know no model.

style      template, palette, writing to a file
words      what roles, interventions and rankers are called
effects    flips, curves
pairs      single pairs, before and after
scores     maps, estimates, volcano
sites      patched sites
timeline   along checkpoints
detectors  transfer, sites and weights of detectors
trust      trust score
monitor    a monitored text
image      a page as an image

May import: studies and below, for the types of the tables.
To add a figure: a function from a table to a figure, its colours from style.py, its names from words.py, a
title that states the finding and a subtitle that says what is measured (`finish`).
"""
