"""Start of a communicator: all ranks of the group meet in the store, with a deadline, and are connected by gloo.

gloo's own start would not say who is missing.
"""

import time

from bnspec._errors import CollectiveTimeout, CommunicatorError, refusal
from bnspec_backends.ranks.facts import ranks_text
from bnspec_backends.ranks.torch.board import Board
from bnspec_backends.ranks.torch.gathers import Broken, Gathers
from bnspec_backends.ranks.torch.gloo_store import GlooStore
from bnspec_backends.ranks.waiting import wait

__all__ = ["connected"]

#: Most seconds between two looks whether all ranks are there.
_BETWEEN = 0.05

#: Least seconds for connecting ranks that are all there.
_LEAST = 1.0


def connected(board: Board, number: int, members: tuple[int, ...], deadline: float) -> Gathers:
    """Wait until all ranks are there, and connect them.

    Parameters
    ----------
    board : Board
        Of this group alone.
    number : int
        The own rank in the whole group.
    members : tuple of int
        The group's ranks there, in order.
    deadline : float
        Seconds to wait for the others.

    Raises
    ------
    CollectiveTimeout
        Not every rank came before the deadline.
    CommunicatorError
        gloo could not connect them.
    """
    begun = time.perf_counter()
    until = begun + deadline
    board.mark("here", number, 1, until)

    def here() -> bool:
        time.sleep(min(_BETWEEN, (time.perf_counter() - begun) / 4))  # many ranks ask one store
        return board.all_marked("here", members, until) or board.thread.lost

    if not wait(here, until):
        missing = board.unmarked("here", members)
        who = (
            f"{ranks_text(missing)} did not" if missing else "the store, which would know who did not, does not answer"
        )
        raise refusal(
            CollectiveTimeout,
            "BN-SYNC-9",
            got=f"rank {number} of {len(members)} waited {deadline:g} s for the others to make their communicator, and "
            f"{who}",
            expected="TorchCommunicator(group) on every rank of the group",
            do="Make it at the same place of the program on every rank, or give a longer deadline.",
        )
    try:
        seconds = max(until - time.perf_counter(), _LEAST)
        return Gathers(GlooStore(board, seconds), members.index(number), len(members), seconds)
    except Broken as error:
        raise refusal(
            CommunicatorError,
            "BN-SYNC-9",
            got=f"gloo did not connect rank {number} with the others ({error})",
            expected="a connection to every rank",
            do="See whether a rank has ended, and which network GLOO_SOCKET_IFNAME names.",
        ) from error
