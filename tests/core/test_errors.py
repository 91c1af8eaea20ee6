"""Messages about names that are not known."""

import pytest

import neurotrace as nt
from neurotrace.core.errors import one_of, reading


def test_a_near_name_is_offered_first():
    assert one_of("gradiant", ["exact", "gradient"]) == (
        "did you mean 'gradient'? expected one of exact, gradient"
    )
    assert one_of("frog", ["exact", "gradient"]) == "expected one of exact, gradient"


def test_a_set_with_a_typo_is_offered():
    with pytest.raises(nt.InputError, match="did you mean the set 'capitals'\\?"):
        nt.load_pairs("capitls")


def test_a_message_that_quotes_a_file_is_cut_in_the_middle():
    said = str(nt.InputError("in the file: " + 9_000 * "x" + ": mend it"))
    assert len(said) < 2_000
    assert said.startswith("in the file: x")
    assert said.endswith("x: mend it")


def test_what_is_met_in_a_foreign_folder_names_the_folder():
    with (
        pytest.raises(nt.InputError, match=r"runs/x: it holds something else .*KeyError: 'fold'"),
        reading("runs/x"),
    ):
        raise KeyError("fold")
    with pytest.raises(nt.InputError, match=r"^as it is$"), reading("runs/x"):
        raise nt.InputError("as it is")
    with pytest.raises(MemoryError), reading("runs/x"):
        raise MemoryError
