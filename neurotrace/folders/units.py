"""`Units`: results of finished units of work, in the sub-folder `unfinished` of a command's folder.

manifest.json   what the results depend on (the content), sealed; another call is refused
NAME-HASH/      one unit: its files, and their hashes in a manifest of its own; complete or absent

A unit that is damaged is set aside and done again. `once` gives back what was read from disk also when it
has just been written, so that an interrupted and an uninterrupted call work with the same values.
`sealing` removes the sub-folder when the command's folder is complete.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
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
from neurotrace.core.writing import (
    UNFINISHED,
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

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")
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


class Units:
    """The finished units in a folder; without a folder nothing is kept.

    Example::

        units = Units("runs/long")
        units.begin({"command": "squares", "seed": 0})
        square = units.once("3", JSON, lambda: 3**2)
    """

    def __init__(self, folder: str | Path | None = None, *, overwrite: bool = False) -> None:
        """`overwrite`: unfinished work of other settings is thrown away, not refused."""
        self.folder = None if folder is None else Path(folder)
        self.overwrite = overwrite
        self.hash = ""

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
        hold_folder(prepare_folder(self.folder, ()))
        place = self.folder / UNFINISHED
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
                remove(place)
                place.mkdir()
                record = {"format": _FORMAT, "content_sha256": self.hash, "content": content}
                write_atomically(place / MANIFEST, sealed_json(record))
            sweep_up(place)

    def once(self, name: str, form: Form[Value], make: Callable[[], Value]) -> Value:
        """The unit's result: read, where it is there and whole, else made and kept."""
        if self.folder is None:
            return make()
        words = re.sub(r"[^A-Za-z0-9]+", "_", name)[:80].strip("_")
        place = self.folder / UNFINISHED / f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        if self._is_whole(place, name):
            return form.load(place)
        made = make()

        def fill(folder: Path) -> None:
            form.save(made, folder)
            files = {each: listed(folder / each) for each in inside(folder)}
            record = {"format": _FORMAT, "content_sha256": self.hash, "unit": name, "files": files}
            write_atomically(folder / MANIFEST, sealed_json(record))

        with filling(self.folder):
            write_folder(place, fill)
        return form.load(place)

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
