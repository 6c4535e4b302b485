"""Communicator of MPI processes, through mpi4py.

Each rank sends its payload to the ranks that `bnspec_backends.ranks.schedule` names, and folds the payloads that come
in rank order. Up to 32 ranks there is one round, in which every rank receives from every other; above, groups of
neighbours are joined round by round. Either way every rank folds the same arrays in the same order, so that all end
with the same bits.

No rank waits for ever, and none takes one layer's numbers for another's: the header of a message names its collective
(`bnspec_backends.ranks.headers`). A rank that is missing, differs or has failed ends the collective for all ranks with
an error that names it. A communicator that failed stays failed, because its ranks no longer agree on their place in the
program.

Arrays of devices are copied through host memory: a message has a few kilobytes, and the host must read its header in
any case, so that an MPI that takes device memory would save nothing.

References
----------
Chan, Golub, LeVeque 1983 (merging); Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations
in MPICH", 2005 (exchange in rounds).
"""

import functools
import json
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from bnspec._communicator import Signature
from bnspec._errors import refusal
from bnspec._locks import Lock
from bnspec._types import Array
from bnspec_backends.ranks.facts import plain_array
from bnspec_backends.ranks.headers import about, of_facts, packed, unpacked
from bnspec_backends.ranks.host_memory import from_host, to_host
from bnspec_backends.ranks.mpi.exchange import Exchange, close_together
from bnspec_backends.ranks.mpi.library import refuse_alone_in_a_torch_job, refuse_unless_running
from bnspec_backends.ranks.mpi.sharing import open_exchange
from bnspec_backends.ranks.processes import ProcessCommunicator, checked_color, part_of
from bnspec_backends.ranks.waiting import checked_deadline

__all__ = ["MPICommunicator", "world"]


class MPICommunicator(ProcessCommunicator):
    """Communicator of the ranks of an MPI communicator, a `bnspec.Communicator`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        ``MPI.COMM_WORLD`` by default. Its first use duplicates it, in which all of its ranks must take part, so
        that no message of the caller's can be mistaken for ours.
    deadline : float
        Seconds that a rank waits for the others: here, and in each collective. They may be as far apart as that.

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.

    Raises
    ------
    CollectiveTimeout
        Not every rank of `comm` made its communicator before the deadline [BN-SYNC-9].
    CommunicatorError
        `comm` is None, and MPI knows of one process where torchrun started several.
    TypeError, ValueError
        `comm` is no intracommunicator, or `deadline` is no positive, finite number.

    Notes
    -----
    With ``size`` ranks and a payload of p bytes, one collective takes about ``a + (size - 1)*(o + p/b)`` up to 32
    ranks, with the latency a, the overhead o of a message and the bandwidth b, and above that as much for each of
    ``log(size)/log(8)`` rounds of 7 messages or less. docs/scaling.md has measured values.

    Examples
    --------
    Under ``mpiexec -n 4`` each process runs this with its own x, and y is that of all of them together:

    >>> import numpy as np
    >>> import bnspec
    >>> x = np.asarray([[1.0], [3.0]])
    >>> with MPICommunicator(deadline=60.0) as comm:
    ...     y = bnspec.BatchNorm(axis=1, comm=comm, epsilon=3.0, training=True, ema_update="internal")(x)
    >>> y.tolist()
    [[-0.5], [0.5]]
    """

    def __init__(self, comm: "MPI.Intracomm | None" = None, deadline: float = 300.0) -> None:
        everyone = comm is None
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            raise refusal(
                TypeError,
                "BN-SYNC-9",
                got=f"comm is {'MPI.COMM_NULL' if comm == MPI.COMM_NULL else type(comm).__name__}",
                expected="an mpi4py.MPI.Intracomm",
                do="Pass MPI.COMM_WORLD, or a part of it made with Split.",
            )
        deadline = checked_deadline(deadline)
        refuse_unless_running("an MPICommunicator cannot be made")
        if everyone:
            refuse_alone_in_a_torch_job()
        self._begin(open_exchange(comm, deadline))

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.rank, self.size = exchange.members.index(exchange.number), len(exchange.members)
        self._parts: weakref.WeakSet[MPICommunicator] = weakref.WeakSet()
        self._families = [self._parts]  # and the parts of each communicator that this is a part of
        # A rank that drops its communicator takes no further part; at exit, `ENDING` has the reason.
        weakref.finalize(self, exchange.drop).atexit = False

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others in one collective."""
        return self._exchange.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._exchange.deadline = checked_deadline(seconds)

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order, as `bnspec.Communicator.all_reduce` describes.

        The ranks' libraries may differ. `combine` gets NumPy arrays; the result is of the payload's library, on its
        device. A TypeError refuses a payload without values, such as a tracer of ``jax.jit``.
        """
        self.refuse_inherited()
        plain_array(payload, signature)
        own = to_host(payload)

        def fold(blocks: Sequence[Any]) -> Any:
            with np.errstate(all="ignore"):  # NaN and overflow of one rank are results
                return functools.reduce(combine, blocks)

        joined = self._exchange.collective(about(signature, own), own, fold)
        if joined is own or joined.base is not None:  # a fold may return its argument
            joined = np.array(joined)
        return from_host(joined, payload)

    def all_gather(self, data: bytes, *, operation: str = "all_gather", what: str = "none") -> list[bytes]:
        """Return every rank's bytes, in rank order; their number may differ.

        Parameters
        ----------
        data : bytes
        operation, what : str
            Texts that must be equal on all ranks; an error names them if they differ.

        Raises
        ------
        CommunicatorError
            The same errors as those of `all_reduce`.
        """

        def fold(blocks: Sequence[Any]) -> Any:
            return packed([entry for block in blocks for entry in unpacked(block)])

        self.refuse_inherited()
        facts = of_facts({"operation": repr(operation), "layer": repr(what)})
        return unpacked(self._exchange.collective(facts, packed([data]), fold, same_size=False))

    def split(self, color: int | str | None) -> "MPICommunicator":
        """Return the communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. A fault of the part leaves the whole usable; a rank that
        ends fails every communicator it is in. Error texts of a part name its ranks by their numbers in the MPI
        communicator.

        Raises
        ------
        TypeError
            The colour is something else than an integer, a text or None.
        """
        self.refuse_inherited()
        color = checked_color(color)
        given = self.all_gather(json.dumps(color).encode(), operation="split")
        old = self._exchange
        members, group = part_of(old, color, given)
        part = MPICommunicator.__new__(MPICommunicator)
        part._begin(Exchange(old.peers, members, old.deadline, group))
        part._families += self._families
        for family in self._families:
            family.add(part)
        return part

    def close(self, error: BaseException | None = None) -> None:
        """Notify the other ranks that this one takes no further part, here or in parts of it. Called at exit.

        Parameters
        ----------
        error : BaseException, optional
            The error by which this rank ends, if it ends by one.
        """
        if not self.inherited:
            close_together(self._open(), error)

    def _open(self) -> list[Exchange]:
        """Return the exchanges of this communicator and of all its parts."""
        return [self._exchange, *(part._exchange for part in list(self._parts))]


_WORLD: "list[MPICommunicator]" = []
_WORLD_LOCK = Lock()


def world() -> MPICommunicator:
    """Return the communicator of ``MPI.COMM_WORLD``, one for the process; the entry point ``mpi`` names it."""
    refuse_unless_running("there is no communicator 'mpi'")
    with _WORLD_LOCK.held():
        if not _WORLD:
            _WORLD.append(MPICommunicator())
        return _WORLD[0]
