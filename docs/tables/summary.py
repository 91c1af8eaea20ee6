"""Prints the tables of docs/rankers.md from the CSV files beside this one.

python docs/tables/summary.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
SEEDS = ("organism", "organism-seed1", "organism-seed2")
WAYS = ("to_reasoning", "to_memorization")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def worst(name: str) -> pd.DataFrame:
    """Each ranker's worst family."""
    table = pd.read_csv(HERE / f"rankers-{name}.csv")
    columns = [c for c in table.columns if c not in ("family", "ranker")]
    return table.groupby("ranker", sort=False)[columns].min()


def claims() -> str:
    """The figures behind the page's advice, one claim a row."""
    seeds = pd.concat([pd.read_csv(HERE / f"rankers-{name}.csv") for name in SEEDS])
    others = [pd.read_csv(HERE / f"rankers-{name}.csv") for name in ("switch", "or")]
    switch, either = worst("switch"), worst("or")
    flips = pd.read_csv(HERE / "flips-organism-natural.csv")
    most = flips[(flips["positions"] == "read") & (flips["k"] == flips["k"].max())]
    smollm2 = pd.read_csv(HERE / "rankers-smollm2.csv").set_index("ranker")
    found = pd.read_csv(HERE / "inject-smollm2.csv")
    found = found[found["fraction"] == 0.01].set_index("ranker")["recall"]
    masked = pd.read_csv(HERE / "inject-smollm2-masks.csv").set_index("ranker")["recall"]

    def least(column: str, *rankers: str) -> str:
        return named({r: seeds[seeds["ranker"] == r][column].min() for r in rankers})

    def on_gate(column: str) -> str:
        some = ("gradient", "exact", "two_ended", "integrated")
        return named({r: either.loc[r, column] for r in some})

    def nothing(ranker: str) -> str:
        own = seeds[seeds["ranker"] == ranker]
        return f"{ranker} {(own['recall_truth'] == 0).sum()} of {len(own)}"

    def spread(ranker: str) -> str:
        own = seeds[seeds["ranker"] == ranker]["spearman"]
        return f"{ranker} {own.min():.2f} to {own.max():.2f}"

    judged = ["spearman", "top1_overlap", "recall_truth", *(f"flips_{way}" for way in WAYS)]
    every = [*(pd.read_csv(HERE / f"rankers-{name}.csv") for name in SEEDS), *others]
    ahead = [
        (
            t[t["ranker"] == "relp"].set_index("family")[judged]
            - t[t["ranker"] == "gradient"].set_index("family")[judged]
        )
        for t in every
    ]
    relp = seeds[seeds["ranker"] == "relp"]
    passes = {r: seeds[seeds["ranker"] == r]["cost_passes"].max() for r in set(seeds["ranker"])}
    to_reasoning = most[most["direction"] == "to_reasoning"].groupby("ranker")["answers"].mean()
    rows = [
        ["Spearman with the exact patch, planted set, minimum", least("spearman", "gradient", "two_ended")],
        ["planted set found in the top, minimum", least("recall_truth", "gradient", "two_ended")],
        [
            "passes a pair",
            ", ".join(f"{r} {passes[r]:g}" for r in ("gradient", "two_ended", "slimming", "hard_concrete")),
        ],
        ["OR gate, to reasoning: planted set found in the top, minimum", on_gate("recall_to_reasoning")],
        ["OR gate, to reasoning: flips, minimum", on_gate("flips_to_reasoning")],
        [
            f"RelP above the gradient, in any of {len(judged)} columns",
            f"{int((pd.concat(ahead) > 0).to_numpy().sum())} of {pd.concat(ahead).size}",
        ],
        [
            "RelP: half of the planted set lost, or more",
            f"{(relp['recall_truth'] <= 0.5).sum()} of {len(relp)}",
        ],
        ["none of the planted set in the top", ", ".join(map(nothing, ("direct", "log_increase")))],
        [
            "ranked for mean ablation: Spearman with the exact patch",
            ", ".join(map(spread, ("gradient:mean", "exact:mean"))),
        ],
        ["planted set found in the top, minimum", least("recall_truth", "contrast", "pearson")],
        [
            f"natural organism, {most['k'].max()} neurons: flips to reasoning",
            named({r: to_reasoning[r] for r in ("gradient", "exact", "contrast", "pearson")}),
        ],
        *(
            [
                f"SmolLM2, 64 of 46,080 neurons: flips to {side}",
                named(
                    {
                        r: smollm2.loc[r, f"flips_{way}"]
                        for r in ("gradient", "two_ended", "contrast", "slimming", "hard_concrete")
                    }
                ),
            ]
            for side, way in zip(("reasoning", "memory"), WAYS, strict=True)
        ),
        ["planted set found in the top, minimum", least("recall_truth", "slimming", "hard_concrete")],
        [
            "single switch found in the top, minimum",
            named({r: switch.loc[r, "recall_truth"] for r in ("slimming", "hard_concrete")}),
        ],
        [
            "1 % injected, SmolLM2: recall",
            ", ".join(f"{r} {found[r]:.3f}" for r in ("imprint", "gradient", "exact", "integrated")),
        ],
        [
            "the same on five facts, masks",
            ", ".join(f"{r} {masked[r]:.3f}" for r in ("exact", "slimming", "hard_concrete")),
        ],
    ]
    return markdown(["claim", "figures"], rows)


