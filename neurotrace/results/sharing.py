"""Circuits, interventions and pairs on the Hugging Face hub: one data file and a card, no pickle.

Nothing is sent unless `push_to_hub` is called, and a new repository is private unless asked otherwise.
What comes from the hub is read as a local file of somebody else is: by name, checked, never run.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from neurotrace.answers.circuit import Circuit
from neurotrace.core.display import clip, line, percent
from neurotrace.core.errors import InputError, first_line, one_of
from neurotrace.core.files import check_inside
from neurotrace.core.neurons import Experts, name_of
from neurotrace.core.pairs import PromptPair, load_pairs, pair_record
from neurotrace.core.writing import write_atomically
from neurotrace.interventions.intervention import Intervention

Kind = Literal["circuit", "intervention", "pairs"]
# kind -> its file, the hub's type of repository
_FILES: Mapping[Kind, tuple[str, str]] = {
    "circuit": ("circuit.safetensors", "model"),
    "intervention": ("intervention.safetensors", "model"),
    "pairs": ("pairs.jsonl", "dataset"),
}
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_NAMED = 48  # neurons in a card
_LONG = 300  # characters of a text in a card


def push_to_hub(
    what: Circuit | Intervention | Sequence[PromptPair],
    repo: str,
    *,
    licence: str,
    about: str = "",
    judged: str = "",
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a circuit, an intervention or pairs with a card; the commit's hash is returned.

    Args:
        repo: ``"owner/name"``, made if it is not there: a model repository, of pairs a data set.
        licence: the hub's word for it, ``"mit"`` or ``"cc-by-4.0"`` say; it stands in the card.
        about: a sentence or two for the card: what this is.
        judged: for the card: how it was judged, beside what the object itself knows.
        private: whether a new repository is private; an old one stays as it is.
        revision: the branch; default: main.
        token: default: the one that ``hf auth login`` saved.
        endpoint: another hub than huggingface.co.

    Raises:
        InputError: another kind of object, a name or licence that the hub does not take, or the hub
            refuses.

    Example::

        nt.push_to_hub(circuit, "me/capitals-circuit", licence="mit", about="Capitals of SmolLM2.")
    """
    kind = _kind(what)
    name, repo_type = _FILES[kind]
    _check_name(repo)
    if not _LICENCE.fullmatch(licence):
        raise InputError(f"licence={licence!r}: expected the hub's word, 'mit' or 'cc-by-4.0' say")
    card = _card(what, kind, repo, licence, about, judged)

    def send(api: Any, folder: Path) -> str:
        api.create_repo(repo, repo_type=repo_type, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type=repo_type,
            revision=revision,
            commit_message=f"neurotrace: {kind}",
        )
        return str(done.oid)

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if isinstance(what, Circuit | Intervention):
            what.save(folder / name)
        else:
            rows = (json.dumps(pair_record(pair), ensure_ascii=False) + "\n" for pair in what)
            write_atomically(folder / name, "".join(rows))
        write_atomically(folder / "README.md", card)
        return _asked(lambda api: send(api, folder), repo, token, endpoint)


def from_hub(
    repo: str,
    kind: Kind,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Any:
    """What `push_to_hub` sent: a `Circuit`, an `Intervention` or a list of `PromptPair`s.

    One file is fetched by its name and checked as a local one is; nothing of the repository runs.
    Call `circuit.check(model)` or `intervention.check(model)` before you use it on a model.

    Args:
        kind: ``"circuit"``, ``"intervention"`` or ``"pairs"``.
        revision: branch, tag or commit; default: main. A commit's hash makes it repeatable.
        token, endpoint: as `push_to_hub` takes them.

    Raises:
        InputError: no such repository, revision or file; a damaged file; a hub out of reach.

    Example::

        circuit = nt.from_hub("me/capitals-circuit", "circuit", revision="main")
    """
    if kind not in _FILES:
        raise InputError(f"kind={kind!r}: {one_of(kind, _FILES)}")
    name, repo_type = _FILES[kind]
    _check_name(repo)

    def fetch(api: Any) -> Path:
        found = api.hf_hub_download(repo, name, repo_type=repo_type, revision=revision)
        return Path(os.path.realpath(found))  # in the cache: a link to the content

    path = check_inside(_asked(fetch, repo, token, endpoint))
    read: dict[str, Callable[[Path], Any]] = {
        "circuit": Circuit.load,
        "intervention": Intervention.load,
        "pairs": load_pairs,
    }
    try:
        return read[kind](path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), f"{name} of {repo}")) from None


def _kind(what: Any) -> Kind:
    if isinstance(what, Circuit):
        return "circuit"
    if isinstance(what, Intervention):
        return "intervention"
    if isinstance(what, Sequence) and what and all(isinstance(each, PromptPair) for each in what):
        return "pairs"
    raise InputError(
        f"expected a Circuit, an Intervention or a list of PromptPairs, got {type(what).__name__}"
    )


