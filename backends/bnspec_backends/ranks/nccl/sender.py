"""Queueing a collective on a stream: messages, NCCL's calls, the fold, and the comparison of what came.

A rank compares the headers that came with its own on the device, so that no number of another layer is ever used: where
they differ, or the communicator was aborted meanwhile, the result is NaN. The host gets the same headers, to say what
differed. It waits for nothing here, but that NCCL itself connects the ranks in the first calls.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import cupy
import cupyx
import numpy as np
from cupy.cuda import nccl

from bnspec._types import Array
from bnspec_backends.ranks.batched import Request
from bnspec_backends.ranks.headers import About
from bnspec_backends.ranks.nccl.flight import Flight
from bnspec_backends.ranks.nccl.keeper import Keeper
from bnspec_backends.ranks.nccl.messages import HEAD, Layout
from bnspec_backends.ranks.schedule import Round, plan

__all__ = ["Sender"]


class Sender:
    """One rank's end of an NCCL communicator.

    Parameters
    ----------
    keeper : Keeper
        Of the NCCL communicator.
    rank, size : int
    members : tuple of int
        The ranks' numbers in what is said.
    group : bytes
        Sixteen bytes that stand for these ranks in headers.

    Attributes
    ----------
    rounds : tuple of Round
        Those of `bnspec_backends.ranks.schedule`; a single rank has one too, with itself.
    """

    def __init__(self, keeper: Keeper, rank: int, size: int, members: tuple[int, ...], group: bytes) -> None:
        self.rounds = plan(size, rank) or (Round((rank,), ()),)
        self._keeper, self._comm, self._rank, self._size = keeper, keeper.comm, rank, size
        self._members, self._group = members, group

    def send(
        self,
        own: About,
        sequence: int,
        requests: Sequence[Request],
        begin: Callable[[Flight], None],
        entry: Callable[[], AbstractContextManager[None]],
    ) -> list[Array]:
        """Queue a collective on the current stream.

        Parameters
        ----------
        own : About
        sequence : int
        requests : sequence of Request
            What to join, in one message.
        begin : callable
            Is told of the flight before NCCL is called.
        entry : callable
            Makes the context in which NCCL is called.

        Returns
        -------
        list of array
            The joined payloads: their values follow.
        """
        stream = cupy.cuda.get_current_stream()
        payloads = [request.payload for request in requests]
        layout = Layout.of(payloads)
        # The sequence number also tells what came from what a former message left in the same memory.
        text = own.header(sequence, 8 * (layout.words - HEAD), self._group, 0)
        sent = cupyx.empty_pinned(HEAD, np.uint64)
        sent[...] = np.frombuffer(text, np.uint64)
        head = cupy.empty(HEAD, cupy.uint64)
        head.set(sent, stream=stream)
        flight = Flight(own, sequence, text, _event(stream), sent)
        begin(flight)
        right: Any = None
        for each in self.rounds:
            message = cupy.empty(layout.words, cupy.uint64)
            # A rank that met others in another collective makes sure that those of later rounds notice.
            message[:HEAD] = head if right is None else cupy.where(right, head, cupy.zeros_like(head))
            layout.fill(message, payloads)
            with entry():
                rows = self._exchange(each, message, stream)
            heads = cupy.ascontiguousarray(rows[:, :HEAD])
            right = cupy.all(heads == head)  # with the own one of this round, which tells of those before
            came = cupyx.empty_pinned(heads.shape, np.uint64)
            heads.get(stream=stream, out=came, blocking=False)
            flight.found.append(([self._members[source] for source in each.sources], came))
            parts = zip(*(layout.payloads(row) for row in rows))
            payloads = [functools.reduce(request.combine, part) for request, part in zip(requests, parts)]
        # Half a message may have come when an abort breaks it off, with the header in it.
        right = cupy.logical_and(right, self._keeper.alive(stream)[0] == 1)
        flight.landed = _event(stream)
        return [cupy.where(right, each, each.dtype.type(np.nan)) for each in payloads]

    def _exchange(self, each: Round, message: Array, stream: Any) -> Array:
        """Queue one round: the messages of all its sources, in order, as rows."""
        words = int(message.size)
        rows = cupy.empty((len(each.sources), words), cupy.uint64)
        if len(each.sources) == self._size:
            self._comm.allGather(message.data.ptr, rows.data.ptr, words, nccl.NCCL_UINT64, stream.ptr)
            return rows
        nccl.groupStart()
        try:
            for target in each.targets:
                self._comm.send(message.data.ptr, words, nccl.NCCL_UINT64, target, stream.ptr)
            for row, source in zip(rows, each.sources):
                if source != self._rank:
                    self._comm.recv(row.data.ptr, words, nccl.NCCL_UINT64, source, stream.ptr)
        finally:
            nccl.groupEnd()
        rows[each.sources.index(self._rank)] = message
        return rows


def _event(stream: Any) -> Any:
    event = cupy.cuda.Event(disable_timing=True)
    event.record(stream)
    return event
