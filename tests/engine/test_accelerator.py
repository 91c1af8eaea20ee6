"""The accelerator's benchmark: tiny, on the CPU, and on an accelerator where there is one."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

SPEC = spec_from_file_location("gpu", Path(__file__).parents[1] / "benchmarks" / "gpu.py")
gpu = module_from_spec(SPEC)
SPEC.loader.exec_module(gpu)
FOUND = torch.accelerator.current_accelerator()


@pytest.mark.parametrize("place", [torch.device("cpu"), *filter(None, [FOUND])], ids=str)
def test_the_device_gives_the_numbers_of_the_cpu(place):
    found = gpu.same_numbers(place, 16)
    assert found["pairs"][0] == found["pairs"][1] >= 12
    assert found["gradient_error"] < 1e-3
    assert found["exact_error"] < 1e-3
    assert found["same_top_64"] >= 60
    assert found["flips"][0] == found["flips"][1]


def test_its_cost_is_measured_beside_hooks():
    found = gpu.cost(torch.device("cpu"), gpu.TINY, 2, 16)
    assert found["neurons"] == 48
    assert found["share_of_rate"] > 0
    assert found["exact_ms"] > 0
    assert found["lens_batched_ms"] > 0
    assert found["peak_gib"] > 0
