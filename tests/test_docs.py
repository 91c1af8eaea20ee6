"""Every code block of the docs runs: python as it stands, commands on the built-in models.

Blocks of a page share their names and one folder. A block under `<!-- not run: why -->` is left out.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
from commands import neurotrace

DOCS = Path(__file__).parent.parent / "docs"
_NOTE, _FENCE = r"(?P<note><!-- not run: [^\n]+ -->\n)?", r"```(?P<kind>\w*)\n(?P<text>.*?)^```"
_BLOCK = re.compile(_NOTE + _FENCE, re.M | re.S)
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```" in path.read_text("utf-8"))


def blocks(page: str) -> list[tuple[str, str]]:
    text = (DOCS / page).read_text("utf-8")
    assert text.count("\n```") % 2 == 0, "a block isn't closed"
    return [(m["kind"], m["text"]) for m in _BLOCK.finditer(text) if not m["note"]]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEUROTRACE_DEBUG", "1")
    names: dict = {"__name__": "docs"}
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, page, "exec"), names)
        elif kind == "yaml":
            (tmp_path / "sweep.yaml").write_text(text)
            command("neurotrace sweep --spec sweep.yaml --out runs/grid --dry-run", 0)
        elif not kind:
            for line in re.findall(r"^\$ (neurotrace .*--model organism.*)$", text, re.M):
                command(line, 2 if re.search("^neurotrace: ", text, re.M) else 0)


def command(line: str, code: int) -> None:
    done = neurotrace(*shlex.split(line)[1:])
    assert done.returncode == code, f"{line}\n{done.stderr[-2000:]}"


def test_links_lead_somewhere():
    for path in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
            if "://" not in target:
                assert (DOCS / target).exists(), f"{path.name}: {target}"


def test_every_page_is_in_the_contents():
    contents = (DOCS.parent / ".mkdocs.yml").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert f": {path.name}\n" in contents, path.name


def glossary() -> tuple[set[str], set[str]]:
    """The glossary's first column: public names, and the other words."""
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (DOCS / "glossary.md").read_text("utf-8"), re.M)
    words = {word.strip("` ") for row in rows[1:] for word in row.split(",")}
    names = {word.removeprefix("nt.") for word in words if word.startswith("nt.")}
    return names, words - {f"nt.{name}" for name in names}


def test_the_glossary_translates_every_public_word():
    """Every class, ranker and kind of intervention of the public page; and nothing that isn't there."""
    import neurotrace as nt

    public = {name: getattr(nt, name) for name in nt.__all__}
    nouns = {name for name, value in public.items() if inspect.isclass(value)}
    verbs = {name: value for name, value in public.items() if inspect.isfunction(value)}
    rankers = {name for name, do in verbs.items() if do.__module__.startswith("neurotrace.rankers.")}
    kinds = {
        name
        for name, do in verbs.items()
        if inspect.signature(do).return_annotation in ("Intervention", nt.Intervention)
    }
    assert len(nouns) > 30
    assert {"gradient", "random_scores"} <= rankers
    assert {"patch", "steer", "random_signs"} <= kinds
    names, others = glossary()
    assert nouns | rankers | kinds <= names, "public words that the glossary lacks"
    assert names <= set(public), "the glossary names what isn't public"
    assert {"L", "donor", "recipient", "group", "damage", "suffix engine", "organism"} <= others


# idioms and private words; the field's words are in the glossary
NOT_PLAIN = re.compile(
    r"reckon|foretell|\bsham(e|ing)|\bdear\b|the house\b|came a |told no|probe set|probe librar|settled|"
    r"\bmended?\b|\bwanted\b|on (its|their) own ground|proves? itself|\bpairs? (that )?behaves?\b|"
    r"\bstands? (beside|in the place)|read position",
    re.I,
)


def prose() -> dict[str, str]:
    """Every page's text without its code; of notebooks the cells of text."""
    root = DOCS.parent
    pages = [*root.glob("*.md"), *DOCS.glob("*.md"), *root.glob("probes/*/README.md")]
    texts = {str(p.relative_to(root)): _BLOCK.sub("", p.read_text("utf-8")) for p in pages}
    for path in root.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts[path.name] = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
    del texts["docs/glossary.md"]  # it translates such words
    return texts


def test_prose_is_plain():
    texts = prose()
    assert len(texts) > 35
    found = {name: {match[0] for match in NOT_PLAIN.finditer(text)} for name, text in texts.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_what_notebooks_import_is_there():
    """By day; `make test-notebooks` runs them."""
    import ast
    import importlib

    asked = set()
    for path in DOCS.parent.glob("notebooks/*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            lines = [re.sub(r"^(\s*)[%!].*", r"\1pass", each) for each in cell["source"]]
            if cell["cell_type"] == "code":
                for node in ast.walk(ast.parse("".join(lines) or "pass")):
                    if isinstance(node, ast.ImportFrom) and node.module.startswith("neurotrace"):
                        asked |= {(path.name, node.module, each.name) for each in node.names}
    assert len(asked) > 1
    missing = [each for each in asked if not hasattr(importlib.import_module(each[1]), each[2])]
    assert missing == []


def test_no_function_is_called_as_its_module_is():
    """Importing `neurotrace.x` puts the module in the place of a function `nt.x`."""
    import pkgutil

    import neurotrace as nt

    assert not {module.name for module in pkgutil.iter_modules(nt.__path__)} & set(nt.__all__)
