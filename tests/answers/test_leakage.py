"""A trust study learns on some groups, calibrates on others, judges on others still."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import neurotrace as nt
from neurotrace.answers import judging, tables
from neurotrace.core.prompts import originals


def test_circuit_and_choice_see_no_group_that_is_judged(organism, monkeypatch):
    """Which groups are differentiated, and which are asked while k and *off* are chosen."""
    prompts = originals(nt.load_prompts("inference"))[:72]
    seen: dict[str, set[str]] = {"slopes": set(), "choice": set()}
    choosing = []
    slopes, compared, ask = judging.slopes, judging._compared, judging._Asking.__call__

    def watched_slopes(model, asked, **options):
        seen["slopes"] |= {prompt.group for prompt in asked.prompts}
        return slopes(model, asked, **options)

    def watched_choice(*arguments):
        choosing.append(True)
        try:
            return compared(*arguments)
        finally:
            choosing.pop()

    def watched_asking(self, stage, cells, circuits):
        if choosing:
            seen["choice"] |= {self.asked.prompts[row].group for rows in cells.values() for row in rows}
        return ask(self, stage, cells, circuits)

    monkeypatch.setattr(judging, "slopes", watched_slopes)
    monkeypatch.setattr(judging, "_compared", watched_choice)
    monkeypatch.setattr(judging._Asking, "__call__", watched_asking)
    monkeypatch.setattr(judging, "DRAWS", 1)
    found = nt.trust_study(organism, prompts, k=16)
    judged = set(found.scores["group"])
    assert len(judged) > 8
    assert len(seen["slopes"]) > 8
    assert seen["choice"] == seen["slopes"]
    assert not judged & seen["slopes"]


def test_calibration_never_scores_what_it_was_fitted_on(monkeypatch):
    """A calibration that knows its own groups by heart must be at chance on those it scores."""
    rng = np.random.default_rng(0)
    groups = [f"g{place // 4}" for place in range(160)]
    secret = dict(zip(sorted(set(groups)), rng.permutation(40) % 2 == 0, strict=True))
    frame = pd.DataFrame({"group": groups, "train": False, "place": range(160)})
    frame["memory"] = frame["group"].map(secret)

    class ByHeart:
        def __init__(self, held: pd.DataFrame) -> None:
            self.known = dict(zip(held["group"], held["memory"], strict=True))

        def p_memory(self, parts: np.ndarray) -> np.ndarray:
            named = [groups[place] for place in parts[:, 0].astype(int)]
            return np.array([float(self.known.get(name, 0.5)) for name in named])

        def p_survives(self, parts: np.ndarray) -> np.ndarray:
            return np.full(len(parts), np.nan)

        def outside(self, parts: np.ndarray) -> np.ndarray:
            return np.zeros(len(parts), dtype=bool)

    monkeypatch.setattr(tables, "calibration", ByHeart)
    monkeypatch.setattr(tables, "_parts", lambda held: held[["place"]].to_numpy(float))
    scored = tables.calibrated(frame, seed=0)
    assert (scored["p_memory"] == 0.5).all()


@pytest.mark.parametrize("train", [True, False])
def test_only_held_out_prompts_are_calibrated(train):
    rng = np.random.default_rng(1)
    rows = {"group": [f"g{n}" for n in range(60)], "train": [train] * 30 + [False] * 30}
    frame = pd.DataFrame(rows | {"memory": rng.random(60) < 0.5, "survived": np.nan})
    for name in tables.FEATURES:
        frame[f"items {name}"] = rng.normal(size=60)
    found = tables.calibrated(frame, seed=0)["p_memory"]
    assert found[30:].notna().all()
    assert found[:30].isna().all() == train
