"""neurotrace: find the MLP neurons that make a language model recall or reason, and prove it.

Names are loaded when first used: `import neurotrace` doesn't import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

_HOME = {
    "core.errors": ("InputError",),
    "core.neurons": ("Neuron", "NEURON_DEFINITION"),
    "core.records": ("probe_names",),
    "core.pairs": ("Fold", "PromptPair", "fold_pairs", "load_pairs", "split_pairs"),
    "core.prompts": ("Prompt", "load_prompts", "prompts_of"),
    "models.loading": ("hook", "load_model"),
    "models.hooks": ("ModelInfo", "inspect_model"),
    "models.encoding": ("EncodedPairs", "encode"),
    "probe_sets.mining": ("Mined", "mine_pairs"),
    "probe_sets.importing": ("import_clean_corrupt", "import_counterfact", "import_table"),
    "probe_sets.chat": ("chat_pairs",),
    "models.activations": ("Activations", "Moments", "collect", "moments"),
    "interventions.reference": ("Reference", "reference"),
    "core.scores": ("Scores",),
    "rankers.contrast": ("contrast", "pearson"),
    "rankers.direct": ("direct",),
    "rankers.exact": ("exact",),
    "rankers.gradient": ("gradient",),
    "rankers.hard_concrete": ("hard_concrete",),
    "rankers.integrated": ("integrated",),
    "rankers.log_increase": ("log_increase",),
    "rankers.magnitude": ("magnitude",),
    "rankers.random": ("random_scores",),
    "rankers.relp": ("relp",),
    "rankers.slimming": ("slimming",),
    "rankers.slope": ("slope",),
    "rankers.two_ended": ("two_ended",),
    "studies.significance": ("GroupScores", "group_scores", "assess"),
    "studies.overlap": ("overlap",),
    "ablation.neurons": ("NeuronEffects", "ablate", "ablation_effects"),
    "ablation.sets": ("SetEffects", "ablate_sets", "greedy_set"),
    "ablation.top": ("Top", "ablate_top"),
    "interventions.intervention": (
        "Intervention", "mean", "patch", "scale", "set_to_mean", "shift", "steer", "zero",
    ),
    "interventions.controls": ("random_signs",),
    "interventions.effects": ("Effects", "measure"),
    "interventions.damage": ("damage", "neutral_texts"),
    "interventions.generation": ("generate",),
    "answers.answered": ("Answered", "answer"),
    "answers.circuit": ("Circuit", "find_circuit"),
    "answers.margin": ("Margins", "causal_margin"),
    "answers.views": ("read_views", "view_names"),
    "answers.detection": ("Detection", "detect"),
    "studies.locate": ("Located", "locate"),
    "plots.sites": ("plot_located",),
    "plots.detectors": ("plot_sites", "plot_transfer", "plot_weights"),
    "answers.trust": ("Trust", "calibrate", "trust"),
    "answers.monitor": ("Token", "monitor"),
    "plots.trust": ("plot_coverage", "plot_margins", "plot_reliability", "plot_signals"),
    "plots.monitor": ("plot_monitor",),
    "answers.judging": ("TrustStudy", "trust_study"),
    "detectors": (
        "FusedDetector", "InvariantDetector", "LinearDetector", "about_detector", "judge",
        "load_detector", "save_detector",
    ),
    "studies.study": ("Study", "study"),
    "plots.effects": ("plot_curves", "plot_flips", "plot_pairs"),
    "plots.scores": ("plot_estimates", "plot_scores", "plot_volcano"),
    "studies.faithfulness": ("area", "curves", "overlap_of_tops", "recall", "spearman"),
    "studies.timeline": ("checkpoints_of", "timeline"),
    "plots.timeline": ("plot_timeline",),
    "studies.injection": ("Fact", "Injection", "inject", "load_facts"),
    "studies.injection_study": ("injection_study",),
    "studies.comparison": ("Comparison", "compare"),
    "plots.style": ("save_figure", "template"),
    "results.explorer": ("Explorer", "explore"),
    "results.reading": ("Run", "load_run"),
    "results.report": ("write_report",),
    "results.run": ("save_run",),
    "sweeps.asked": ("Sweep",),
    "sweeps.cluster": ("sweep_on_ray",),
    "sweeps.driver": ("sweep",),
    "sweeps.reading": ("SweepRun", "open_run"),
}  # fmt: skip
_module_of = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_module_of)]


def __getattr__(name: str) -> Any:
    if name not in _module_of:
        raise AttributeError(f"module 'neurotrace' has no attribute {name!r}")
    value = getattr(import_module(f"neurotrace.{_module_of[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
