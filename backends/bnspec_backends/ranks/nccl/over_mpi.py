"""Control over MPI: comparisons and news travel while devices are busy, or stuck."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from bnspec._errors import CommunicatorError, refusal
from bnspec_backends.ranks.headers import About, of_facts
from bnspec_backends.ranks.mpi.communicator import MPICommunicator
from bnspec_backends.ranks.mpi.transport import Group
from bnspec_backends.ranks.nccl.start import begin
from bnspec_backends.ranks.notices import News

__all__ = ["MPIControl"]

_NOTHING = np.empty(0, np.uint8)


class MPIControl:
    """A `Control` by an `MPICommunicator` of its own.

    Raises
    ------
    RuntimeError
        MPI does not let two threads call it, and one of them looks after the device.
    """

    tells = True

    def __init__(self, comm: MPICommunicator, *, whole: bool = True) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise refusal(
                RuntimeError,
                "BN-SYNC-9",
                got=f"MPI was initialized for thread level {MPI.Query_thread()}",
                expected=f"MPI_THREAD_MULTIPLE, which is {MPI.THREAD_MULTIPLE}",
                do="Leave mpi4py.rc.thread_level at 'multiple', and take an MPI that provides it.",
            )
        self.comm, self.calling = comm, threading.Lock()
        self._exchange, self._peers = comm._exchange, comm._exchange.peers
        self.members, self.whole = self._exchange.members, whole
        self.group = self._exchange.group_bytes
        self._name = f"{self._exchange.group} on devices"
        self._news: list[News] = []
        self._peers.join(self._name, Group(self._news.append))
        self._peers.groups[self._exchange.group].beside.append(self._name)

    @property
    def deadline(self) -> float:
        """See `Control`."""
        return self.comm.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self.comm.deadline = seconds

    def agree(self, own: About, sequence: int) -> None:
        """See `Control`."""
        facts = of_facts({**own.facts, "sequence number": str(sequence)})
        self._exchange.collective(facts, _NOTHING, lambda blocks: blocks[0])

    def gather(self, data: bytes, operation: str) -> list[bytes]:
        """See `Control`."""
        return self.comm.all_gather(data, operation=operation)

    def split(self, color: int | str | None, share: bool) -> "tuple[Any, MPIControl]":
        """See `Control`."""
        part = MPIControl(self.comm.split(color), whole=False)
        try:
            return begin(part, part.comm.rank, share), part
        except BaseException as error:
            part.close(error)
            raise

    def tell(self, sequence: int, kind: str, text: str, *, everybody: bool = False) -> None:
        """See `Control`."""
        others = [rank for rank in self.members if rank != self._exchange.number]
        ranks = others if everybody else self._exchange.told()
        self._peers.tell(ranks, {self._name: sequence}, kind, text)

    def hear(self) -> Sequence[News]:
        """See `Control`."""
        self._peers.hand_out_news()
        new = self._news[:]
        del self._news[: len(new)]
        return new

    def fail(self, kind: type[CommunicatorError], text: str) -> None:
        """See `Control`."""
        self._exchange.health.keep(text, kind)

    def failure(self) -> CommunicatorError | None:
        """See `Control`."""
        return self._exchange.failure()

    def close(self, error: BaseException | None) -> None:
        """See `Control`."""
        self.comm.close(error)
