"""Threads, torch's modes: calls on one model take turns; inference mode and autocast change nothing."""

from __future__ import annotations

import inspect
import threading
import time

import pytest
import torch
from families import family_model, random_pairs

import neurotrace as nt
from neurotrace.models.origins import twin

pytestmark = pytest.mark.bridge
IDS = torch.tensor([[1, 7, 9, 2], [3, 8, 4, 1]])
TIMES = 5  # how often each thread does its work


def live_hooks(model) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())


def at_once(*works):
    """Run each in a thread of its own, all beginning together; raise what one of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work):
        try:
            start.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(params=["engine", "hooks"])
def shared(request, tmp_path, monkeypatch):
    """A model that several threads work on: by the suffix engine, or by full passes with hooks."""
    model = family_model("llama", tmp_path)
    if request.param == "hooks":
        model.__dict__["_neurotrace_origin"].twin = None
    assert (twin(model) is None) == (request.param == "hooks")
    return model


def test_threads_get_what_one_alone_gets(shared):
    pairs = random_pairs(4)
    encoded = nt.encode(shared, pairs, check=False)
    zero = nt.zero([nt.Neuron(1, 3), nt.Neuron(2, 7)], direction="to_memorization")
    works = {
        "encode": lambda: nt.encode(shared, pairs, check=False).on_reasoning.logit_difference,
        "measure": lambda: torch.tensor(
            nt.measure(shared, encoded, [zero]).to_frame()["L_after"].to_numpy()
        ),
        "gradient": lambda: nt.gradient(shared, encoded).value,
        "ablate": lambda: nt.ablate(shared, encoded, [nt.Neuron(0, 3), nt.Neuron(2, 5)]).value,
    }
    if twin(shared) is not None:
        works["relp"] = lambda: nt.relp(shared, encoded).value
    alone = {name: work() for name, work in works.items()}
    logits = shared(IDS)
    hooks = live_hooks(shared)

    def repeat(name):
        def run():
            for _ in range(TIMES):
                found = works[name]()
                assert torch.allclose(found, alone[name], atol=1e-5, equal_nan=True), name

        return run

    def own_passes():
        for _ in range(20 * TIMES):
            assert torch.equal(shared(IDS), logits)

    at_once(*(repeat(name) for name in works), own_passes, repeat("encode"))
    assert live_hooks(shared) == hooks
    assert torch.equal(shared(IDS), logits)
    for name, work in works.items():
        assert torch.allclose(work(), alone[name], atol=1e-5, equal_nan=True), name


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_the_users_own_pass_beside_hooked_ones(tmp_path, name):
    """OPT's hooks are told the shape of the pass by its blocks: of this pass, not of another."""
    model = family_model(name, tmp_path)
    model.__dict__["_neurotrace_origin"].twin = None
    encoded = nt.encode(model, random_pairs(4), check=False)
    expected = nt.gradient(model, encoded).value
    shapes = [IDS, IDS[:1, :3], torch.arange(1, 9)[None].expand(3, -1)]
    logits = [model(ids) for ids in shapes]
    done = threading.Event()

    def work():
        try:
            for _ in range(2 * TIMES):
                assert torch.allclose(nt.gradient(model, encoded).value, expected, atol=1e-5)
        finally:
            done.set()

    def own():
        while not done.is_set():
            for ids, found in zip(shapes, logits, strict=True):
                assert torch.equal(model(ids), found)

    at_once(work, own, own)


def test_a_second_call_waits_for_the_first(shared):
    encoded = nt.encode(shared, random_pairs(4), check=False)
    order, inside = [], threading.Event()

    def slowly(items, description=""):
        inside.set()
        time.sleep(0.3)
        order.append("first")
        return items

    def second():
        inside.wait()
        nt.encode(shared, random_pairs(2), check=False)
        order.append("second")

    at_once(lambda: nt.collect(shared, encoded, progress=slowly), second)
    assert order[-1] == "second"
    assert order.count("first") == 2  # both sides, before the second call


def test_the_users_own_pass_does_not_wait_for_a_whole_call(shared):
    encoded = nt.encode(shared, random_pairs(4), check=False)
    expected, went_through = shared(IDS), []

    def beside(items, description=""):
        thread = threading.Thread(target=lambda: went_through.append(shared(IDS)))
        thread.start()
        thread.join(timeout=20)
        return items

    nt.collect(shared, encoded, progress=beside)
    assert len(went_through) == 2
    assert all(torch.equal(each, expected) for each in went_through)


def test_an_injected_fact_is_not_met_by_another_thread(organism):
    model, fact = organism, nt.load_facts("facts-organism")[0]
    encoded = nt.encode(model, nt.load_pairs("arithmetic")[:2], check=False)
    before = nt.contrast(model, encoded).value
    seen, inside = [], threading.Event()

    def teach():
        try:
            with nt.inject(model, fact, fraction=0.05):
                assert not torch.allclose(nt.contrast(model, encoded).value, before)
                inside.set()
                time.sleep(0.3)
        finally:
            inside.set()

    def look():
        inside.wait()
        seen.append(nt.contrast(model, encoded).value)

    at_once(teach, look)
    assert torch.equal(seen[0], before)


def test_every_public_function_that_runs_a_model_takes_turns():
    """But those that only load one, or keep to turns by themselves."""
    apart = {"inspect_model", "inject", "checkpoints_of"}
    missed = [
        name
        for name in nt.__all__
        if inspect.isfunction(function := getattr(nt, name))
        and "model" in inspect.signature(function).parameters
        and not hasattr(function, "takes_turns")
    ]
    assert set(missed) == apart
    assert hasattr(nt.Circuit.check, "takes_turns")
