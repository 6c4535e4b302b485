"""Conventions of the page: what the probe measured, with the subjects of each value, beside what they declare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bnspec_conformance.matrix.page.column import Column

__all__ = ["Convention", "Measured", "conventions"]


@dataclass(frozen=True)
class Measured:
    """Convention of one subject.

    Attributes
    ----------
    column : Column
    verdict : {"same", "differs", "ambiguous", "undeclared"}
        Of the comparison with what it declares.
    declared, source, note : str
        As the probe has them.
    """

    column: Column
    verdict: str
    declared: str
    source: str
    note: str


@dataclass
class Convention:
    """One convention.

    Attributes
    ----------
    group, name : str
    values : dict of str to list of Measured
        By the value that was measured, the most frequent first.
    unseen : list of Column
        Subjects that could not be asked.
    """

    group: str
    name: str
    values: dict[str, list[Measured]] = field(default_factory=dict)
    unseen: list[Column] = field(default_factory=list)

    @property
    def differs(self) -> int:
        """Number of subjects that do otherwise than they declare."""
        return sum(one.verdict == "differs" for found in self.values.values() for one in found)


def conventions(columns: Sequence[Column]) -> list[Convention]:
    """Return the conventions that could be measured of some subject, in the order of the probe.

    Parameters
    ----------
    columns : sequence of Column
    """
    found: dict[tuple[str, str], Convention] = {}
    for column in columns:
        for finding in column.findings:
            key = finding["group"], finding["convention"]
            convention = found.setdefault(key, Convention(*key))
            if finding["verdict"] == "not observable":
                convention.unseen.append(column)
                continue
            one = Measured(column, finding["verdict"], finding["declared"], finding["source"], finding["note"])
            convention.values.setdefault(finding["measured"], []).append(one)
    return list(_by_frequency(convention for convention in found.values() if convention.values))


def _by_frequency(found: Iterator[Convention]) -> Iterator[Convention]:
    for convention in found:
        convention.values = dict(sorted(convention.values.items(), key=lambda item: -len(item[1])))
        yield convention
