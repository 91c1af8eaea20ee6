"""Exact sweeps that survive: in parts, resumable, sharded, on one machine or many.

layout.py    cells (pair × neuron) in a fixed order, cut into numbered parts, dealt to shards
folders.py   a folder, local or wherever fsspec reaches: whole files only
locks.py     one writer a shard, and who it is
asked.py     what a sweep is asked to do, checked before torch is loaded
manifest.py  what the numbers depend on, its hash, and the differences that refuse a resume
parts.py     one Parquet file a part: its columns, writing, and telling whole from broken
work.py      the model, loaded once, and the rows of any part
driver.py    the loop: what is missing of this shard, part by part
reading.py   `open_run`: the parts as one table
    means.py     a score for each neuron, from the rows
"""
