"""A million rows of a sweep: open, check and filter them with `nt.open_run`, and with DuckDB.

    python tests/benchmarks/open_million.py

Times are wall time in a fresh process each, imports left out (`all`: counted in).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

import neurotrace as nt
from neurotrace.sweeps.folders import open_folder
from neurotrace.sweeps.layout import Layout
from neurotrace.sweeps.manifest import Manifest, write_manifest
from neurotrace.sweeps.parts import PARTS, TEXTS, schema, write_part

LAYERS, WIDTH, PAIRS = 30, 1536, 22  # SmolLM2-135M; 1,013,760 rows

ARROW = """
import time; start = time.perf_counter()
import neurotrace as nt, pyarrow.compute as pc, pyarrow.dataset
nt.open_run
ready = time.perf_counter()
run = nt.open_run({out!r})
assert run.complete
found = run.to_frame(["pair", "layer", "neuron", "effect"], pc.field("effect") > 3)
end = time.perf_counter()
print(f"{{len(run)}} rows, {{len(found)}} found in {{end - ready:.2f}} s; all {{end - start:.2f}} s")
"""
DUCK = """
import time; start = time.perf_counter()
import duckdb, pandas
ready = time.perf_counter()
found = duckdb.sql("FROM '{out}/parts/*.parquet' WHERE effect > 3").df()
end = time.perf_counter()
print(f"{{len(found)}} found in {{end - ready:.2f}} s; all {{end - start:.2f}} s")
"""


def made_up(out: Path, pairs: int = PAIRS, layers: int = LAYERS, width: int = WIDTH) -> nt.SweepRun:
    """A run of random numbers in `out`, as a sweep would have written it."""
    folder = open_folder(out)
    folder.make(PARTS)
    layout = Layout(pairs, layers * width)
    content = {"layout": layout.__dict__}
    manifest = Manifest(content, nt.Sweep("organism", ("letters",)), {})
    write_manifest(folder, manifest)
    generator = np.random.default_rng(0)
    for part in range(layout.parts):
        first, last = layout.bounds(part)
        pair, place = np.divmod(np.arange(first, last), layout.neurons)
        effect = generator.normal(size=last - first).astype("float32")
        words = [f"capitals-{row:04d}" for row in pair]
        columns = dict.fromkeys(TEXTS, words) | {
            "layer": (place // width).astype("int32"),
            "neuron": (place % width).astype("int32"),
            "L_before": np.zeros_like(effect),
            "L_after": effect,
            "effect": effect,
            "batch": np.full(len(effect), 1536, dtype="int32"),
            "mark": pa.nulls(len(effect), pa.string()),
        }
        write_part(folder, manifest, part, pa.table(columns, schema=schema()), seconds=1.0)
    return nt.open_run(out)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        out = Path(home, "run")
        made_up(out)
        for name, program in (("open_run", ARROW), ("DuckDB", DUCK)):
            for _ in range(3):
                words = [sys.executable, "-c", program.format(out=str(out))]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                print(f"{name}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
