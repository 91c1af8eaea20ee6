"""Units beside neurons: their slopes are right, and patching finds where the organism decides."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import pandas as pd
import pytest
import torch
from families import family_model, random_pairs

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import Span
from neurotrace.core.sides import SIDES
from neurotrace.decoding.places import corresponding, places_of
from neurotrace.decoding.spans import places_named
from neurotrace.engine.metrics import logit_difference
from neurotrace.locating import patching
from neurotrace.locating.deciding import decided_by, in_words
from neurotrace.locating.families import decided_families
from neurotrace.locating.patching import Patching
from neurotrace.locating.pursuit import pursue
from neurotrace.locating.studied import decided_in_study
from neurotrace.locating.units import _as_many, _of_heads, of_neurons
from neurotrace.models.encoding import encode
from neurotrace.models.gradients import pair_slopes
from neurotrace.models.hooks import forward
from neurotrace.models.sites import Tail, change_sites, read_sites, tail_of

SITES = ("attention", "mlp", "residual", "heads")


@pytest.fixture(scope="module")
def found(organism):
    train, test = nt.split_pairs(nt.load_pairs("arithmetic")[:120], seed=0)
    return nt.locate(organism, train, test, heads=3, neutral=nt.neutral_texts(organism))


@pytest.fixture(scope="module")
def organism():
    return nt.load_model("organism", device="cpu")


def test_the_planted_layer_decides(found):
    table = found.to_frame()
    table = table[table["place"] == "last"].set_index(["unit", "layer"])["answers"]
    assert table["mlp", 2] > 0.9  # the planted neurons lie there
    assert table["residual", 2] > 0.9
    assert table["direction", 2] > 0.9
    for unit in ("mlp", "residual", "direction", "attention"):
        assert table[unit, 0] < 0.05
    frame = found.to_frame().set_index("unit")
    assert (frame.loc["direction", "control"] < 0.2).all()
    heads = frame.loc["heads"].set_index("k")
    assert heads.index.unique().tolist() == [1, 2, 3]
    assert not (heads["control"] >= 0.3).any()
    neurons = frame[frame["place"] == "last"].loc["neurons"].set_index("k")["answers"]
    assert neurons.index.tolist() == [1, 2, 3, 8, 15]  # of 1,536; eight were planted
    assert neurons[8] > 0.9
    assert neurons[1] < 0.5
    assert (frame.loc["neurons", "control"] < 0.1).all()
    everywhere = frame[frame["place"] == "anywhere"].loc["neurons"].set_index("k")["answers"]
    assert everywhere[8] > 0.9
    assert found.texts == ("=", "", "", "+", "", "")
    cue = frame[frame["place"] == "cue"]
    assert set(cue["tokens"]) == {1}
    assert cue.loc["neurons", "answers"].max() < 0.1  # planted at the last token
    damage = frame.loc["neurons", "damage"]
    assert damage.max() < 0.5
    assert damage.notna().all()
    assert frame["n"].min() > 15


def test_what_decides_is_the_same_without_the_map(found, organism):
    train, test = nt.split_pairs(nt.load_pairs("arithmetic")[:120], seed=0)
    few = nt.locate(organism, train, test, heads=3, everywhere=False, neutral=nt.neutral_texts(organism))
    assert set(few.table["unit"]) == {"heads", "direction", "neurons"}
    pd.testing.assert_frame_equal(nt.decided_by(few, few), nt.decided_by(found, found), rtol=1e-4)


def test_what_is_read_serves_both_directions(organism, monkeypatch):
    train, test = nt.split_pairs(nt.load_pairs("arithmetic")[:24], seed=0)
    train, test = encode(organism, train), encode(organism, test)
    how = {"heads": 2, "everywhere": False, "where": ["last", "anywhere"]}
    alone = [nt.locate(organism, train, test, donor=donor, **how).table for donor in SIDES]
    asked = []
    for name in ("read_sites", "site_slopes"):
        own = getattr(patching, name)
        monkeypatch.setattr(patching, name, lambda *a, own=own, **k: (asked.append(own), own(*a, **k))[1])
    counts, kept, together = [], {}, []
    for donor in SIDES:
        together.append(nt.locate(organism, train, test, donor=donor, kept=kept, **how).table)
        counts.append(len(asked))
    for one, other in zip(alone, together, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert counts[1] - counts[0] < 0.75 * counts[0]


def test_the_natural_organisms_switch_is_at_the_cue_and_the_operands():
    """Behind block 0 at the cue and both numbers' tens, behind the last block at the last token alone."""
    model = nt.load_model("organism-natural", device="cpu")
    train, test = nt.split_pairs(nt.load_pairs("arithmetic")[:160], seed=0)
    found = nt.locate(model, train, test, places=7)
    table = found.table[found.table["unit"] == "residual"].set_index(["layer", "back"])["answers"]
    assert found.texts == ("=", "", "", "+", "", "", "recall")
    cue, tens, ones, last = 6, (2, 5), (1, 4), 0
    assert table[0, cue] > 0.9
    assert min(table[0, back] for back in tens) > 0.35
    assert max(table[0, back] for back in (*ones, 3, last)) < 0.1
    assert table[2, last] > 0.9
    assert max(table[2, back] for back in range(1, 7)) < 0.1
    neurons = found.table[found.table["unit"] == "neurons"].groupby("place")["answers"].max()
    assert neurons.max() < 0.9  # no set decides
    assert neurons["cue"] > 0.5  # by one slope for all of them fewer than half flip
    names = [trace.y[cue] for trace in nt.plot_places(found).data]
    assert names == ["recall (6 before)"] * 3


