"""Finished units of work: kept, read back, checked, refused by name, and gone in the end."""

from __future__ import annotations

import contextlib
import os
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import torch

import neurotrace as nt
from neurotrace.core import writing
from neurotrace.core.errors import InputError
from neurotrace.folders.sealing import sealing
from neurotrace.folders.units import ARRAYS, JSON, TABLE, Units, Waiting, many, several

CONTENT = {"command": "squares", "seed": 0, "ks": (1, 2), "model": {"weights_sha256": "ab"}}
RECORD = {"format": "neurotrace.squares/1"}


class Work:
    """Squares, with a count of those that were computed."""

    def __init__(self, folder, *, content=CONTENT, overwrite=False, stop=99):
        self.computed, self.stop = [], stop
        self.units = Units(folder, overwrite=overwrite)
        self.units.begin(content)

    def square(self, number):
        if len(self.computed) == self.stop:
            raise KeyboardInterrupt
        self.computed.append(number)
        return number**2

    def run(self):
        return [self.units.once(f"of {n}", JSON, lambda n=n: self.square(n)) for n in range(6)]


def places(folder):
    return sorted(path for path in (folder / "unfinished").iterdir() if path.is_dir())


def test_the_same_call_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path, stop=2).run()
    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path, stop=3).run()
    assert len(places(tmp_path)) == 5
    last = Work(tmp_path)
    assert (last.run(), last.computed) == ([0, 1, 4, 9, 16, 25], [5])
    with sealing(tmp_path, ["a"], RECORD):
        (tmp_path / "a").write_text("done")
    assert sorted(os.listdir(tmp_path)) == ["a", "manifest.json"]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        work = Work(None)
        assert len(work.run()) == len(work.computed) == 6
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: was 0, is 1"),
        ({"model": {"weights_sha256": "cd"}}, "model.weights_sha256: was 'ab', is 'cd'"),
        ({"command": "cubes"}, "command: was 'squares', is 'cubes'"),
        ({"ks": (1, 2, 3)}, r"ks: was \[1, 2\], is \[1, 2, 3\]"),
        ({"new": 1}, "new: was None, is 1"),
    ],
)
def test_another_call_is_refused_by_name(change, named, tmp_path):
    Work(tmp_path).run()
    with pytest.raises(InputError, match=named):
        Work(tmp_path, content=CONTENT | change)
    assert Work(tmp_path).run()[-1] == 25
    again = Work(tmp_path, content=CONTENT | change, overwrite=True)
    assert (len(again.run()), len(again.computed)) == (6, 6)
    same = Work(tmp_path, content=CONTENT | change, overwrite=True)  # goes on
    assert (len(same.run()), len(same.computed)) == (6, 0)


def test_each_flipped_bit_is_noticed_and_the_unit_done_again(tmp_path):
    expected = Work(tmp_path).run()
    draw = random.Random(0)
    for _ in range(60):
        path = draw.choice(sorted(p for place in places(tmp_path) for p in place.iterdir()))
        raw = bytearray(path.read_bytes())
        bit = draw.randrange(8 * len(raw))
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        work = Work(tmp_path)
        with pytest.warns(UserWarning, match="done again"):
            assert work.run() == expected
        assert len(work.computed) == 1


def test_a_damaged_manifest_costs_all_units_and_no_result(tmp_path):
    expected = Work(tmp_path).run()
    path = tmp_path / "unfinished" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    with pytest.warns(UserWarning, match="damaged"):
        work = Work(tmp_path, content=CONTENT | {"seed": 1})
    assert (work.run(), len(work.computed)) == (expected, 6)


@pytest.mark.parametrize("what", ["folder", "unit", "file"])
def test_no_link_is_followed(what, tmp_path):
    home, outside = tmp_path / "home", tmp_path / "outside"
    Work(home).run()
    target = {"folder": home / "unfinished", "unit": places(home)[0]}.get(what)
    target = target or places(home)[0] / "value.json"
    target.rename(outside)
    target.symlink_to(outside)
    before = {path: path.read_bytes() for path in tmp_path.glob("outside/**/*") if path.is_file()}
    if what == "folder":
        with pytest.raises(InputError, match="symbolic link"):
            Work(home)
    else:
        with pytest.warns(UserWarning, match="done again"):
            Work(home).run()
    assert outside.exists()
    assert {path: path.read_bytes() for path in before} == before


def test_a_unit_of_another_name_is_not_taken(tmp_path):
    expected = Work(tmp_path).run()
    first, second, *_ = places(tmp_path)
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    with pytest.warns(UserWarning, match="not a unit of this work"):
        assert Work(tmp_path).run() == expected


def test_what_a_cut_write_leaves_goes(tmp_path, monkeypatch):
    Work(tmp_path).run()
    left = tmp_path / "unfinished" / ".of_9-0123456789ab.0a1b2c3d"
    (left / "new").mkdir(parents=True)
    (tmp_path / "unfinished" / ".hidden").write_text("")
    Work(tmp_path)
    assert not left.exists()
    assert (tmp_path / "unfinished" / ".hidden").exists()


