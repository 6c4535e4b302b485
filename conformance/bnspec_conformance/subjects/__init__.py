"""Subjects: implementations to test, found by entry point, by ``module:attribute`` or as ``exec:PROGRAM``.

A subject says which cases it supports and runs one. Nothing else is required, so bnspec's own backends, a framework's
layer and a program behind a pipe are checked by the same clauses.
"""

from bnspec_conformance.subjects.contract import (
    NotSupported,
    ProgramError,
    Refused,
    Subject,
    SubjectError,
    asked_as,
)
from bnspec_conformance.subjects.find import complete, find_subject, is_ours, known_subjects, silenced, version_of
from bnspec_conformance.subjects.layer_subject import LayerSubject
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = [
    "LayerSubject",
    "NotSupported",
    "ProgramError",
    "Refused",
    "Subject",
    "SubjectError",
    "asked_as",
    "complete",
    "find_subject",
    "is_ours",
    "known_subjects",
    "names_by_value",
    "silenced",
    "version_of",
]