def test_other_tokens_are_asked_where_the_last_does_not_decide(organism):
    """One of the organism's heads doesn't decide at the last token, nor anywhere: the cue isn't asked."""
    pairs = encode(organism, nt.load_pairs("arithmetic")[:120])
    ((_, both, decided),) = decided_families(organism, pairs, heads=1, everywhere=False)
    places = decided.groupby("unit")["place"].agg(list).to_dict()
    assert places == {"direction": ["last"], "heads": ["last", "anywhere"], "neurons": ["last"]}
    controls = both[0].table.groupby(["unit", "place"])["control"]
    answers = both[0].table["answers"]
    assert both[0].table["control"][answers >= 0.9].notna().all()
    assert (controls.count() >= 1).all()
    assert controls.count()["heads", "anywhere"] == 1


def test_the_fewest_of_each_kind_are_said():
    def located(neurons, heads, control=0.0):
        rows = [("neurons", k, rate, 0.0) for k, rate in neurons.items()]
        rows += [("heads", k, rate, control) for k, rate in heads.items()]
        rows += [("direction", 1, 0.95, 0.0), ("direction", 1, 0.2, 0.0)]
        table = pd.DataFrame(rows, columns=["unit", "k", "answers", "control"])
        table["score"] = [0.0] * (len(rows) - 2) + [1.0, 2.0]  # training pairs mislead about the layer
        rest = {"layer": 0, "place": "last", "low": 0.0, "high": 1.0, "damage": 0.0, "n": 20}
        return nt.Located(table.assign(**rest), "reasoning", "m")

    few = decided_by(located({1: 0.2, 8: 0.9}, {1: 0.95}), located({1: 0.95, 8: 0.95}, {1: 0.95}, 0.1))
    assert few.set_index("unit")["decides"].to_dict() == {
        "neurons": True,
        "heads": False,
        "direction": False,
    }
    assert in_words(few) == (
        "decided by 8 neurons at the last token; not by one attention head at the last token "
        "(the control flips 10%), one direction of the residual stream at the last token (20% flip)"
    )
    none = decided_by(located({1: 0.2}, {1: 0.5}), located({1: 0.95}, {1: 0.5}, math.nan))
    assert in_words(none).startswith(
        "decided by no unit tried; not by one neuron at the last token (20% flip), "
    )


