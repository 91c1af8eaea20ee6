"""A sweep on a real Ray cluster of two nodes, one of which is killed mid-way."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import neurotrace as nt
from neurotrace.core.errors import InputError
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

    outcome = nt.sweep_on_ray(
        asked, tmp_path / "there", address=cluster.address, workers=2, stop=stop
    )
    assert outcome.complete
    assert 2 <= killed[0] < 50
    assert outcome.computed == 60
    assert merged(tmp_path / "there").equals(merged(tmp_path / "here"))
    with pytest.raises(InputError, match="holds another sweep: mode: was 'zero', is 'mean'"):
        nt.sweep_on_ray(
            nt.Sweep(**{**asked.record(), "mode": "mean"}), tmp_path / "there",
            address=cluster.address, workers=1,
        )  # fmt: skip
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
