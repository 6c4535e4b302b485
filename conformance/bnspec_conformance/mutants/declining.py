"""Subjects that decline a part of the cases: a search must find the same faults in what is left, and no others."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from bnspec_conformance.cases.case import Case
from bnspec_conformance.subjects import Subject

__all__ = ["DECLINERS", "FEW", "SHRUNK", "declining"]

#: Cases per check of a search with shrinking, whose mutants are wrong nearly everywhere; it bounds the shrinking too.
FEW = 10


def _small(case: Case) -> bool:
    return any(0 < rank.x.size < 6 * case.channels for rank in case.ranks)


def _large(case: Case) -> bool:
    return any(rank.x.size > 48 for rank in case.ranks)


def _most(case: Case) -> bool:
    return zlib.crc32(b"".join(rank.x.tobytes() for rank in case.ranks)) % 4 != 0


#: What is declined, by a word: shrinking runs into the small cases, drawing into the large ones, and all into most.
DECLINERS: Mapping[str, Callable[[Case], bool]] = {"small": _small, "large": _large, "most": _most}

#: Mutants that are searched with shrinking too, one for each family that draws cases, and what each declines: nothing,
#: or a word. Every word stands beside clauses of several families, and none beside all, which would show nothing new.
SHRUNK: Mapping[str, str] = {
    "interleaved-groups": "most",
    "count-of-samples": "small",
    "epsilon-outside-the-root": "large",
    "dx-without-mean-term": "small",
    "decay-inverted": "most",
    "inference-without-epsilon": "large",
    "skip-updates": "small",
    "d-sign": "most",
    "masked-output-zero": "",
    "gradient-without-collective": "small",
}


class _Declining:
    """Subject that declines some cases, and asks another subject for everything else."""

    def __init__(self, subject: Subject, what: str) -> None:
        self._subject, self._what = subject, what

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    def supports(self, case: Case) -> str | None:
        """Return a reason for a case that is declined, else the subject's own."""
        if DECLINERS[self._what](case):
            return f"it declines {self._what} cases"
        return self._subject.supports(case)


def declining(subject: Subject, what: str) -> Subject:
    """The subject, or one that declines what the word says."""
    return cast(Subject, _Declining(subject, what)) if what else subject