def named(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())


def planted() -> str:
    seeds = [worst(name) for name in SEEDS]
    least = pd.concat(seeds).groupby(level=0, sort=False).min()
    switch, either = worst("switch"), worst("or")
    rows = [
        [
            name,
            f"{row.spearman:.2f}",
            f"{row.top1_overlap:.2f}",
            f"{row.recall_truth:.2f}",
            f"{row.flips_to_reasoning:.2f} / {row.flips_to_memorization:.2f}",
            f"{switch.loc[name, 'recall_truth']:.2f}",
            f"{either.loc[name, 'recall_to_reasoning']:.2f} / "
            f"{either.loc[name, 'recall_to_memorization']:.2f}",
            f"{either.loc[name, 'flips_to_reasoning']:.2f} / "
            f"{either.loc[name, 'flips_to_memorization']:.2f}",
            f"{row.cost_passes:g}",
        ]
        for name, row in least.iterrows()
    ]
    return markdown(
        ["ranker", "set: ρ", "top 1 %", "truth", "flips", "switch: truth", "OR: truth", "flips", "passes"],
        rows,
    )


def natural() -> str:
    flips = pd.read_csv(HERE / "flips-organism-natural.csv")
    sizes = sorted(set(flips["k"]))
    rows = []
    for name, own in flips.groupby("ranker", sort=False):
        cells = []
        for where in ("read", "all"):
            for k in sizes:
                part = own[(own["positions"] == where) & (own["k"] == k)]
                both = [part[part["direction"] == way]["answers"].mean() for way in WAYS]
                cells.append(" / ".join(f"{value:.2f}" for value in both))
        rows.append([str(name), *cells])
    header = [f"{where} {k}" for where in ("final token,", "all positions,") for k in sizes]
    return markdown(["ranker", *header], rows)


def real(name: str = "smollm2") -> str:
    table = pd.read_csv(HERE / f"rankers-{name}.csv")
    rows = []
    for row in table.to_dict("records"):
        cells = [
            f"{row[c]:.2f}"
            for c in ("spearman", "spearman_mean", "top1_overlap", "necessity", "sufficiency")
        ]
        cells += [
            f"{row[f'flips_{way}']:.2f} [{row[f'flips_{way}_low']:.2f}, {row[f'flips_{way}_high']:.2f}]"
            for way in WAYS
        ]
        rows.append([row["ranker"], *cells, f"{row['cost_passes']:g}", f"{row['seconds']:.1f}"])
    header = ["ρ patch", "ρ mean", "top 1 %", "necessity", "sufficiency"]
    header += ["to reasoning", "to memory", "passes", "seconds"]
    return markdown(["ranker", *header], rows)


def injected(name: str) -> str:
    table = pd.read_csv(HERE / f"{name}.csv")
    fractions = list(dict.fromkeys(table["fraction"]))
    rows = []
    for ranker, own in table.groupby("ranker", sort=False):
        by = own.set_index("fraction")
        cells = []
        for f in fractions:
            row = by.loc[f]
            few = "" if row["facts"] == table["facts"].max() else f" ({row['facts']:.0f} facts)"
            cells.append(f"{row['recall']:.3f} [{row['low']:.3f}, {row['high']:.3f}]{few}")
        cost = [f"{own['passes'].iloc[0]:.0f}"] if "passes" in own else []
        rows.append([str(ranker), *cells, *cost, f"{own['seconds'].mean():.1f}"])
    header = [f"{f:.1%} of rows, {table['facts'].max()} facts" for f in fractions]
    cost = ["passes"] if "passes" in table else []
    return markdown(["ranker", *header, *cost, "seconds"], rows)


def overlaps() -> str:
    rows = []
    for model in ("organism", "organism-natural"):
        table = pd.read_csv(HERE / f"overlap-{model}-zero.csv")
        table[["family", "what"]] = table["first"].str.split(": ", expand=True)
        table[["family2", "what2"]] = table["second"].str.split(": ", expand=True)
        same_family, same_what = (
            table["family"] == table["family2"],
            table["what"] == table["what2"],
        )
        for text, part in (
            ("memory and reasoning, one family", table[same_family]),
            ("memory, two families", table[same_what & (table["what"] == "memory")]),
            ("reasoning, two families", table[same_what & (table["what"] == "reasoning")]),
            ("memory and reasoning, two families", table[~same_family & ~same_what]),
        ):
            rows.append(
                [
                    f"{model}: {text}",
                    f"{part['jaccard'].min():.2f} to {part['jaccard'].max():.2f}",
                    f"{part['low'].min():.2f} to {part['high'].max():.2f}",
                    f"{part['chance'].mean():.3f}",
                    f"{(part['p'] <= 0.01).sum()} of {len(part)}",
                ]
            )
    return markdown(["top 1 % of", "Jaccard", "intervals", "chance", "beyond chance (p ≤ .01)"], rows)


def tables() -> dict[str, str]:
    made = (claims, planted, natural, real, overlaps)
    found = {table.__name__: table() for table in made}
    for path in sorted(HERE.glob("inject-*.csv")):
        found[path.stem] = injected(path.stem)
    return found


if __name__ == "__main__":
    for title, table in tables().items():
        print(f"{title}\n\n{table}\n")
