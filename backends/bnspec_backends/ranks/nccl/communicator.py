"""`NCCLCommunicator`: one message per layer and direction, queued on CuPy's current stream.

The host never waits in a training step. It queues a message, the collective, the fold in rank order and a comparison of
what came with what was sent; where they differ the result is NaN on the device, and the host raises when it looks the
next time. Every rank folds the same arrays in the same order by the same kernels, so that all end with the same bits
wherever their devices are of one kind.

References
----------
Chan, Golub, LeVeque 1983 (merging); NCCL User Guide, "Fault Tolerance" (ending a communicator that hangs).
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import cupy

from bnspec._communicator import Signature
from bnspec._errors import CommunicatorError
from bnspec._locks import Lock
from bnspec._types import Array
from bnspec_backends.ranks.batched import Batch, Request, waiting_batch
from bnspec_backends.ranks.facts import error_text, where
from bnspec_backends.ranks.headers import About, about, together
from bnspec_backends.ranks.nccl.control import Control
from bnspec_backends.ranks.nccl.ending import close_at_exit, close_together
from bnspec_backends.ranks.nccl.faults import Fault, calling_nccl
from bnspec_backends.ranks.nccl.keeper import Keeper
from bnspec_backends.ranks.nccl.opening import open_ranks
from bnspec_backends.ranks.nccl.payload import check
from bnspec_backends.ranks.nccl.sender import Sender
from bnspec_backends.ranks.nccl.watch import Watch
from bnspec_backends.ranks.notices import deadline_of
from bnspec_backends.ranks.processes import ProcessCommunicator, color_of

__all__ = ["NCCLCommunicator", "world"]


class NCCLCommunicator(ProcessCommunicator):
    """Ranks with a CUDA device each, a `bnspec.Communicator`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or cupy.cuda.nccl.NcclCommunicator, optional
        The ranks; ``MPI.COMM_WORLD`` by default. An NCCL communicator is split, so that ours can be aborted; it must
        be one of several processes. Without MPI, errors cannot name a rank that is missing.
    deadline : float
        Seconds that a rank waits for the others: here, and in each collective.
    blocking : bool
        Whether each call waits for its collective, and raises at once what went wrong with it: to find a fault.
    share_device : bool
        Let two ranks have one device: experimental, NCCL 2.30 and newer.

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.

    Raises
    ------
    CollectiveTimeout
        Not every rank made its communicator before the deadline [BN-SYNC-9].
    CommunicatorError
        Ranks that share a device, and other reasons for which NCCL does not begin.
    ImportError
        NCCL or mpi4py is missing.
    TypeError, ValueError
        For something else than these.

    Notes
    -----
    All ranks use the device that is current where they make the communicator, and give arrays on it.

    Examples
    --------
    Under ``mpiexec -n 4``, with a device for each process::

        cupy.cuda.Device(MPI.COMM_WORLD.rank % 4).use()
        with NCCLCommunicator() as comm:
            layer = bnspec.BatchNorm(axis=1, comm=comm, training=True, ema_update="internal")
            y = layer(x)            # the host goes on while the devices talk
    """

    def __init__(
        self, comm: Any = None, deadline: float = 300.0, *, blocking: bool = False, share_device: bool = False
    ) -> None:
        deadline = deadline_of(deadline)
        made, control = open_ranks(comm, deadline, share_device)
        self._set(made, control, blocking, share_device)

    def _set(self, comm: Any, control: Control, blocking: bool, share: bool) -> None:
        self.rank, self.size = comm.rank_id(), comm.size()
        self.blocking, self._share = blocking, share
        self._control, self._device = control, cupy.cuda.Device()
        keeper = Keeper(comm, control.calling, self._device.id)
        self._sender = Sender(keeper, self.rank, self.size, control.members, control.group)
        self._sequence = 0
        self._number = control.members[self.rank]
        self._watch = Watch(keeper, control, self._number)
        weakref.finalize(self, self._watch.drop).atexit = False
        self._busy = threading.Lock()
        self._parts: weakref.WeakSet[NCCLCommunicator] = weakref.WeakSet()
        close_at_exit()

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others in one collective."""
        return self._control.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._control.deadline = deadline_of(seconds)

    @property
    def well(self) -> bool:
        """Whether nothing has failed so far, as far as is known here."""
        return self._watch.health.well

    @property
    def sequence(self) -> int:
        """The number of collectives that were begun."""
        return self._sequence

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order; every rank gets the same bits.

        Returns before that is done: the result is an array whose values follow on the current stream. Where the ranks
        turn out to differ they are NaN, and the next call raises.

        Parameters
        ----------
        payload : cupy.ndarray
            On the communicator's device, of a floating dtype, the same shape and dtype on every rank. Only read.
        combine : callable
            ``combine(a, b)`` on CuPy arrays, where a holds lower ranks than b.
        signature : Signature
            Must be equal on all ranks.

        Raises
        ------
        CollectiveMismatch
            On every rank, when signatures or payloads differ.
        CollectiveTimeout
            On every rank that waits, when one is missing at the deadline.
        CommunicatorError
            A rank failed or ended, or this communicator failed before.
        TypeError, ValueError
            The payload is something else, or the stream is being captured.
        """
        self.refuse_inherited()
        check(payload, signature, self._device)
        ask = waiting_batch(self)
        request = Request(payload, combine, signature)
        return ask(request) if ask is not None else self._joined([request])[0]

    def batched(self) -> Batch:
        """Let calls that do not depend on each other share their messages; the results stay the same to the bit.

        As `MPICommunicator.batched`: ``with comm.batched() as batch: y = batch.submit(layer, x)``.
        """
        self.refuse_inherited()
        device, stream = self._device, cupy.cuda.get_current_stream()

        @contextlib.contextmanager
        def around() -> Iterator[None]:  # each call has a thread of its own, and threads their own current stream
            with device, stream:
                yield

        return Batch(self, self._joined, around)

    def synchronize(self) -> None:
        """Wait until every collective so far is done.

        Raises
        ------
        CommunicatorError
            What went wrong with them.
        """
        self.refuse_inherited()
        self._watch.settle()
        if self._watch.health.error is not None:
            self._watch.health.throw()

    def split(self, color: int | str | None) -> "NCCLCommunicator":
        """The communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. Faults of the part poison the part; a rank that ends
        fails every communicator it is in.

        Raises
        ------
        TypeError
            The colour is something else than an integer, a text or None.
        """
        self.refuse_inherited()
        color = color_of(color)
        health = self._watch.health
        if not health.well:
            health.refuse(f"rank {self._number} cannot split")
        self.synchronize()
        with self._device:
            try:
                made, control = self._control.split(color, self._share)
            except (CommunicatorError, Fault) as error:
                self._failed(error, f"rank {self._number} could not split")
            part = NCCLCommunicator.__new__(NCCLCommunicator)
            part._set(made, control, self.blocking, self._share)
        self._parts.add(part)
        return part

    def close(self, error: BaseException | None = None) -> None:
        """Tell the other ranks that this one takes no further part, here or in parts of it. Called at exit.

        Parameters
        ----------
        error : BaseException, optional
            Why, where it is not that all is done. Then collectives that are under way are given up, else waited for.

        Raises
        ------
        CommunicatorError
            Without `error`, what went wrong with those, or before, if nobody was told of it.
        """
        if not self.inherited:
            for failed in close_together(self._open(), error):
                failed.health.throw()

    def _open(self) -> list[Watch]:
        """The watches of all parts, and of this."""
        return [*(watch for part in list(self._parts) for watch in part._open()), self._watch]

    def _joined(self, requests: Sequence[Request]) -> list[Array]:
        """The results of several collectives, from one message."""
        if not self._busy.acquire(blocking=False):
            self._watch.health.fail(
                f"rank {self._number} entered layer {requests[0].signature.layer!r} on two threads at once",
                "one collective at a time on each rank",
                "Give each thread a communicator of its own with split().",
            )
        own = _about(requests)
        try:
            self._watch.land()
            self._agree(own)
            self._sequence += 1
            results = self._sender.send(own, self._sequence, requests, self._watch.add, lambda: self._entry(own))
        except CommunicatorError:
            raise
        except Fault as error:
            self._failed(error, f"rank {self._number} failed in {self._where(own)}")
        except BaseException as error:  # an interrupt, a fold that fails: this rank no longer knows where it is
            text = f"rank {self._number} raised {error_text(error)} in {self._where(own)}"
            self._watch.health.poison(text, "it to finish", f"Correct the error of rank {self._number}.", cause=error)
            raise
        finally:
            self._busy.release()
        if self.blocking:
            self.synchronize()
        return results

    def _agree(self, own: About) -> None:
        """Compare a layer with the other ranks' before its first message; and let nobody begin who cannot go on."""
        watch = self._watch
        if not watch.health.well:
            watch.health.refuse(f"rank {self._number} cannot enter {self._where(own, 1)}")
        if own.digest in watch.known:
            return
        watch.entering = own, self._sequence + 1
        try:
            self._control.agree(own, self._sequence + 1)
        except (CommunicatorError, Fault) as error:
            self._failed(error, f"rank {self._number} failed in {self._where(own, 1)}")
        finally:
            watch.entering = None
        watch.known[own.digest] = own.facts

    @contextlib.contextmanager
    def _entry(self, own: About) -> Iterator[None]:
        """Around calls of NCCL's: none begins on a communicator that was aborted, or waits while one is."""
        health, calling = self._watch.health, self._watch.keeper.calling
        here = f"rank {self._number} cannot enter {self._where(own)}"
        while not calling.acquire(timeout=0.1):
            if not health.well:
                health.refuse(here)
        try:
            if not health.well:
                health.refuse(here)
            with calling_nccl():
                yield
        finally:
            calling.release()

    def _failed(self, error: Exception, what: str) -> NoReturn:
        """Keep what ended a collective of the host's, and raise what was first."""
        health = self._watch.health
        if isinstance(error, CommunicatorError):
            health.keep(str(error), type(error), error.__cause__)
        else:
            do = "Look at the messages of NCCL, with NCCL_DEBUG=INFO, and of the devices."
            health.poison(f"{what}: {error_text(error)}", "it to work", do, cause=error)
        health.throw()

    def _where(self, own: About, ahead: int = 0) -> str:
        return where({**own.facts, "sequence number": str(self._sequence + ahead)})


def _about(requests: Sequence[Request]) -> About:
    parts = [about(request.signature, request.payload) for request in requests]
    return parts[0] if len(parts) == 1 else together(parts)


_WORLD: list[NCCLCommunicator] = []
_WORLD_LOCK = Lock()


def world() -> NCCLCommunicator:
    """The communicator of ``MPI.COMM_WORLD``, one for the whole process; the entry point ``nccl`` names it."""
    with _WORLD_LOCK.held():
        if not _WORLD:
            _WORLD.append(NCCLCommunicator())
        return _WORLD[0]
