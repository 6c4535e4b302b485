"""Environment of a command: variables that steer the tools below are put aside, and asserts are switched on.

pytest, Hypothesis and the interpreter take options from environment variables. A run asks what its command line says,
no more and no less, so these are put aside while a command runs.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

__all__ = ["undisturbed", "with_asserts"]

#: Beginnings of the names of variables by which pytest, its plugins and Hypothesis are steered.
_STEERING = (
    "PYTEST_",
    "HYPOTHESIS_",
    "_PYTEST",
    "_HYPOTHESIS",
    "_ARGCOMPLETE",
    "PY_IGNORE_IMPORTMISMATCH",
    "TOX_ENV_DIR",
)
#: Nothing that happens to be installed adds to the tools.
_ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HYPOTHESIS_NO_PLUGINS": "1"}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put the steering variables aside, and make no error of a warning whatever ``PYTHONWARNINGS`` says."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_STEERING)}
    os.environ.update(_ALONE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # only results count
            yield
    finally:
        for name in _ALONE:
            os.environ.pop(name, None)
        os.environ.update(before)


def with_asserts(arguments: Sequence[str]) -> None:
    """Start the command again with asserts, which checks and pytest are made of, if ``-O`` has taken them out.

    Returns where there is nothing to be done; else this process becomes the new one.
    """
    if not sys.flags.optimize:
        return
    os.environ.pop("PYTHONOPTIMIZE", None)
    command = [sys.executable, *_interpreter_options(), "-m", "bnspec_conformance", *arguments]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.name == "posix":
        os.execv(sys.executable, command)
    import subprocess  # elsewhere a process cannot become another one

    sys.exit(subprocess.run(command, check=False).returncode)


def _interpreter_options() -> list[str]:
    """Return the options that this interpreter was started with, without ``-O`` and without what it was to run."""
    given, kept = iter(sys.orig_argv[1:]), list[str]()
    for word in given:
        if not word.startswith("-") or word.startswith("--") or word == "-":
            break
        letters = word[1:]
        at = next((i for i, letter in enumerate(letters) if letter in "cmWX"), len(letters))
        plain, rest = letters[:at].replace("O", ""), letters[at:]
        if rest[:1] in ("c", "m"):
            kept += [f"-{plain}"] if plain else []
            break
        if plain or rest:
            kept.append(f"-{plain}{rest}")
        if rest in ("W", "X"):  # its value is the next word
            kept += [next(given, "")]
    return kept
