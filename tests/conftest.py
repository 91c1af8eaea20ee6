"""Shared fixtures: the planted model, the organism. Nothing here reaches a network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The planted model, loaded through `nt.load_model`: it has a twin, so the suffix engine serves it."""
    from planted import planted_model

    return planted_model(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    """The planted model and its pairs, saved as a user would have them: 48 neurons × 12 pairs."""
    import json

    from planted import planted_model, planted_pairs

    from neurotrace.models.hooks import twin

    folder = tmp_path_factory.mktemp("planted")
    twin(planted_model(folder)).save_pretrained(folder)
    lines = "".join(json.dumps(pair.__dict__) + "\n" for pair in planted_pairs())
    (folder / "pairs.jsonl").write_text(lines)
    return folder


@pytest.fixture(scope="session")
def pairs():
    from planted import planted_pairs

    return planted_pairs()


@pytest.fixture(scope="session")
def encoded(model, pairs):
    from neurotrace.models.encoding import encode

    return encode(model, pairs)


@pytest.fixture(scope="session")
def organism():
    from neurotrace.models.loading import load_model

    return load_model("organism", device="cpu")


@pytest.fixture(scope="session")
def trust_study(organism):
    """A trust study of the organism, for all that shows, saves or reads one."""
    import neurotrace as nt

    prompts = [prompt for name in ("arithmetic", "inference") for prompt in nt.load_prompts(name)]
    return nt.trust_study(organism, prompts, k=4, off="zero")
