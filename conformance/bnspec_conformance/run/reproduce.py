"""Command line that repeats a run."""

import shlex
from collections.abc import Callable, Iterable
from typing import Any

from bnspec._clauses import LEVELS

__all__ = ["command_line"]


def command_line(option: Callable[[str], Any], subjects: Iterable[str]) -> str:
    """Return the call of ``bnspec-conformance run`` that gives the same result.

    Parameters
    ----------
    option : callable
        pytest's options by name.
    subjects : iterable of str
        The names that the subjects were asked by.
    """
    words = ["bnspec-conformance", "run", *subjects]
    for name in option("--clause") or []:
        words += ["--clause", name]
    if option("keyword"):
        words += ["-k", option("keyword")]
    for name in option("--bnspec-profile") or []:
        words += ["--profile", name]
    if option("--max-examples") is not None:
        words += ["--max-examples", str(option("--max-examples"))]
    if option("--bnspec-deadline") is not None:
        words += ["--deadline", f"{option('--bnspec-deadline'):g}"]
    words += ["--level", option("--bnspec-level")] if option("--bnspec-level") != LEVELS[-1] else []
    words += ["--isolate"] if option("--bnspec-isolate") else []
    words += ["--no-shrink"] if option("--bnspec-no-shrink") else []
    if option("--bnspec-sizes") != "default":
        words += ["--sizes", option("--bnspec-sizes")]
    words += ["--seed", str(option("--bnspec-seed") or 0)]
    words += ["-x"] if option("maxfail") else []
    for name in ("last-failed", "expect", "waivers"):
        words += [] if option(f"--bnspec-{name}") is None else [f"--{name}", option(f"--bnspec-{name}")]
    return shlex.join(words)
