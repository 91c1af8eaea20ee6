"""Prints docs/trust.md's tables on prompts of other kinds, from trust-foreign.csv and trust-freshqa.csv.

python docs/tables/outside.py                               prints
python docs/tables/outside.py foreign MODEL FOLDER          first writes the one, by the circuit in a folder
                                                            of `neurotrace circuit` (minutes)
python docs/tables/outside.py freshqa MODEL FOLDER FRESHQA  first writes the other

FreshQA is a file of the package inspect-evals (abstention_bench/data/freshqa/FreshQA_v12182024.csv): `pip
download --no-deps inspect-evals==0.28.0` and unpack it. Of its questions nothing is kept here.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from summary import markdown

HERE = Path(__file__).parent
TASKS = ("wordforms", "sayings", "operators", "chains", "knights", "routes")
EACH = 10  # of a task; code has as many as all tasks
LANGUAGES = {
    "French": (
        "Le chat dort sur le",
        "Demain matin nous irons à la plage avec",
        "Il était une fois une petite fille qui",
        "Dans le jardin de ma grand-mère il y a",
        "Je voudrais un café et un",
        "La mer est calme et le ciel est",
        "Mon frère travaille dans une usine de",
        "Hier soir, nous avons mangé du",
    ),
    "German": (
        "Der Hund schläft unter dem",
        "Morgen fahren wir mit dem Zug nach",
        "Es war einmal ein König, der",
        "Im Garten meiner Mutter blühen die",
        "Ich hätte gern ein Brot und zwei",
        "Das Meer ist ruhig und der Himmel ist",
        "Mein Bruder arbeitet in einer",
        "Gestern Abend haben wir einen Film",
    ),
    "Spanish": (
        "El gato duerme debajo de la",
        "Mañana vamos a la playa con",
        "Había una vez una niña que",
        "En el jardín de mi abuela hay",
        "Quisiera un café y un",
        "El mar está tranquilo y el cielo está",
        "Mi hermano trabaja en una fábrica de",
        "Ayer por la noche comimos",
    ),
    "Italian": (
        "Il gatto dorme sotto il",
        "Domani andiamo al mare con",
        "C'era una volta una bambina che",
        "Nel giardino di mia nonna ci sono",
        "Vorrei un caffè e un",
        "Il mare è calmo e il cielo è",
        "Mio fratello lavora in una fabbrica di",
        "Ieri sera abbiamo mangiato",
    ),
    "Dutch": (
        "De kat slaapt onder de",
        "Morgen gaan we met de trein naar",
        "Er was eens een meisje dat",
        "In de tuin van mijn oma staan",
        "Ik wil graag een koffie en een",
        "De zee is kalm en de lucht is",
        "Mijn broer werkt in een fabriek van",
        "Gisteravond hebben we",
    ),
}


def code(count: int) -> list[str]:
    """Beginnings of statements of this repository's own source, with the lines before them."""
    rng, found = random.Random(0), list[str]()
    files = sorted((HERE.parent.parent / "neurotrace" / "core").glob("*.py"))
    while len(found) < count:
        lines = rng.choice(files).read_text("utf-8").splitlines()
        at = rng.randrange(5, max(6, len(lines)))
        last = lines[at : at + 1] and lines[at].split()
        if last and len(last) > 2:
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            cut = indent + " ".join(last[: rng.randrange(1, len(last))])
            found.append("\n".join([*lines[at - 4 : at], cut]).strip())
    return found


def foreign() -> dict[str, list[str]]:
    import neurotrace as nt

    rng, tasks = random.Random(0), list[str]()
    for name in TASKS:
        tasks += [pair.memorization for pair in rng.sample(nt.load_pairs(name), EACH)]
    languages = [text for texts in LANGUAGES.values() for text in texts]
    return {"other tasks": tasks, "other languages": languages, "code": code(len(tasks))}


def write_foreign(model_name: str, folder: Path) -> None:
    """How often the score abstains, on prompts of the circuit's set and on others."""
    import neurotrace as nt

    model, circuit = nt.load_model(model_name, device="cpu"), nt.Circuit.load(folder)
    scores = pd.read_parquet(folder / "scores.parquet")
    own = (scores["abstain"] | scores["strange"]).mean()
    rows = [{"prompts": "of the set, unseen groups", "n": len(scores), "abstains": own}]
    for name, texts in foreign().items():
        abstains = nt.trust(model, texts, circuit, kind=True).to_frame()["abstain"]
        rows.append({"prompts": name, "n": len(texts), "abstains": abstains.mean()})
    pd.DataFrame(rows).round(4).to_csv(HERE / "trust-foreign.csv", index=False)


def write_freshqa(model_name: str, folder: Path, freshqa: Path) -> None:
    """False premise against not: AUROC, and the share of false premises among the least risky questions."""
    import neurotrace as nt
    from neurotrace.detectors.judging import auroc, auroc_difference, auroc_interval

    model, circuit = nt.load_model(model_name, device="cpu"), nt.Circuit.load(folder)
    asked = pd.read_csv(freshqa, skiprows=2)
    y = (asked["false_premise"].astype(str).str.upper() == "TRUE").to_numpy()
    found = nt.trust(model, [f"Question: {q}\nAnswer:" for q in asked["question"]], circuit).to_frame()
    risks = {
        "trust score": found["p_memory"],
        "causal margin": found["margin"],
        "size of the margin": -found["margin"].abs(),
        "log-probability": -found["log_probability"],
        "entropy": found["entropy"],
    }
    rows, groups, one = [], np.arange(len(y)), np.zeros(len(y))
    for name, values in risks.items():
        risk = values.to_numpy()
        low, high = auroc_interval(risk, y, groups)
        order = np.argsort(risk, kind="stable")
        kept = {f"risk_at_{share}": y[order[: len(y) * share // 100]].mean() for share in (20, 50, 80)}
        ahead = auroc_difference(risks["causal margin"].to_numpy(), risk, y, groups, one)
        rows.append({"signal": name, "auroc": auroc(risk, y), "auroc_lo": low, "auroc_hi": high})
        rows[-1] |= kept | {"risk_at_100": y.mean(), "behind_lo": ahead[0], "behind_hi": ahead[1]}
        rows[-1] |= {"n": len(y), "false_premise": int(y.sum()), "abstains": found["abstain"].mean()}
    pd.DataFrame(rows).round(4).to_csv(HERE / "trust-freshqa.csv", index=False)


def show() -> str:
    shares = (20, 50, 80, 100)
    rows = [[row.prompts, str(row.n), f"{row.abstains:.1%}"] for row in read("foreign").itertuples()]
    fresh = [
        [row["signal"], f"{row['auroc']:.3f} [{row['auroc_lo']:.3f}, {row['auroc_hi']:.3f}]"]
        + [f"{row[f'risk_at_{share}']:.1%}" for share in shares]
        for row in read("freshqa").to_dict("records")
    ]
    header = ["signal", "AUROC", *(f"of {share} % kept" for share in shares)]
    return f"{markdown(['prompts', 'n', 'abstains'], rows)}\n\n{markdown(header, fresh)}"


def read(name: str) -> pd.DataFrame:
    path = HERE / f"trust-{name}.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["foreign", name, folder]:
            write_foreign(name, Path(folder))
        case ["freshqa", name, folder, table]:
            write_freshqa(name, Path(folder), Path(table))
    print(show())
