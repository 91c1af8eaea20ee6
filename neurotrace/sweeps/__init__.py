"""Exact sweeps on disk: in parts, resumable, sharded, on one machine or many.

layout    cells (pair × neuron) in a fixed order, cut into numbered parts, dealt to shards
folders   a folder, local or on any fsspec file system; files are complete or absent
locks     one writer per shard; names the owner
asked     the settings of a sweep, checked before torch is loaded
cells     a YAML file of sweeps
cost      the cost of a sweep, from a config
estimate  `--dry-run`
manifest  everything that the numbers depend on, its hash, and the check at resume
parts     one Parquet file per part: columns, writing, checks
work      the model, loaded once, and the rows of any part
driver    the loop over the missing parts of a shard
crew      Ray workers that load a model once and receive part by part
cluster   the same on them
reading   `open_run`: the parts as one table

May import: ablation and below; never rankers.
"""