def test_what_a_study_chose_is_a_row_beside_the_patches():
    def flip(direction, k, rate, control, family="f"):
        own = {"family": family, "direction": direction, "k": k, "intervention": f"steer:{k}", "n": 20}
        own |= {"answers": rate, "answers_ci": (0.0, 1.0), "control_answers": control}
        return own | {"damage_kl": 0.1}

    both = decided_in_study([flip("to_reasoning", 8, 0.9, 0.0), flip("to_memorization", 64, 0.95, 0.05)])
    assert (
        in_words(both)
        == "decided by 64 neurons at the last token by steer:8 / steer:64, which the study chose"
    )
    assert both["answers_to_memory"].tolist() == [0.95]
    weak = decided_in_study([flip("to_reasoning", 8, 0.89, 0.0), flip("to_memorization", 8, 0.95, 0.0)])
    assert in_words(weak).endswith("by steer:8, which the study chose (89% flip)")
    loud = decided_in_study(
        [flip("to_reasoning", 8, 0.9, 0.0), flip("to_memorization", 8, 0.95, 0.06)], "onward"
    )
    assert in_words(loud).endswith(
        "at each token of the answer by steer:8, which the study chose (the control flips 6%)"
    )
    assert not len(decided_in_study([flip("to_reasoning", 8, 0.9, 0.0)]))


def test_it_shows_itself(found):
    assert "held-out pairs" in found._repr_html_()
    figure = nt.plot_located(found)
    assert {trace.name for trace in figure.data} >= {"MLP output", "one direction of it"}
    assert figure.layout.yaxis.title.text == "held-out answers flipped"


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt"])
def test_slopes_are_those_of_small_steps(family, tmp_path):
    model = family_model(family, tmp_path)
    pairs = encode(model, random_pairs(3), check=False)
    patching = Patching(model, pairs, pairs, batch_size=4)
    own, slopes = patching.values("train", "memorization"), patching.slopes("memorization")
    moves = {point: patching.values("test", "reasoning")[point][:, -1] - own[point][:, -1] for point in own}
    row = 1
    ids = pairs.ids("memorization")[row][None]
    answers = pairs.memorized[row : row + 1], pairs.reasoned[row : row + 1]

    def after(point, step):
        with torch.no_grad():
            logits = change_sites(model, ids, {point: lambda own: own + step.to(own)})
        return float(logit_difference(logits, *answers))

    for site in SITES:
        step = 1e-2 * moves[site, 1][row : row + 1]
        middle = (after((site, 1), step) - after((site, 1), -step)) / 2
        assert middle == pytest.approx(float((slopes[site, 1][row, -1] * step).sum()), rel=2e-2, abs=2e-4)


def test_the_donors_residual_stream_gives_the_donors_logits(organism):
    """Behind the last block nothing else of the recipient is left at the final token position."""
    pairs = encode(organism, nt.load_pairs("arithmetic")[:4])
    own, donor = (torch.stack(pairs.ids(side)) for side in ("memorization", "reasoning"))
    point = ("residual", 3)
    given = read_sites(organism, donor, [point])[point]
    with torch.no_grad():
        changed = change_sites(organism, own, {point: lambda _: given})
        wanted = forward(organism, donor)
    torch.testing.assert_close(changed, wanted, rtol=1e-4, atol=1e-4)


def test_nothing_stays_and_errors_are_named(organism):
    ids = torch.arange(1, 6)[None]
    before = forward(organism, ids)

    def broken(own):
        raise ValueError("in the change")

    with pytest.raises(ValueError, match="in the change"):
        change_sites(organism, ids, {("mlp", 1): broken})
    assert torch.equal(forward(organism, ids), before)
    with pytest.raises(InputError, match=r"no hook blocks\.9\.hook_mlp_out"):
        change_sites(organism, ids, {("mlp", 9): lambda own: own})
    pairs = encode(organism, nt.load_pairs("arithmetic")[:2])
    with pytest.raises(InputError, match="in train and in test"):
        nt.locate(organism, pairs.at([]), pairs)


def test_where_no_other_heads_are_left_there_is_no_control(organism):
    pairs = encode(organism, nt.load_pairs("arithmetic")[:4])
    table = nt.locate(organism, pairs.at([0, 1]), pairs.at([2, 3]), heads=99).table
    heads = table[(table["unit"] == "heads") & (table["place"] == "last")].set_index("k")["control"]
    assert heads.index.tolist() == [1, 2, 4, 8, 16]
    assert heads.isna()[16]


