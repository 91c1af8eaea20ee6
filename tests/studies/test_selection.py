"""The choice within training pairs. Flips are made up here: the rule is what is tested."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import neurotrace as nt
from neurotrace.core.scores import Scores
from neurotrace.core.sides import Direction
from neurotrace.interventions import intervention as interventions
from neurotrace.interventions.controls import CONTROLS
from neurotrace.interventions.effects import flipped
from neurotrace.models.activations import read_activations
from neurotrace.studies import held_out, selection
from neurotrace.studies.selection import Candidate, Part, StudySettings, choose

PAIRS = 32


def share(rate, count=PAIRS):
    return torch.arange(count) < round(rate * count)


@pytest.fixture(scope="module")
def made(model, encoded):
    """Kind, k -> a candidate and its intervention, labelled so that its controls are known by it."""
    reference = nt.reference(model, encoded)

    def of(*wanted):
        found = {}
        for kind, k in wanted:
            each = Candidate("gradient", kind, k)
            own = interventions.make(
                kind, [nt.Neuron(1, i) for i in range(k)], reference, direction="to_reasoning"
            )
            found[each] = replace(own, label=str(each))
        return found, reference

    return of


def part_of(candidates, flips, controls, *, further=None):
    """A part in which `flips` and `controls` say, by candidate (and draw), what share flips."""
    made, reference = candidates
    known = {str(each): each for each in made}

    def ask(shares):
        def found(some, places):
            rows = []
            for each in some:
                candidate = known[each.label]
                own = shares[candidate.kind, candidate.k] if each.role == "selected" else None
                rows.append(share(controls(candidate, each.draw) if own is None else own))
            return torch.stack(rows)[:, list(range(PAIRS) if places is None else places)]

        return found

    return Part(made, reference, ask(flips), None if further is None else ask(further))


def test_quiet_controls_come_first_then_few_neurons(made):
    flips = {
        ("shift:9", 8): 1.0,
        ("patch", 8): 0.97,
        ("patch", 4): 0.97,
        ("patch", 2): 0.9,
        ("zero", 8): 0.2,
    }
    quiet = part_of(made(*flips), flips, lambda each, draw: 0.5 * (each.kind == "shift:9"))
    found = choose([quiet, quiet])
    assert found.candidate == Candidate("gradient", "patch", 4)
    assert found.loud == {Candidate("gradient", "shift:9", 8)}
    assert (found.pairs, found.tied) == (2 * PAIRS, 1)
    # nobody is quiet: what flips most beyond its controls
    loud = part_of(made(*flips), flips, lambda each, draw: 0.5)
    assert choose([loud, loud]).candidate == Candidate("gradient", "shift:9", 8)


def test_the_hopeless_are_measured_once(made):
    flips = {("patch", 1): 0.2, ("set", 8): 0.9, ("zero", 4): 0.5}
    asked = []

    def part():
        one = part_of(made(*flips), flips, lambda each, draw: 0.0)

        def flipped(some, places):
            asked.append({each.kind for each in some if each.role == "selected"})
            return one.flipped(some, places)

        return replace(one, flipped=flipped)

    found = choose([part(), part()])
    assert asked[:2] == [{"patch", "set", "zero"}, {"set", "zero"}]
    assert (found.candidate.kind, found.pairs) == ("set", 2 * PAIRS)
    assert found.rates[Candidate("gradient", "patch", 1)] == pytest.approx(0.2, abs=0.02)


def test_a_tie_is_settled_by_further_pairs(made):
    flips = {("patch", 1): 1.0, ("set", 8): 1.0}
    more = {("patch", 1): 0.5, ("set", 8): 1.0}
    few = part_of(made(*flips), flips, lambda each, draw: 0.0)
    assert choose([few]).candidate.k == 1
    assert choose([few]).tied == 1
    enough = part_of(made(*flips), flips, lambda each, draw: 0.0, further=more)
    found = choose([enough])
    assert (found.candidate.k, found.pairs, found.tied) == (8, 2 * PAIRS, 0)


def test_who_was_lucky_on_few_pairs_does_not_beat_who_was_tried_on_more(made):
    """More candidates flip all of the first pairs than are tried further, where each flips fewer."""
    flips = {(f"shift:{size}", 1 + (size > 20)): 1.0 for size in range(1, 25)}
    flips["set", 4] = 0.8
    part = part_of(made(*flips), flips, lambda each, draw: 0.0, further={each: 0.75 for each in flips})
    found = choose([part])
    assert (found.candidate.k, found.pairs) == (1, 2 * PAIRS)
    assert found.rates[found.candidate] == 0.875
    assert found.tied == 15


def test_a_doubtful_control_is_drawn_again(made):
    flips = {("patch", 2): 1.0, ("set", 4): 0.9}
    # by luck the first draw flips four of 32 answers, and no other does: 2 % of all
    lucky = part_of(made(*flips), flips, lambda each, draw: 4 / 32 * (draw == 0 and each.k == 2))
    assert choose([lucky]).candidate.k == 2
    # by luck the first draws flip nothing, or little, and those that follow a tenth
    drawn = []

    def late(each, draw):
        drawn.append((each.k, draw))
        return [0, 2 / 32, 2 / 32, 4 / 32, 4 / 32, 4 / 32][draw] * (each.k == 2)

    found = choose([part_of(made(*flips), flips, late)])
    assert found.candidate.k == 4
    assert max(draw for k, draw in drawn if k == 2) == 5  # to the last
    assert max(draw for k, draw in drawn if k == 4) == 2  # 0 of 96 leaves the interval below 4 %


def test_controls_are_asked_for_on_the_pairs_of_each_part(made):
    """Places count on from part to part; each part applies its own controls to its own pairs."""
    candidates, reference = made(("patch", 2), ("zero", 4))
    generator = torch.Generator().manual_seed(0)
    sizes, parts, tables = [5, 3], [], []
    for size in sizes:
        table = torch.rand(2, len(CONTROLS), 6, size, generator=generator) < 0.5
        known = {str(each): row for row, each in enumerate(candidates)}

        def found(some, places, table=table, known=known):
            assert len(places) > 0
            at = [(known[each.label], CONTROLS.index(each.role), each.draw) for each in some]
            return torch.stack([table[one] for one in at])[:, list(places)]

        parts.append(Part(candidates, reference, found))
        tables.append(table)
    whole = torch.cat(tables, dim=-1)
    patch, zero = candidates
    wanted = [
        (patch, "norm", range(3), [6, 0, 4]),
        (zero, "random", range(3, 6), [7, 5]),
        (zero, "sign", range(3), [6, 0, 4]),
        (patch, "low_rho", range(3, 6), [1]),
    ]
    rows = selection._flips_of_controls(parts, sizes, wanted)
    for (each, role, seeds, pairs), own in zip(wanted, rows, strict=True):
        expected = whole[int(each == zero), CONTROLS.index(role), list(seeds)][:, pairs]
        assert own.tolist() == expected.tolist()


def test_what_ranked_is_not_what_is_tried(monkeypatch):
    """A ranker that only knows the pairs it has seen wins on them, and flips nothing else."""
    pairs = [SimpleNamespace(group=str(number // 2)) for number in range(40)]
    asked, referred = [], []

    class Evidence:
        activations = SimpleNamespace(values=torch.zeros(2, 40, 1, 8))

        def reference(self, rows):
            referred.append(list(rows))
            return SimpleNamespace(norms=torch.ones(1, 8))

    class Pairs:
        def __init__(self, rows):
            self.rows = list(rows)
            self.pairs = tuple(pairs[row] for row in self.rows)

        def at(self, rows):
            return Pairs(self.rows[row] for row in rows)

    def rank(training, method):
        seen = ",".join(map(str, training.rows))
        return Scores(f"{method}|{seen}", torch.arange(8.0)[None])

    def flips(model, some, interventions, **_):
        asked.append(some.rows)
        found = []
        for each in interventions:
            method, _, seen = each.label.partition("|")
            known = {int(row) for row in seen.split(",")}
            good = [
                row in known if method == "by_heart" else row % 5 > 0  # and the other flips 80 %
                for row in some.rows
            ]
            found.append(torch.tensor(good))
        return torch.stack(found)

    monkeypatch.setattr(selection, "rank", rank)
    monkeypatch.setattr(selection, "flipped", flips)
    monkeypatch.setattr(selection, "Activations", lambda values, pairs: None)
    monkeypatch.setattr(
        selection,
        "controls_for",
        lambda each, *, seeds, roles, **_: [
            replace(each, role=role, label="quiet|-1", draw=seed) for role in roles for seed in seeds
        ],
    )
    way = Direction("to_reasoning")
    ground = selection.Ground(None, Pairs(range(40)), None, Evidence(), "f", way)
    settings = StudySettings(("by_heart", "general"), ("patch",), (1,), "group", 5, 0, (), 32)
    for number in range(4):
        fold = selection.RowFold(number, list(range(8, 40)), list(range(8)))
        found = selection.choose_within(ground, fold, settings)
        assert found.candidate.method == "general"
        assert found.choice.rates[Candidate("by_heart", "patch", 1)] == 0.0
        assert found.made[found.candidate].label.count(",") == 31  # ranked again on all of them
    # no held-out pair was asked, nor are its activations in a mean
    assert all(set(rows) <= set(range(8, 40)) for rows in [*asked, *referred])
    assert list(range(8, 40)) in referred


def test_the_halves_part_the_groups():
    pairs = [SimpleNamespace(group=f"g{number % 7}") for number in range(21)]
    ground = SimpleNamespace(own=SimpleNamespace(pairs=pairs))
    fold = selection.RowFold(0, list(range(1, 20)), [0, 20])
    (ranked, tried), (back, forth) = selection.halves_of(ground, fold, seed=0)
    assert (ranked, tried) == (forth, back)
    assert sorted(ranked + tried) == fold.train
    assert not {pairs[row].group for row in ranked} & {pairs[row].group for row in tried}
    assert min(len(ranked), len(tried)) >= 8
    one = selection.RowFold(0, [0, 7, 14], [1])
    assert selection.halves_of(ground, one, seed=0) == [(one.train, one.train)]


def test_flipped_is_what_measure_says(model, encoded):
    values = torch.stack(
        [
            torch.cat([read_activations(model, ids[None], 2, 24) for ids in encoded.ids(side)])
            for side in ("memorization", "reasoning")
        ]
    )
    activations = nt.Activations(values, encoded.pairs)
    for way in ("to_reasoning", "to_memorization"):
        top = nt.gradient(model, encoded, donor=Direction(way).donor).top(2, direction=way)
        some = [nt.zero(top, direction=way), nt.patch(top, donor=Direction(way).donor)]
        some.append(nt.random_signs(some[1], seed=0))
        own = flipped(model, encoded, some, activations=activations)
        table = nt.measure(model, encoded, some).to_frame()
        for row, each in enumerate(some):
            rows = table[(table["intervention"] == each.kind) & (table["role"] == each.role)]
            same = rows.set_index("pair")["answers"].loc[[p.id for p in encoded.pairs]]
            assert own[row].tolist() == same.tolist()
    assert own.any()


def frame(**flips):
    """Held-out rows of four pairs: which of them each candidate "ranker kind k" flips."""
    rows = [
        {
            "label": name.split()[0],
            "intervention": name.split()[1],
            "k": int(name.split()[2]),
            "pair": str(pair),
            "group": str(pair),
            "answers": bool(hit),
            "chosen": name == "a patch 1",
        }
        for name, hits in flips.items()
        for pair, hit in enumerate(hits)
    ]
    return pd.DataFrame(rows)


def test_the_regret_is_what_the_best_flips_beyond_the_chosen():
    table = frame(
        **{"a patch 1": [1, 1, 0, 0], "a set 2": [0, 1, 1, 1], "b zero 4": [1, 1, 1, 1], "a mean 2": [1, 1]}
    )
    quiet = held_out._regret(table, lambda each: each.kind != "zero")
    assert (quiet["regret"], quiet["best"], quiet["compared"]) == (0.25, "a set 2", 2)
    low, high = quiet["regret_ci"]
    assert low < 0.25 < high
    assert held_out._regret(table, lambda each: True)["regret"] == 0.5
    assert held_out._regret(table, lambda each: False) == {"compared": 0}


def test_the_worst_draw_and_its_p():
    draws = pd.DataFrame({"role": "random", "draw": np.repeat(range(19), 4), "answers": False})
    draws.loc[draws["draw"] == 7, "answers"] = [True, True, True, False]
    rest = [draws[draws["draw"] < 3].assign(role=role) for role in ("norm", "sign", "low_rho")]
    found = held_out._by_draw(pd.concat([draws, *rest]))
    assert max(found["random"]) == 0.75
    assert len(found["random"]) == 19
    assert held_out._p_of_draws(1.0, found["random"]) == 1 / 20
    assert held_out._p_of_draws(0.75, found["random"]) == 2 / 20
    assert held_out._p_of_draws(0.0, found["random"]) == 1.0
