"""Detectors as files: fitted arrays as safetensors, everything else as JSON in the header. No pickle.

An expert inside a fused detector is a detector, too; its arrays are under `experts.NUMBER.`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from neurotrace.core.errors import InputError
from neurotrace.core.files import read_tensors
from neurotrace.core.writing import save_whole
from neurotrace.detectors.base import Detector
from neurotrace.detectors.fused import FusedDetector
from neurotrace.detectors.table import CLASSES

FORMAT = "neurotrace.detector/2"
_BEFORE = "neurotrace.detector/1"  # the same but for fused detectors


def save_detector(detector: Detector, path: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
    """Write a fitted detector as one safetensors file.

    Args:
        about: JSON data to keep with it: the model, the views, the training data.

    Example::

        nt.save_detector(detector, "detector.safetensors", about={"view": "neurons"})
    """
    from safetensors.numpy import save_file as save_tensors

    check_is_fitted(detector)
    arrays: dict[str, np.ndarray] = {}
    header = {"format": FORMAT, "about": dict(about or {})} | _pack(detector, "", arrays)
    save_whole(
        Path(path),
        lambda made: save_tensors(arrays, made, metadata={"neurotrace": json.dumps(header)}),
    )


def load_detector(path: str | Path) -> Detector:
    """Read what `save_detector` wrote; `InputError` for any other file.

    Example::

        detector = nt.load_detector("detector.safetensors")
        detector.decision_function(activations.values[0].flatten(1).numpy())
    """
    header, arrays = _read(path)
    try:
        return _unpack(header, arrays)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a damaged detector ({error})") from None


def about_detector(path: str | Path) -> dict[str, Any]:
    """The data kept with a saved detector.

    Example::

        nt.about_detector("detector.safetensors")["view"]
    """
    return _read(path)[0]["about"]


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    header, arrays = read_tensors(path, "np")
    form, name = header.get("format"), header.get("class")
    if form not in (FORMAT, _BEFORE) or not isinstance(name, str) or name not in CLASSES:
        raise InputError(f"{path}: not written by nt.save_detector of this version")
    if form == _BEFORE and name == FusedDetector.__name__:
        raise InputError(
            f"{path}: a FusedDetector of format {_BEFORE}, whose sampler was wrong for 12 views and more; "
            "fit and save it again"
        )
    return header, arrays


def _pack(detector: Detector, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    parameters = detector.get_params(deep=False)
    plain: dict[str, Any] = {}
    parts: dict[str, list[Any]] = {}
    for name in detector.FITTED:
        value = getattr(detector, name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            arrays[prefix + name] = np.ascontiguousarray(value)
        elif isinstance(value, list) and value and not isinstance(value[0], str):
            parts[name] = []
            for number, part in enumerate(value):
                inner = f"{prefix}{name}.{number}"
                if isinstance(part, Detector):
                    parts[name].append(_pack(part, inner + ".", arrays))
                else:
                    arrays[inner] = np.ascontiguousarray(part)
                    parts[name].append(None)
        else:
            plain[name] = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return {
        "class": type(detector).__name__,
        "parameters": {
            name: {"detector": type(value).__name__, "parameters": value.get_params(deep=False)}
            if isinstance(value, Detector)
            else value
            for name, value in parameters.items()
        },
        "prefix": prefix,
        "plain": plain,
        "parts": parts,
    }


def _unpack(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Detector:
    parameters = {
        name: CLASSES[value["detector"]](**value["parameters"])
        if isinstance(value, dict) and "detector" in value
        else value
        for name, value in record["parameters"].items()
    }
    detector = CLASSES[record["class"]](**parameters)
    prefix = record["prefix"]
    for name in detector.FITTED:
        if name in record["plain"]:
            value = record["plain"][name]
            is_classes = name == "classes_"
            setattr(detector, name, np.array(value) if is_classes else value)
        elif name in record["parts"]:
            parts = [
                arrays[f"{prefix}{name}.{number}"] if part is None else _unpack(part, arrays)
                for number, part in enumerate(record["parts"][name])
            ]
            setattr(detector, name, parts)
        else:
            setattr(detector, name, arrays[prefix + name])
    return detector
