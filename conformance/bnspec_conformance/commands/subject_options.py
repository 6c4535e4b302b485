"""Options that are parameters of subjects: ``--device`` and ``--provider``, short for ``NAME@device=cuda``."""

import argparse
from collections.abc import Sequence

from bnspec_conformance.subjects.contract import SubjectError
from bnspec_conformance.subjects.find import takes
from bnspec_conformance.subjects.parameters import with_parameters

__all__ = ["add_subject_options", "named", "named_of_those_that_take"]

_OPTIONS = {
    "device": "what the subjects compute on, as torch calls it: cpu, cuda, mps, ...; short for SUBJECT@device=NAME",
    "provider": "onnxruntime's execution provider, such as CPUExecutionProvider; short for SUBJECT@provider=NAME",
}


def add_subject_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    for key, words in _OPTIONS.items():
        parser.add_argument(f"--{key}", metavar="NAME", help=words)


def named(subjects: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Return the names of subjects with the parameters that options give; each has to take them.

    Raises
    ------
    SubjectError
        If a name has one of them already, or is a program's.
    """
    return [with_parameters(name, _given(options)) for name in subjects]


def named_of_those_that_take(subjects: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Return the names of those subjects that take the parameters which options give, with these; all without any.

    Raises
    ------
    SubjectError
        If there is none.
    """
    given = _given(options)
    taking = [name for name in subjects if takes(name, given)] if given else [*subjects]
    if not taking:
        raise SubjectError(f"no subject takes {' and '.join(f'--{key}' for key in given)} together; leave one out.")
    return named(taking, options)


def _given(options: argparse.Namespace) -> dict[str, str]:
    return {key: value for key in _OPTIONS if (value := getattr(options, key)) is not None}
