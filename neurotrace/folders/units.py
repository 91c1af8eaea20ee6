"""`Units`: results of finished units of work, in the sub-folder `unfinished` of a command's folder.

manifest.json   what the results depend on (the content), sealed; another call is refused
NAME-HASH/      one unit: its files, and their hashes in a manifest of its own; complete or absent

Units that don't depend on each other may be made by several processes: each takes its share of them
(`shard`), or workers are sent for them (`farm`). A unit that is damaged is set aside and done again.
`once` gives back what was read from disk also when it has just been written, so that an interrupted and
an uninterrupted call work with the same values.
`sealing` removes the sub-folder when the command's folder is complete.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Set
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from enum import EnumMeta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

import numpy as np

from neurotrace.core.errors import InputError
from neurotrace.core.files import (
    MANIFEST,
    is_sealed,
    listed,
    open_inside,
    parse_json,
    read_json,
    read_seal,
    read_table,
    read_tensors,
)
from neurotrace.core.process import Progress, over
from neurotrace.core.writing import (
    UNFINISHED,
    alone,
    filling,
    hold_folder,
    json_bytes,
    noted,
    prepare_folder,
    remove,
    sweep_up,
    write_atomically,
    write_folder,
)
from neurotrace.folders.content import content_hash, first_differences
from neurotrace.folders.sealing import inside, sealed_json
from neurotrace.folders.shards import parse_shard

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")
Key = TypeVar("Key", bound=Hashable)
_FORMAT = "neurotrace.units/1"


@dataclass(frozen=True)
class Form(Generic[Value]):
    """How a unit's result is written into a folder of its own and read back."""

    save: Callable[[Value, Path], None]
    load: Callable[[Path], Value]


def _save_table(frame: pd.DataFrame, folder: Path) -> None:
    write_atomically(folder / "table.parquet", noted(frame, {}))


def many(kind: Any) -> Form[Any]:
    """Of a sequence of objects with our `save` and `load`: `Scores`, `Intervention`, `Circuit`."""

    def save(values: Any, folder: Path) -> None:
        for number, each in enumerate(values):
            each.save(folder / f"{number:04}.safetensors")

    return Form(save, lambda folder: tuple(map(kind.load, sorted(folder.glob("*.safetensors")))))


def records(kind: Any) -> Form[Any]:
    """Of a sequence of objects of one dataclass, whose fields are JSON, tuples and enums."""

    def load(folder: Path) -> tuple[Any, ...]:
        enums = {name: hint for name, hint in get_type_hints(kind).items() if isinstance(hint, EnumMeta)}
        found = [{name: tuples(value) for name, value in each.items()} for each in JSON.load(folder)]
        return tuple(
            kind(**each | {name: enum(each[name]) for name, enum in enums.items()}) for each in found
        )

    return Form(lambda values, folder: JSON.save([asdict(each) for each in values], folder), load)


