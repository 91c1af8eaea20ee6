"""Generated environments where their parts matter: each part removed, known environments, EIIL and JTT.

    python tests/benchmarks/invariance.py --out runs/invariance.csv

Rows that are in the table already are not computed again. Settings were chosen on seeds 0 to 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from paired import told
from spurious import METHODS, worst

SEEDS = (*range(10, 15), *range(20, 25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    done = pd.read_csv(out) if out.is_file() else pd.DataFrame(columns=["method", "seed", "worst"])
    for seed in SEEDS:
        for method in METHODS:
            if ((done["method"] == method) & (done["seed"] == seed)).any():
                continue
            done.loc[len(done)] = [method, seed, round(worst(method, seed), 4)]
            done.to_csv(out, index=False)
            print(done.tail(1).to_string(header=False), flush=True)
    wide = done.pivot(index="seed", columns="method", values="worst")[list(METHODS)]
    print(wide.T.assign(mean=wide.mean(), sd=wide.std()).round(3).to_string())
    told(wide, "generated")


if __name__ == "__main__":
    main()
