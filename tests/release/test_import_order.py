"""Imports only go down: the order of the packages, written once, and every import statement held against it.

Imports inside functions and under `TYPE_CHECKING` count like any other: a type that is needed from above is as much a
dependency as a function, and it is what a reader has to open. Importing ``a.b.c`` counts for the module that is named,
not for the packages around it. Where a module is loaded by a name in a text (entry points, subcommands, ``python -m``)
nothing is imported by the one who knows the text, so that does not count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bnspec", "backends/bnspec_backends", "conformance/bnspec_conformance")

#: From the bottom to the top. A module may import from its own line, from its own part of it only, and from below.
#: The longest name that fits decides where a module belongs.
ORDER = (
    ("bnspec",),
    ("bnspec_backends",),
    # The doors to the modules for frameworks, which are never imported by `import bnspec`.
    ("bnspec.torch", "bnspec.linen", "bnspec.nnx", "bnspec.equinox"),
    ("bnspec_conformance.cases",),
    ("bnspec_conformance.oracle", "bnspec_conformance.bounds"),
    ("bnspec_conformance.subjects",),
    ("bnspec_conformance.trials",),
    ("bnspec_conformance.checks", "bnspec_conformance.report"),
    ("bnspec_conformance.run",),
    (
        "bnspec_conformance.vectors",
        "bnspec_conformance.probe",
        "bnspec_conformance.mutants",
        "bnspec_conformance.matrix",
    ),
    ("bnspec_conformance.commands", "bnspec_conformance.plugin"),
    ("bnspec_conformance.cli",),
    # What a user imports, and what Python is started with.
    ("bnspec_conformance", "bnspec_conformance.__main__", "bnspec_conformance.matrix.worker"),
)

#: Circles that there are a reason for.
CIRCLES = {
    # While torch records, a public function is an operator; what runs when the operator does is the public function.
    frozenset(
        {
            "bnspec._batch_norm",
            "bnspec._derivatives",
            "bnspec._torch.calls",
            "bnspec._torch.fused",
            "bnspec._torch.operators",
            "bnspec._update",
        }
    ),
    # The exchange tells how a process ends, and the end of the process closes what exchanges it left open.
    frozenset({"bnspec_backends.ranks.mpi.exchange", "bnspec_backends.ranks.mpi.exit"}),
}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the three packages by its full name."""
    found = {}
    for package in PACKAGES:
        folder = root / package
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules of ours that a module imports, with the lines."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *((node.module or "").split(".") if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
                if target in known:
                    yield target, node.lineno


def part_of(module: str) -> tuple[int, str]:
    """The line of the order that a module is on, and its part of the line."""
    fitting = [
        (len(part), level, part)
        for level, line in enumerate(ORDER)
        for part in line
        if module == part or module.startswith(part + ".")
    ]
    assert fitting, f"{module} has no place in the order"
    _, level, part = max(fitting)
    return level, part


def upward(graph: dict[str, list[tuple[str, int]]]) -> list[str]:
    """The imports that go up or sideways."""
    wrong = []
    for module, targets in graph.items():
        for target, line in targets:
            (here, own), (there, other) = part_of(module), part_of(target)
            if own != other and there >= here:
                wrong.append(f"{module}:{line} imports {target}")
    return wrong


def circles(graph: dict[str, list[tuple[str, int]]]) -> set[frozenset[str]]:
    """The groups of modules that all import each other, directly or not."""
    reach = {module: {target for target, _ in targets} - {module} for module, targets in graph.items()}
    changed = True
    while changed:
        changed = False
        for module, found in reach.items():
            more = set().union(found, *(reach[target] for target in found))
            changed |= len(more) > len(found)
            reach[module] = more
    groups = (frozenset(other for other in found if module in reach[other]) for module, found in reach.items())
    return {group for group in groups if group}


@pytest.fixture(scope="module")
def graph() -> dict[str, list[tuple[str, int]]]:
    known = modules()
    assert len(known) > 200
    return {name: list(imported(name, path, known)) for name, path in known.items()}


def test_imports_go_down(graph: dict[str, list[tuple[str, int]]]) -> None:
    assert upward(graph) == []


def test_no_modules_import_each_other_in_a_circle(graph: dict[str, list[tuple[str, int]]]) -> None:
    assert circles(graph) - CIRCLES == set()


def test_every_line_of_the_order_has_modules(graph: dict[str, list[tuple[str, int]]]) -> None:
    assert {part for line in ORDER for part in line} == {part_of(module)[1] for module in graph}


def test_the_checks_above_see_an_import_that_goes_up_and_a_circle(tmp_path: Path) -> None:
    for name, text in {
        "bnspec/__init__.py": "def late():\n    from bnspec_conformance import cli",
        "bnspec/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import b",
        "bnspec/b.py": "import os, bnspec.a",
        "conformance/bnspec_conformance/cli.py": "from bnspec import a",
        "conformance/bnspec_conformance/oracle.py": "from bnspec_conformance.bounds import x",
        "conformance/bnspec_conformance/bounds.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    known = modules(tmp_path)
    made = {name: list(imported(name, path, known)) for name, path in known.items()}
    assert upward(made) == [
        "bnspec:2 imports bnspec_conformance.cli",
        "bnspec_conformance.oracle:1 imports bnspec_conformance.bounds",
    ]
    assert circles(made) == {frozenset({"bnspec.a", "bnspec.b"})}
