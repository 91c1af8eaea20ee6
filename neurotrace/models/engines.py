"""The suffix engine of a model: made and checked once, on first use."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from neurotrace.engine import proof
from neurotrace.models.hooks import twin
from neurotrace.models.protocol import HookedModel

_engines: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def engine_of(model: HookedModel) -> Any | None:
    """The suffix engine of this model, made and checked on first use; None if the model has none."""
    other = twin(model)
    if other is None:
        return None
    if other not in _engines:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                _engines[other] = proof.engine(other)
            except ValueError as error:  # parts that cannot be distinguished by shape
                warnings.warn(f"suffix engine: none, full passes: {error}", stacklevel=1)
                _engines[other] = None
        for each in said:
            warnings.warn(str(each.message), stacklevel=3)
    return _engines[other]
