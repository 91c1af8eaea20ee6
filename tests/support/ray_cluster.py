"""A Ray cluster for tests, on a machine that may be busy: Ray gives up on a node after 30 seconds."""

from __future__ import annotations

import warnings
from typing import Any

import psutil
from ray.cluster_utils import Cluster

TRIES = 3


def start_cluster(num_cpus: int) -> Cluster:
    """A cluster of one node."""
    cluster = Cluster()
    add_node(cluster, num_cpus=num_cpus, include_dashboard=False)
    return cluster


def add_node(cluster: Cluster, **options: Any) -> Any:
    for left in reversed(range(TRIES)):
        try:
            return cluster.add_node(**options)
        except Exception as error:  # Ray raises a plain one
            if not left:
                raise
            warnings.warn(f"a Ray node didn't start, trying again: {error}", stacklevel=2)
    raise AssertionError


def worker_processes(cluster: Cluster) -> list[psutil.Process]:
    """Those of the head node that are a sweep's workers."""
    raylet = cluster.head_node.all_processes["raylet"][0].process.pid
    return [
        one
        for one in psutil.Process(raylet).children(recursive=True)
        if _title(one).startswith("ray::Worker")
    ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
