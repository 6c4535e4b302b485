"""Sharing of one duplicate of an MPI communicator by all communicators that are made of it.

MPI has a few thousand communicators in all. So the caller's is duplicated once, at the first use. The duplicate is kept
as an attribute of the caller's communicator: MPI finds it there again, and calls back when the caller frees it.
"""

import functools
import threading
import time
from typing import Any

from mpi4py import MPI

from bnspec._errors import CollectiveTimeout, refusal
from bnspec_backends.ranks.mpi.exchange import Exchange
from bnspec_backends.ranks.mpi.exit import ENDING, close_before_finalize
from bnspec_backends.ranks.mpi.transport import Peers
from bnspec_backends.ranks.waiting import wait

__all__ = ["open_exchange"]

_LOCK = threading.Lock()


class _Attribute:
    """Attribute of an MPI communicator: the transport that its communicators share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.peers: Peers | None = None


def open_exchange(comm: "MPI.Intracomm", deadline: float) -> Exchange:
    """Open a group of all ranks of an MPI communicator; every rank must call this.

    Raises
    ------
    CollectiveTimeout
        Not every rank called it before the deadline.
    """
    until = time.perf_counter() + deadline
    _give_back()
    peers = _peers_of(comm, deadline, until)
    with peers.lock:
        peers.opened += 1
        group = f"{peers.opened:032x}"
    exchange = Exchange(peers, tuple(range(peers.size)), deadline, group)
    exchange.begin(until)
    return exchange


def _give_back() -> None:
    """Free the duplicates of MPI communicators that were freed, if the other ranks have left too."""
    with _LOCK:
        for peers in [each for each in ENDING.peers if each.retired]:
            if peers.give_back():
                ENDING.peers.remove(peers)


def _peers_of(comm: "MPI.Intracomm", deadline: float, until: float) -> Peers:
    with _LOCK:
        kept: Any = comm.Get_attr(_key())
        if kept is None:
            kept = _Attribute()
            comm.Set_attr(_key(), kept)
    with kept.lock:
        if kept.peers is None:
            kept.peers = Peers(_duplicate(comm, deadline, until))
            ENDING.peers.append(kept.peers)
            close_before_finalize()
        found: Peers = kept.peers
    return found


def _duplicate(comm: "MPI.Intracomm", deadline: float, until: float) -> "MPI.Intracomm":
    own, request = comm.Idup()
    if not wait(request.Test, until):
        ENDING.unfinished = True  # this collective cannot be cancelled, and MPI's own end would wait for it
        raise refusal(
            CollectiveTimeout,
            "BN-SYNC-9",
            got=f"rank {comm.Get_rank()} of {comm.Get_size()} waited {deadline:g} s for the others to make their "
            "communicator",
            expected="MPICommunicator(comm) on every rank of comm",
            do="Make it at the same place of the program on every rank, or give a longer deadline.",
        )
    own.Set_errhandler(MPI.ERRORS_RETURN)
    return own


@functools.cache
def _key() -> int:
    return MPI.Comm.Create_keyval(delete_fn=_retire)


def _retire(comm: "MPI.Comm", key: int, kept: Any) -> None:
    """Note that the owner frees an MPI communicator, or that MPI ends."""
    if kept.peers is not None:
        kept.peers.retired = True
