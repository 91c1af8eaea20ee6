"""Generated environments where their parts matter: each part removed, known environments, EIIL and JTT.

    python tests/benchmarks/invariance.py --out runs/invariance.csv
    python tests/benchmarks/invariance.py --ground reviews --out runs/invariance-reviews.csv

Rows that are in the table already are not computed again. Settings were chosen on seeds 0 to 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from paired import told
from spurious import METHODS, ground, worst
from spurious_text import METHODS as TEXT_METHODS, reviews

SEEDS = (*range(10, 15), *range(20, 25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ground", choices=["features", "reviews"], default="features")
    asked = parser.parse_args()
    out = asked.out
    draw, methods = (ground, METHODS) if asked.ground == "features" else (reviews, TEXT_METHODS)
    done = pd.read_csv(out) if out.is_file() else pd.DataFrame(columns=["method", "seed", "worst"])
    for seed in SEEDS:
        for method in methods:
            if ((done["method"] == method) & (done["seed"] == seed)).any():
                continue
            done.loc[len(done)] = [method, seed, round(worst(method, seed, draw, methods), 4)]
            done.to_csv(out, index=False)
            print(done.tail(1).to_string(header=False), flush=True)
    wide = done.pivot(index="seed", columns="method", values="worst")[list(methods)]
    print(wide.T.assign(mean=wide.mean(), sd=wide.std()).round(3).to_string())
    told(wide, "generated")


if __name__ == "__main__":
    main()
