"""What `import bnspec` loads, and what each module says it exports."""

import importlib
import os
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bnspec

# Loading one of these with the specification would make it a requirement, or slow, for those who do not use it.
FOREIGN = ("cupy", "equinox", "flax", "hypothesis", "jax", "mpi4py", "numpy", "pytest", "torch")

#: Libraries whose modules bnspec has doors to.
FRAMEWORKS = ("equinox", "flax", "jax", "torch")

ROOT = Path(bnspec.__file__).parent.parent
MODULES = [module.name for module in pkgutil.walk_packages(bnspec.__path__, "bnspec.")]


def foreign_modules_after(statement: str, *path: Path) -> list[str]:
    """Run a statement in a fresh interpreter and return which of `FOREIGN` it loaded."""
    code = f"import sys\n{statement}\nprint(*sorted(set({FOREIGN!r}) & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    # Not -I: the tree under test must win over an installed copy.
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_bnspec_loads_no_array_library() -> None:
    assert foreign_modules_after("import bnspec") == []


@pytest.mark.parametrize("command", [["spec"], ["spec", "BN-MOM-1"], ["dialects"]])
def test_a_command_that_only_prints_loads_no_array_library(command: list[str]) -> None:
    statement = (
        "import contextlib, io\nfrom bnspec._cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n    assert main({command!r}) == 0"
    )
    assert foreign_modules_after(statement) == []


def test_the_check_above_sees_a_module_that_loads_numpy(tmp_path: Path) -> None:
    (tmp_path / "loads_numpy.py").write_text("import bnspec\nimport numpy\n")
    assert foreign_modules_after("import loads_numpy", tmp_path) == ["numpy"]


def defined_here(module: types.ModuleType) -> list[str]:
    """Return the public names that a module defines itself: its functions and classes, not what it imported."""
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_complete_and_true(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in FRAMEWORKS:
            raise
        pytest.skip(f"{name} is for {error.name}, which is not installed")
    exported = vars(module)["__all__"]
    assert list(exported) == sorted(set(exported))
    assert [public for public in exported if not hasattr(module, public)] == []
    assert [public for public in defined_here(module) if public not in exported] == []


def test_the_package_exports_every_public_name_it_holds() -> None:
    assert list(bnspec.__all__) == sorted(set(bnspec.__all__))
    assert [name for name in bnspec.__all__ if not hasattr(bnspec, name)] == []
    public = {name for name, value in vars(bnspec).items() if not name.startswith("_")}
    submodules = {name.removeprefix("bnspec.") for name in MODULES}
    assert sorted(public - submodules - set(bnspec.__all__)) == []


def test_the_check_above_sees_a_name_that_is_missing() -> None:
    module = types.ModuleType("made_up")
    exec("def public(): ...\ndef _private(): ...\nfrom pathlib import Path", vars(module))
    assert defined_here(module) == ["public"]
