"""Control messages between the hosts of the ranks, over MPI, which arrive while devices are busy or stuck.

NCCL does not notice when ranks mean messages of different lengths, and does not name a missing rank. So before a
layer's first message all ranks compare their facts. And a rank that fails, leaves or waits notifies the others, which
may be waiting for it on their devices.
"""

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from bnspec._errors import CommunicatorError, refusal
from bnspec_backends.ranks.headers import About, of_facts
from bnspec_backends.ranks.mpi.communicator import MPICommunicator
from bnspec_backends.ranks.mpi.transport import Group
from bnspec_backends.ranks.notices import Notice

__all__ = ["Control", "open_control"]

_NOTHING = np.empty(0, np.uint8)


def open_control(comm: "MPI.Intracomm | None", deadline: float) -> "Control":
    """Return the control of all ranks of an MPI communicator, each of which must call this."""
    over = MPICommunicator(comm, deadline)
    try:
        return Control(over)
    except BaseException as error:
        over.close(error)
        raise


class Control:
    """Control messages of one rank, by an `MPICommunicator` of its own.

    Attributes
    ----------
    rank : int
        This rank, 0 .. number of ranks - 1.
    members : tuple of int
        The ranks' numbers in all texts, in order.
    whole : bool
        Whether this is not the control of a part.
    group : bytes
        Sixteen bytes that distinguish this group of ranks from others.

    Raises
    ------
    RuntimeError
        MPI does not let two threads call it, and the watchdog's thread does.
    """

    def __init__(self, comm: MPICommunicator, *, whole: bool = True) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise refusal(
                RuntimeError,
                "BN-SYNC-9",
                got=f"MPI was initialized for thread level {MPI.Query_thread()}",
                expected=f"MPI_THREAD_MULTIPLE, which is {MPI.THREAD_MULTIPLE}",
                do="Leave mpi4py.rc.thread_level at 'multiple', and take an MPI that provides it.",
            )
        self.rank, self.whole = comm.rank, whole
        self._comm, self._exchange, self._peers = comm, comm._exchange, comm._exchange.peers
        self.members, self.group = self._exchange.members, self._exchange.group_bytes
        self._name = f"{self._exchange.group} on devices"
        self._notices: list[Notice] = []
        self._peers.join(self._name, Group(self._notices.append))
        self._peers.groups[self._exchange.group].beside.append(self._name)

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others."""
        return self._comm.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._comm.deadline = seconds

    def agree(self, own: About, sequence: int) -> None:
        """Wait for all ranks, and compare the facts of the collective with this number.

        Raises
        ------
        CommunicatorError
            The facts differ, or a rank is missing or failed.
        """
        facts = of_facts({**own.facts, "sequence number": str(sequence)})
        self._exchange.collective(facts, _NOTHING, lambda blocks: blocks[0])

    def gather(self, data: bytes, operation: str) -> list[bytes]:
        """Return every rank's bytes, in order."""
        return self._comm.all_gather(data, operation=operation)

    def split(self, color: int | str | None) -> "Control":
        """Return a control of the ranks that give the same colour."""
        return Control(self._comm.split(color), whole=False)

    def notify(self, sequence: int, kind: str, text: str, *, everybody: bool = False) -> None:
        """Send a notice, by default to the ranks that pass on a failure; do not wait for its receipt."""
        others = [rank for rank in self.members if rank != self._exchange.number]
        ranks = others if everybody else self._exchange.notified()
        self._peers.notify(ranks, {self._name: sequence}, kind, text)

    def notices(self) -> Sequence[Notice]:
        """Return the notices that came since the last call."""
        self._peers.deliver_notices()
        new = self._notices[:]
        del self._notices[: len(new)]
        return new

    def fail(self, kind: type[CommunicatorError], text: str) -> None:
        """End the waits of this rank's host and of the other hosts here."""
        self._exchange.failure.keep(text, kind)

    def failure(self) -> CommunicatorError | None:
        """Return the first failure on this rank, or of another rank that sent a notice."""
        return self._exchange.known_failure()

    def close(self, error: BaseException | None) -> None:
        """Take no further part."""
        self._comm.close(error)
