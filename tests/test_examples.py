"""The example in every public function's docstring: its calls fit the signatures; the quick ones run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

import neurotrace as nt

FUNCTIONS = sorted(name for name in nt.__all__ if inspect.isfunction(getattr(nt, name)))
# what these need takes long (another test runs it), or is not here: a hub, a folder, a file
NOT_RUN = {
    "ablate_experts",
    "about_detector",
    "chat_pairs",
    "checkpoints_of",
    "compare",
    "compare_runs",
    "detect",
    "explore",
    "export",
    "from_hub",
    "hook",
    "import_clean_corrupt",
    "import_counterfact",
    "import_pairs",
    "import_table",
    "inject",
    "injection_study",
    "load_detector",
    "load_model",
    "load_pairs",
    "load_run",
    "locate",
    "mine_pairs",
    "open_run",
    "overlap_of_tops",
    "plot_coverage",
    "plot_estimates",
    "plot_fusion",
    "plot_located",
    "plot_places",
    "plot_reliability",
    "plot_signals",
    "plot_sites",
    "plot_timeline",
    "plot_transfer",
    "plot_weights",
    "push_to_hub",
    "replicate",
    "routing",
    "save_detector",
    "save_run",
    "spearman",
    "study",
    "sweep",
    "sweep_on_ray",
    "timeline",
    "trust_study",
    "write_report",
}


def example(name: str) -> str:
    text = inspect.getdoc(getattr(nt, name)) or ""
    assert "Example::\n\n" in text, f"nt.{name} shows no example"
    return textwrap.dedent(text.partition("Example::\n\n")[2])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_calls_fit(name):
    """Every `nt.x(...)` exists and takes these arguments; the function itself is called in its own."""
    called = set()
    for node in ast.walk(ast.parse(example(name))):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "nt":
            getattr(nt, node.attr)
            called.add(node.attr)
        if isinstance(node, ast.Call) and getattr(getattr(node.func, "value", None), "id", "") == "nt":
            target = getattr(nt, node.func.attr)
            named = {each.arg: None for each in node.keywords}
            inspect.signature(target).bind(*node.args, **named)
    assert name in called


MADE = {"activations", "circuit", "pairs", "planted", "prompts", "scores", "test", "train"}


class Names(dict):
    """What the examples take for granted, made when first asked for."""

    def __init__(self, model):
        super().__init__(nt=nt, np=np, model=model, Path=Path, figure=go.Figure())

    def __missing__(self, name):
        if name == "activations":
            self[name] = nt.collect(self["model"], self["pairs"])
        elif name == "circuit":
            train, held_out = nt.split_pairs(nt.load_pairs("arithmetic"))
            found = nt.find_circuit(self["model"], train, k=8)
            self[name] = nt.calibrate(self["model"], nt.prompts_of(held_out), found)
        elif name == "pairs":
            self[name] = nt.encode(self["model"], nt.load_pairs("arithmetic")[:24])
        elif name == "planted":
            self[name] = self["scores"].top(8)
        elif name == "prompts":
            self[name] = nt.load_prompts("arithmetic")[:6]
        elif name == "scores":
            self[name] = nt.gradient(self["model"], self["pairs"])
        else:
            self["train"], self["test"] = nt.split_pairs(nt.load_pairs("arithmetic")[:32])
        return self[name]


@pytest.fixture(scope="module")
def names(organism):
    return Names(organism)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - NOT_RUN))
def test_the_example_runs(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = ast.parse(example(name))
    read = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    own = {each: names[each] for each in read & {*names, *MADE}}
    exec(compile(code, name, "exec"), own)
