"""``bnspec-conformance new-port``: a file to start a port from, which runs at once and says what is to be written."""

import argparse
import dataclasses
import keyword
import sys
from importlib import resources
from pathlib import Path

__all__ = ["call", "register"]

_PAGE = "  bnspec-conformance explain BN-NORM   prints the page of the specification\n"
_FUNCTIONS = "Then write the functions of its part 2 in their order. docs/porting.md goes through it step by step."
_LAYER = (
    "For a layer of a library, which does all of this in one call, `new-port NAME --from layer` writes a shorter file."
)
_METHODS = 'Then write the methods of Port in their order. docs/porting.md, "A layer of a library", has an example.'
_MAKE = "It passes what that library's own layer passes. Then put your layer in its place in make()."

#: Modules that a file must not hide.
_IMPORTED = ("bnspec", "bnspec_conformance", "flax", "jax", "keras", "numpy", "torch")


@dataclasses.dataclass(frozen=True)
class Template:
    """One file that the command can write.

    Attributes
    ----------
    file : str
        Its name among the package's templates.
    suffix : str
        Of the file that is written.
    commands : str
        The commands to type next; ``{name}`` stands for the port's name.
    then : str
        Text that comes after them.
    """

    file: str
    suffix: str
    commands: str
    then: str = _FUNCTIONS


_LANGUAGES = {
    "python": Template(
        "port.py.txt",
        ".py",
        "  bnspec-conformance run {name}:port --clause BN-NORM-1\n" + _PAGE,
        f"{_FUNCTIONS}\n{_LAYER}",
    ),
    "python-pipe": Template(
        "pipe.py.txt",
        ".py",
        "  bnspec-conformance run 'exec:python3 {name}.py' --clause BN-NORM-1\n" + _PAGE,
    ),
    "javascript": Template(
        "port.mjs.txt",
        ".mjs",
        "  bnspec-conformance run 'exec:node {name}.mjs' --clause BN-NORM-1\n" + _PAGE,
    ),
    "rust": Template(
        "port.rs.txt",
        ".rs",
        "  rustc --edition 2021 -O {name}.rs\n  bnspec-conformance run exec:./{name} --clause BN-NORM-1\n" + _PAGE,
    ),
    "c": Template(
        "port.c.txt",
        ".c",
        "  cc -std=c99 -O2 -Wall -ffp-contract=off {name}.c -o {name} -lm\n"
        "  bnspec-conformance run exec:./{name} --clause BN-NORM-1\n" + _PAGE,
    ),
}

_LIBRARIES = {
    library: Template(
        f"layer{'' if library == 'layer' else '_' + library}.py.txt",
        ".py",
        "  bnspec-conformance run {name}:port --clause BN-NORM\n  bnspec-conformance run {name}:port\n",
        _METHODS if library == "layer" else _MAKE,
    )
    for library in ("layer", "torch", "keras", "flax")
}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    new = commands.add_parser("new-port", help="write a file to start a port from")
    new.add_argument("name", metavar="NAME", help="of the port: NAME.py is written, and run as NAME:port")
    kind = new.add_mutually_exclusive_group()
    kind.add_argument(
        "--language",
        choices=tuple(_LANGUAGES),
        default="python",
        help="a Python module that calls the port (default), or a program that is one, behind the line protocol",
    )
    kind.add_argument(
        "--from",
        dest="library",
        choices=tuple(_LIBRARIES),
        help="a Python module around a layer that does forward, update and gradients in one call: of torch, keras or "
        "flax, complete, or of another library, to be written",
    )
    new.add_argument("--directory", type=Path, default=Path(), metavar="DIR", help="where (default: here)")
    new.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Write the file; 2 if that name or place will not do."""
    name = str(options.name)
    template = _LANGUAGES[options.language] if options.library is None else _LIBRARIES[options.library]
    path = Path(options.directory) / (name + template.suffix)
    problem = _problem(name, path)
    if problem is not None:
        print(problem, file=sys.stderr)
        return 2
    text = resources.files("bnspec_conformance").joinpath("templates", template.file).read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:  # "x": never over what is there
            file.write(text.replace("@NAME@", name))
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    there = "" if path.parent == Path() else f", in {path.parent}"
    print(f"wrote {path}; next{there}:\n\n{template.commands.format(name=name)}\n{template.then}")
    return 0


def _problem(name: str, path: Path) -> str | None:
    if not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        return f"{name!r} cannot be imported; expected a Python identifier such as my_port."
    if path.suffix == ".py" and (name in sys.stdlib_module_names or name in _IMPORTED):
        return f"{name!r} would hide the module of that name; choose another, such as {name}_port."
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first."
    if path.exists():
        return f"{path} exists; choose another name, or remove it."
    return None
