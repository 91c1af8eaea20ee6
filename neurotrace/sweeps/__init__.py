"""Exact sweeps on disk: in parts, resumable, sharded, on one machine or many.

layout    cells (pair × neuron) in a fixed order, cut into numbered parts, dealt to shards
folders   a folder, local or wherever fsspec reaches: whole files only
locks     one writer a shard, and who it is
asked     what a sweep is asked to do, checked before torch is loaded
cells     a YAML file of sweeps
cost      what a sweep costs, from a config
estimate  `--dry-run`
manifest  what the numbers depend on, its hash, and what refuses a resume
parts     one Parquet file a part: its columns, writing, and telling whole from broken
work      the model, loaded once, and the rows of any part
driver    the loop: what is missing of this shard
cluster   the same on Ray workers
reading   `open_run`: the parts as one table

May import: ablation and below; never rankers.
"""
