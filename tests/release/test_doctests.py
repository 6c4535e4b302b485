"""The examples in docstrings, in SPEC.md and in README.md run, and print what they say."""

import doctest
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bnspec
import bnspec_backends
import bnspec_conformance

#: Libraries a module may be about, which need not be installed.
OPTIONAL = "array_api_strict cupy equinox flax h5py jax mpi4py onnx orbax rich safetensors torch".split()

ROOT = Path(bnspec.__file__).parent.parent
TEXTS = [
    path for path in (ROOT / "bnspec" / "SPEC.md", ROOT / "README.md", ROOT / "docs" / "way-of-x.md") if path.exists()
]


def modules_of(package: Any) -> list[Any]:
    """Every module by name, found without importing more than the packages; the suite's own tests have no examples."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [module.name for module in found if not module.name.rpartition(".")[2].startswith(("test_", "__main__"))]
    return [package.__name__, *names]


MODULES = [name for package in (bnspec, bnspec_backends, bnspec_conformance) for name in modules_of(package)]


def sessions(what: Any) -> list[Any]:
    """The sessions of a module or a text, in order."""
    if isinstance(what, Path):
        text = what.read_text(encoding="utf-8")
        return [doctest.DocTestParser().get_doctest(text, {}, what.name, str(what), 0)]
    try:
        module = importlib.import_module(what)
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in OPTIONAL:
            raise
        pytest.skip(f"{what} is about {missing}, which is not installed")
    return [session for session in doctest.DocTestFinder(exclude_empty=True).find(module) if session.examples]


def run(what: Any) -> Any:
    """Run the examples; return how many there were."""
    runner = doctest.DocTestRunner(verbose=False)
    output: list[str] = []
    number = 0
    for session in sessions(what):
        number += len(session.examples)
        runner.run(session, out=output.append, clear_globs=False)
    assert runner.failures == 0, "".join(output)
    assert runner.tries == number
    return number


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str, record_property: Callable[[str, object], None]) -> None:
    record_property("examples", run(name))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_the_examples_of_a_text_are_true(path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("examples", run(path))


def test_the_specification_has_enough_examples(capsys: pytest.CaptureFixture[str]) -> None:
    in_modules = 0
    for name in MODULES:
        try:
            in_modules += sum(len(session.examples) for session in sessions(name))
        except pytest.skip.Exception:  # its library is missing, which the test of that module says
            continue
    in_texts = {path.name: len(sessions(path)[0].examples) for path in TEXTS}
    with capsys.disabled():
        print(f"\n{in_modules} examples in {len(MODULES)} modules; in texts: {in_texts}")
    assert in_modules >= 50
    assert in_texts["SPEC.md"] >= 50


def test_a_false_example_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "false.md"
    path.write_text("    >>> 1 + 1\n    3\n")
    with pytest.raises(AssertionError, match=r"Got:\s+2"):
        run(path)
