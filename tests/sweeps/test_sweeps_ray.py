"""A sweep on Ray: workers that die on demand, and by night a real cluster that loses a node."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray_stand_in import StandIn

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.sweeps import crew
from neurotrace.sweeps.folders import open_folder
from neurotrace.sweeps.manifest import read_manifest
from neurotrace.sweeps.parts import present

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray_cluster import start_cluster

    made = start_cluster(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def merged(folder: Path):
    nt.open_run(folder).merge(folder.with_suffix(".parquet"))
    return pq.read_table(folder.with_suffix(".parquet"))


@pytest.fixture
def asked(planted_folder):
    """Twelve parts, a pair each."""
    folder = str(planted_folder)
    return nt.Sweep(folder, (folder,), part_rows=48, threads=1)


def on_stand_in(monkeypatch, asked, out, dies, **options):
    """(what the sweep returns, the stand-in); `dies` is asked at each call to a worker."""
    stand_in = StandIn(dies)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", stand_in)
        found = nt.sweep_on_ray(asked, out, address="local", workers=2, **options)
    assert not stand_in.open
    return found, stand_in


@pytest.mark.parametrize("lost", [[], [("do", 3)], [("do", 0), ("do", 7), ("do", 7)], [("start", 0)]])
def test_what_a_lost_worker_held_is_done_by_another(asked, tmp_path, monkeypatch, lost):
    nt.sweep(asked, tmp_path / "here")
    left = list(lost)

    def dies(number, name, values):
        at = (name, values[0] if values else number)
        if at in left:
            left.remove(at)
            return True
        return False

    outcome, stand_in = on_stand_in(monkeypatch, asked, tmp_path / "there", dies)
    assert not left
    assert stand_in.hired == 2 + len(lost)
    assert (outcome.complete, outcome.computed) == (True, 12)
    assert merged(tmp_path / "there").equals(merged(tmp_path / "here"))
    again, _ = on_stand_in(monkeypatch, asked, tmp_path / "there", dies)
    assert (again.computed, again.done) == (0, 12)
    other = nt.Sweep(**{**asked.record(), "mode": "mean"})
    with pytest.raises(InputError, match="holds another sweep: mode: was 'zero', is 'mean'"):
        on_stand_in(monkeypatch, other, tmp_path / "there", dies)


def test_a_part_that_costs_three_workers_is_named_and_the_others_are_kept(asked, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="part 5 has cost 3 workers: is their memory enough"):
        on_stand_in(monkeypatch, asked, tmp_path, lambda _, name, values: values == (5,))
    assert set(range(5)) <= set(nt.open_run(tmp_path).parts)
    with pytest.raises(InputError, match="workers died while they loaded the model"):
        on_stand_in(monkeypatch, asked, tmp_path, lambda _, name, values: name == "start")


def test_a_stopped_sweep_keeps_what_is_under_way(asked, tmp_path, monkeypatch):
    asked_of = []

    def stop():
        asked_of.append(True)
        return len(asked_of) > 3

    found, _ = on_stand_in(monkeypatch, asked, tmp_path, lambda *_: False, stop=stop)
    assert 0 < found.computed < 12
    assert not found.complete
    assert len(nt.open_run(tmp_path).parts) == found.computed
    rest, _ = on_stand_in(monkeypatch, asked, tmp_path, lambda *_: False)
    assert rest.computed == 12 - found.computed


@pytest.mark.nightly
def test_a_node_dies_and_nothing_is_lost(cluster, tmp_path):
    asked = nt.Sweep("organism", ("arithmetic",), max_pairs=60, part_rows=1536, threads=1)
    nt.sweep(asked, tmp_path / "here")
    from ray_cluster import add_node

    second = add_node(cluster, num_cpus=1)
    killed = []

    def stop():
        if not killed:
            time.sleep(0.5)  # hands out parts slowly: the second worker may take longer to load
        if not killed and len(writers(tmp_path / "there")) == 2:
            cluster.remove_node(second, allow_graceful=False)
            killed.append(len(nt.open_run(tmp_path / "there").parts))
        return False

    outcome = nt.sweep_on_ray(asked, tmp_path / "there", address=cluster.address, workers=2, stop=stop)
    assert outcome.complete
    assert 2 <= killed[0] < 50
    assert outcome.computed == 60
    assert merged(tmp_path / "there").equals(merged(tmp_path / "here"))
    with pytest.raises(InputError, match="holds another sweep: mode: was 'zero', is 'mean'"):
        nt.sweep_on_ray(
            nt.Sweep(**{**asked.record(), "mode": "mean"}),
            tmp_path / "there",
            address=cluster.address,
            workers=1,
        )
    url = f"file://{tmp_path}/there"
    again = nt.sweep_on_ray(asked, url, address=cluster.address, workers=1)
    assert (again.computed, again.done) == (0, 60)


def writers(out: Path) -> set[int]:
    """Processes that wrote parts: with a processor a node, one on each."""
    folder = open_folder(out)
    manifest = read_manifest(folder)
    notes = present(folder, manifest)[0].values() if manifest else []
    return {note["pid"] for note in notes}


def test_no_cluster_is_said_in_a_line(tmp_path):
    with pytest.raises(InputError, match="no Ray cluster at 'nowhere'"):
        nt.sweep_on_ray(nt.Sweep("organism", ("letters",)), tmp_path, address="nowhere")
    with pytest.raises(InputError, match="workers is -2"):
        nt.sweep_on_ray(nt.Sweep("organism", ("letters",)), tmp_path, address="local", workers=-2)


def test_a_slow_start_is_tried_again(tmp_path, monkeypatch):
    tried = []

    def slow(**options):
        tried.append(options["address"])
        raise Exception("The current node timed out during startup. And more")

    monkeypatch.setattr(ray, "init", slow)
    with (
        pytest.warns(UserWarning, match=r"Ray did not start \(The current node timed out.* again"),
        pytest.raises(InputError, match=r"tried 3 times .*timed out.*: is it busy\?"),
    ):
        nt.sweep_on_ray(nt.Sweep("organism", ("letters",)), tmp_path, address="local")
    assert tried == ["local"] * 3


def test_a_closed_address_is_refused_at_once(asked, tmp_path):
    with socket.socket() as held:  # bound, but nobody listens
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
            start = time.monotonic()
            with pytest.raises(InputError, match="no Ray cluster at"):
                nt.sweep_on_ray(asked, tmp_path / "run", address=address)
            assert time.monotonic() - start < 15


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_where_something_else_answers_is_refused(asked, tmp_path, monkeypatch, words):
    monkeypatch.setattr(crew, "_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer():
            there, _ = other.accept()
            with there:
                there.sendall(words)
                there.recv(1000)
                time.sleep(1.0 if not words else 0.0)  # silence, too, ends

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(InputError, match=r"not Ray|timed out"):
            nt.sweep_on_ray(asked, tmp_path / "run", address=f"127.0.0.1:{port}")


LOCAL = """
import json, psutil, sys
from neurotrace.sweeps import crew
if sys.argv[1] == "imported": import ray
ray = crew.connect("local", 1)
ray.get(ray.remote(lambda: 1).remote())
me = psutil.Process()
found = [c.laddr.ip for p in [me, *me.children(recursive=True)] for c in p.net_connections("inet")
         if c.status == "LISTEN"]
print(json.dumps(found))
"""


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["imported", "not"])
def test_a_local_ray_listens_on_the_loopback_only(when):
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, when], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 4
    assert {ip.removeprefix("::ffff:") for ip in found} == {"127.0.0.1"}