def test_files_without_a_manifest_are_replaced_where_work_goes_on(tmp_path):
    (tmp_path / "a").write_text("half of a result")
    with pytest.raises(InputError, match="already holds a"):
        writing.prepare_folder(tmp_path, ["a", "manifest.json"])
    Work(tmp_path).run()
    writing.prepare_folder(tmp_path, ["a", "manifest.json"])
    with sealing(tmp_path, ["a"], RECORD):
        pass
    with pytest.raises(InputError, match="already holds a"):
        writing.prepare_folder(tmp_path, ["a", "manifest.json"])
    Work(tmp_path).run()  # does not make a finished folder one that may be replaced
    for names in (["a", "manifest.json"], ["a"]):
        with pytest.raises(InputError, match="already holds a"):
            writing.prepare_folder(tmp_path, names)
    writing.prepare_folder(tmp_path, ["b", "manifest.json"])  # of another command


def test_values_come_back_as_they_were(tmp_path):
    torch.manual_seed(0)
    scores = (
        nt.Scores("gradient", torch.randn(2, 3)),
        nt.Scores("exact", torch.tensor([[torch.nan, 1, -0.0]])),
    )
    frame = pd.DataFrame({"a": [1, 2], "b": [0.1, float("nan")], "c": ["x", "y"], "d": [True, False]})
    said = {"p": 0.1 + 0.2, "tiny": 5e-324, "nan": float("nan"), "text": "\u2028ä\x1b", "none": None}
    arrays = {
        "f": np.float32([1 / 3, np.nan]),
        "i": np.arange(3),
        "empty": np.zeros((0, 2)),
        "b": np.array([True]),
    }
    form = several(scores=many(nt.Scores), table=TABLE, said=JSON, arrays=ARRAYS)
    made = {"scores": scores, "table": frame, "said": said, "arrays": arrays}
    found = []
    for _ in range(2):
        units = Units(tmp_path)
        units.begin({})
        found.append(units.once("everything: ä/../x", form, lambda: made))
    for each in found:
        pd.testing.assert_frame_equal(each["table"], frame)
        assert repr(each["said"]) == repr(said)
        for name, array in arrays.items():
            assert each["arrays"][name].tobytes() == array.tobytes()
            assert each["arrays"][name].dtype == array.dtype
        for was, now in zip(scores, each["scores"], strict=True):
            assert (was.method, was.unit) == (now.method, now.unit)
            assert torch.equal(was.value.view(torch.int32), now.value.view(torch.int32))
    (place,) = places(tmp_path)
    assert place.parent == tmp_path / "unfinished"


def made(folder, log, **how):
    """Six independent squares by `each`, and whether the call could go on to their sum."""
    units = Units(folder, **how)
    units.begin(CONTENT)

    def square(number):
        log.append(number)
        return number**2

    jobs = {n: (f"of {n}", lambda n=n: square(n)) for n in range(6)}
    found = units.each(JSON, jobs)
    assert not jobs  # a job that is done holds no memory
    return sum(found.values())


def in_turn(folder, how):
    """`made` in a process of its own, as locks are a process's: its log, and its sum or None."""
    log: list[int] = []
    writing._held.clear()  # the parent's; a fork has none of its own
    try:
        return log, made(folder, log, **how)
    except Waiting:
        return log, None


def elsewhere(folder, how):
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as one:
        return one.submit(in_turn, folder, how).result()


def test_shards_take_their_share_and_the_last_call_takes_the_rest(tmp_path):
    calls = [{"shard": "1/3"}, {"shard": "3/3"}, {"shard": "1/3"}, {"shard": "2/3"}, {}]
    found = [elsewhere(tmp_path, how) for how in calls]
    assert found == [([0, 3], None), ([2, 5], None), ([], None), ([1, 4], 55), ([], 55)]


def test_two_of_one_shard_and_a_whole_call_beside_a_shard_are_refused(tmp_path):
    holder = Units(tmp_path, shard="1/2")
    holder.begin(CONTENT)
    for how in ({"shard": "1/2"}, {}):
        with pytest.raises(InputError, match="is being written by"):
            elsewhere(tmp_path, how)
    assert elsewhere(tmp_path, {"shard": "2/2"}) == ([1, 3, 5], None)


def test_a_farm_is_sent_what_is_missing(tmp_path):
    log, sent = [], []

    def farm(names):
        sent.append(names)
        for name in names[:-1]:  # the last one is lost
            with contextlib.suppress(Waiting):
                made(tmp_path, log, only=frozenset([name]))

    assert made(tmp_path, log, farm=farm) == 55
    assert sent == [[f"of {n}" for n in range(6)]]
    assert log == [0, 1, 2, 3, 4, 5]
    assert made(tmp_path, log, farm=farm) == 55
    assert len(sent) == 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_is_i_of_n(shard):
    with pytest.raises(InputError, match="expected i/n"):
        Units("x", shard=shard)
