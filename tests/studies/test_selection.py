"""The choice within training pairs. Flips are made up here: the rule is what is tested."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
from neurotrace.interventions.whole import flipped
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


def part_of(candidates, flips, controls, *, further=None, start=0):
    """A part, and what `flips` and `controls` say: by candidate (and draw), what share flips."""
    made, reference = candidates
    known = {str(each): each for each in made}
    rows, more = range(start, start + PAIRS), range(start + PAIRS, start + 2 * PAIRS)

    def found(asked, some):
        shares = flips if asked[0] < more.start else further
        own = []
        for each in some:
            candidate = known[each.label]
            selected = shares[candidate.kind, candidate.k] if each.role == "selected" else None
            own.append(share(controls(candidate, each.draw) if selected is None else selected))
        return torch.stack(own)[:, [(row - start) % PAIRS for row in asked]]

    return Part(made, reference, rows, more if further else ()), found


def chosen_from(*parts):
    """The choice among these parts, whose rows do not overlap."""

    def flips(asked):
        return [
            next(found for part, found in parts if rows[0] in {*part.rows, *part.further})(rows, some)
            for rows, some in asked
        ]

    return choose([part for part, _ in parts], flips)


def test_quiet_controls_come_first_then_few_neurons(made):
    flips = {
        ("shift:9", 8): 1.0,
        ("patch", 8): 0.97,
        ("patch", 4): 0.97,
        ("patch", 2): 0.9,
        ("zero", 8): 0.2,
    }
    quiet = [
        part_of(made(*flips), flips, lambda each, draw: 0.5 * (each.kind == "shift:9"), start=start)
        for start in (0, 100)
    ]
    found = chosen_from(*quiet)
    assert found.candidate == Candidate("gradient", "patch", 4)
    assert found.loud == {Candidate("gradient", "shift:9", 8)}
    assert (found.pairs, found.tied) == (2 * PAIRS, 1)
    # nobody is quiet: what flips most beyond its controls
    loud = [part_of(made(*flips), flips, lambda each, draw: 0.5, start=start) for start in (0, 100)]
    assert chosen_from(*loud).candidate == Candidate("gradient", "shift:9", 8)


def test_the_hopeless_are_measured_once(made):
    flips = {("patch", 1): 0.2, ("set", 8): 0.9, ("zero", 4): 0.5}
    asked = []

    def part(start):
        one, own = part_of(made(*flips), flips, lambda each, draw: 0.0, start=start)

        def found(rows, some):
            asked.append({each.kind for each in some if each.role == "selected"})
            return own(rows, some)

        return one, found

    found = chosen_from(part(0), part(100))
    assert asked[:2] == [{"patch", "set", "zero"}, {"set", "zero"}]
    assert (found.candidate.kind, found.pairs) == ("set", 2 * PAIRS)
    assert found.rates[Candidate("gradient", "patch", 1)] == pytest.approx(0.2, abs=0.02)


def test_a_tie_is_settled_by_further_pairs(made):
    flips = {("patch", 1): 1.0, ("set", 8): 1.0}
    more = {("patch", 1): 0.5, ("set", 8): 1.0}
    few = part_of(made(*flips), flips, lambda each, draw: 0.0)
    assert chosen_from(few).candidate.k == 1
    assert chosen_from(few).tied == 1
    enough = part_of(made(*flips), flips, lambda each, draw: 0.0, further=more)
    found = chosen_from(enough)
    assert (found.candidate.k, found.pairs, found.tied) == (8, 2 * PAIRS, 0)


def test_who_was_lucky_on_few_pairs_does_not_beat_who_was_tried_on_more(made):
    """More candidates flip all of the first pairs than are tried further, where each flips fewer."""
    flips = {(f"shift:{size}", 1 + (size > 20)): 1.0 for size in range(1, 25)}
    flips["set", 4] = 0.8
    part = part_of(made(*flips), flips, lambda each, draw: 0.0, further={each: 0.75 for each in flips})
    found = chosen_from(part)
    assert (found.candidate.k, found.pairs) == (1, 2 * PAIRS)
    assert found.rates[found.candidate] == 0.875
    assert found.tied == 15


def test_a_doubtful_control_is_drawn_again(made):
    flips = {("patch", 2): 1.0, ("set", 4): 0.9}
    # by luck the first draw flips four of 32 answers, and no other does: 2 % of all
    lucky = part_of(made(*flips), flips, lambda each, draw: 4 / 32 * (draw == 0 and each.k == 2))
    assert chosen_from(lucky).candidate.k == 2
    # by luck the first draws flip nothing, or little, and those that follow a tenth
    drawn = []

    def late(each, draw):
        drawn.append((each.k, draw))
        return [0, 2 / 32, 2 / 32, 4 / 32, 4 / 32, 4 / 32][draw] * (each.k == 2)

    found = chosen_from(part_of(made(*flips), flips, late))
    assert found.candidate.k == 4
    assert max(draw for k, draw in drawn if k == 2) == 5  # to the last
    assert max(draw for k, draw in drawn if k == 4) == 2  # 0 of 96 leaves the interval below 4 %


def test_controls_are_asked_for_on_the_pairs_of_each_part(made):
    """Places count on from part to part; each part applies its own controls to its own pairs."""
    candidates, reference = made(("patch", 2), ("zero", 4))
    generator = torch.Generator().manual_seed(0)
    parts, tables, said = [], [], {}
    for start, size in ((10, 5), (20, 3)):
        table = torch.rand(2, len(CONTROLS), 6, size, generator=generator) < 0.5
        known = {str(each): row for row, each in enumerate(candidates)}

        def found(rows, some, table=table, known=known, start=start):
            assert len(rows) > 0
            at = [(known[each.label], CONTROLS.index(each.role), each.draw) for each in some]
            return torch.stack([table[one] for one in at])[:, [row - start for row in rows]]

        parts.append(Part(candidates, reference, range(start, start + size)))
        tables.append(table)
        said |= dict.fromkeys(range(start, start + size), found)
    whole = torch.cat(tables, dim=-1)
    patch, zero = candidates
    wanted = [
        (patch, "norm", range(3), [6, 0, 4]),
        (zero, "random", range(3, 6), [7, 5]),
        (zero, "sign", range(3), [6, 0, 4]),
        (patch, "low_rho", range(3, 6), [1]),
    ]

    def flips(asked):
        return [said[rows[0]](rows, some) for rows, some in asked]

    rows = selection._flips_of_controls(parts, partial(selection._drawn, parts), flips, wanted)
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

    def flips(model, every, wanted, **_):
        found = []
        for rows, some in wanted:
            asked.append(list(rows))
            good = []
            for each in some:
                method, _, seen = each.label.partition("|")
                known = {int(row) for row in seen.split(",")}
                # the other flips 80 %
                good.append([row in known if method == "by_heart" else row % 5 > 0 for row in rows])
            found.append(torch.tensor(good))
        return found

    monkeypatch.setattr(selection, "rank", rank)
    monkeypatch.setattr(selection, "flipped", flips)
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
        halves = [(range(1, len(encoded)), some[:2]), (range(len(encoded)), some)]
        part, own = flipped(model, encoded, halves, activations=activations)
        assert part.tolist() == own[:2, 1:].tolist()
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
