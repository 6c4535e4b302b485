"""Queueing of a collective on a stream: the message, NCCL's calls, the fold, and the comparison of headers.

A message is an array of 64-bit words on the device: 8 words of header, then the payload. A rank compares the received
headers with its own on the device, so that no number of another layer is ever used: if they differ, or the communicator
was aborted meanwhile, the result is NaN. The host gets the same headers, for the text of the error. The host does not
wait here, except that NCCL itself connects the ranks in its first calls.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import cupy
import cupyx
import numpy as np
from cupy.cuda import nccl

from bnspec._types import Array
from bnspec_backends.ranks.headers import HEADER, About
from bnspec_backends.ranks.nccl.control import Control
from bnspec_backends.ranks.nccl.pending import PendingCollective
from bnspec_backends.ranks.nccl.polling_thread import PollingThread
from bnspec_backends.ranks.schedule import Round, plan

__all__ = ["Sender"]

#: Words of a header.
_HEAD = HEADER // 8


class Sender:
    """Sender of one rank's messages through an NCCL communicator.

    Parameters
    ----------
    thread : PollingThread
        Owner of the NCCL communicator.
    control : Control
        Control of the same ranks.

    Attributes
    ----------
    rounds : tuple of Round
        Rounds of `bnspec_backends.ranks.schedule`; a single rank has one too, with itself.
    """

    def __init__(self, thread: PollingThread, control: Control) -> None:
        self._rank, self._size = control.rank, len(control.members)
        self.rounds = plan(self._size, self._rank) or (Round((self._rank,), ()),)
        self._thread, self._comm = thread, thread.comm
        self._members, self._group = control.members, control.group

    def send(
        self,
        own: About,
        sequence: int,
        payload: Array,
        combine: Callable[[Array, Array], Array],
        begin: Callable[[PendingCollective], None],
        entry: Callable[[], AbstractContextManager[None]],
    ) -> Array:
        """Queue a collective on the current stream.

        Parameters
        ----------
        own : About
            The facts of this rank.
        sequence : int
            The collective's number.
        payload : array
            The array to join.
        combine : callable
            ``combine(a, b)``, where a holds lower ranks than b.
        begin : callable
            Called with the pending collective before NCCL is called.
        entry : callable
            Makes the context in which NCCL is called.

        Returns
        -------
        array
            The joined payload, whose values follow on the stream.
        """
        stream = cupy.cuda.get_current_stream()
        words = -(-payload.nbytes // 8)
        shape, dtype, size = payload.shape, payload.dtype, payload.size

        def array_in(message: Array) -> Array:
            return message[_HEAD:].view(dtype)[:size].reshape(shape)

        # The sequence number also distinguishes the header from that of a former message in the same memory.
        text = own.header(sequence, 8 * words, self._group, 0)
        sent = cupyx.empty_pinned(_HEAD, np.uint64)
        sent[...] = np.frombuffer(text, np.uint64)
        head = cupy.empty(_HEAD, cupy.uint64)
        head.set(sent, stream=stream)
        pending = PendingCollective(own, sequence, text, _event(stream), sent)
        begin(pending)
        right: Any = None
        for each in self.rounds:
            message = cupy.empty(_HEAD + words, cupy.uint64)
            # After a mismatch the header is zeroed, so that the ranks of later rounds see it.
            message[:_HEAD] = head if right is None else cupy.where(right, head, cupy.zeros_like(head))
            array_in(message)[...] = payload
            with entry():
                rows = self._exchange(each, message, stream)
            heads = cupy.ascontiguousarray(rows[:, :_HEAD])
            right = cupy.all(heads == head)  # the own header is among them: a mismatch in an earlier round shows here
            came = cupyx.empty_pinned(heads.shape, np.uint64)
            heads.get(stream=stream, out=came, blocking=False)
            pending.headers.append(([self._members[source] for source in each.sources], came))
            payload = functools.reduce(combine, [array_in(row) for row in rows])
        # An abort may break off a message of which the header and half of the payload have come.
        right = cupy.logical_and(right, self._thread.alive(stream)[0] == 1)
        pending.ended = _event(stream)
        return cupy.where(right, payload, payload.dtype.type(np.nan))

    def _exchange(self, each: Round, message: Array, stream: Any) -> Array:
        """Queue one round; return the messages of all its sources, in order, as rows."""
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
