"""A `HookedTransformer` and a bridge of the same weights give the same scores and effects.

Only where transformer-lens still has the older class: `make test-tl39`.
"""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch
from families import FAMILIES, WORDS, build, random_pairs
from generations import LOADABLE, hooked_transformer
from planted import word_tokenizer

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.sides import DIRECTIONS
from neurotrace.interventions.intervention import make
from neurotrace.interventions.kinds import KINDS
from neurotrace.models.encoding import encode
from neurotrace.models.origins import tokenizer_of, twin
from neurotrace.rankers.registry import RANKERS

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(version("transformer-lens") >= "4", reason="no HookedTransformer any more"),
]
QUICK = {"integrated": {"steps": 2}, "slimming": {"steps": 2}, "hard_concrete": {"steps": 2}}
MODELS = ["organism", *(name for name in LOADABLE if name in FAMILIES)]


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    """(HookedTransformer, bridge, pairs encoded once, without the BOS that the former prepends)."""
    if request.param == "organism":
        bridge = nt.load_model("organism", device="cpu")
        older = hooked_transformer(twin(bridge), tokenizer_of(bridge))
        return older, bridge, encode(bridge, nt.load_pairs("arithmetic")[:6])
    tokenizer = word_tokenizer(tmp_path_factory.mktemp("words"), WORDS)
    older = hooked_transformer(build(request.param), tokenizer)
    bridge = nt.load_model(build(request.param), tokenizer, name=request.param)
    return older, bridge, encode(bridge, random_pairs(4), check=False)


def test_which_is_which(both):
    older, bridge, _ = both
    assert nt.load_model(older) is older
    assert [nt.inspect_model(m).kind for m in (older, bridge)] == [
        "HookedTransformer",
        "TransformerBridge",
    ]


@pytest.mark.parametrize("name", RANKERS)
def test_scores_are_the_same(both, name):
    older, bridge, encoded = both
    rank = RANKERS[name].function
    if name in ("relp", "imprint"):  # they read transformers' own modules
        with pytest.raises(InputError, match=r"nt\.load_model"):
            rank(older, encoded)
        return
    if name == "exact" and nt.inspect_model(older).n_neurons > 1000:
        encoded = encoded.at([0])
    options = QUICK.get(name, {})
    one, other = rank(older, encoded, **options), rank(bridge, encoded, **options)
    assert torch.allclose(one.value, other.value, atol=1e-4, rtol=0, equal_nan=True)


def test_effects_are_the_same(both):
    older, bridge, encoded = both
    reference = nt.reference(bridge, encoded)
    neurons = [nt.Neuron(0, 1), nt.Neuron(1, 33), nt.Neuron(3, 60)]
    some = [
        make(kind, neurons, reference, direction=direction) for kind in KINDS for direction in DIRECTIONS
    ]
    one, other = (nt.measure(model, encoded, some).to_frame() for model in (older, bridge))
    assert (other["L_after"] - other["L_before"]).abs().max() > 1e-2
    assert (one["L_after"] - other["L_after"]).abs().max() < 1e-4
    assert (one["top_after"] == other["top_after"]).all()
