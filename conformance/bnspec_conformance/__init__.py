"""Conformance suite of bnspec: cases, subjects, oracles and at least one check for every clause.

``bnspec-conformance run numpy`` is the command; pytest with ``-p bnspec_conformance.plugin`` runs the same. The names
below are the public ones, all that a subject or a script needs.
"""

from bnspec_conformance.cases.case import Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import LayerSubject, NotSupported, Refused, Subject, find_subject, known_subjects

__all__ = [
    "Case",
    "LayerSubject",
    "NotSupported",
    "Outcome",
    "RankInputs",
    "RankOutcome",
    "Refused",
    "Scope",
    "Subject",
    "exact",
    "find_subject",
    "known_subjects",
]
