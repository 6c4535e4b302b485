"""Control over NCCL itself, where nothing else joins the ranks: comparisons only.

The host waits for the device here, once for each layer. Texts of a comparison that fails are exchanged by a second
message, so that the error can say what differs.
"""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np
from cupy.cuda import nccl

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import DO_THE_SAME, met_text, where
from bnspec_backends.ranks.headers import About, Header, of_facts, parse_header
from bnspec_backends.ranks.nccl.faults import calling_nccl, passed
from bnspec_backends.ranks.nccl.start import late, within
from bnspec_backends.ranks.notices import News, wait

__all__ = ["DeviceControl", "all_gather"]


def all_gather(
    comm: Any, data: bytes, size: int, until: float, calling: AbstractContextManager[Any] | None = None
) -> list[bytes] | None:
    """Every rank's bytes, of which all have as many; None at the deadline, with the stream still waiting."""
    stream = cupy.cuda.get_current_stream()
    mine = cupy.asarray(np.frombuffer(data, np.uint8))
    rows = cupy.empty((size, len(data)), cupy.uint8)
    with calling or contextlib.nullcontext(), calling_nccl():
        comm.allGather(mine.data.ptr, rows.data.ptr, len(data), nccl.NCCL_UINT8, stream.ptr)
    done = cupy.cuda.Event(disable_timing=True)
    done.record(stream)
    if not wait(lambda: passed(done), until):
        return None
    return [row.tobytes() for row in rows.get()]


class DeviceControl:
    """A `Control` over an NCCL communicator, which it shares with the payloads."""

    tells = False

    def __init__(self, comm: Any, members: tuple[int, ...], deadline: float, name: str = "") -> None:
        self.members, self.deadline = members, deadline
        self.whole, self.group = not name, hashlib.blake2b(name.encode(), digest_size=16).digest()
        self.calling = threading.Lock()
        self._comm, self._rank, self._name, self._splits = comm, comm.rank_id(), name, 0

    @classmethod
    def beside(cls, given: Any, deadline: float) -> "tuple[Any, DeviceControl]":
        """An NCCL communicator of the same ranks as the given one, and a control over it.

        Raises
        ------
        CollectiveTimeout
            Not every rank was there before the deadline. The given communicator may still wait on this stream.
        ValueError
            Another device is current.
        """
        rank, size = given.rank_id(), given.size()
        current = cupy.cuda.Device().id
        if given.device_id() != current:
            raise refusal(
                ValueError,
                "BN-SYNC-9",
                got=f"an NCCL communicator of device {given.device_id()} where device {current} is current",
                expected="the communicator's device",
                do=f"Call cupy.cuda.Device({given.device_id()}).use() first.",
            )
        if all_gather(given, b"bnspec\0\0", size, time.perf_counter() + deadline) is None:
            raise late(f"rank {rank}", deadline)
        comm = within(deadline, lambda: given.commSplit(0, rank), f"rank {rank}")
        return comm, cls(comm, tuple(range(size)), deadline)

    def split(self, color: int | str | None, share: bool) -> "tuple[Any, DeviceControl]":
        """See `Control`."""
        colors = [json.loads(each) for each in self.gather(json.dumps(color).encode(), "split")]
        self._splits += 1
        number = colors.index(color)
        comm = within(self.deadline, lambda: self._comm.commSplit(number, self._rank), f"rank {self._rank}")
        members = tuple(rank for rank, each in zip(self.members, colors) if each == color)
        return comm, DeviceControl(comm, members, self.deadline, f"{self._name}/{self._splits}:{number}")

    def agree(self, own: About, sequence: int) -> None:
        """See `Control`."""
        self._compare(of_facts({**own.facts, "sequence number": str(sequence)}), 0)

    def gather(self, data: bytes, operation: str) -> list[bytes]:
        """See `Control`."""
        facts = of_facts({"operation": repr(operation), "layer": "none", "sequence number": str(self._splits)})
        lengths = self._compare(facts, len(data))
        rows = self._all(data.ljust(max(lengths), b"\0"), where(facts.facts))
        return [row[:length] for row, length in zip(rows, lengths)]

    def _compare(self, facts: About, length: int) -> list[int]:
        """The lengths of what the ranks have to say, if all of them are about to do the same."""
        place = where(facts.facts)
        heads = [_header(head) for head in self._all(facts.header(0, length, self.group, len(facts.text)), place)]
        if all(head is not None and head.digest == facts.digest and head.group == self.group for head in heads):
            return [head.payload for head in heads if head is not None]
        got = f"{place} met ranks that are in something else"
        texts = [head.text for head in heads if head is not None and head.text]
        if len(texts) == len(heads):  # all compare, so all of them go on to tell what they are about to do
            told = self._all(facts.text.ljust(max(texts)), place)
            got = met_text({rank: json.loads(text) for rank, text in zip(self.members, told)})
        raise refusal(CollectiveMismatch, "BN-SYNC-9", got=got, expected="the same on every rank", do=DO_THE_SAME)

    def _all(self, data: bytes, place: str) -> list[bytes]:
        until = time.perf_counter() + self.deadline
        found = all_gather(self._comm, data, len(self.members), until, self.calling)
        if found is None:
            raise refusal(
                CollectiveTimeout,
                "BN-SYNC-9",
                got=f"{place} waited {self.deadline:g} s on rank {self.members[self._rank]}, and one did not arrive",
                expected="every rank within the deadline",
                do="Find out which rank is elsewhere; a communicator made over MPI would name it.",
            )
        return found

    def tell(self, sequence: int, kind: str, text: str, *, everybody: bool = False) -> None:
        """See `Control`: there is no way."""

    def hear(self) -> Sequence[News]:
        """See `Control`."""
        return ()

    def fail(self, kind: type[CommunicatorError], text: str) -> None:
        """See `Control`: the communicator is aborted, and with it what is waited for."""

    def failure(self) -> CommunicatorError | None:
        """See `Control`."""
        return None

    def close(self, error: BaseException | None) -> None:
        """See `Control`."""


def _header(head: bytes) -> Header | None:
    """A header of ours, or None."""
    try:
        return parse_header(head)
    except ValueError:
        return None
