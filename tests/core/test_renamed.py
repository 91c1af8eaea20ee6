"""A parameter's old name works for one release more, and says how it is called now."""

from __future__ import annotations

import pytest

from neurotrace.core.errors import renamed


@renamed(mode="kind")
def ablate(pairs, *, kind="zero"):
    return pairs, kind


def test_the_old_name_is_taken_with_a_warning():
    assert ablate(1, kind="mean") == (1, "mean")
    with pytest.warns(DeprecationWarning, match=r"ablate: mode= is called kind= now"):
        assert ablate(1, mode="mean") == (1, "mean")
    with pytest.raises(TypeError, match="pass one of them"):
        ablate(1, mode="mean", kind="zero")
