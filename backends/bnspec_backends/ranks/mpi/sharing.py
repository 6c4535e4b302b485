"""One `Peers` for each MPI communicator that ranks are given: what is made of it shares the messages' way.

MPI has only so many communicators, a few thousand. So the caller's is duplicated once, at the first use, and the
duplicate is kept as an attribute of it, which is MPI's own way to find it again and to hear that it is freed.
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
from bnspec_backends.ranks.notices import wait

__all__ = ["open_exchange"]

_LOCK = threading.Lock()


class _Kept:
    """What an MPI communicator has as an attribute."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.peers: Peers | None = None


def open_exchange(comm: "MPI.Intracomm", deadline: float) -> Exchange:
    """A group of all ranks of an MPI communicator, each of which must do this.

    Raises
    ------
    CollectiveTimeout
        Not every rank did so before the deadline.
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
    """Free what is left of MPI communicators that their owners have freed, as far as the other ranks have left too."""
    with _LOCK:
        for peers in [each for each in ENDING.peers if each.retired]:
            if peers.give_back():
                ENDING.peers.remove(peers)


def _peers_of(comm: "MPI.Intracomm", deadline: float, until: float) -> Peers:
    with _LOCK:
        kept: Any = comm.Get_attr(_key())
        if kept is None:
            kept = _Kept()
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
        ENDING.stuck = True  # this collective cannot be taken back, and MPI's own end would wait for it
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
    """The owner frees an MPI communicator, or MPI ends."""
    if kept.peers is not None:
        kept.peers.retired = True
