"""Draws the README's pictures from a run and from a circuit's folder: see CONTRIBUTING.md."""

import sys

import pandas as pd
import pyarrow.parquet as pq

import neurotrace as nt

run, *circuit = sys.argv[1:]
effects = nt.Effects(pq.read_table(f"{run}/effects.parquet"))
figure = nt.plot_flips(effects, title="Held-out answers flipped by a donor patch of k neurons")
figure.write_image("docs/flips.png", width=900, scale=1.5)
for folder in circuit:
    figure = nt.plot_margins(
        pd.read_parquet(f"{folder}/scores.parquet"),
        title="SmolLM2-135M on held-out prompts: what its answer loses (×: abstains)",
    )
    figure.write_image("docs/margins.png", width=900, scale=1.5)
