"""GGUF files: edited, read back through our loader, and every other byte as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import neurotrace as nt
from neurotrace.core.errors import InputError
from neurotrace.core.pairs import PromptPair

gguf = pytest.importorskip("gguf")
from tiny_gguf import write_tiny_gguf  # noqa: E402

pytestmark = pytest.mark.bridge
NEURONS = [nt.Neuron(1, 3), nt.Neuron(1, 7), nt.Neuron(2, 2)]
SCALE = nt.scale(NEURONS, factor=3.0, direction="to_reasoning")
SHIFT = replace(SCALE, kind="shift", keep=torch.ones(3), offset=torch.tensor([1.0, -2.0, 0.5]))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def tiny(source):
    return nt.load_model(source, device="cpu")


@pytest.fixture(scope="module")
def pairs(tiny):
    made = [
        PromptPair(f"{a}{b}", "f", "t", f"{a}{b}", f"w{a}w{b}w1", f"w{a}w{b}w2", "3", "4")
        for a in range(4)
        for b in range(4)
    ]
    return nt.encode(tiny, made, check=False)


@pytest.mark.parametrize("change", [SCALE, SHIFT, replace(SHIFT, kind="set", keep=torch.zeros(3))])
def test_the_edited_file_answers_as_under_hooks(tiny, pairs, source, tmp_path, change):
    (proof,) = nt.export(tiny, change, "gguf", tmp_path, pairs=pairs, source=source).proofs.values()
    assert proof.difference < 1e-5  # the changed tensors are kept in float32: nothing is rounded again
    before, after = (
        {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}
        for path in (source, tmp_path / "model.gguf")
    )
    changed = {"blk.1.ffn_down.weight", "blk.2.ffn_down.weight"}
    for name in before.keys() - changed:
        assert before[name].tensor_type == after[name].tensor_type
        assert before[name].data.tobytes() == after[name].data.tobytes()
    assert all(name in changed or ".bias" in name for name in after.keys() - before.keys())
    fields = [gguf.GGUFReader(str(p)).fields for p in (source, tmp_path / "model.gguf")]
    mine = [{k: f.contents() for k, f in own.items() if not k.startswith("GGUF.")} for own in fields]
    assert mine[0] == mine[1]


def test_what_a_gguf_cannot_hold_is_refused(tiny, pairs, source, tmp_path, monkeypatch):
    patch = nt.patch(NEURONS, donor="reasoning")
    with pytest.raises(InputError, match="no weight edit can express patch"):
        nt.export(tiny, patch, "gguf", tmp_path, pairs=pairs, source=source)
    from neurotrace.exports import gguf_file

    monkeypatch.setattr(gguf_file, "_BIASED", ())
    with pytest.raises(InputError, match="constant shift in a GGUF file of the architecture llama"):
        nt.export(tiny, SHIFT, "gguf", tmp_path, pairs=pairs, source=source)
    assert not (tmp_path / "model.gguf").exists()
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="can't be read as GGUF"):
        nt.export(tiny, SCALE, "gguf", tmp_path, pairs=pairs, source=tmp_path / "bad.gguf")


def test_a_control_vector_is_laid_out_as_llama_cpp_reads_it(tiny, pairs, tmp_path):
    nt.export(tiny, SHIFT, "vector", tmp_path, pairs=pairs)
    reader = gguf.GGUFReader(str(tmp_path / "vector.gguf"))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [32]
