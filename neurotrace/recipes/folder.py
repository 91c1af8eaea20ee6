"""The folder of `neurotrace replicate`.

recipes.csv      a row for each recipe, family and direction (`Replication.to_frame`)
recipes.json     settings, verdicts with their reasons, what each recipe does and what deviates from it
recipes.html     the same as a page that loads nothing
manifest.json    versions, the model's identity, the command; SHA-256 of the files
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from neurotrace.core.display import POLICY, to_html
from neurotrace.core.process import package_versions
from neurotrace.core.writing import json_bytes, prepare_folder, save_page, write_atomically
from neurotrace.engine.turns import takes_turns
from neurotrace.folders.sealing import sealing
from neurotrace.models.identity import model_identity
from neurotrace.models.protocol import HookedModel
from neurotrace.recipes.replicate import WORDS, Replication
from neurotrace.recipes.table import RECIPES

FORMAT = "neurotrace.replicate/1"
FILES = ("manifest.json", "recipes.csv", "recipes.json", "recipes.html")
_STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;"
_STYLE += "color-scheme:light dark;overflow-x:auto}dt{font-weight:600;margin-top:.8em}"


@takes_turns
def save_replication(
    found: Replication,
    out: str | Path,
    *,
    model: HookedModel,
    probes: Sequence[str],
    command: str = "",
    overwrite: bool = False,
) -> Path:
    """Write the folder; `neurotrace verify` checks it.

    Raises:
        InputError: the folder holds a replication already, or can't be written.

    Example::

        from neurotrace.recipes.folder import save_replication

        save_replication(found, "runs/claims", model=model, probes=["arithmetic"])
    """
    from neurotrace import __version__

    folder = prepare_folder(out, FILES, overwrite=overwrite)
    record = {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "neurotrace": __version__,
        "versions": package_versions(),
        "model": model_identity(model),
        "probes": list(probes),
        "seed": found.settings["seed"],
    }
    with sealing(folder, FILES, record, beside=False):
        write_atomically(folder / FILES[1], found.to_frame().to_csv(index=False, float_format="%.4f"))
        write_atomically(folder / FILES[2], json_bytes(summary(found)))
        save_page(folder / FILES[3], lambda: page(found))
    return folder


def summary(found: Replication) -> dict[str, Any]:
    """The content of `recipes.json`."""
    verdicts = found.verdicts()
    return {
        "model": found.model.name,
        "pairs": {"kept": len(found.encoded), "dropped": found.encoded.reasons()},
        "settings": dict(found.settings),
        "refused": dict(found.refused),
        "recipes": {
            name: {
                "title": RECIPES[name].title,
                "source": RECIPES[name].source,
                "does": RECIPES[name].does,
                "deviates": list(RECIPES[name].deviates),
                "rule": str(RECIPES[name].rule),
                "seconds": found.seconds[name],
                "verdicts": {
                    family: {"verdict": WORDS[each.word], "why": list(each.why), "pairs": each.pairs}
                    for (of, family), each in verdicts.items()
                    if of == name
                },
            }
            for name in found.flips
        },
    }


def page(found: Replication) -> str:
    """The page's text."""
    title = f"Published recipes on {found.model.name}"
    about = "".join(
        f"<dt>{html.escape(each.title)} ({html.escape(each.source)})</dt><dd>{html.escape(each.does)}"
        + "".join(f"<br>Different here: {html.escape(line)}" for line in each.deviates)
        + "</dd>"
        for each in (RECIPES[name] for name in found.flips)
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>{POLICY}"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{to_html(found._view())}"
        f"<h2>What each recipe does</h2><dl>{about}</dl></body></html>\n"
    )