def test_slopes_in_a_changed_run_are_those_of_small_steps(organism):
    """Of log p(the donor's answer), with other neurons patched: by which the next ones are chosen."""
    pairs = encode(organism, nt.load_pairs("arithmetic")[:4])
    patching = Patching(organism, pairs, pairs)
    patching.points = [("neurons", layer) for layer in range(4)]
    change, point = of_neurons([nt.Neuron(2, 12), nt.Neuron(1, 7)]), ("neurons", 3)
    slopes = patching.slopes("memorization", [*change, point], answer="reasoning", change=change)[point]
    (part,) = patching.parts["train", "memorization"]
    rows = torch.tensor(part.rows)
    given = {at: patching.values("train", "reasoning")[at][rows] for at in change}
    step = 1e-2 * patching.values("train", "reasoning")[point][rows]

    def log_p(sign):
        done = {at: partial(lambda rule, at, own: rule(own, given[at]), change[at], at) for at in change}
        done[point] = lambda own: own + sign * step
        with torch.no_grad():
            logits = change_sites(organism, part.tail, done)
        return logits.log_softmax(-1).gather(1, pairs.reasoned[rows][:, None])[:, 0]

    wanted = (log_p(1) - log_p(-1)) / 2
    torch.testing.assert_close((slopes[rows] * step).sum((1, 2)), wanted, rtol=2e-2, atol=2e-4)
    assert wanted.abs().max() > 1e-3


def test_sets_grow_and_predict_their_effect(organism):
    pairs = encode(organism, nt.load_pairs("arithmetic")[:12])
    patching = Patching(organism, pairs, pairs)
    patching.points = [("neurons", layer) for layer in range(4)]

    def change(units):
        return of_neurons([nt.Neuron(*each) for each in units])

    found, alone = pursue(patching, "neurons", 384, [1, 4, 9], change, "reasoning")
    assert [len(each.units) for each in found] == [1, 4, 9]
    assert [found[n].units[: len(found[n - 1].units)] == found[n - 1].units for n in (1, 2)] == [True] * 2
    assert found[0].units[0] == divmod(int(alone.argmax()), 384)
    assert found[0].score == pytest.approx(float(alone.max()))
    _, flips = patching.flips([change(found[2].units)], "reasoning")
    assert flips.float().mean() > 0.9


@pytest.mark.parametrize("family", ["letters", "arithmetic"])
def test_whole_answers_are_judged_as_measure_judges_them(organism, family):
    """Patched at the last token alone; of one token and of several."""
    pairs = encode(organism, nt.load_pairs(family)[:8], answers="whole")
    neurons = [nt.Neuron(2, index) for index in range(384)]
    patching = Patching(organism, pairs, pairs)
    patching.points = [("neurons", 2)]
    (effect,), (wrote,) = patching.flips([of_neurons(neurons)], "reasoning")
    table = nt.measure(organism, pairs, [nt.patch(neurons, donor="reasoning")]).to_frame()
    table = table.set_index("pair").loc[[pair.id for pair in pairs.pairs]]
    moved = torch.tensor((table["L_after"] - table["L_before"]).to_numpy())
    torch.testing.assert_close(effect.double(), moved.double(), rtol=1e-3, atol=1e-3)
    assert wrote.tolist() == table["answers"].tolist()
    assert wrote.any()


def test_whole_answers_are_located(organism):
    """Neurons that are chosen for whole answers flip them, and slopes are those of `two_ended`'s L."""
    train, test = nt.split_pairs(nt.load_pairs("letters")[:60], seed=0)
    own, other = (encode(organism, each, answers="whole") for each in (train, test))
    found = nt.locate(organism, own, other, donor="memorization", where=["last"], everywhere=False).table
    flips = found[found["unit"] == "neurons"].set_index("k")["answers"]
    assert flips[15] > 0.5
    assert found["control"].max() < 0.3
    patching = Patching(organism, own, own)
    patching.points = [("neurons", layer) for layer in range(4)]
    _, slope = pair_slopes(organism, own, [0], own.memorization[0][None])
    by_site = patching.slopes("memorization")
    found = torch.stack([by_site["neurons", layer][0, -1] for layer in range(4)])
    torch.testing.assert_close(found, slope[0], rtol=1e-3, atol=1e-4)


