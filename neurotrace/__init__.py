"""neurotrace: find the MLP neurons that make a language model recall or reason, and prove it.

Names are loaded when first used: `import neurotrace` doesn't import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "errors": ("InputError",),
    "neurons": ("Neuron", "NEURON_DEFINITION"),
    "records": ("probe_names",),
    "pairs": ("Fold", "PromptPair", "fold_pairs", "load_pairs", "split_pairs"),
    "prompts": ("Prompt", "load_prompts", "prompts_of"),
    "models": ("hook", "load_model"),
    "hooks": ("ModelInfo", "inspect_model"),
    "tokens": ("EncodedPairs", "encode"),
    "library.mining": ("Mined", "mine_pairs"),
    "library.importing": ("import_clean_corrupt", "import_counterfact", "import_table"),
    "library.chat": ("chat_pairs",),
    "activations": ("Activations", "Moments", "Reference", "collect", "moments"),
    "selection": ("reference",),
    "scores": ("Scores",),
    "rankers": (
        "contrast", "direct", "exact", "gradient", "hard_concrete", "integrated", "log_increase",
        "magnitude", "pearson", "random_scores", "relp", "slimming", "slope", "two_ended",
    ),
    "significance": ("GroupScores", "group_scores", "assess"),
    "overlaps": ("overlap",),
    "ablation": ("NeuronEffects", "ablate", "ablation_effects"),
    "ablation_sets": ("SetEffects", "ablate_sets", "greedy_set"),
    "ablation_top": ("Top", "ablate_top"),
    "interventions": (
        "Intervention", "mean", "patch", "random_signs", "scale", "set_to_mean", "shift", "steer",
        "zero",
    ),
    "effects": ("Effects", "measure"),
    "neutral": ("damage", "neutral_texts"),
    "generation": ("generate",),
    "answers": ("Answered", "answer"),
    "circuits": ("Circuit", "find_circuit"),
    "margins": ("Margins", "causal_margin"),
    "views": ("read_views", "view_names"),
    "detection": ("Detection", "detect"),
    "sites": ("Located", "locate"),
    "plotting_sites": ("plot_located",),
    "plotting_detectors": ("plot_sites", "plot_transfer", "plot_weights"),
    "trust_score": ("Trust", "calibrate", "trust"),
    "monitoring": ("Token", "monitor"),
    "plotting_trust": ("plot_coverage", "plot_margins", "plot_reliability", "plot_signals"),
    "plotting_monitor": ("plot_monitor",),
    "trust_judging": ("TrustStudy", "trust_study"),
    "detectors": (
        "FusedDetector", "InvariantDetector", "LinearDetector", "about_detector", "judge",
        "load_detector", "save_detector",
    ),
    "studies": ("Study", "study"),
    "plotting": (
        "plot_curves", "plot_estimates", "plot_flips", "plot_pairs", "plot_scores", "plot_volcano",
    ),
    "faithfulness": ("area", "curves", "overlap_of_tops", "recall", "spearman"),
    "timelines": ("checkpoints_of", "timeline"),
    "plotting_timeline": ("plot_timeline",),
    "injection": ("Fact", "Injection", "inject", "load_facts"),
    "injection_studies": ("injection_study",),
    "comparison": ("Comparison", "compare"),
    "plotting_style": ("save_figure", "template"),
    "explorer": ("Explorer", "explore"),
    "run_reading": ("Run", "load_run"),
    "report": ("write_report",),
    "runs": ("save_run",),
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
