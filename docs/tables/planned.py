"""What `neurotrace plan` states beside what is measured: memory of four commands, and the time of a sweep.

python docs/tables/planned.py run NAME=MODEL FOLDER     # resumable: what FOLDER has is not run again
python docs/tables/planned.py collect FOLDER NAME=MODEL [NAME=MODEL …]      # writes planned.csv
python docs/tables/planned.py                           # prints the table of docs/models.md

Measured are the peak memory and the CPU seconds of the command's process, one thread. From the sweep's time
that of a sweep of the last layer is subtracted, which is that of loading. The row of `run` is measured by
docs/tables/models.py in the same folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from processes import neurotrace
from summary import markdown

HERE = Path(__file__).parent
LAYERS = "3,11,19"  # swept
# command -> (pairs or prompts, tokens of the longest prompt) that `plan` is asked about
SIZES = {"run": (64, 33), "rank": (12, 33), "circuit": (104, 41), "sweep": (6, 28)}


def commands(model: str) -> dict[str, list[str]]:
    from neurotrace.sweeps.cost import config_from_file, shape_of

    last = shape_of(config_from_file(model), model).layers - 1
    capitals = ["--model", model, "--probes", "capitals"]
    sweep = ["sweep", *capitals, "--max-pairs", str(SIZES["sweep"][0])]
    few = ["--train-pairs", str(SIZES["rank"][0]), "--exact-neurons", "64", "--curve-pairs", "0"]
    few += ["--methods", "gradient,two_ended,contrast,relp,exact"]
    return {
        "sweep": [*sweep, "--layers", LAYERS],
        "loading": [*sweep, "--layers", str(last)],
        "rank": ["rank", *capitals, "--max-pairs", "24", *few],
        "circuit": ["circuit", "--model", model, "--probes", "conflicts", "--max-groups", "8"],
    }


def printed_by(words: list[str]) -> str:
    """What `neurotrace …` prints."""
    done = neurotrace(words, read=True)
    if done.status:
        raise SystemExit(f"neurotrace {' '.join(words)}: exit status {done.status}; run this again")
    return done.printed or ""


def run(named: str, folder: Path) -> None:
    name, _, model = named.partition("=")
    folder.mkdir(parents=True, exist_ok=True)
    for command, words in commands(model).items():
        record = folder / f"planned-{name}-{command}.json"
        if record.exists():
            continue
        done = neurotrace([*words, "--out", str(folder / f"{command}-{name}")])
        if done.status:
            raise SystemExit(f"{record}: exit status {done.status}; run the same command again")
        found = {"peak_gib": done.peak_gib, "cpu_seconds": done.cpu_seconds}
        record.write_text(json.dumps(found), "utf-8")


def collect(folder: Path, models: list[str]) -> None:
    rows = []
    for named in models:
        name, _, model = named.partition("=")
        records = {c: folder / f"planned-{name}-{c}.json" for c in ("rank", "circuit", "sweep", "loading")}
        records["run"] = folder / f"{name}-capitals.json"
        measured = {c: json.loads(each.read_text("utf-8")) for c, each in records.items() if each.exists()}
        for command, (pairs, length) in SIZES.items():
            if command not in measured:
                continue
            asked = ["--model", model, "--pairs", str(pairs), "--length", str(length), "--json"]
            if command == "sweep":
                words = [*commands(model)["sweep"], "--out", str(folder / f"sweep-{name}")]
                # each measures the machine's rate for half a second, beside whatever else runs
                several = [json.loads(printed_by([*words, "--dry-run", "--json"])) for _ in range(3)]
                content = json.loads((folder / f"sweep-{name}" / "manifest.json").read_text("utf-8"))[
                    "content"
                ]
                # the pairs that the model answers were not known before
                pairs, drawn = content["layout"]["pairs"], pairs
                memory = several[0]["cost"]["memory"]
                seconds = sorted(each["cost"]["seconds"] * pairs / drawn for each in several)
                spent = measured["sweep"]["cpu_seconds"] - measured["loading"]["cpu_seconds"]
            else:
                memory = json.loads(printed_by(["plan", *asked]))["jobs"][command]
                seconds, spent = [], None
            rows.append(
                {
                    "model": name,
                    "command": command,
                    "pairs": pairs,
                    "planned_gib": memory / 2**30,
                    "peak_gib": measured[command]["peak_gib"],
                    "planned_seconds": seconds[0] if seconds else None,
                    "planned_seconds_most": seconds[-1] if seconds else None,
                    "seconds": spent,
                }
            )
    pd.DataFrame(rows).to_csv(HERE / "planned.csv", index=False, float_format="%.4g")


def table() -> str:
    rows = []
    for row in pd.read_csv(HERE / "planned.csv").to_dict("records"):
        memory = row["planned_gib"] / row["peak_gib"]
        cells = [f"{row['planned_gib']:.2f}", f"{row['peak_gib']:.2f}", f"{memory:.2f}×", "", "", ""]
        if row["seconds"] == row["seconds"]:
            stated = row["planned_seconds"], row["planned_seconds_most"]
            cells[3] = "–".join(f"{each:.0f}" for each in stated)
            cells[4] = f"{row['seconds']:.0f}"
            cells[5] = "–".join(f"{each / row['seconds']:.2f}" for each in stated) + "×"
        rows.append([row["model"], row["command"], str(row["pairs"]), *cells])
    head = [
        "model",
        "command",
        "pairs",
        "GiB planned",
        "measured",
        "ratio",
        "s planned",
        "measured",
        "ratio",
    ]
    return markdown(head, rows)


if __name__ == "__main__":
    asked = sys.argv[1:]
    if asked[:1] == ["run"]:
        run(asked[1], Path(asked[2]))
    elif asked[:1] == ["collect"]:
        collect(Path(asked[1]), asked[2:])
    else:
        print(table())
