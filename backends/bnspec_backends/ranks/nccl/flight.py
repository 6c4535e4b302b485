"""One collective that is under way on a device, what came with it, and whether it is done."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bnspec_backends.ranks.headers import SAME, About, parse_header
from bnspec_backends.ranks.nccl.faults import passed

__all__ = ["Flight", "facts_at"]

_UNKNOWN = {"layer": "unknown", "operation": "unknown", "sequence number": "unknown"}


@dataclasses.dataclass
class Flight:
    """One collective that is under way.

    Attributes
    ----------
    own : About
    sequence : int
    head : bytes
        The header that this rank sent.
    reached, landed : cupy.cuda.Event
        Before it and behind it on its stream; `landed` is None until all of it is queued.
    kept : array
        What the device reads from the host's memory.
    found : list of (sequence of int, array)
        For each round the sources' numbers and their headers, in page-locked memory; to be read after `landed`.
    since : float or None
        When it was seen to have begun on the device.
    """

    own: About
    sequence: int
    head: bytes
    reached: Any
    kept: Any
    landed: Any = None
    found: list[tuple[Sequence[int], Any]] = dataclasses.field(default_factory=list)
    since: float | None = None

    @property
    def facts(self) -> dict[str, str]:
        """What this rank was about to do."""
        return facts_at(self.own, self.sequence)

    def over(self) -> bool:
        """Whether it has landed."""
        return self.landed is not None and passed(self.landed)

    def agrees(self) -> bool:
        """Whether all that came is from this collective; once it has landed."""
        return all(bytes(row)[:SAME] == self.head[:SAME] for _, rows in self.found for row in rows)

    def met(self, known: Mapping[bytes, Mapping[str, str]]) -> dict[int, Mapping[str, str]]:
        """What each rank that was heard was about to do; `known` tells digests' facts."""
        facts: dict[int, Mapping[str, str]] = {}
        for sources, rows in self.found:
            for source, row in zip(sources, rows):
                try:
                    header = parse_header(bytes(row))
                    facts[source] = {**known[header.digest], "sequence number": str(header.sequence)}
                except (KeyError, ValueError):  # not from our ranks' layers: cut off, or of another communicator
                    facts[source] = _UNKNOWN
        return facts


def facts_at(about: About, sequence: int) -> dict[str, str]:
    """Facts with the collective's number."""
    return {**about.facts, "sequence number": str(sequence)}
