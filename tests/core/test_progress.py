"""The line that says where a long command is."""

import pytest

from neurotrace.core.process import _Meter, bars, over


@pytest.fixture
def meter(monkeypatch):
    made = _Meter()
    monkeypatch.setattr(made, "every", 0.0)  # each finished item prints
    return made


def test_the_share_is_that_of_the_outer_loops(meter, capsys):
    for family in over(meter, ["a", "b"], "family", outer=True):
        for _ in over(meter, range(5), "fold", outer=True):
            for _ in over(meter, range(4), "asking"):
                pass
        assert meter.share() == {"a": 0.0, "b": 0.5}[family]  # an open item counts when it is finished
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "family 1 of 2, fold 1 of 5, asking 1 of 4: 0%"
    assert any(each.startswith("family 2 of 2, fold 3 of 5, asking 1 of 4: 70%") for each in told)
    shares = [int(each.split(": ")[1].split("%")[0]) for each in told]
    assert shares == sorted(shares)
    assert not meter.loops


def test_time_left_does_not_count_what_was_read_from_a_folder(meter, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("neurotrace.core.process.time.monotonic", lambda: now[0])
    for part in over(meter, range(10), "family"):
        now[0] += 60.0 if part >= 5 else 0.01  # five were finished in an earlier call
    told = capsys.readouterr().err.splitlines()
    assert told[4] == "family 5 of 10: 50%"
    assert told[6] == "family 7 of 10: 70%, 3 min left"


def test_nothing_is_printed_within_half_a_minute_or_when_quiet(capsys, monkeypatch):
    list(over(bars, range(100), "asking"))
    monkeypatch.setattr(bars, "every", 0.0)
    monkeypatch.setattr(bars, "silent", True)
    list(over(bars, range(100), "asking"))
    assert capsys.readouterr().err == ""


def test_after_an_error_no_loop_is_open(meter):
    def fails():
        for _ in over(meter, range(3), "outer"):
            for _ in over(meter, range(3), "inner"):
                raise ValueError

    with pytest.raises(ValueError), meter:  # noqa: PT011
        fails()
    assert not meter.loops
    assert meter.live is None
