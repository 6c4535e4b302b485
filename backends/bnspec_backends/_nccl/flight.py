"""One collective that is under way on a device, what came with it, and whether it is done."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cupy

from bnspec_backends._frames import SAME, About, parse_header

__all__ = ["DeviceFault", "Flight", "facts_at", "passed"]

_UNKNOWN = {"layer": "unknown", "operation": "unknown", "sequence number": "unknown"}


#: What CUDA says of an event that the device has not come to; everything else but 0 is a fault of the device.
_NOT_READY = 600


class DeviceFault(RuntimeError):
    """The device does not work any more; nothing that is queued on it will be done."""


def passed(event: Any) -> bool:
    """Whether the device has come past an event.

    Raises
    ------
    DeviceFault
        Which `Event.done` would call not yet, for ever.
    """
    status = cupy.cuda.runtime.eventQuery(event.ptr)
    if status not in (0, _NOT_READY):
        raise DeviceFault(f"CUDA error {status}")
    return bool(status == 0)


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
