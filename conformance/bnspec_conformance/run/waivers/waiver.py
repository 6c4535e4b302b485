"""Waiver: one known failure, the conditions under which it counts, and the facts that they are held against."""

import dataclasses
import datetime
import fnmatch
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bnspec_conformance.report.facts import device_of, libraries
from bnspec_conformance.subjects import Subject, version_of
from bnspec_conformance.trials.record import Record

__all__ = ["GENERATED_DAYS", "Facts", "Waiver", "dtype_of", "facts_of", "generated", "parse_version"]

#: How long a generated waiver lasts.
GENERATED_DAYS = 90

_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Facts:
    """Facts about a subject that conditions refer to."""

    subject: str
    device: str
    libraries: tuple[tuple[str, str], ...]  # the one under test first


@dataclass(frozen=True)
class Waiver:
    """One entry of the file.

    Attributes
    ----------
    entry : int
        Its number in the file, from 1; 0 for one that is not in it yet.
    line : int or None
        Where it begins, where that can be told.
    clause, check : str or None
        Every check of a clause may fail, or one check; one of the two is given.
    subject, dtype, device, version : str or None
        Where: the subject's name or a pattern such as "flax-*", the dtype of x in the failing case, "cpu" or "cuda",
        the library's version as ">=2.13,<2.14" or "jax >=0.10".
    reason : str
        Why.
    link : str or None
        Where it is followed up.
    expires : date or None
        The last day on which it counts.
    """

    entry: int
    reason: str
    clause: str | None = None
    check: str | None = None
    subject: str | None = None
    dtype: str | None = None
    device: str | None = None
    version: str | None = None
    link: str | None = None
    expires: datetime.date | None = None
    line: int | None = None

    def is_about(self, facts: Facts) -> bool:
        """Return whether the subject, on this device and in this version, is meant."""
        if self.subject is not None and not (
            facts.subject == self.subject or fnmatch.fnmatchcase(facts.subject, self.subject)
        ):
            return False
        if self.device is not None and facts.device != self.device:
            return False
        return self.version is None or _version_fits(self.version, facts.libraries)

    def covers(self, record: Record, facts: Facts, clause: str) -> bool:
        """Return whether this is the failure of a clause that was meant."""
        named = record.check == self.check if self.check is not None else self.clause == clause
        return named and self.is_about(facts) and (self.dtype is None or self.dtype == dtype_of(record))

    def has_expired(self, today: datetime.date) -> bool:
        """Return whether its last day is over."""
        return self.expires is not None and today > self.expires

    def to_json(self) -> dict[str, Any]:
        """Return the waiver as a JSON value."""
        value = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return value | ({} if self.expires is None else {"expires": self.expires.isoformat()})

    @property
    def where(self) -> str:
        """Entry and line, for messages."""
        return f"entry {self.entry}" + (f" (line {self.line})" if self.line is not None else "")


def generated(record: Record, today: datetime.date) -> Waiver:
    """Return the waiver that `--update-waivers` writes for a failure."""
    problem = str((record.violation or {}).get("problem") or record.reason).splitlines()[0]
    return Waiver(
        entry=0,
        reason=f"not looked into yet: {problem}",
        check=record.check,
        subject=record.subject,
        expires=today + datetime.timedelta(days=GENERATED_DAYS),
    )


def facts_of(subject: Subject) -> Facts:
    """Return the facts about a subject that conditions refer to."""
    return Facts(subject.name, device_of(subject), tuple(libraries(version_of(subject))))


def dtype_of(record: Record) -> str | None:
    """Return the dtype of x in the case that failed; None where no case shows the failure."""
    case = str((record.violation or {}).get("case") or "")
    return next((name for name in _DTYPES if case.startswith(name + "(")), None)


@functools.cache
def parse_version(text: str) -> tuple[str | None, SpecifierSet]:
    """Return a version condition: the library it names, if it does, and the versions.

    Raises
    ------
    ValueError
        For anything else than specifiers, with or without a library's name before them.
    """
    if not text.strip()[:1].isalpha():
        return None, SpecifierSet(text)
    wanted = Requirement(text)
    if not wanted.specifier or wanted.url or wanted.extras or wanted.marker:
        raise ValueError(f"{text} names no versions alone")
    return wanted.name, wanted.specifier


def _version_fits(condition: str, found: Sequence[tuple[str, str]]) -> bool:
    wanted, allowed = parse_version(condition)
    meant = [v for name, v in found if wanted is None or name.lower() == wanted.lower()]
    # A build's local part, as in 2.13.0+cpu, is no reason to be outside; nor is being a pre-release.
    return bool(meant) and allowed.contains(meant[0].split("+")[0], prereleases=True)
