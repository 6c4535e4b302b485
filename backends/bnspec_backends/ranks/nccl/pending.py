"""Collective that is pending on a device: its events, and the headers that came with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bnspec_backends.ranks.headers import SAME, About, parse_header
from bnspec_backends.ranks.nccl.faults import passed

__all__ = ["PendingCollective", "facts_at"]

_UNKNOWN = {"layer": "unknown", "operation": "unknown", "sequence number": "unknown"}


@dataclasses.dataclass
class PendingCollective:
    """Collective that is queued on a stream.

    Attributes
    ----------
    own : About
        The facts of this rank.
    sequence : int
        The collective's number.
    head : bytes
        The header that this rank sent.
    begun, ended : cupy.cuda.Event
        Before the collective and behind it on its stream; `ended` is None until all of it is queued.
    kept : array
        Page-locked memory that the device reads.
    headers : list of (sequence of int, array)
        For each round the sources' numbers and their headers, in page-locked memory; to be read after `ended`.
    since : float or None
        Time at which the device was first seen to have begun.
    """

    own: About
    sequence: int
    head: bytes
    begun: Any
    kept: Any
    ended: Any = None
    headers: list[tuple[Sequence[int], Any]] = dataclasses.field(default_factory=list)
    since: float | None = None

    @property
    def facts(self) -> dict[str, str]:
        """Facts of this rank, with the collective's number."""
        return facts_at(self.own, self.sequence)

    def has_begun(self) -> bool:
        """Return whether the device has come to the collective."""
        return passed(self.begun)

    def has_ended(self) -> bool:
        """Return whether the device has come past the collective."""
        return self.ended is not None and passed(self.ended)

    def agrees(self) -> bool:
        """Return whether all headers are of this collective; to be called once it has ended."""
        return all(bytes(row)[:SAME] == self.head[:SAME] for _, rows in self.headers for row in rows)

    def facts_of_ranks(self, known: Mapping[bytes, Mapping[str, str]]) -> dict[int, Mapping[str, str]]:
        """Return the facts of each source's header; `known` has the facts of digests."""
        facts: dict[int, Mapping[str, str]] = {}
        for sources, rows in self.headers:
            for source, row in zip(sources, rows):
                try:
                    header = parse_header(bytes(row))
                    facts[source] = {**known[header.digest], "sequence number": str(header.sequence)}
                except (KeyError, ValueError):  # half a message, or one of another communicator
                    facts[source] = _UNKNOWN
        return facts


def facts_at(about: About, sequence: int) -> dict[str, str]:
    """Return facts with the collective's number."""
    return {**about.facts, "sequence number": str(sequence)}
