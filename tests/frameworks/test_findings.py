"""The pages of docs/findings: each has its parts, and what it reproduces is reproduced again where that can be."""

import ast
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnspec._clauses import clauses

PAGES = [p for p in sorted((Path(__file__).parents[2] / "docs" / "findings").glob("*.md")) if p.stem != "README"]
every_page = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])

HEADINGS = ["Reproduction", "What is right", "What it means", "Way round"]
LONGEST = 15  # lines of a reproduction

#: Where the packages are that reproductions in JavaScript import; `npm ci` puts them there.
NODE = Path(__file__).parents[2] / "examples" / "port-js"

#: What a reproduction may import, beside NumPy and the standard library: one framework with what it stands on.
FAMILIES = {
    "flax": {"flax", "jax"},
    "haiku": {"haiku", "jax"},
    "equinox": {"equinox", "jax"},
    "torch": {"torch"},
    "keras": {"keras", "torch"},
    "tf_keras": {"tf_keras", "tensorflow"},
    "onnx": {"onnx"},
    "onnxruntime": {"onnx", "onnxruntime"},
    "paddle": {"paddle"},
    "tinygrad": {"tinygrad"},
    "mlx": {"mlx"},
    "@tensorflow/tfjs": {"@tensorflow/tfjs"},
}

#: Runs the codes that come in as JSON, each in names of its own, and writes what each printed.
RUNNER = """
import contextlib, io, json, sys, traceback, warnings
warnings.simplefilter("ignore")
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            exec(compile(code, "reproduction", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=out)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def reproduction(page: Path) -> tuple[str, str]:
    """Return the code of a page, in Python or JavaScript, and what it says that the code prints."""
    part = re.search(r"^## Reproduction\n(.*?)^## ", page.read_text(), re.DOTALL | re.MULTILINE)
    assert part is not None, f"{page.name} has no section Reproduction with another after it"
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", part[1], re.DOTALL | re.MULTILINE)
    kinds = [kind for kind, _ in blocks]
    assert kinds in (["python", "text"], ["javascript", "text"]), f"{page.name}: one python block, then one text block"
    return blocks[0][1], blocks[1][1]


def is_javascript(page: Path) -> bool:
    return "```javascript\n" in page.read_text()


def imports(code: str) -> set[str]:
    """Return the top-level modules that a code imports, or the packages that one in JavaScript does."""
    if packages := re.findall(r'^import .* from "(.*)";$', code, re.MULTILINE):
        return set(packages)
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


def family(page: Path) -> str | None:
    """Return the framework that a page is about: the first whose modules are all that it imports."""
    code = reproduction(page)[0]
    modules = imports(code) - {"numpy"} - sys.stdlib_module_names
    # One that starts processes has the framework in the code that they run.
    named = modules or {name for name in FAMILIES if f"import {name}" in code}
    return next((name for name, allowed in FAMILIES.items() if name in named and named <= allowed), None)


@functools.cache
def outputs(framework: str) -> dict[str, str]:
    """Run all pages about a framework in one fresh interpreter; page to what it printed."""
    pages = [page for page in PAGES if family(page) == framework]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([reproduction(page)[0] for page in pages]),
        env=os.environ | {"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip((page.name for page in pages), json.loads(done.stdout)))


def test_there_are_pages() -> None:
    assert PAGES


@every_page
def test_a_page_has_its_parts(page: Path) -> None:
    title, blank, clause, versions, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert blank == ""
    assert clause.startswith("Clause: ")
    assert set(clause.removeprefix("Clause: ").split(", ")) <= set(clauses()), clause
    assert re.fullmatch(r"Versions: (\S+ \d\S*, )*\S+ \d\S*(, on .+)?", versions), versions
    assert re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE) == HEADINGS
    parts = re.split(r"^## .*$", page.read_text(), flags=re.MULTILINE)
    assert all(len(part.split()) >= 5 for part in parts), "every part says something"


@every_page
def test_a_reproduction_is_short_and_needs_one_framework(page: Path) -> None:
    code, printed = reproduction(page)
    assert len(code.splitlines()) <= LONGEST
    assert max(map(len, code.splitlines())) <= 120
    assert printed.strip()
    assert family(page) is not None, f"{page.name} imports {sorted(imports(code))}"


@every_page
def test_a_reproduction_prints_what_its_page_says(page: Path) -> None:
    code, printed = reproduction(page)
    if is_javascript(page):
        if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
            pytest.skip("node is not installed, or not the packages of examples/port-js (`make test-js`)")
        done = subprocess.run(
            ["node", "--input-type=module"],
            input=code,
            cwd=NODE,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout.rstrip() == printed.rstrip(), done.stderr
        return
    for module in sorted(imports(code) | {str(family(page))} | ({"torch"} if family(page) == "keras" else set())):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    framework = family(page)
    assert framework is not None
    got = outputs(framework)[page.name]
    assert got.rstrip() == printed.rstrip(), (
        f"{page.name} says otherwise; if the framework is another version by now, correct the page or take it out"
    )


def test_the_checks_above_see_what_they_look_for(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n## Reproduction\n\n```python\nimport torch.nn\nfrom jax import numpy\n```\n\n## B\n")
    with pytest.raises(AssertionError, match="one python block, then one text block"):
        reproduction(page)
    page.write_text("# A\n\n## Reproduction\n\n```python\nx = 1\n```\n\n```text\n1\n```\n\n## B\n")
    assert reproduction(page) == ("x = 1\n", "1\n")
    assert imports("import torch.nn\nfrom jax import numpy as n") == {"torch", "jax"}