def _check_name(repo: str) -> None:
    if not _NAME.fullmatch(repo):
        raise InputError(f"repo={repo!r}: expected owner/name")


def _asked(ask: Callable[[Any], Any], repo: str, token: str | None, endpoint: str | None) -> Any:
    """What `ask` gets of the hub; each of its errors becomes one line."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return ask(HfApi(endpoint=endpoint, token=token))
    except OfflineModeIsEnabled:
        raise InputError(f"{repo}: the hub is switched off here (HF_HUB_OFFLINE); unset it") from None
    except LocalEntryNotFoundError as error:  # and it is in no cache
        raise InputError(f"{repo}: the hub can't be reached ({first_line(error)})") from None
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(f"{repo}: the hub says: {first_line(error)}") from None
    except (httpx.HTTPError, OSError) as error:
        raise InputError(f"{repo}: the hub can't be reached ({first_line(error)})") from None
    finally:
        if shown:
            enable_progress_bars()


def _card(what: Any, kind: Kind, repo: str, licence: str, about: str, judged: str) -> str:
    """The README: what, where, how judged, licence, how to read it."""
    says: dict[Kind, Callable[[Any], tuple[list[str], list[str]]]] = {
        "circuit": _of_circuit,
        "intervention": _of_intervention,
        "pairs": _of_pairs,
    }
    where, known = says[kind](what)
    how = [*([judged] if judged else []), *known] or [
        "Nothing was measured, or nothing of it is known to the file."
    ]
    return "\n".join(
        [
            "---",
            f"license: {licence}",
            "tags:",
            "- neurotrace",
            "- interpretability",
            "---",
            "",
            f"# {repo.partition('/')[2]}: {kind}",
            "",
            about or f"A neurotrace {kind}.",
            "",
            "## Where",
            "",
            *(f"- {line(each)}" for each in where),
            "",
            "## How it was judged",
            "",
            *(f"- {line(each)}" for each in how),
            "",
            "## Licence",
            "",
            licence,
            "",
            "## How to read it",
            "",
            "```python",
            "import neurotrace as nt",
            "",
            f'{kind} = nt.from_hub("{repo}", "{kind}")',
            "```",
            "",
        ]
    )


def _of_circuit(circuit: Circuit) -> tuple[list[str], list[str]]:
    about = circuit.provenance
    where, experts = [_model(about)], Experts.of(about.get("experts"))
    where += [
        f"{name}: {len(neurons)} neurons, {_neurons([name_of(n, experts) for n in neurons])}"
        for name, neurons in (("memory", circuit.memory), ("reasoning", circuit.reasoning))
    ]
    if "families" in about:
        found = ", ".join(_word(each) for each in about["families"])
        where.append(f"found on {about.get('prompts')} prompts of {found}")
    if circuit.calibration is None:
        return where, ["the circuit is not calibrated"]
    return where, [f"calibrated on {circuit.calibration.count} prompts that did not find it"]


def _of_intervention(change: Intervention) -> tuple[list[str], list[str]]:
    about = change.provenance
    where = [
        _model(about),
        f"{_word(change.kind)}, {change.direction}: {len(change)} neurons, {_neurons(change.names)}",
    ]
    if "family" in about:
        where.append(f"family {_word(about['family'])}, fold {_word(about.get('fold'))}")
    judged = about.get("judged")
    if not isinstance(judged, Mapping) or judged.get("answers") is None:
        return where, []
    ends = [percent(end) for end in judged.get("answers_ci") or ()]
    interval = f", 95 % [{', '.join(ends)}]" if ends else ""
    pairs = f"of {judged['pairs']} pairs ({judged['on']})" if {"pairs", "on"} <= set(judged) else ""
    return where, [f"{percent(judged['answers'])} of answers flip{interval} {pairs}".strip()]


def _of_pairs(pairs: Sequence[PromptPair]) -> tuple[list[str], list[str]]:
    families = sorted({pair.family for pair in pairs})
    where = [
        f"{len(pairs)} pairs of {len({(pair.family, pair.group) for pair in pairs})} groups, "
        f"{len({(pair.family, pair.template) for pair in pairs})} templates",
        f"families: {', '.join(_word(each) for each in families[:20])}",
    ]
    first = pairs[0]
    for side, answer in (("memorization", first.memorized_answer), ("reasoning", first.reasoned_answer)):
        where.append(f"{side}: {_word(getattr(first, side))} then {_word(answer)}")
    return where, []


def _model(about: Mapping[str, Any]) -> str:
    known = about.get("weights_sha256")
    return f"model {_word(about.get('model', 'unknown'))}" + (f", weights sha256 {known}" if known else "")


def _neurons(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _word(value: Any) -> str:
    """A text of others in a card: one line of code, whatever it holds."""
    text = clip(str(value), _LONG).replace("`", "'")
    return f"`{text}`"
