"""Many sweeps from one file: models × probes × modes × seeds, each with its own folder.

    models: [organism, /models/llama]
    probes: [arithmetic, [inference, letters]]    # an inner list is one sweep over both
    modes: [zero, "shift:2"]
    seeds: [0, 1]                                 # of the draw of max_pairs; needs it
    max_pairs: 50                                 # and any other setting of a sweep, for all cells

A folder is named after its cell and a hash of its settings, so that cells can be added to the file
later. Several processes may work through one file; each takes cells that no other holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from reprlib import repr as short
from typing import Any

from neurotrace.core.errors import InputError
from neurotrace.core.files import parse_json, read_text
from neurotrace.folders.shards import Shard, parse_shard
from neurotrace.sweeps.asked import Sweep, asked_of
from neurotrace.sweeps.driver import Stop, load, sweep
from neurotrace.sweeps.folders import Folder, open_folder
from neurotrace.sweeps.locks import Held, owners
from neurotrace.sweeps.manifest import read_manifest
from neurotrace.sweeps.parts import present

AXES = {"models": "model", "probes": "probes", "modes": "mode", "seeds": "seed"}
_MOST_BYTES, _MOST_CELLS, _DEEPEST = 2**20, 10_000, 20
_FAILED = "failed.json"


@dataclass(frozen=True)
class Cell:
    """One sweep of the file and the name of its folder."""

    name: str
    asked: Sweep


@dataclass(frozen=True)
class Status:
    """`state` is done, running (`note`: who), failed (`note`: why), partly or waiting."""

    name: str
    state: str
    done: int = 0
    parts: int = 0
    note: str = ""


def read_cells(path: str | Path) -> list[Cell]:
    """Read and check a file of sweeps.

    Raises:
        InputError: names the file, the entry, and what was expected.
    """
    record = _yaml(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected names and values, models: [...], got {short(record)}")
    settings = [field.name for field in fields(Sweep) if field.name not in AXES.values()]
    for name in record:
        if name not in AXES and name not in settings:
            raise InputError(f"{path}: {short(name)} is unknown; expected {', '.join([*AXES, *settings])}")
    axes = {}
    for axis, default in (("models", None), ("probes", None), ("modes", ["zero"]), ("seeds", [0])):
        values = record.get(axis, default)
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: {axis} is {short(values)}; expected a list, e.g. [organism]")
        axes[axis] = values
    if len(axes["seeds"]) > 1 and not record.get("max_pairs"):
        raise InputError(f"{path}: seeds draw max_pairs of the pairs: name max_pairs, or one seed")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > _MOST_CELLS:
        raise InputError(f"{path}: {count} cells; expected at most {_MOST_CELLS}")
    common = {name: value for name, value in record.items() if name not in AXES}
    cells: dict[str, Cell] = {}
    for values in product(*axes.values()):
        one = common | dict(zip(AXES.values(), values, strict=True))
        cell = _cell(asked_of(one, f"{path}"))
        if cell.name in cells:
            raise InputError(f"{path}: {cell.name} is in it twice; name each model and set once")
        cells[cell.name] = cell
    return list(cells.values())


def run_cells(
    cells: list[Cell],
    out: str,
    *,
    shard: str = "1/1",
    trust_remote_code: bool = False,
    progress: Any = None,
    stop: Stop = lambda: False,
    tell: Callable[[Status], None] = lambda _: None,
) -> list[Status]:
    """Sweep each cell into its folder under `out`; a failed cell does not stop the others."""
    found = []
    key, model = None, None
    bad: dict[Any, str] = {}  # models that cannot be loaded are tried once
    for cell in cells:
        if stop():
            break
        before = status(cell, out, shard)
        if before.state not in ("done", "running"):
            folder = open_folder(f"{out}/{cell.name}")
            try:
                wanted = (cell.asked.model, cell.asked.device, cell.asked.dtype)
                if wanted in bad:
                    raise InputError(bad[wanted])
                if wanted != key:
                    key, model = None, None  # release the old model before loading the new one
                    try:
                        model, key = load(cell.asked, trust_remote_code=trust_remote_code), wanted
                    except InputError as error:
                        bad[wanted] = str(error)
                        raise
                sweep(cell.asked, folder.url, shard=shard, model=model, progress=progress, stop=stop)
                folder.remove(_FAILED)
            except Held:
                pass  # another process was faster
            except InputError as error:
                folder.make()
                folder.write(_FAILED, json.dumps({"error": str(error)}).encode())
        found.append(status(cell, out, shard))
        tell(found[-1])
    return found


def status(cell: Cell, out: str, shard: str = "1/1") -> Status:
    """The status of the cell, from its folder."""
    mine = parse_shard(shard)
    try:
        return _status(cell, open_folder(f"{out}/{cell.name}"), mine)
    except InputError as error:
        return Status(cell.name, "failed", note=str(error))


def _status(cell: Cell, folder: Folder, mine: Shard) -> Status:
    manifest = read_manifest(folder)
    done = total = 0
    if manifest is not None:
        own = manifest.layout.of_shard(mine)
        done, total = len(set(own) & set(present(folder, manifest)[0])), len(own)
        if done == total:
            return Status(cell.name, "done", done, total)
    held = owners(folder)
    if mine in held:
        who = held[mine]
        return Status(cell.name, "running", done, total, f"{who.get('host')}, {who.get('pid')}")
    failure = folder.read(_FAILED)
    if failure is not None:
        try:
            note = str(parse_json(failure)["error"])
        except (ValueError, TypeError, KeyError):
            note = "and why can't be read"
        return Status(cell.name, "failed", done, total, note)
    return Status(cell.name, "partly" if done else "waiting", done, total)


def _cell(asked: Sweep) -> Cell:
    record = asked.record()
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    words = [asked.model, "+".join(asked.probes), asked.mode, f"seed{asked.seed}"]
    plain = [re.sub(r"[^A-Za-z0-9+_-]+", "-", Path(word).stem)[:40].strip("-") for word in words]
    return Cell("_".join([*plain, digest]), asked)


def _yaml(path: str | Path) -> Any:
    import yaml

    text = read_text(path)
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError(f"{len(text)} characters, expected at most {_MOST_BYTES}")
        depth = 0
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it uses aliases (*name), which can unfold without end; write them out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # PyYAML's time grows with its square
                raise ValueError("nested too deep")
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: can't be read as YAML ({line})") from None
