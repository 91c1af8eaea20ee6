"""Prints the tables of docs/models.md from their CSV files, or makes them from runs.

python docs/tables/models.py                                       # prints
python docs/tables/models.py run NAME=MODEL FOLDER SET [SET …]      # one `neurotrace run` a set; resumable
                                        # capitals@user: with other options, those of VARIANTS["user"]
python docs/tables/models.py collect FOLDER                        # the CSV files, from all that ran there

`run` writes FOLDER/NAME-SET and, beside it, what the command cost: CPU seconds and peak memory of the
process. A run that was interrupted adds up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from processes import neurotrace
from summary import markdown, real

HERE = Path(__file__).parent
WAYS = ("to_reasoning", "to_memorization")
ASKED = ("--at-most", "64", "--folds", "2")
VARIANTS = {
    "": (),
    "user": ("--chat", "user"),
    "assistant": ("--chat", "assistant"),
    "more": ("--k", "16", "--k", "64", "--k", "175"),
}
EVERY = ("direction", "method", "intervention", "k", "fraction", "answers", "n")
SPOKEN = {
    "": "bare text",
    "user": "the user's message",
    "assistant": "beginning of the reply",
    "more": "bare text, up to 175 neurons",
}


def run(named: str, folder: Path, sets: list[str]) -> None:
    name, _, model = named.partition("=")
    for each in sets:
        probes, _, variant = each.partition("@")
        out, cost = folder / f"{name}-{each}", folder / f"{name}-{each}.json"
        if (out / "summary.json").exists():
            continue
        command = ["run", "--model", model, "--probes", probes, *ASKED, *VARIANTS[variant]]
        command += ["--out", str(out)]
        done = neurotrace(command)
        earlier = json.loads(cost.read_text("utf-8")) if cost.exists() else {}
        found = {
            "cpu_seconds": round(earlier.get("cpu_seconds", 0) + done.cpu_seconds, 1),
            "peak_gib": round(max(earlier.get("peak_gib", 0), done.peak_gib), 2),
        }
        cost.write_text(json.dumps(found), "utf-8")
        if done.status:
            raise SystemExit(f"{out}: exit status {done.status}; run the same command again")


def collect(folder: Path) -> None:
    import neurotrace as nt

    rows, every = [], []
    for cost in sorted(folder.glob("*-*.json")):
        out = cost.with_suffix("")
        if not (out / "summary.json").exists():
            continue
        name, _, probes = out.name.rpartition("-")
        probes, _, variant = probes.partition("@")
        found = nt.load_run(out)
        spent = json.loads(cost.read_text("utf-8"))
        verdicts = found.summary["verdict"]["families"]
        layers = json.loads((out / "manifest.json").read_text("utf-8"))["model"]["layers"]
        if variant == "more":
            every += [
                {"model": name, "low": flip["answers_ci"][0], "high": flip["answers_ci"][1]}
                | {each: flip[each] for each in EVERY}
                for flip in found.summary["flips"]
                if not flip["selected"]
            ]
        for flip in found.selected():
            chosen = found.interventions(family=flip["family"], direction=flip["direction"])
            depths = [n.layer / (layers - 1) for each in chosen for n in each.neurons]
            first, middle, last = pd.Series(depths).quantile([0.25, 0.5, 0.75])
            rows.append(
                {
                    "model": name,
                    "set": probes,
                    "variant": variant,
                    "family": flip["family"],
                    "direction": flip["direction"],
                    "pairs": flip["n"],
                    "by": flip["intervention"],
                    "k": flip["k"],
                    "fraction": flip["fraction"],
                    "answers": flip["answers"],
                    "low": flip["answers_ci"][0],
                    "high": flip["answers_ci"][1],
                    "controls": flip["control_answers"],
                    "kl": flip["damage_kl"],
                    "depth_25": first,
                    "depth": middle,
                    "depth_75": last,
                    "verdict": verdicts[flip["family"]]["word"],
                    **spent,
                }
            )
    pd.DataFrame(rows).to_csv(HERE / "models.csv", index=False, float_format="%.4g")
    pd.DataFrame(every).to_csv(HERE / "models-every.csv", index=False, float_format="%.4g")


def table() -> pd.DataFrame:
    return pd.read_csv(HERE / "models.csv", keep_default_na=False)


def plain() -> pd.DataFrame:
    """The runs without further options."""
    return table().query("variant == ''")


def flips(found: pd.DataFrame, within: tuple[str, str], names: tuple[str, str]) -> str:
    """A row for each value of the two columns `within`."""
    rows = []
    for key, own in found.groupby(list(within), sort=False):
        way = own.set_index("direction").loc[list(WAYS)]
        rows.append(
            [
                *map(str, key),
                str(int(way["pairs"].iloc[0])),
                *(
                    f"{a:.0%} ({b:.0%}–{c:.0%})"
                    for a, b, c in zip(way["answers"], way["low"], way["high"], strict=True)
                ),
                " / ".join(
                    f"{k} ({share:.2%})" for k, share in zip(way["k"], way["fraction"], strict=True)
                ),
                " / ".join(f"{each:.1%}" for each in way["controls"]),
                " / ".join(f"{each:.2f}" for each in way["kl"]),
                way["verdict"].iloc[0],
            ]
        )
    head = [*names, "pairs", "to reasoning", "to memory", "neurons", "controls", "KL", "verdict"]
    return markdown(head, rows)


def variants() -> str:
    """Chat templates beside bare text, and more neurons."""
    found = table()
    found = found[found["set"].eq("capitals")].sort_values(["model", "variant"])
    return flips(
        found.assign(variant=found["variant"].map(SPOKEN)), ("model", "variant"), ("model", "prompt")
    )


def every() -> str:
    """Every intervention of capitals to memory, beside the choice: best rate first."""
    found = pd.read_csv(HERE / "models-every.csv").query("direction == 'to_memorization'")
    rows = [
        [
            row["method"],
            row["intervention"],
            f"{row['k']} ({row['fraction']:.2%})",
            f"{row['answers']:.0%} ({row['low']:.0%}–{row['high']:.0%})",
            str(row["n"]),
        ]
        for row in found.sort_values("answers", ascending=False).to_dict("records")
    ]
    return markdown(["neurons by", "intervention", "neurons", "flips to memory", "pairs"], rows)


def places() -> str:
    rows = []
    for (family, model), own in plain().groupby(["family", "model"]):
        way = own.set_index("direction").loc[list(WAYS)]
        middle = zip(way["depth_25"], way["depth"], way["depth_75"], strict=True)
        rows.append(
            [
                family,
                model,
                *(f"{b:.2f} ({a:.2f}–{c:.2f})" for a, b, c in middle),
                " / ".join(way["by"]),
            ]
        )
    head = ["family", "model", "depth, to reasoning", "depth, to memory", "by"]
    return markdown(head, rows)


def costs() -> str:
    """CPU minutes of each command."""
    minutes = (
        plain().drop_duplicates(["model", "set"]).pivot(index="set", columns="model", values="cpu_seconds")
        / 60
    )
    rows = [
        [str(probes), *("–" if pd.isna(each) else f"{each:.1f}" for each in own)]
        for probes, own in minutes.iterrows()
    ]
    return markdown(["CPU minutes", *map(str, minutes.columns)], rows)


if __name__ == "__main__":
    asked = sys.argv[1:]
    if asked[:1] == ["run"]:
        run(asked[1], Path(asked[2]), asked[3:])
    elif asked[:1] == ["collect"]:
        collect(Path(asked[1]))
    else:
        whole = flips(plain().sort_values(["family", "model"]), ("family", "model"), ("family", "model"))
        print(whole, places(), costs(), variants(), every(), real("qwen"), sep="\n\n")
