"""A communicator of MPI processes, through mpi4py.

Each rank sends its payload to the ranks that `bnspec_backends.ranks.schedule` names and folds what comes in, in rank
order. Up to 32 ranks that is one round in which everybody hears everybody; above, groups of neighbours are joined
round by round. Either way every rank folds the same arrays in the same order, so that all end with the same bits.

A rank that waits never waits for ever, and never takes one layer's numbers for another's: frames say what they are
(`bnspec_backends.ranks.headers`), and a rank that is missing, differs or has failed ends the collective for everybody
with an error that names it. A communicator that failed stays failed, because its ranks no longer agree on where they
are.

Arrays of devices are staged through host memory: what is sent is a few kilobytes, whose header the host must read in
any case, so that an MPI that takes device memory would save nothing.

References
----------
Chan, Golub, LeVeque 1983 (merging); Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations
in MPICH", 2005 (exchange in rounds).
"""

import functools
import hashlib
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
from bnspec_backends.ranks.batched import Batch, Request, waiting_batch
from bnspec_backends.ranks.facts import plain_array
from bnspec_backends.ranks.headers import about, of_facts, packed, together, unpacked
from bnspec_backends.ranks.host_memory import from_host, to_host
from bnspec_backends.ranks.mpi.exchange import Exchange, close_together
from bnspec_backends.ranks.mpi.library import refuse_unless_running
from bnspec_backends.ranks.mpi.sharing import open_exchange
from bnspec_backends.ranks.notices import deadline_of
from bnspec_backends.ranks.processes import ProcessCommunicator, color_of

__all__ = ["MPICommunicator", "world"]


