"""Control over NCCL itself, where nothing else joins the ranks: comparisons only.

The host waits for the device here, once for each layer. Texts of a comparison that fails are exchanged by a second
message, so that the error can say what differs.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np
from cupy.cuda import nccl

from bnspec._errors import CollectiveMismatch, CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends._facts import DO_THE_SAME, met_text, where
from bnspec_backends._frames import SAME, About, of_facts, parse_header
from bnspec_backends._nccl.messages import HEAD
from bnspec_backends._nccl.start import late, within
from bnspec_backends._news import News, wait

__all__ = ["DeviceControl", "all_gather"]


def all_gather(comm: Any, data: bytes, size: int, until: float) -> list[bytes] | None:
    """Every rank's bytes, of which all have as many; None at the deadline, with the stream still waiting."""
    stream = cupy.cuda.get_current_stream()
    mine = cupy.asarray(np.frombuffer(data, np.uint8))
    rows = cupy.empty((size, len(data)), cupy.uint8)
    comm.allGather(mine.data.ptr, rows.data.ptr, len(data), nccl.NCCL_UINT8, stream.ptr)
    done = cupy.cuda.Event(disable_timing=True)
    done.record(stream)
    if not wait(lambda: done.done, until):
        return None
    return [row.tobytes() for row in rows.get()]


class DeviceControl:
    """A `Control` over an NCCL communicator, which it shares with the payloads."""

    tells = False

    def __init__(self, comm: Any, members: tuple[int, ...], deadline: float, name: str = "") -> None:
        self.members, self.deadline = members, deadline
        self.whole, self.group = not name, hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._comm, self._rank, self._name, self._splits = comm, comm.rank_id(), name, 0

    @classmethod
    def beside(cls, given: Any, deadline: float) -> "tuple[Any, DeviceControl]":
        """An NCCL communicator of the same ranks as the given one, and a control over it.

        Raises
        ------
        CollectiveTimeout
            Not every rank was there before the deadline. The given communicator may still wait on this stream.
        """
        rank, size = given.rank_id(), given.size()
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
        facts = of_facts({**own.facts, "sequence number": str(sequence)})
        place = where(facts.facts)
        mine = facts.header(sequence, 0, self.group, len(facts.text))
        heads = self._all(mine, place)
        if all(head[:SAME] == mine[:SAME] for head in heads):
            return
        got = f"{place} met ranks that are in something else"
        lengths = [_text_length(head) for head in heads]
        if all(lengths):  # all compare, so all of them go on to tell what they are about to do
            texts = self._all(facts.text.ljust(max(lengths)), place)
            got = met_text({rank: json.loads(text) for rank, text in zip(self.members, texts)})
        raise refusal(CollectiveMismatch, "BN-SYNC-9", got=got, expected="the same on every rank", do=DO_THE_SAME)

    def gather(self, data: bytes, operation: str) -> list[bytes]:
        """See `Control`."""
        place = f"the ranks' {operation}"
        lengths = [int.from_bytes(each, "little") for each in self._all(len(data).to_bytes(8 * HEAD, "little"), place)]
        rows = self._all(data.ljust(max(lengths), b"\0"), place)
        return [row[:length] for row, length in zip(rows, lengths)]

    def _all(self, data: bytes, place: str) -> list[bytes]:
        found = all_gather(self._comm, data, len(self.members), time.perf_counter() + self.deadline)
        if found is None:
            raise refusal(
                CollectiveTimeout,
                "BN-SYNC-9",
                got=f"{place} waited {self.deadline:g} s on rank {self.members[self._rank]}, and one did not arrive",
                expected="every rank within the deadline",
                do="Find out which rank is elsewhere; a communicator made over MPI would name it.",
            )
        return found

    def tell(self, sequence: int, kind: str, text: str) -> None:
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


def _text_length(head: bytes) -> int:
    """The length of the text that belongs to a header; 0 for something else than a comparison."""
    try:
        return parse_header(head).text
    except ValueError:
        return 0
