"""Draws the README's picture from a run: see CONTRIBUTING.md."""

import sys

import pyarrow.parquet as pq

import neurotrace as nt

effects = nt.Effects(pq.read_table(f"{sys.argv[1]}/effects.parquet"))
figure = nt.plot_flips(effects, title="Held-out answers flipped by a donor patch of k neurons")
figure.write_image("docs/flips.png", width=900, scale=1.5)