class MPICommunicator(ProcessCommunicator):
    """The ranks of an MPI communicator, a `bnspec.Communicator`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        ``MPI.COMM_WORLD`` by default. It is duplicated at the first use, so that no message of the caller's can be
        mistaken for ours; every one of its ranks must do so.
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
    TypeError, ValueError
        For a `comm` that is no intracommunicator and a deadline that is no time.

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
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            raise refusal(
                TypeError,
                "BN-SYNC-9",
                got=f"comm is {'MPI.COMM_NULL' if comm == MPI.COMM_NULL else type(comm).__name__}",
                expected="an mpi4py.MPI.Intracomm",
                do="Pass MPI.COMM_WORLD, or a part of it made with Split.",
            )
        deadline = deadline_of(deadline)
        refuse_unless_running("an MPICommunicator cannot be made")
        self._begin(open_exchange(comm, deadline))

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.rank, self.size = exchange.members.index(exchange.number), len(exchange.members)
        self._parts: weakref.WeakSet[MPICommunicator] = weakref.WeakSet()
        self._families = [self._parts]  # those of the communicators that this is a part of, too
        # A rank that lets go of it takes no further part; at exit, `ENDING` says why.
        weakref.finalize(self, exchange.drop).atexit = False

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others in one collective."""
        return self._exchange.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._exchange.deadline = deadline_of(seconds)

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order; every rank gets the same bits.

        Parameters
        ----------
        payload : array
            The same shape and dtype on every rank; the libraries may differ. Only read.
        combine : callable
            ``combine(a, b)`` on NumPy arrays, where a holds lower ranks than b.
        signature : Signature
            Must be equal on all ranks.

        Returns
        -------
        array
            Of the payload's library, on its device.

        Raises
        ------
        CollectiveMismatch
            On every rank, when signatures or payloads differ.
        CollectiveTimeout
            On every rank that waits, when one is missing at the deadline.
        CommunicatorError
            A rank failed or ended, or this communicator failed before.
        TypeError
            The payload is no array with values, for example a tracer of ``jax.jit``.
        """
        self.refuse_inherited()
        plain_array(payload, signature)
        ask = waiting_batch(self)
        if ask is not None:
            return ask(Request(payload, combine, signature))
        own = to_host(payload)

        def fold(blocks: Sequence[Any]) -> Any:
            with np.errstate(all="ignore"):  # NaN and overflow of one rank are results
                return functools.reduce(combine, blocks)

        joined = self._exchange.collective(about(signature, own), own, fold)
        if joined is own or joined.base is not None:  # a fold may return what it was given
            joined = np.array(joined)
        return from_host(joined, payload)

    def batched(self) -> Batch:
        """Let calls that do not depend on each other share their messages; the results stay the same to the bit.

        It pays where a message takes longer than the threads' taking turns: across nodes.

        Examples
        --------
        >>> import numpy as np
        >>> import bnspec
        >>> comm, x = MPICommunicator(), np.asarray([[1.0], [3.0]])
        >>> options = {"comm": comm, "epsilon": 3.0, "training": True, "ema_update": "internal"}
        >>> left, right = (bnspec.BatchNorm(axis=1, name=name, **options) for name in ("left", "right"))
        >>> with comm.batched() as batch:
        ...     ys = batch.submit(left, x), batch.submit(right, -x)
        >>> [y.result().tolist() for y in ys]
        [[[-0.5], [0.5]], [[0.5], [-0.5]]]
        """
        return Batch(self, self._joined)

    def _joined(self, requests: Sequence[Request]) -> list[Array]:
        """The results of several collectives, from one message."""
        if len(requests) == 1:
            return [self.all_reduce(*requests[0])]
        own = [to_host(request.payload) for request in requests]
        ends = np.cumsum([array.nbytes for array in own]).tolist()
        places = list(zip((0, *ends), ends))

        def cut(block: Any) -> list[Any]:
            return [
                np.frombuffer(bytes(block[a:b]), array.dtype).reshape(array.shape) for (a, b), array in zip(places, own)
            ]

        def glue(arrays: Sequence[Any]) -> Any:
            return np.frombuffer(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays), np.uint8)

        def fold(blocks: Sequence[Any]) -> Any:
            with np.errstate(all="ignore"):
                return glue([functools.reduce(r.combine, each) for r, each in zip(requests, zip(*map(cut, blocks)))])

        facts = together([about(request.signature, array) for request, array in zip(requests, own)])
        joined = cut(self._exchange.collective(facts, glue(own), fold))
        return [from_host(np.array(each), request.payload) for each, request in zip(joined, requests)]

    def all_gather(self, data: bytes, *, operation: str = "all_gather", what: str = "none") -> list[bytes]:
        """Return every rank's bytes, in rank order; their number may differ.

        Parameters
        ----------
        data : bytes
        operation, what : str
            Must be equal on all ranks; what is compared, and named if they differ.

        Raises
        ------
        CommunicatorError
            As `all_reduce`.
        """

        def fold(blocks: Sequence[Any]) -> Any:
            return packed([entry for block in blocks for entry in unpacked(block)])

        self.refuse_inherited()
        facts = of_facts({"operation": repr(operation), "layer": repr(what)})
        return unpacked(self._exchange.collective(facts, packed([data]), fold, same_size=False))

    def split(self, color: int | str | None) -> "MPICommunicator":
        """The communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. Faults of the part poison the part; a rank that ends
        fails every communicator it is in. Error texts of a part name its ranks by their numbers in the MPI
        communicator.

        Raises
        ------
        TypeError
            The colour is something else than an integer, a text or None.
        """
        self.refuse_inherited()
        color = color_of(color)
        entries = [json.loads(each) for each in self.all_gather(json.dumps(color).encode(), operation="split")]
        old = self._exchange
        members = tuple(rank for rank, each in zip(old.members, entries) if each == color)
        name = json.dumps([old.group, old.sequence, color]).encode()
        group = hashlib.blake2b(name, digest_size=16).hexdigest()
        part = MPICommunicator.__new__(MPICommunicator)
        part._begin(Exchange(old.peers, members, old.deadline, group))
        part._families += self._families
        for family in self._families:
            family.add(part)
        return part

    def close(self, error: BaseException | None = None) -> None:
        """Tell the other ranks that this one takes no further part, here or in parts of it. Called at exit.

        Parameters
        ----------
        error : BaseException, optional
            Why, where it is not that all is done.
        """
        if not self.inherited:
            close_together(self._open(), error)

    def _open(self) -> list[Exchange]:
        """The exchanges of this and of all its parts."""
        return [self._exchange, *(part._exchange for part in list(self._parts))]


_WORLD: "list[MPICommunicator]" = []
_WORLD_LOCK = Lock()


def world() -> MPICommunicator:
    """The communicator of ``MPI.COMM_WORLD``, one for the whole process; the entry point ``mpi`` names it."""
    refuse_unless_running("there is no communicator 'mpi'")
    with _WORLD_LOCK.held():
        if not _WORLD:
            _WORLD.append(MPICommunicator())
        return _WORLD[0]
