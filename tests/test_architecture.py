"""Who may import whom. Imports inside functions and under TYPE_CHECKING count as well."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "neurotrace"
FLOORS = {
    "core": 1,
    "engine": 1,
    "organism": 1,
    "decoding": 2,
    "models": 3,
    "detectors": 3,
    "folders": 3,
    "fusion": 4,
    "interventions": 4,
    "probe_sets": 4,
    "ablation": 5,
    "answers": 5,
    "exports": 5,
    "rankers": 6,
    "sweeps": 6,
    "locating": 7,
    "studies": 7,
    "plots": 8,
    "paper": 8,
    "recipes": 8,
    "results": 9,
    "cli": 10,
    "evaluation": 10,
}
# a package may import those on lower floors, but for these
WALLS = {
    "decoding": {"core", "organism"},
    "engine": set(),
    "organism": set(),
    "detectors": {"core"},
    "fusion": {"core", "detectors"},
    "sweeps": set(FLOORS) - {"detectors", "answers"},
}
MANY = {
    "rankers",
    "recipes",
    "sweeps",
    "cli",
}  # a file is a method, a step, a command: no bound on their number


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> its file."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, wherever in the file."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [each.name.removeprefix("neurotrace.") for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = ".".join(
                        ["neurotrace", *here[: len(here) - node.level + 1], *filter(None, [base])]
                    )
                if base.split(".")[0] == "neurotrace":
                    base = base.removeprefix("neurotrace").removeprefix(".")
                    names = [f"{base}.{each.name}".removeprefix(".") for each in node.names]
                    names = [each if each in known else base for each in names]
            found[name] |= {each for each in names if each in known and each not in ("", name)}
    return found


def broken(root: Path) -> list[str]:
    """A line for each import that goes up, sideways or through a wall."""
    lines = []
    for name, targets in imports(root).items():
        own = name.split(".")[0]
        for target in sorted(targets):
            other = target.split(".")[0]
            if "" in (own, other) or own == other or own.startswith("__"):
                continue
            allowed = {package for package, floor in FLOORS.items() if floor < FLOORS[own]}
            if other not in allowed & WALLS.get(own, allowed):
                lines.append(f"{name} imports {target}, which is not below it")
    return lines


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there are none."""
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if found := walk(target, (*way, name)):
                return found
        done.add(name)
        return []

    return next(filter(None, (walk(name, ()) for name in graph)), [])


def test_every_package_has_its_floor():
    assert {name.split(".")[0] for name in modules(PACKAGE)} - {""} == set(FLOORS)


def test_imports_go_down():
    assert broken(PACKAGE) == []


def test_there_is_no_circle():
    assert circle(imports(PACKAGE)) == []


def test_files_are_small_and_packages_too():
    lines = {name: path.read_text("utf-8").count("\n") for name, path in modules(PACKAGE).items()}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert sorted(lines.values())[len(lines) // 2] <= 135
    for package in set(FLOORS) - MANY:
        files = [path for path in (PACKAGE / package).glob("*.py") if not path.name.startswith("__")]
        assert len(files) <= 12, package


@pytest.mark.parametrize(
    ("file", "line", "names"),
    [
        (
            "core/pairs.py",
            "from neurotrace.models import encoding",
            "core.pairs imports models.encoding",
        ),
        ("engine/parts.py", "import neurotrace.core.errors", "engine.parts imports core.errors"),
        (
            "rankers/exact.py",
            "def f():\n    from neurotrace.sweeps.work import Work",
            "sweeps.work",
        ),
    ],
)
def test_an_upward_import_is_named(tmp_path, file, line, names):
    copy(tmp_path)
    with (tmp_path / file).open("a") as target:
        target.write(f"\n{line}\n")
    assert any(names in each for each in broken(tmp_path))


def test_a_circle_inside_functions_is_found(tmp_path):
    copy(tmp_path)
    with (tmp_path / "core" / "errors.py").open("a") as target:
        target.write("\ndef f():\n    from neurotrace.core.pairs import Fold\n")
    assert "core.pairs" in circle(imports(tmp_path))


def copy(to: Path) -> None:
    for path in PACKAGE.rglob("*.py"):
        target = to / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
