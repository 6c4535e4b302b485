"""Selection of a run: which checks its command line asks for, and what it leaves of the suite."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pytest

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance.run.completeness import asked_for
from bnspec_conformance.run.items import check_and_subject, clauses_of, matches

__all__ = ["Selection"]


class Selection:
    """The checks that a run is to put to its subjects.

    Parameters
    ----------
    option : callable
        pytest's options by name.
    again : mapping, optional
        By the subject's name, the checks that failed last time, where only these are asked for.
    """

    def __init__(self, option: Callable[[str], Any], again: Mapping[str, Collection[str]] | None = None) -> None:
        self._option, self._again = option, again

    def choose(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Return the tests that are asked for, of those that pytest has collected."""
        chosen = list(items)
        if self._option("--clause"):
            wanted = self._option("--clause")
            chosen = [i for i in chosen if any(matches(w, c) for w in wanted for c in clauses_of(i))]
        if self._again is not None:
            found = ((item, *check_and_subject(item)) for item in chosen)
            chosen = [item for item, check, subject in found if check in self._again.get(subject, ())]
        return chosen

    def clauses(self) -> list[str]:
        """Return the clauses that `--clause` names."""
        return [c for c in specification_clauses() if any(matches(w, c) for w in self._option("--clause") or [])]

    def partial(self) -> list[str]:
        """Return the options by which a run leaves out a part of the suite."""
        left = {
            "--clause": self._option("--clause"),
            "-k": self._option("keyword"),
            "--profile": self._option("--bnspec-profile"),
            "--last-failed": self._again is not None,
            "-x": self.stops,
            "--max-examples": self._option("--max-examples") is not None,
        }
        return [name for name, given in left.items() if given]

    @property
    def stops(self) -> bool:
        """True if the run ends with the first failure."""
        return bool(self._option("maxfail"))

    def asked(self, chosen: Collection[tuple[str, str]], subjects: Iterable[str]) -> set[tuple[str, str]]:
        """Return what a run must have put to its subjects, by check and subject.

        Parameters
        ----------
        chosen : collection of (check, subject)
            Collected by pytest. Where the suite itself can tell what was asked for, it does.
        subjects : iterable of str
        """
        if self._option("keyword") or self._again is not None:
            return set(chosen)
        return asked_for(self.clauses(), list(subjects))
