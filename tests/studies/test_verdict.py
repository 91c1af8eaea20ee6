"""The verdict: whole intervals beside bars, in three words."""

from __future__ import annotations

import numpy as np
import pytest

from neurotrace.core.statistics import rate_interval
from neurotrace.interventions.controls import CONTROLS
from neurotrace.studies.verdict import RULE, SENTENCES, in_doubt, verdicts_of

CLEAR, QUIET = (0.97, 0.93, 0.99), (0.01, 0.0, 0.03)  # rate, low, high


def flip(direction, answers=CLEAR, control=QUIET, *, groups=64, each=1, fraction=0.001):
    """A record as in summary.json; the control `sign` alone has the given rate."""
    rates = {name: QUIET for name in CONTROLS} | {"sign": control, "other_donor": (0.9, 0.8, 1.0)}
    return {
        "family": "f",
        "direction": direction,
        "selected": True,
        "fraction": fraction,
        "answers": answers[0],
        "answers_ci": list(answers[1:]),
        "n": groups * each,
        "groups": groups,
        "controls": {name: each[0] for name, each in rates.items()} | {"norm": None},
        "controls_ci": {name: list(each[1:]) for name, each in rates.items()} | {"norm": None},
    }


def said(to_memory=CLEAR, control=QUIET, **options):
    flips = [flip("to_reasoning"), flip("to_memorization", to_memory, control, **options)]
    return verdicts_of(flips)["f"]


def test_an_interval_that_holds_the_bar_decides_nothing():
    assert said().word == "decides"
    assert said((0.92, 0.87, 0.96)).word == "undecided"  # estimates alone said yes
    assert said((0.88, 0.80, 0.93)).word == "undecided"
    assert said((0.80, 0.70, 0.89)).word == "no"
    assert said((0.92, 0.90, 0.96)).word == "decides"


def test_controls_count_with_their_intervals():
    assert said(control=(0.03, 0.01, 0.06)).word == "undecided"
    assert said(control=(0.07, 0.04, 0.10)).word == "undecided"
    assert said(control=(0.09, 0.06, 0.12)).word == "no"
    assert said(fraction=0.02).word == "no"
    assert verdicts_of([flip("to_reasoning")])["f"].word == "undecided"
    assert verdicts_of([flip("to_reasoning") | {"selected": False}]) == {}


def test_a_control_is_in_doubt_where_more_draws_may_settle_it():
    assert in_doubt(0.037, 0.02, 0.057)
    assert in_doubt(0.07, 0.04, 0.10)
    assert not in_doubt(0.03, 0.01, 0.05)
    assert not in_doubt(0.09, 0.06, 0.12)
    assert not in_doubt(0.0, 0.0, 0.24)  # few groups: draws change nothing


def test_a_claim_about_one_way_is_judged_by_that_way():
    both = [flip("to_reasoning"), flip("to_memorization", (0.1, 0.0, 0.2))]
    assert verdicts_of(both)["f"].word == "no"
    assert verdicts_of(both, ways=("to_reasoning",))["f"].word == "decides"
    assert verdicts_of(both, ways=("to_memorization",))["f"].word == "no"


def test_the_pairs_that_would_settle_it():
    # half a width of .05 must shrink to .02: 6.25 times the 64 groups, two pairs each
    verdict = verdicts_of(
        [flip(way, (0.92, 0.87, 0.96), each=2) for way in ("to_reasoning", "to_memorization")]
    )["f"]
    assert verdict.pairs == 800
    assert verdict.settles == "some 800 pairs in all would settle it"
    # an estimate on the wrong side is settled as soon as it alone is beyond its bar
    mixed = verdicts_of(
        [flip("to_reasoning", (0.91, 0.8, 0.95)), flip("to_memorization", (0.85, 0.78, 0.92))]
    )["f"]
    assert mixed.pairs == 130  # 64 * (.07 / .05)^2
    on_it = said((0.90, 0.85, 0.95))
    assert on_it.pairs is None
    assert "no number of pairs" in str(on_it)


def test_the_number_of_groups_at_which_nothing_flips_settles_it_is_wilsons():
    for groups, word in ((72, "undecided"), (73, "decides")):
        low, high = rate_interval(np.zeros(groups, dtype=bool), range(groups))
        verdict = said(control=(0.0, low, high))
        assert verdict.word == word
    low, high = rate_interval(np.zeros(46, dtype=bool), range(46))
    assert said(control=(0.0, low, high), groups=46).pairs == 73
    low, high = rate_interval(np.ones(24, dtype=bool), range(24))
    assert said((1.0, low, high), groups=24).pairs == 35


def test_more_groups_do_settle_what_was_undecided():
    """At the number that is named, fresh data are decided about as often as not; at ten times, mostly."""
    rng = np.random.default_rng(0)

    def draw(groups):
        hits = rng.random(groups) < 0.95
        return (hits.mean(), *rate_interval(hits, range(groups), resamples=500))

    first = verdicts_of(
        [flip(way, (0.95, 0.88, 1.0), groups=50) for way in ("to_reasoning", "to_memorization")]
    )["f"]
    assert first.pairs == 98
    later = [draw(3 * first.pairs)[1] >= RULE.answers for _ in range(40)]
    assert sum(later) >= 30


def test_words_and_rule_come_from_one_place():
    assert str(RULE).count("%") == 4
    assert "at least 90%" in str(RULE)
    assert said().sentence == SENTENCES["decides"]
    assert str(said((0.92, 0.87, 0.96))).startswith(
        "f: undecided whether a small set of neurons decides (to memory flips 92.0% [87.0%, 96.0%], "
        "expected at least 90%; some"
    )
    record = said((0.8, 0.7, 0.85)).record()
    assert (record["word"], record["sentence"]) == ("no", SENTENCES["no"])
    assert record["why"] == ["to memory flips 80.0% [70.0%, 85.0%], expected at least 90%"]


@pytest.mark.parametrize("word", SENTENCES)
def test_every_word_has_a_sentence_that_tells_it_apart(word):
    others = {text for name, text in SENTENCES.items() if name != word}
    assert all(not other.startswith(SENTENCES[word]) for other in others)


def test_a_terminal_shows_one_reason_and_counts_the_others():
    unsettled = said((0.92, 0.87, 0.96), control=(0.04, 0.01, 0.09))
    assert len(unsettled.why) == 2
    assert unsettled.brief.count("expected") == 1
    assert "; and 1 more; some " in unsettled.brief
    assert said().brief == str(said()) == f"f: {SENTENCES['decides']}"


def test_few_pairs_say_nothing_whatever_their_rates():
    few = said(groups=9)
    assert (few.word, few.few, few.settles) == ("undecided", True, "")
    assert str(few) == f"f: {SENTENCES['undecided']} (too few to say: 9 pairs, expected at least 10)"
    assert said(groups=10).word == "decides"
