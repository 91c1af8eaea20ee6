"""Draws every figure, `nt.plot_...`, from made-up tables: docs/gallery/*.png, gallery.md, gallery.json.

python docs/gallery.py          # needs the extra `images` and a Chromium
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

import neurotrace as nt
from neurotrace.plots.style import said, strings

HERE = Path(__file__).parent
WIDTH = 720


def figures() -> dict[str, Any]:
    """Name of the function -> its figure; the same numbers at each call."""
    rng = np.random.default_rng(0)
    effects = _effects(rng)
    one = effects.where(role="selected", direction="to_reasoning", k=8, intervention="patch")
    scores, exact = _scores(rng)
    signals, coverage, judged = _trust(rng)
    detectors = _detectors(rng)
    return {
        "plot_flips": nt.plot_flips(effects),
        "plot_pairs": nt.plot_pairs(one, limit=8),
        "plot_scores": nt.plot_scores(scores),
        "plot_estimates": nt.plot_estimates(scores, exact),
        "plot_volcano": nt.plot_volcano(_assessed(rng)),
        "plot_curves": nt.plot_curves(_curves()),
        "plot_located": nt.plot_located(_located(rng)),
        "plot_places": nt.plot_places(_located(np.random.default_rng(1))),
        "plot_timeline": nt.plot_timeline(_timeline()),
        "plot_signals": nt.plot_signals(signals),
        "plot_coverage": nt.plot_coverage(coverage),
        "plot_reliability": nt.plot_reliability(judged),
        "plot_margins": nt.plot_margins(judged),
        "plot_monitor": nt.plot_monitor(_tokens(), prompt="The capital of France is"),
        "plot_transfer": nt.plot_transfer(detectors),
        "plot_sites": nt.plot_sites(detectors),
        "plot_weights": nt.plot_weights(_weights()),
        "plot_fusion": nt.plot_fusion(*_fusion()),
    }


def fingerprint(figure: Any) -> str:
    """SHA-256 of what is drawn, numbers to six digits; the template is left out."""
    import plotly.io as pio

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: plain(each) for key, each in node.items() if key != "template"}
        if isinstance(node, np.ndarray | list | tuple):
            return [plain(each) for each in node]
        if isinstance(node, float | np.floating):
            return f"{float(node):.6g}"
        return node.item() if isinstance(node, np.generic) else node

    text = pio.json.to_json_plotly(plain(figure.to_plotly_json()), engine="json")
    return hashlib.sha256(text.encode()).hexdigest()


def page(drawn: dict[str, Any]) -> str:
    """gallery.md"""
    parts = [
        "# Every figure\n\nThe numbers are made up: this page shows what each figure looks like. Titles "
        "state the finding, subtitles what is measured. Blue is memory, orange reasoning, grey control.\n\n"
        "`python docs/gallery.py` draws it again; a test compares the figures with those kept here.\n"
    ]
    for name, figure in drawn.items():
        title, subtitle = said(figure)
        parts.append(f"## `nt.{name}`\n\n![{title}. {subtitle}](gallery/{name}.png)\n")
    return "\n".join(parts)


def record(drawn: dict[str, Any]) -> dict[str, Any]:
    """gallery.json: of each figure its hash, and the words that it shows."""
    return {
        name: {
            "sha256": fingerprint(figure),
            "words": sorted({text for text in strings(figure) if len(text) > 2}),
        }
        for name, figure in drawn.items()
    }


def _effects(rng: np.random.Generator) -> nt.Effects:
    rows = []
    for direction, way in (("to_reasoning", 1.0), ("to_memorization", 0.9)):
        for intervention, share in (("patch", 1.0), ("zero", 0.55), ("steer:0.7", 0.8), ("mean", 0.5)):
            for k in (1, 2, 4, 8):
                chosen = intervention == "patch" and k == 8
                rows += _drawn(
                    rng, direction, intervention, "selected", k, way * share * (k / 8) ** 0.7, chosen
                )
        for k in (1, 2, 4, 8):
            rows += _drawn(rng, direction, "patch", "random", k, 0.01, k == 8)
        for role, share in (("norm", 0.03), ("sign", 0.0), ("low_rho", 0.01), ("other_donor", 0.95)):
            rows += _drawn(rng, direction, "patch", role, 8, share, True)
    return nt.Effects(pa.Table.from_pylist(rows))


def _drawn(
    rng: np.random.Generator,
    direction: str,
    intervention: str,
    role: str,
    k: int,
    share: float,
    chosen: bool,
) -> list[dict[str, Any]]:
    found = []
    for n in range(40):
        flips = bool(rng.random() < share)
        end = rng.choice([0.98, 0.98, 0.98, 0.7]) if flips else rng.choice([0.02, 0.3])
        ends = {"p_memorized_before": 0.97, "p_reasoned_before": 0.02}
        ends |= {"p_memorized_after": 1 - end, "p_reasoned_after": float(end)}
        if direction == "to_memorization":
            ends = {
                key.replace("memorized", "x")
                .replace("reasoned", "memorized")
                .replace("x", "reasoned"): value
                for key, value in ends.items()
            }
        found.append(
            {
                "pair": f"pair-{n:02}",
                "family": "letters",
                "template": "t",
                "group": f"g{n}",
                "direction": direction,
                "intervention": intervention,
                "role": role,
                "label": "gradient",
                "k": k,
                "draw": 0,
                "prefers": flips,
                "answers": flips,
                "kl": 0.1,
                "fold": n % 5,
                "chosen": chosen,
            }
            | ends
        )
    return found


def _scores(rng: np.random.Generator) -> tuple[nt.Scores, nt.Scores]:
    value = torch.tensor(rng.normal(size=(6, 120)) * 0.05, dtype=torch.float32)
    value[3, [12, 40, 77, 90]] = torch.tensor([-0.9, -0.8, 0.7, -0.6])
    exact = torch.full_like(value, torch.nan)
    exact[3:] = value[3:] * 1.1 + torch.tensor(rng.normal(size=(3, 120)) * 0.01, dtype=torch.float32)
    about = {"direction": "to_reasoning"}
    return nt.Scores("gradient", value, provenance=about), nt.Scores("exact", exact, provenance=about)


def _assessed(rng: np.random.Generator) -> nt.Scores:
    scores, _ = _scores(rng)
    p = torch.tensor(rng.random((6, 120)), dtype=torch.float32).clamp(min=2e-3)
    p[3, [12, 40, 77, 90]] = torch.tensor([1e-4, 2e-4, 4e-4, 1e-3])
    q, family = (p * 40).clamp(max=1), (p * 200).clamp(max=1)
    columns = {"p": p, "q": q, "p_family": family, "kept": (1 - q)}
    about = dict(scores.provenance) | {"resolution": "12 groups: no p is below 0.00024"}
    return nt.Scores(scores.method, scores.value, provenance=about, columns=columns)


def _curves() -> pd.DataFrame:
    ks, rows = (1, 4, 16, 64), []
    for ranker, power in (("gradient", 0.2), ("two_ended", 0.3), ("random", 2.5)):
        for k in ks:
            share = (k / 64) ** power
            rows.append(("letters", "to_reasoning", ranker, k, share, 0.9 * share))
    return pd.DataFrame(rows, columns=["family", "direction", "ranker", "k", "necessity", "sufficiency"])


def _located(rng: np.random.Generator) -> nt.Located:
    rows = []
    for unit, peak, height in (
        ("attention", 2, 0.3),
        ("mlp", 4, 0.8),
        ("residual", 6, 1.0),
        ("direction", 6, 0.7),
    ):
        for layer in range(8):
            share = height * np.exp(-((layer - peak) ** 2) / 6)
            low, high = max(0.0, share - 0.1), min(1.0, share + 0.1)
            rows.append((unit, layer, -1, 1, share, 5 * share, share, low, high, np.nan, 40, "last", 0))
            if unit == "direction":
                rows[-1] = (*rows[-1][:9], 0.05 * share, *rows[-1][10:])
                continue
            for back in range(1, 5):
                early = share * (layer < 4) * (back == 3) + 0.04 * rng.random()
                measured = (
                    early,
                    5 * early,
                    early,
                    max(0.0, early - 0.1),
                    min(1.0, early + 0.1),
                    np.nan,
                    40,
                )
                rows.append((unit, layer, -1, 1, *measured, "one", back))
    names = ["unit", "layer", "head", "k", "score", "effect", "answers", "low", "high", "control", "n"]
    table = pd.DataFrame(rows, columns=[*names, "place", "back"])
    return nt.Located(table, "reasoning", "a model", ("=", "", "", "+", ""))


def _timeline() -> pd.DataFrame:
    rows = []
    for step in range(6):
        share = step / 5
        row: dict[str, Any] = {"family": "letters", "checkpoint": f"step {100 * step}"}
        for name, value in (("recalls", share), ("reasons", share**2)):
            row |= {name: value}
        for name, value in (
            ("flips_to_reasoning", share**3),
            ("flips_to_memorization", 0.9 * share**3),
            ("random_to_reasoning", 0.01),
            ("random_to_memorization", 0.02),
        ):
            row |= {
                name: value,
                f"{name}_low": max(0.0, value - 0.08),
                f"{name}_high": min(1.0, value + 0.08),
            }
        for name in ("settled", "kept", "stable", "concentrated"):
            row[f"{name}_to_reasoning"] = share
        rows.append(row)
    return pd.DataFrame(rows)


def _trust(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows = []
    for kind in ("items", "templates"):
        for signal, auroc in (
            ("causal margin", 0.94),
            ("all neurons", 0.9),
            ("entropy", 0.64),
            ("log-probability", 0.6),
        ):
            for of, shift in (("mean", 0.0), ("letters", 0.03), ("arithmetic", -0.03)):
                own = auroc + shift
                rows.append((kind, signal, of, own, own - 0.04, own + 0.03, 80))
    signals = pd.DataFrame(rows, columns=["unseen", "signal", "of", "auroc", "auroc_lo", "auroc_hi", "n"])
    steps = np.linspace(0.05, 1, 20)
    parts = []
    for name, risk in (
        ("trust score", 0.5 * steps**2),
        ("entropy", 0.3 + 0.2 * steps),
        ("log-probability", 0.35 + 0.15 * steps),
    ):
        parts.append(
            pd.DataFrame(
                {
                    "signal": name,
                    "coverage": steps,
                    "risk": risk,
                    "risk_lo": (risk - 0.06).clip(0),
                    "risk_hi": risk + 0.06,
                }
            )
        )
    margin = rng.normal(size=160) * 2
    p = 1 / (1 + np.exp(-2 * margin))
    memory = rng.random(160) < p
    judged = pd.DataFrame(
        {
            "id": [f"prompt-{n}" for n in range(160)],
            "group": [f"g{n}" for n in range(160)],
            "p_memory": p,
            "memory": memory,
            "p_survives": 1 - p,
            "survived": (rng.random(160) < 1 - p).astype(float),
            "abstain": np.abs(margin) > 4.5,
            "items memory_fall": 2 + margin.clip(0) + rng.random(160),
            "items reasoning_fall": 2 - margin.clip(None, 0) + rng.random(160),
        }
    )
    return signals, pd.concat(parts, ignore_index=True), judged


def _tokens() -> list[Any]:
    from neurotrace.answers.margin import Token

    words = (" Paris", ",", " and", " 4", "+", "4", " is", " 8", ".")
    margins = (3.0, 1.0, 0.2, -0.5, -1.0, -1.5, -0.2, -3.0, 0.4)
    return [
        Token(word, n, -0.3, max(m, 0.0), max(-m, 0.0), float(1 / (1 + np.exp(-m))), n == 2)
        for n, (word, m) in enumerate(zip(words, margins, strict=True))
    ]


def _detectors(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    tasks = ("letters", "arithmetic", "inference")
    for detector, view, base in (
        ("causal margin", "margin", 0.93),
        ("linear", "neurons", 0.78),
        ("baseline", "confidence", 0.6),
        ("linear", "residual@1", 0.7),
        ("linear", "residual@3", 0.8),
        ("linear", "neurons@1", 0.66),
        ("linear", "neurons@3", 0.85),
    ):
        for train in tasks:
            for test in tasks:
                auroc = min(0.99, base + (0.05 if train == test else 0.0) + float(rng.random()) * 0.03)
                rows.append((detector, view, train, test, auroc, auroc - 0.05, min(1.0, auroc + 0.05), 60))
    names = ["detector", "view", "train_family", "test_family", "auroc", "auroc_lo", "auroc_hi", "n"]
    return pd.DataFrame(rows, columns=names)


def _weights() -> pd.DataFrame:
    rows = [("fused product", v, w, 0.05) for v, w in (("neurons", 0.6), ("residual", 0.3), ("words", 0.1))]
    return pd.DataFrame(rows, columns=["detector", "view", "weight", "sd"])


def _fusion() -> tuple[pd.DataFrame, pd.DataFrame]:
    names = ["neurons", "residual", "words"]
    weights = pd.DataFrame(
        {
            "view": names,
            "weight": [0.5, 0.35, 0.15],
            "low": [0.4, 0.28, 0.1],
            "high": [0.6, 0.42, 0.2],
            "adds": [0.2, 0.1, 0.0],
            "adds_low": [0.1, 0.04, -0.02],
            "adds_high": [0.3, 0.16, 0.02],
        }
    )
    agreement = pd.DataFrame([[1, 0.7, 0.2], [0.7, 1, 0.1], [0.2, 0.1, 1]], index=names, columns=names)
    return weights, agreement


if __name__ == "__main__":
    drawn = figures()
    (HERE / "gallery").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        figure.update_layout(width=WIDTH)
        nt.save_figure(figure, HERE / "gallery" / f"{name}.png", scale=1)
    from pictures import shrink

    shrink((HERE / "gallery").glob("*.png"))
    drawn = figures()
    (HERE / "gallery.md").write_text(page(drawn), "utf-8")
    (HERE / "gallery.json").write_text(
        json.dumps(record(drawn), indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
