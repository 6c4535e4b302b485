"""Communicator of the ranks of a torch.distributed process group.

All ranks gather the payloads of all, and fold them in rank order, as the communicator of MPI does: so every rank ends
with the same bits, and they are MPI's. The messages travel through a gloo group of our own, so that they cannot be
mistaken for those of the caller's group. Payloads on CUDA devices stay there where the caller's group has NCCL.

References
----------
Chan, Golub, LeVeque 1983 (merging).
"""

import json
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from bnspec._communicator import Signature
from bnspec._locks import Lock
from bnspec._types import Array
from bnspec_backends.ranks.facts import plain_array
from bnspec_backends.ranks.headers import about, of_facts
from bnspec_backends.ranks.host_memory import from_host, to_host
from bnspec_backends.ranks.processes import ProcessCommunicator, checked_color, part_of
from bnspec_backends.ranks.schedule import folded
from bnspec_backends.ranks.torch.board import Board
from bnspec_backends.ranks.torch.devices import DeviceGathers, about_carried, carrier
from bnspec_backends.ranks.torch.exchange import Exchange
from bnspec_backends.ranks.torch.exit import close_together
from bnspec_backends.ranks.torch.groups import default_group, opened
from bnspec_backends.ranks.waiting import checked_deadline

__all__ = ["TorchCommunicator", "world"]


class TorchCommunicator(ProcessCommunicator):
    """Communicator of the ranks of a torch.distributed process group, a `bnspec.Communicator`.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        The default group by default. All of its ranks make their communicators, in the same order; they are connected
        by a gloo group of their own, so that the caller's collectives on `group` are not disturbed.
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
        Not every rank of `group` made its communicator before the deadline [BN-SYNC-9].
    CommunicatorError
        torch.distributed was not initialized, or this process is not in the group.
    TypeError, ValueError
        `group` is no process group, or `deadline` is no positive, finite number.

    Notes
    -----
    One collective is one all-gather of gloo's, of 64 bytes and the payload. The first time that a layer follows another
    one, it is two. Where `group` has NCCL, payloads on devices stay there: the hosts gather the 64 bytes, wait for each
    other, not for the devices, and then NCCL gathers the payloads on the current stream.

    Examples
    --------
    Under ``torchrun --nproc-per-node 4`` each process runs this with its own x, and y is that of all of them together:

    >>> import torch, bnspec
    >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> with TorchCommunicator(deadline=60.0) as comm:
    ...     y = bnspec.BatchNorm(axis=1, comm=comm, epsilon=3.0, training=True, ema_update="internal")(x)
    >>> y.tolist()
    [[-0.5], [0.5]]
    >>> torch.distributed.destroy_process_group()
    """

    def __init__(self, group: Any = None, deadline: float = 300.0) -> None:
        deadline = checked_deadline(deadline)
        found = opened(group)
        exchange = Exchange(Board(found.store, server=found.server), found.rank, tuple(range(found.size)), deadline)
        exchange.hosts_store = dist.get_rank() == 0
        self._begin(exchange, found.backends)

    def _begin(self, exchange: Exchange, backends: dict[str, str]) -> None:
        self._exchange, self._backends = exchange, backends
        self.rank, self.size = exchange.members.index(exchange.number), len(exchange.members)
        self._devices = DeviceGathers(exchange.board.store, self.rank, self.size, exchange.deadline)
        self._parts: weakref.WeakSet[TorchCommunicator] = weakref.WeakSet()
        self._families = [self._parts]  # and the parts of each communicator that this is a part of
        # A rank that drops its communicator takes no further part; at exit, all that are open are closed.
        weakref.finalize(self, _drop, self._process, exchange).atexit = False

    @property
    def deadline(self) -> float:
        """Seconds that a rank waits for the others in one collective."""
        return self._exchange.deadline

    @deadline.setter
    def deadline(self, seconds: float) -> None:
        self._exchange.deadline = checked_deadline(seconds)

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Fold the ranks' payloads in rank order, as `bnspec.Communicator.all_reduce` describes.

        The ranks' libraries may differ, except where the payloads stay on devices. Through host memory, `combine` gets
        NumPy arrays; the result is of the payload's library, on its device. A TypeError refuses a payload without
        values, such as a tracer of ``jax.jit``.
        """
        self.refuse_inherited()
        plain_array(payload, signature)
        if carrier(payload, signature, self._backends) == "nccl":
            return self._on_devices(payload, combine, signature)
        own = to_host(payload)

        def fold(blocks: Sequence[Any]) -> Any:
            with np.errstate(all="ignore"):  # NaN and overflow of one rank are results
                return folded(blocks, combine)

        joined = self._exchange.collective(about(signature, own), own, fold)
        if joined is own or joined.base is not None:  # a fold may return its argument
            joined = np.array(joined)
        return from_host(joined, payload)

    def _on_devices(self, payload: Any, combine: Callable[[Array, Array], Array], signature: Signature) -> Any:
        own = about_carried(signature, tuple(payload.shape), payload.dtype)

        def fold(_: Sequence[Any]) -> Any:
            with torch.no_grad():
                return folded(self._devices.gather(payload), combine)

        joined = self._exchange.collective(own, np.empty(0, np.uint8), fold, same_size=False)
        return joined.clone()

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
        self.refuse_inherited()
        facts = of_facts({"operation": repr(operation), "layer": repr(what)})
        gathered = self._exchange.collective(facts, np.frombuffer(data, np.uint8), list, same_size=False)
        return [each.tobytes() for each in gathered]

    def split(self, color: int | str | None) -> "TorchCommunicator":
        """Return the communicator of the ranks that give the same colour, numbered in their present order.

        Every rank must call it, as it must every collective. A fault of the part leaves the whole usable; a rank that
        ends fails every communicator it is in. Error texts of a part name its ranks by their numbers in the group.

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
        board = Board(PrefixStore(group, old.board.store), old.board.thread)
        part = TorchCommunicator.__new__(TorchCommunicator)
        part._begin(Exchange(board, old.number, members, old.deadline, group), self._backends)
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
            close_together([self._exchange, *(part._exchange for part in list(self._parts))], error)
            self._devices.close()


def _drop(process: int, exchange: Exchange) -> None:
    exchange.drop()


_WORLD: list[tuple[Any, TorchCommunicator]] = []
_WORLD_LOCK = Lock()


def world() -> TorchCommunicator:
    """Return the communicator of the default process group, one for the process; the entry point ``torch`` names it."""
    group = default_group()
    with _WORLD_LOCK.held():
        if not _WORLD or _WORLD[0][0] is not group:  # the program may end its groups and begin anew
            _WORLD[:] = [(group, TorchCommunicator(group))]
        return _WORLD[0][1]
