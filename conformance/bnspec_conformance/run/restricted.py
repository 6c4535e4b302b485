"""Restriction of a subject to a part of its scope, for runs that look at that part only."""

import dataclasses
from collections.abc import Collection
from typing import Any, cast

from bnspec_conformance.cases.scope import PROFILES
from bnspec_conformance.subjects import Subject

__all__ = ["Restricted", "only_profiles", "without_dtypes"]


class Restricted:
    """Subject with another scope, or another declaration; all other attributes are those of the subject itself.

    Parameters
    ----------
    subject : Subject
    **said : Any
        Attributes in place of its own.
    """

    def __init__(self, subject: Subject, **said: Any) -> None:
        self.__dict__.update(said)
        self._subject = subject

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)


def only_profiles(subject: Subject, profiles: Collection[str]) -> Subject:
    """Return the subject with these of its profiles, and core, on which all others build.

    Raises
    ------
    ValueError
        For a profile that does not exist, and where the subject has none of them.
    """
    unknown = [name for name in profiles if name not in PROFILES]
    if unknown:
        raise ValueError(f"no profile {unknown[0]!r}; expected some of {', '.join(PROFILES)}.")
    if not subject.scope.profiles & set(profiles):
        raise ValueError(
            f"{subject.name} has no {' or '.join(profiles)}; its profiles are "
            f"{', '.join(name for name in PROFILES if name in subject.scope.profiles)}."
        )
    kept = subject.scope.profiles & {"core", *profiles}
    return cast(Subject, Restricted(subject, scope=dataclasses.replace(subject.scope, profiles=frozenset(kept))))


def without_dtypes(subject: Subject, dtypes: Collection[str]) -> Subject | None:
    """Return the subject without these dtypes of x; None where no other is left."""
    kept = tuple(name for name in subject.scope.dtypes if name not in dtypes)
    return cast(Subject, Restricted(subject, scope=dataclasses.replace(subject.scope, dtypes=kept))) if kept else None
