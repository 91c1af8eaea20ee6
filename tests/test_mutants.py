"""`make mutants` judges the tests; here only that each mutation still has its line and its tests."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/mutants"))


def test_every_mutation_has_its_line_and_its_tests():
    from mutations import MUTATIONS

    assert len(MUTATIONS) >= 40
    for mutation in MUTATIONS:
        text = (ROOT / "neurotrace" / mutation.file).read_text("utf-8")
        assert text.count(mutation.old) == 1, f"stale: {mutation.name} in {mutation.file}"
        for test in mutation.tests:
            assert (ROOT / test.partition("::")[0]).exists(), f"{mutation.name}: no {test}"
