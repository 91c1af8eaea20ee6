"""Shared fixtures: the planted model, the organism. Nothing here reaches a network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from planted import planted_model, planted_pairs

from neurotrace.models.encoding import encode
from neurotrace.models.loading import load_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The planted model, loaded through `nt.hook`: it has a twin, so the suffix engine serves it."""
    return planted_model(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def pairs():
    return planted_pairs()


@pytest.fixture(scope="session")
def encoded(model, pairs):
    return encode(model, pairs)


@pytest.fixture(scope="session")
def organism():
    return load_model("organism", device="cpu")
