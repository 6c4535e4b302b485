"""The conformance suite of bnspec: cases, subjects, oracles and one check for every clause.

``bnspec-conformance run numpy`` is the command; pytest with ``-p bnspec_conformance.plugin`` runs the same.
"""

from bnspec_conformance.cases.case import Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import Subject, find_subject, known_subjects

__all__ = [
    "Case",
    "Outcome",
    "RankInputs",
    "RankOutcome",
    "Subject",
    "exact",
    "find_subject",
    "known_subjects",
]
