"""Run of the probe: every group of conventions on one subject."""

from collections.abc import Callable, Collection, Iterator, Mapping

from bnspec import dialects
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Finding
from bnspec_conformance.probe.groups.edges import edges
from bnspec_conformance.probe.groups.ghost import ghost
from bnspec_conformance.probe.groups.layer import layer
from bnspec_conformance.probe.groups.normalize import normalization
from bnspec_conformance.probe.groups.precision import precision
from bnspec_conformance.probe.groups.running import running
from bnspec_conformance.probe.groups.sync import sync
from bnspec_conformance.subjects import Subject, SubjectError

__all__ = ["GROUPS", "probe"]

#: Groups of conventions, in the order of a table.
GROUPS: Mapping[str, Callable[[Asker], Iterator[Finding]]] = {
    "running": running,
    "normalization": normalization,
    "ghost": ghost,
    "sync": sync,
    "precision": precision,
    "edges": edges,
    "layer": layer,
}


def probe(subject: Subject, groups: Collection[str] | None = None) -> list[Finding]:
    """Measure the conventions of a subject.

    Parameters
    ----------
    subject : Subject
        As `find_subject` returns it.
    groups : collection of str, optional
        Some of `GROUPS`; by default all.

    Returns
    -------
    list of Finding
        One per convention, in the order of docs/probe.md; those whose verdict is "differs" are failures.

    Raises
    ------
    SubjectError
        For a dialect that does not exist, and departures from conventions that do not.
    """
    row = None
    if subject.dialect is not None:
        if subject.dialect not in dialects.names():
            known = ", ".join(dialects.names())
            raise SubjectError(f"{subject.name} declares the dialect {subject.dialect!r}; expected None or {known}.")
        row = dialects[subject.dialect]
    departures: Mapping[str, str] = getattr(subject, "departures", dict)()
    ask = Asker(subject, row, departures)
    findings = [f for name, group in GROUPS.items() if groups is None or name in groups for f in group(ask)]
    unknown = sorted(set(departures) - {f.convention for f in findings})
    if unknown and groups is None:
        known = "; ".join(f.convention for f in findings)
        raise SubjectError(f"{subject.name} departs from the conventions {unknown}, which are none; expected: {known}.")
    return findings