def test_random_heads_are_others_of_the_same_layers():
    chosen = [(0, 1), (2, 0), (2, 3)]
    drawn = _as_many(chosen, layers=3, count=4, seed=1)
    assert sorted(layer for layer, _ in drawn) == [0, 2, 2]
    assert not set(drawn) & set(chosen)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt", "llama"])
@pytest.mark.parametrize("read", [1, 3])
def test_what_stands_before_is_run_once_and_changes_nothing(family, read, tmp_path):
    """Values, slopes and changed logits of the last tokens, behind a kept prefix and by full passes."""
    model = family_model(family, tmp_path)
    pairs = encode(model, random_pairs(3), check=False)
    ids = torch.stack([each[:4] for each in pairs.memorization])
    kept, whole = tail_of(model, ids, read), Tail(ids, read)
    assert kept.past is not None
    assert kept.ids.shape[1] == read
    points = [(site, layer) for site in (*SITES, "neurons") for layer in range(2)]
    values = [read_sites(model, tail, points) for tail in (kept, whole)]
    for point in points:
        assert values[0][point].shape[1] == read
        torch.testing.assert_close(values[0][point], values[1][point], rtol=1e-4, atol=1e-4)
    change = {("heads", 0): lambda own: own * 0.5, ("neurons", 1): lambda own: own + 0.3}
    with torch.no_grad():
        found = [change_sites(model, tail, change) for tail in (kept, whole)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], forward(model, ids), atol=1e-3)


