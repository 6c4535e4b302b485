"""Communicator that queues one message per layer and direction on CuPy's current stream.

The host never waits in a training step. The host queues a message, the collective, the fold in rank order, and a
comparison of the received headers with the own one. If they differ, the result is NaN on the device, and the host
raises in its next call. Every rank folds the same arrays in the same order by the same kernels, so that all end with
the same bits if their devices are of one kind.

References
----------
Chan, Golub, LeVeque 1983 (merging); NCCL User Guide, "Fault Tolerance" (ending a communicator that hangs).
"""

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import cupy

from bnspec._communicator import Signature
from bnspec._errors import CommunicatorError
from bnspec._locks import Lock
from bnspec._types import Array
from bnspec_backends.ranks.facts import error_text, where
from bnspec_backends.ranks.headers import About, about
from bnspec_backends.ranks.nccl.control import Control, open_control
from bnspec_backends.ranks.nccl.exit import close_together
from bnspec_backends.ranks.nccl.faults import Fault, calling_nccl
from bnspec_backends.ranks.nccl.payload import check_payload
from bnspec_backends.ranks.nccl.polling_thread import PollingThread
from bnspec_backends.ranks.nccl.sender import Sender
from bnspec_backends.ranks.nccl.start import start
from bnspec_backends.ranks.nccl.watchdog import Watchdog
from bnspec_backends.ranks.processes import ProcessCommunicator, checked_color
from bnspec_backends.ranks.waiting import checked_deadline

__all__ = ["NCCLCommunicator", "world"]


