"""A sweep on a real Ray cluster of two nodes, one of which is killed mid-way."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import neurotrace as nt
from neurotrace.errors import InputError
from neurotrace.sweeps.folders import open_folder
from neurotrace.sweeps.manifest import read_manifest
from neurotrace.sweeps.parts import present

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def merged(folder: Path):
    nt.open_run(folder).merge(folder.with_suffix(".parquet"))
    return pq.read_table(folder.with_suffix(".parquet"))


def test_a_node_dies_and_nothing_is_lost(cluster, tmp_path):
    asked = nt.Sweep("organism", ("arithmetic",), max_pairs=60, part_rows=1536, threads=1)
    nt.sweep(asked, tmp_path / "here")
    second = cluster.add_node(num_cpus=1)
    killed = []

    def stop():
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
    again = nt.sweep_on_ray(asked, tmp_path / "there", address=cluster.address, workers=1)
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