def tuples(value: Any) -> Any:
    """Tuples for lists, as the frozen dataclasses have them."""
    if isinstance(value, dict):
        return {name: tuples(each) for name, each in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def several(**forms: Form[Any]) -> Form[dict[str, Any]]:
    """Of a dict with these names, each in a sub-folder."""

    def save(values: dict[str, Any], folder: Path) -> None:
        for name, form in forms.items():
            (folder / name).mkdir()
            form.save(values[name], folder / name)

    return Form(save, lambda folder: {name: form.load(folder / name) for name, form in forms.items()})


def _save_arrays(arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    from safetensors.numpy import save

    given = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(folder / "arrays.safetensors", save(given))


ARRAYS: Form[dict[str, np.ndarray]] = Form(
    _save_arrays, lambda folder: read_tensors(folder / "arrays.safetensors", "np")[1]
)
JSON: Form[Any] = Form(
    lambda value, folder: write_atomically(folder / "value.json", json_bytes(value)),
    lambda folder: read_json(folder / "value.json"),
)
TABLE: Form[pd.DataFrame] = Form(_save_table, lambda folder: read_table(folder / "table.parquet")[0])


class Waiting(Exception):
    """This process's shard is finished, and others are not."""


Farm = Callable[[list[str]], None]  # has the units with these names made, elsewhere, in the same folder


class Units:
    """The finished units in a folder; without a folder nothing is kept.

    Example::

        units = Units("runs/long")
        units.begin({"command": "squares", "seed": 0})
        square = units.once("3", JSON, lambda: 3**2)
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        overwrite: bool = False,
        shard: str = "1/1",
        only: Set[str] | None = None,
        farm: Farm | None = None,
    ) -> None:
        """Units in `folder`.

        Args:
            overwrite: unfinished work of other settings is thrown away, not refused.
            shard: ``"i/n"``: of independent units only the i-th of n shares, beside other processes.
            only: of independent units those with these names, for a process that holds the folder.
            farm: makes independent units elsewhere.

        Raises:
            InputError: `shard` is not i/n.
        """
        self.folder = None if folder is None else Path(folder)
        self.overwrite, self.only, self.farm = overwrite, only, farm
        self.shard = parse_shard(shard)
        self.hash = ""

    @property
    def shared(self) -> bool:
        """Whether other processes write units into the folder at the same time."""
        return self.shard.count > 1 or self.only is not None

    def begin(self, content: Mapping[str, Any]) -> None:
        """Go on with what the folder holds, or begin.

        Args:
            content: everything that the results depend on, as JSON data.

        Raises:
            InputError: it holds unfinished work that depends on something else, which is named, or is being
                written by another process.
        """
        if self.folder is None:
            return
        place = self.folder / UNFINISHED
        if self.only is None:
            hold_folder(prepare_folder(self.folder, ()), shared=self.shared)
        if self.shared:
            place.mkdir(exist_ok=True)
            with alone(place):
                self._begin(place, content)
            if self.only is None:
                mine = place / f".shard-{self.shard.index}-of-{self.shard.count}"
                mine.mkdir(exist_ok=True)
                hold_folder(mine)
        else:
            self._begin(place, content)

    def _begin(self, place: Path, content: Mapping[str, Any]) -> None:
        assert self.folder is not None
        content = parse_json(json_bytes(content))  # tuples are lists, as on disk
        self.hash = content_hash(content)
        known = _content_of(place)
        if known is not None and content_hash(known) != self.hash:
            if not self.overwrite and any(path.is_dir() for path in place.iterdir() if path.name[0] != "."):
                raise InputError(
                    f"{self.folder} holds unfinished work of another call: "
                    f"{first_differences(known, content)}. Use the earlier settings, name another folder, "
                    "or pass --overwrite"
                )
            known = None
        with filling(self.folder):
            if known is None:
                for each in place.iterdir() if self.shared else [place]:
                    remove(each)
                place.mkdir(exist_ok=True)
                record = {"format": _FORMAT, "content_sha256": self.hash, "content": content}
                write_atomically(place / MANIFEST, sealed_json(record))
            if not self.shared:  # what is there may be another process's, at work
                sweep_up(place)

    def each(
        self,
        form: Form[Value],
        jobs: dict[Key, tuple[str, Callable[[], Value]]],
        progress: Progress = None,
        description: str = "part",
    ) -> dict[Key, Value]:
        """The results, by key, of units that don't depend on each other.

        Args:
            jobs: key -> the unit's name, and how it is made; emptied on the way (jobs hold memory).

        Raises:
            Waiting: this process's shard is finished, and others are not.
        """
        if self.folder is not None and self.shared:
            own = [job for place, job in enumerate(jobs.values()) if self._is_own(place, job[0])]
            for name, make in over(progress, own, description, outer=True):
                self.once(name, form, make)
            if missing := self._missing(jobs):
                raise Waiting(
                    f"{len(own)} of {len(jobs)} parts are this shard's, and finished; {len(missing)} wait "
                    "for the other shards"
                )
        elif self.farm is not None and (missing := self._missing(jobs)):
            self.farm(missing)
        found = {}
        for key in over(progress, list(jobs), description, outer=True):
            name, make = jobs.pop(key)
            found[key] = self.once(name, form, make)
        return found

    def _missing(self, jobs: Mapping[Any, tuple[str, Any]]) -> list[str]:
        return [name for name, _ in jobs.values() if not self._is_whole(self._place(name), name)]

    def _is_own(self, place: int, name: str) -> bool:
        return place % self.shard.count == self.shard.index - 1 if self.only is None else name in self.only

    def once(self, name: str, form: Form[Value], make: Callable[[], Value]) -> Value:
        """The unit's result: read, where it is there and whole, else made and kept."""
        if self.folder is None:
            return make()
        place = self._place(name)
        if self._is_whole(place, name):
            return form.load(place)
        made = make()

        def fill(folder: Path) -> None:
            form.save(made, folder)
            files = {each: listed(folder / each) for each in inside(folder)}
            record = {"format": _FORMAT, "content_sha256": self.hash, "unit": name, "files": files}
            write_atomically(folder / MANIFEST, sealed_json(record))

        with filling(self.folder), alone(place.parent) if self.shared else nullcontext():
            write_folder(place, fill)
        return form.load(place)

    def _place(self, name: str) -> Path:
        assert self.folder is not None
        words = re.sub(r"[^A-Za-z0-9]+", "_", name)[:80].strip("_")
        return self.folder / UNFINISHED / f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def _is_whole(self, place: Path, name: str) -> bool:
        if not place.exists() and not place.is_symlink():
            return False
        try:
            seal = None if place.is_symlink() else read_seal(place)
            own = {"unit": name, "content_sha256": self.hash}
            if seal is None or {key: seal.record.get(key) for key in own} != own:
                raise InputError("not a unit of this work")
            seal.check(*seal.files)
        except InputError as error:
            warnings.warn(f"{place.name}: {error}; removed and done again", stacklevel=3)
            remove(place)
            return False
        return True


NOTHING_KEPT = Units()


def _content_of(place: Path) -> Any:
    """The content in a folder of units; None: there is none, or it is damaged."""
    if place.is_symlink():
        raise InputError(f"{place} is a symbolic link, which is not followed; remove it")
    try:
        with open_inside(place / MANIFEST) as file:
            raw = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"can't read {place / MANIFEST}: {error.strerror or error}") from None
    if not is_sealed(raw):
        warnings.warn(f"{place / MANIFEST} is damaged: what was finished is done again", stacklevel=3)
        return None
    return parse_json(raw)["content"]
