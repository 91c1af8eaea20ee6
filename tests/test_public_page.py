"""What an editor or a type checker sees of `nt` is what `nt` has."""

from __future__ import annotations

import ast
import subprocess
import sys
import typing
from pathlib import Path

import neurotrace as nt

PAGE = Path(nt.__file__)


def seen_by_checkers() -> dict[str, str]:
    """name -> module, of the imports under TYPE_CHECKING."""
    (block,) = (node for node in ast.parse(PAGE.read_text("utf-8")).body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: (node.module or "").removeprefix("neurotrace.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_checkers_see_every_name_where_it_is():
    assert seen_by_checkers() == {name: home for home, names in nt._HOME.items() for name in names}
    assert (PAGE.parent / "py.typed").is_file()


def test_annotations_can_be_evaluated():
    """Shapes are written as strings, " pair" and not a name, so that this works."""
    hints = typing.get_type_hints(nt.EncodedPairs)
    assert "memorized" in hints
    assert typing.get_type_hints(nt.Scores)


def test_lint_sees_an_undefined_name(tmp_path):
    """In a branch that no test runs."""
    settings = PAGE.parent.parent / "pyproject.toml"
    (tmp_path / "typo.py").write_text(
        "def f(asked: bool, pairs: list) -> int:\n    if asked:\n        return len(piars)\n    return 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(settings), "typo.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "F821" in done.stdout