class NCCLCommunicator(ProcessCommunicator):
    """Communicator of ranks with a CUDA device each, a `bnspec.Communicator`.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; ``MPI.COMM_WORLD`` by default.
    deadline : float
        Seconds that a rank waits for the others: here, and in each collective.
    blocking : bool
        Whether each call waits for its collective and raises the errors of it at once, which helps to find a fault.

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
        Two ranks have one device, or NCCL does not start for another reason.
    TypeError, ValueError
        `comm` is no intracommunicator, or `deadline` is no positive, finite number.

    Notes
    -----
    All ranks use the device that is current where they make the communicator, and give arrays on it.

    Examples
    --------
    Under ``mpiexec -n 4``, with a device for each process::

        cupy.cuda.Device(MPI.COMM_WORLD.rank % 4).use()
        with NCCLCommunicator() as comm:
            layer = bnspec.BatchNorm(axis=1, comm=comm, training=True, ema_update="internal")
            y = layer(x)            # the host goes on while the devices communicate
    """

    def __init__(self, comm: Any = None, deadline: float = 300.0, *, blocking: bool = False) -> None:
        self._begin(open_control(comm, checked_deadline(deadline)), blocking)

    def _begin(self, control: Control, blocking: bool) -> None:
        try:
            comm = start(control)
        except BaseException as error:
            control.close(error)
            raise
        self.rank, self.size = control.rank, len(control.members)
        self.blocking = blocking
        self._control, self._device = control, cupy.cuda.Device()
        thread = PollingThread(comm, self._device.id)
        self._sender = Sender(thread, control)
        self._sequence = 0
        self._number = control.members[self.rank]
        self._watchdog = Watchdog(thread, control, self._number)
        weakref.finalize(self, self._watchdog.drop).atexit = False
        self._busy = threading.Lock()
        self._parts: weakref.WeakSet[NCCLCommunicator] = weakref.WeakSet()

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others in one collective."""
        return self._control.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._control.deadline = checked_deadline(seconds)

    @property
    def usable(self) -> bool:
        """True if the communicator is open and no failure is known on this rank."""
        return self._watchdog.failure.usable

    @property
    def sequence(self) -> int:
        """Number of collectives that were begun."""
        return self._sequence

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order, as `bnspec.Communicator.all_reduce` describes.

        Returns before the collective is done: the values of the result follow on the current stream. If the ranks turn
        out to differ, they are NaN, and the next call raises. The payload is a CuPy array of a floating dtype on the
        communicator's device. A TypeError or ValueError refuses another payload, and a stream that is being captured.
        """
        self.refuse_inherited()
        check_payload(payload, signature, self._device)
        if not self._busy.acquire(blocking=False):
            self._watchdog.failure.fail(
                f"rank {self._number} entered layer {signature.layer!r} on two threads at once",
                "one collective at a time on each rank",
                "Give each thread a communicator of its own with split().",
            )
        own = about(signature, payload)
        try:
            self._watchdog.collect()
            self._agree(own)
            self._sequence += 1
            add, entry = self._watchdog.add, functools.partial(self._entry, own)
            result = self._sender.send(own, self._sequence, payload, combine, add, entry)
        except CommunicatorError:
            raise
        except Fault as error:
            self._failed(error, f"rank {self._number} failed in {self._where(own)}")
        except BaseException as error:  # after an interrupt or a fold that fails, this rank's place is unknown
            text = f"rank {self._number} raised {error_text(error)} in {self._where(own)}"
            do = f"Correct the error of rank {self._number}."
            self._watchdog.failure.record(text, "it to finish", do, cause=error)
            raise
        finally:
            self._busy.release()
        if self.blocking:
            self.synchronize()
        return result

    def synchronize(self) -> None:
        """Wait until every collective so far is done.

        Raises
        ------
        CommunicatorError
            One of them failed.
        """
        self.refuse_inherited()
        self._watchdog.settle()
        if self._watchdog.failure.error is not None:
            self._watchdog.failure.throw()

    def split(self, color: int | str | None) -> "NCCLCommunicator":
        """Return the communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. A fault of the part leaves the whole usable; a rank that
        ends fails every communicator it is in.

        Raises
        ------
        TypeError
            The colour is something else than an integer, a text or None.
        """
        self.refuse_inherited()
        color = checked_color(color)
        failure = self._watchdog.failure
        if not failure.usable:
            failure.refuse(f"rank {self._number} cannot split")
        self.synchronize()
        part = NCCLCommunicator.__new__(NCCLCommunicator)
        with self._device:
            try:
                part._begin(self._control.split(color), self.blocking)
            except (CommunicatorError, Fault) as error:
                self._failed(error, f"rank {self._number} could not split")
        self._parts.add(part)
        return part

    def close(self, error: BaseException | None = None) -> None:
        """Notify the other ranks that this one takes no further part, here or in parts of it. Called at exit.

        Parameters
        ----------
        error : BaseException, optional
            The error by which this rank ends, if it ends by one. Then pending collectives are given up, else waited
            for.

        Raises
        ------
        CommunicatorError
            Without `error`, the failure of a collective that no call has raised yet.
        """
        if not self.inherited:
            for failed in close_together(self._open(), error):
                failed.failure.throw()

    def _open(self) -> list[Watchdog]:
        """Return the watchdogs of all parts, and of this communicator."""
        return [*(watchdog for part in list(self._parts) for watchdog in part._open()), self._watchdog]

    def _agree(self, own: About) -> None:
        """Compare a layer with the other ranks' before its first message; refuse to begin on a failed communicator."""
        watchdog = self._watchdog
        if not watchdog.failure.usable:
            watchdog.failure.refuse(f"rank {self._number} cannot enter {self._where(own, 1)}")
        if own.digest in watchdog.known:
            return
        watchdog.entering = own, self._sequence + 1
        try:
            self._control.agree(own, self._sequence + 1)
        except (CommunicatorError, Fault) as error:
            self._failed(error, f"rank {self._number} failed in {self._where(own, 1)}")
        finally:
            watchdog.entering = None
        watchdog.known[own.digest] = own.facts

    @contextlib.contextmanager
    def _entry(self, own: About) -> Iterator[None]:
        """Guard calls of NCCL: none begins on a communicator that was aborted, or waits while one is aborted."""
        failure, calling = self._watchdog.failure, self._watchdog.thread.calling
        here = f"rank {self._number} cannot enter {self._where(own)}"
        while not calling.acquire(timeout=0.1):
            if not failure.usable:
                failure.refuse(here)
        try:
            if not failure.usable:
                failure.refuse(here)
            with calling_nccl():
                yield
        finally:
            calling.release()

    def _failed(self, error: Exception, what: str) -> NoReturn:
        """Keep the error of a collective of the hosts, and raise the first failure."""
        failure = self._watchdog.failure
        if isinstance(error, CommunicatorError):
            failure.keep(str(error), type(error), error.__cause__)
        else:
            do = "Look at the messages of NCCL, with NCCL_DEBUG=INFO, and of the devices."
            failure.record(f"{what}: {error_text(error)}", "it to work", do, cause=error)
        failure.throw()

    def _where(self, own: About, ahead: int = 0) -> str:
        return where({**own.facts, "sequence number": str(self._sequence + ahead)})


_WORLD: list[NCCLCommunicator] = []
_WORLD_LOCK = Lock()


def world() -> NCCLCommunicator:
    """Return the communicator of ``MPI.COMM_WORLD``, one for the process; the entry point ``nccl`` names it."""
    with _WORLD_LOCK.held():
        if not _WORLD:
            _WORLD.append(NCCLCommunicator())
        return _WORLD[0]