def test_neurons_patched_by_hooks_are_those_that_measure_patches(organism):
    """At each of the last three tokens."""
    pairs = encode(organism, nt.load_pairs("arithmetic")[:6])
    neurons = [nt.Neuron(2, 12), nt.Neuron(2, 57), nt.Neuron(3, 5)]
    patching = Patching(organism, pairs, pairs, where="end", at_most=3)
    patching.points = [("neurons", layer) for layer in range(4)]
    (effect,), _ = patching.flips([of_neurons(neurons)], "reasoning")
    measured = nt.measure(
        organism, pairs, [nt.patch(neurons, donor="reasoning")], positions=(-3, -2, -1)
    ).to_frame()
    moved = torch.tensor((measured["L_after"] - measured["L_before"]).to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(effect, moved, rtol=1e-3, atol=1e-3)
    assert effect.abs().max() > 0.01


@pytest.mark.parametrize("where", ["cue", "anywhere"])
def test_measure_takes_the_names_of_places(organism, where):
    pairs = encode(organism, nt.load_pairs("arithmetic")[:6])
    neurons = [nt.Neuron(layer, index) for layer in range(4) for index in range(0, 384, 2)]
    patching = Patching(organism, pairs, pairs, where=where)
    patching.points = [("neurons", layer) for layer in range(4)]
    (effect,), _ = patching.flips([of_neurons(neurons)], "reasoning")
    table = nt.measure(organism, pairs, [nt.patch(neurons, donor="reasoning")], positions=where).to_frame()
    moved = (table["L_after"] - table["L_before"]).set_axis(table["pair"])[[p.id for p in pairs.pairs]]
    torch.testing.assert_close(
        effect.double(), torch.tensor(moved.to_numpy()).double(), rtol=1e-3, atol=1e-3
    )
    assert effect.abs().max() > 0.001


def test_measure_refuses_places_that_are_not_the_same_in_both_prompts(tmp_path):
    model = family_model("gpt2", tmp_path)
    pairs = several_lengths(model)
    longer = torch.tensor([1, 2, 9, 9, 5, 6, 7, 8, 3])
    uneven = replace(pairs, memorization=(*pairs.memorization[:2], longer))
    with pytest.raises(InputError, match=rf"{pairs.pairs[2].id}: positions='cue' are the places"):
        nt.measure(model, uneven, [nt.patch([nt.Neuron(1, 3)], donor="reasoning")], positions="cue")


def test_tokens_correspond_from_the_ends_of_what_differs():
    assert corresponding([1, 2, 3, 4], [1, 9, 4]) == [(0, 0), (2, 1), (3, 2)]
    assert corresponding([1, 2, 5, 6, 3], [1, 5, 6, 3]) == [(0, 0), (2, 1), (3, 2), (4, 3)]
    assert corresponding([7, 1], [8, 9, 1]) == [(0, 1), (1, 2)]


def test_tokens_without_a_counterpart_are_a_difference():
    """A cue that one prompt has alone: what follows it is another run, and nothing of it may be missed."""
    inserted = places_of([torch.tensor([9, 1, 2, 3])], [torch.tensor([1, 2, 3])], "anywhere")
    assert inserted.at["reasoning"] == ((-3, -2, -1),)
    assert inserted.unmatched == 1
    assert places_of([torch.tensor([9, 1, 2, 3])], [torch.tensor([1, 2, 3])], "cue").least == 0
    twice = places_of([torch.tensor([1, 1, 2])], [torch.tensor([1, 2])], "anywhere")  # the second 1 is 1
    assert twice.at == {"memorization": ((-2, -1),), "reasoning": ((-2, -1),)}
    first, second = [torch.tensor([1, 2, 5, 6, 3])], [torch.tensor([1, 5, 6, 8])]
    moved = places_of(first, second, "anywhere")
    assert moved.at == {"memorization": ((-3, -2, -1),), "reasoning": ((-3, -2, -1),)}
    # 4 has no counterpart, so that nothing before it is "so many before the last"
    first, second = [torch.tensor([1, 7, 5, 6])], [torch.tensor([2, 7, 4, 5, 6])]
    assert places_of(first, second, "end", 9).at["reasoning"] == ((-2, -1),)
    assert places_of(first, second, "anywhere").at["reasoning"] == ((-5, -4, -2, -1),)


def several_lengths(model):
    """Pairs with cues and questions of several lengths, as token ids."""
    pairs = encode(model, random_pairs(3), check=False)
    sides = (
        ([1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 3], [4, 2, 3, 9]),
        ([1, 7, 4, 5, 6], [1, 5, 6, 8, 3], [5, 8, 3, 9]),
    )
    memorization, reasoning = (tuple(torch.tensor(each) for each in side) for side in sides)
    return replace(pairs, memorization=memorization, reasoning=reasoning)


def several_cues(model):
    """Two tokens differ in one pair, and one in another, behind a token that it alone has."""
    pairs = encode(model, random_pairs(3), check=False)
    sides = (
        ([1, 2, 3, 4, 5, 6], [8, 2, 3, 4, 5, 6], [4, 2, 3, 9, 1, 7]),
        (
            [1, 7, 8, 4, 5, 6],
            [2, 3, 4, 9, 6],
            [5, 8, 3, 9, 1, 7],
        ),
    )
    memorization, reasoning = (tuple(torch.tensor(each) for each in side) for side in sides)
    return replace(pairs, memorization=memorization, reasoning=reasoning)


def test_places_have_names(tmp_path):
    pairs = several_lengths(family_model("gpt2", tmp_path))
    sides = pairs.memorization, pairs.reasoning
    cue, every, end = (places_of(*sides, where, 2) for where in ("cue", "anywhere", "end"))
    assert cue.at["memorization"] == ((-4,), (-4, -3), (-4, -3))
    assert cue.at["reasoning"] == ((-4,), (-4, -3), (-4, -3))
    assert every.at["memorization"] == ((-4, -3, -2, -1),) * 3
    assert end.at["reasoning"] == ((-2, -1),) * 3
    assert (cue.least, cue.width, every.unmatched, places_of(*sides, "last").width) == (1, 2, 1, 1)


def test_named_parts_of_the_prompts_are_places(organism):
    """Tokens of the part, in each prompt where they stand; the patch is that of the same tokens."""
    own = [replace(p, spans=(Span("operands", *_operands(p)),)) for p in nt.load_pairs("arithmetic")[:40]]
    pairs = nt.encode(organism, own)
    tokenizer, places = organism.tokenizer, places_named(organism.tokenizer, pairs, "operands")
    for side, row in product(SIDES, range(len(pairs))):
        at = [len(pairs.ids(side)[row]) + place for place in places.at[side][row]]
        read = "".join(tokenizer.decode(pairs.ids(side)[row][at]).split())
        assert read == "".join(getattr(pairs.pairs[row].spans[0], side).split())
    assert places.unmatched == 0
    train, test = (pairs.of(part) for part in nt.split_pairs(pairs.pairs, seed=0))
    found = nt.locate(organism, train, test, kinds=["neurons"], everywhere=False).table
    assert found["place"].unique().tolist() == ["last", "cue", "anywhere", "operands"]
    change = nt.patch(nt.two_ended(organism, train, donor="reasoning").top(8), donor="reasoning")
    by_name = nt.measure(organism, test, [change], positions="operands").to_frame()
    (width,) = {each[0] for each in places.at["reasoning"]}
    by_place = nt.measure(organism, test, [change], positions=tuple(range(width, -1))).to_frame()
    assert by_name.equals(by_place)
    with pytest.raises(InputError, match=r"positions='operand': expected .* a span that all pairs have"):
        nt.measure(organism, test, [change], positions="operand")


def _operands(pair):
    """31+28 of "recall 31+28=", in both prompts."""
    return tuple(getattr(pair, side).split(" ", 1)[1].removesuffix("=") for side in SIDES)


def test_a_part_that_stands_twice_is_its_last_occurrence_and_corresponds_from_its_end(tmp_path):
    model = nt.load_model("organism", device="cpu")
    text = "recall 3 1 + 3 1 =", "think 3 1 + 2 3 1 ="
    pair = nt.PromptPair("a", "f", "t", "g", *text, "5 9", "6 2", spans=(Span("second", "3 1", "2 3 1"),))
    pairs = nt.encode(model, [pair], check=False)
    places = places_named(model.tokenizer, pairs, "second")
    assert (places.at["memorization"], places.at["reasoning"]) == (((-3, -2),), ((-3, -2),))
    assert places.unmatched == 1


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt", "llama"])
@pytest.mark.parametrize("where", ["cue", "anywhere", "end"])
@pytest.mark.parametrize("made", [several_lengths, several_cues])
def test_any_place_is_patched_as_a_hook_would(family, made, where, tmp_path):
    """Values of the donor's tokens that correspond, put there by hand in full passes, prompt by prompt."""
    model = family_model(family, tmp_path)
    pairs = made(model)
    patching = Patching(model, pairs, pairs, where=where, at_most=3)
    columns = {("heads", 0): list(range(8, 16)), ("neurons", 1): [3, 5]}
    patching.points = list(columns)
    changes = [
        _of_heads([(0, 1)], 8),
        of_neurons([nt.Neuron(1, 3), nt.Neuron(1, 5)]),
        {**_of_heads([(0, 1)], 8), **of_neurons([nt.Neuron(1, 3), nt.Neuron(1, 5)])},
    ]
    effects, _ = patching.flips(changes, "reasoning")
    before = pairs.behaviour("memorization").logit_difference
    for row in range(3):
        own, donor = (list(patching.places["test"].at[side][row]) for side in ("memorization", "reasoning"))
        values = read_sites(model, whole(pairs.reasoning[row]), patching.points)
        for point in columns:
            given = patching.values("test", "reasoning")[point][row, -len(own) :]
            torch.testing.assert_close(given, values[point][0, donor])
        by_hand = {point: partial(put, own, values[point][0, donor], at) for point, at in columns.items()}
        for change, effect in zip(changes, effects[:, row], strict=True):
            with torch.no_grad():
                logits = change_sites(
                    model, whole(pairs.memorization[row]), {p: by_hand[p] for p in change}
                )
            after = logit_difference(logits, pairs.memorized[row][None], pairs.reasoned[row][None])
            assert float(after - before[row]) == pytest.approx(float(effect), abs=1e-4)
    assert effects.abs().max() > 1e-4


def whole(ids):
    return Tail(ids[None], len(ids))


def put(places, values, columns, own):
    changed = own.clone()
    for place, value in zip(places, values, strict=True):
        changed[0, place, columns] = value[columns].to(own)
    return changed
