"""neurotrace: find the MLP neurons that make a language model recall or reason, and prove it.

Names are loaded when first used: `import neurotrace` doesn't import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# what editors and type checkers see; tests/test_public_page.py holds it to `_HOME`
if TYPE_CHECKING:
    from neurotrace.ablation.experts import (
        ExpertEffects as ExpertEffects,
        ablate_experts as ablate_experts,
    )
    from neurotrace.ablation.neurons import (
        NeuronEffects as NeuronEffects,
        ablate as ablate,
        ablation_effects as ablation_effects,
    )
    from neurotrace.ablation.sets import (
        SetEffects as SetEffects,
        ablate_sets as ablate_sets,
        greedy_set as greedy_set,
    )
    from neurotrace.ablation.top import Top as Top, ablate_top as ablate_top
    from neurotrace.answers.answered import Answered as Answered, answer as answer
    from neurotrace.answers.circuit import Circuit as Circuit, find_circuit as find_circuit
    from neurotrace.answers.detection import Detection as Detection, detect as detect
    from neurotrace.answers.judging import TrustStudy as TrustStudy, trust_study as trust_study
    from neurotrace.answers.margin import (
        Margins as Margins,
        Token as Token,
        causal_margin as causal_margin,
        monitor as monitor,
    )
    from neurotrace.answers.trust import Trust as Trust, calibrate as calibrate, trust as trust
    from neurotrace.answers.views import read_views as read_views, view_names as view_names
    from neurotrace.core.display import to_dataset as to_dataset
    from neurotrace.core.errors import InputError as InputError
    from neurotrace.core.neurons import NEURON_DEFINITION as NEURON_DEFINITION, Neuron as Neuron
    from neurotrace.core.pairs import (
        Fold as Fold,
        PromptPair as PromptPair,
        fold_pairs as fold_pairs,
        load_pairs as load_pairs,
        split_pairs as split_pairs,
    )
    from neurotrace.core.prompts import (
        Prompt as Prompt,
        load_prompts as load_prompts,
        prompts_of as prompts_of,
    )
    from neurotrace.core.records import probe_names as probe_names
    from neurotrace.core.scores import Scores as Scores
    from neurotrace.detectors import (
        FusedDetector as FusedDetector,
        InvariantDetector as InvariantDetector,
        LinearDetector as LinearDetector,
        about_detector as about_detector,
        judge as judge,
        load_detector as load_detector,
        save_detector as save_detector,
    )
    from neurotrace.exports.export import Export as Export, export as export
    from neurotrace.folders.units import Units as Units
    from neurotrace.fusion import DeepFusion as DeepFusion
    from neurotrace.interventions.continuing import generate as generate
    from neurotrace.interventions.controls import random_signs as random_signs
    from neurotrace.interventions.damage import damage as damage, neutral_texts as neutral_texts
    from neurotrace.interventions.effects import Effects as Effects, measure as measure
    from neurotrace.interventions.intervention import (
        Intervention as Intervention,
        mean as mean,
        patch as patch,
        scale as scale,
        set_to_mean as set_to_mean,
        shift as shift,
        steer as steer,
        zero as zero,
    )
    from neurotrace.interventions.reference import Reference as Reference, reference as reference
    from neurotrace.locating.deciding import decided_by as decided_by
    from neurotrace.locating.locate import Located as Located, locate as locate
    from neurotrace.models.activations import (
        Activations as Activations,
        Moments as Moments,
        collect as collect,
        moments as moments,
    )
    from neurotrace.models.encoding import EncodedPairs as EncodedPairs, encode as encode
    from neurotrace.models.hooks import ModelInfo as ModelInfo, inspect_model as inspect_model
    from neurotrace.models.loading import load_model as load_model
    from neurotrace.models.origins import routing as routing
    from neurotrace.plots.detectors import (
        plot_sites as plot_sites,
        plot_transfer as plot_transfer,
        plot_weights as plot_weights,
    )
    from neurotrace.plots.effects import plot_curves as plot_curves, plot_flips as plot_flips
    from neurotrace.plots.fusion import plot_fusion as plot_fusion
    from neurotrace.plots.monitor import plot_monitor as plot_monitor
    from neurotrace.plots.pairs import plot_pairs as plot_pairs
    from neurotrace.plots.scores import (
        plot_estimates as plot_estimates,
        plot_scores as plot_scores,
        plot_volcano as plot_volcano,
    )
    from neurotrace.plots.sites import plot_located as plot_located, plot_places as plot_places
    from neurotrace.plots.style import save_figure as save_figure, template as template
    from neurotrace.plots.timeline import plot_timeline as plot_timeline
    from neurotrace.plots.trust import (
        plot_coverage as plot_coverage,
        plot_margins as plot_margins,
        plot_reliability as plot_reliability,
        plot_signals as plot_signals,
    )
    from neurotrace.probe_sets.chat import chat_pairs as chat_pairs
    from neurotrace.probe_sets.diagnosing import Diagnosis as Diagnosis, diagnose as diagnose
    from neurotrace.probe_sets.drafting import draft_pairs as draft_pairs
    from neurotrace.probe_sets.importing import (
        import_clean_corrupt as import_clean_corrupt,
        import_counterfact as import_counterfact,
        import_pairs as import_pairs,
        import_table as import_table,
    )
    from neurotrace.probe_sets.mending import Mended as Mended, mend_pairs as mend_pairs
    from neurotrace.probe_sets.mining import Mined as Mined, mine_pairs as mine_pairs
    from neurotrace.rankers.contrast import contrast as contrast, pearson as pearson
    from neurotrace.rankers.direct import direct as direct
    from neurotrace.rankers.exact import exact as exact
    from neurotrace.rankers.gradient import gradient as gradient
    from neurotrace.rankers.hard_concrete import hard_concrete as hard_concrete
    from neurotrace.rankers.integrated import integrated as integrated
    from neurotrace.rankers.log_increase import log_increase as log_increase
    from neurotrace.rankers.magnitude import magnitude as magnitude
    from neurotrace.rankers.random import random_scores as random_scores
    from neurotrace.rankers.relp import relp as relp
    from neurotrace.rankers.screened import screened as screened
    from neurotrace.rankers.slimming import slimming as slimming
    from neurotrace.rankers.slope import slope as slope
    from neurotrace.rankers.two_ended import two_ended as two_ended
    from neurotrace.recipes.replicate import Replication as Replication, replicate as replicate
    from neurotrace.results.comparing import (
        RunComparison as RunComparison,
        compare_runs as compare_runs,
    )
    from neurotrace.results.explorer import Explorer as Explorer, explore as explore
    from neurotrace.results.reading import Run as Run, load_run as load_run
    from neurotrace.results.report import write_report as write_report
    from neurotrace.results.run import save_run as save_run
    from neurotrace.results.sharing import from_hub as from_hub, push_to_hub as push_to_hub
    from neurotrace.studies.comparison import Comparison as Comparison, compare as compare
    from neurotrace.studies.faithfulness import (
        area as area,
        curves as curves,
        overlap_of_tops as overlap_of_tops,
        recall as recall,
        spearman as spearman,
    )
    from neurotrace.studies.injection import (
        Fact as Fact,
        Injection as Injection,
        inject as inject,
        load_facts as load_facts,
    )
    from neurotrace.studies.injection_study import injection_study as injection_study
    from neurotrace.studies.overlap import overlap as overlap
    from neurotrace.studies.significance import (
        GroupScores as GroupScores,
        assess as assess,
        group_scores as group_scores,
    )
    from neurotrace.studies.study import Study as Study, study as study
    from neurotrace.studies.timeline import checkpoints_of as checkpoints_of, timeline as timeline
    from neurotrace.studies.verdict import Verdict as Verdict
    from neurotrace.sweeps.asked import Sweep as Sweep
    from neurotrace.sweeps.cluster import sweep_on_ray as sweep_on_ray
    from neurotrace.sweeps.driver import sweep as sweep
    from neurotrace.sweeps.reading import SweepRun as SweepRun, open_run as open_run

__version__ = "0.2.0.dev0"

_HOME = {
    "core.display": ("to_dataset",),
    "core.errors": ("InputError",),
    "core.neurons": ("Neuron", "NEURON_DEFINITION"),
    "core.records": ("probe_names",),
    "core.pairs": ("Fold", "PromptPair", "fold_pairs", "load_pairs", "split_pairs"),
    "core.prompts": ("Prompt", "load_prompts", "prompts_of"),
    "models.loading": ("load_model",),
    "models.origins": ("routing",),
    "models.hooks": ("ModelInfo", "inspect_model"),
    "models.encoding": ("EncodedPairs", "encode"),
    "probe_sets.mining": ("Mined", "mine_pairs"),
    "probe_sets.diagnosing": ("Diagnosis", "diagnose"),
    "probe_sets.mending": ("Mended", "mend_pairs"),
    "probe_sets.drafting": ("draft_pairs",),
    "probe_sets.importing": (
        "import_clean_corrupt",
        "import_counterfact",
        "import_pairs",
        "import_table",
    ),
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
    "rankers.screened": ("screened",),
    "rankers.slimming": ("slimming",),
    "rankers.slope": ("slope",),
    "rankers.two_ended": ("two_ended",),
    "studies.significance": ("GroupScores", "group_scores", "assess"),
    "studies.overlap": ("overlap",),
    "ablation.experts": ("ExpertEffects", "ablate_experts"),
    "ablation.neurons": ("NeuronEffects", "ablate", "ablation_effects"),
    "ablation.sets": ("SetEffects", "ablate_sets", "greedy_set"),
    "ablation.top": ("Top", "ablate_top"),
    "exports.export": ("Export", "export"),
    "interventions.continuing": ("generate",),
    "interventions.intervention": (
        "Intervention",
        "mean",
        "patch",
        "scale",
        "set_to_mean",
        "shift",
        "steer",
        "zero",
    ),
    "folders.units": ("Units",),
    "interventions.controls": ("random_signs",),
    "interventions.effects": ("Effects", "measure"),
    "interventions.damage": ("damage", "neutral_texts"),
    "answers.answered": ("Answered", "answer"),
    "answers.circuit": ("Circuit", "find_circuit"),
    "answers.margin": ("Margins", "Token", "causal_margin", "monitor"),
    "answers.views": ("read_views", "view_names"),
    "answers.detection": ("Detection", "detect"),
    "locating.deciding": ("decided_by",),
    "locating.locate": ("Located", "locate"),
    "plots.sites": ("plot_located", "plot_places"),
    "plots.detectors": ("plot_sites", "plot_transfer", "plot_weights"),
    "answers.trust": ("Trust", "calibrate", "trust"),
    "plots.trust": ("plot_coverage", "plot_margins", "plot_reliability", "plot_signals"),
    "plots.fusion": ("plot_fusion",),
    "plots.monitor": ("plot_monitor",),
    "answers.judging": ("TrustStudy", "trust_study"),
    "detectors": (
        "FusedDetector",
        "InvariantDetector",
        "LinearDetector",
        "about_detector",
        "judge",
        "load_detector",
        "save_detector",
    ),
    "fusion": ("DeepFusion",),
    "studies.study": ("Study", "study"),
    "studies.verdict": ("Verdict",),
    "plots.effects": ("plot_curves", "plot_flips"),
    "plots.pairs": ("plot_pairs",),
    "plots.scores": ("plot_estimates", "plot_scores", "plot_volcano"),
    "studies.faithfulness": ("area", "curves", "overlap_of_tops", "recall", "spearman"),
    "studies.timeline": ("checkpoints_of", "timeline"),
    "plots.timeline": ("plot_timeline",),
    "studies.injection": ("Fact", "Injection", "inject", "load_facts"),
    "studies.injection_study": ("injection_study",),
    "studies.comparison": ("Comparison", "compare"),
    "plots.style": ("save_figure", "template"),
    "recipes.replicate": ("Replication", "replicate"),
    "results.comparing": ("RunComparison", "compare_runs"),
    "results.explorer": ("Explorer", "explore"),
    "results.reading": ("Run", "load_run"),
    "results.report": ("write_report",),
    "results.run": ("save_run",),
    "results.sharing": ("from_hub", "push_to_hub"),
    "sweeps.asked": ("Sweep",),
    "sweeps.cluster": ("sweep_on_ray",),
    "sweeps.driver": ("sweep",),
    "sweeps.reading": ("SweepRun", "open_run"),
}
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
