"""Store in which gloo's processes find each other: ours, asked by the thread that asks it for everything else.

Given the store itself, gloo would wait in it, and keep every other thread from its connection meanwhile. Given a
connection of its own, each communicator would make torch's server look up a name, during which it answers nobody.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store

from bnspec_backends.ranks.torch.board import Board

__all__ = ["GlooStore"]

#: Most seconds between two looks for what other ranks write.
_BETWEEN = 0.05

#: Answer of a store that does not answer.
_SILENCE = object()


class GlooStore(Store):
    """Store of gloo's addresses, on the board of one communicator.

    Parameters
    ----------
    board : Board
    seconds : float
        How long the store may take to write or to answer.
    """

    def __init__(self, board: Board, seconds: float) -> None:
        super().__init__()
        self._board, self._seconds = board, seconds

    def set(self, key: str, value: Any) -> None:
        """Write a value, in bytes."""
        self._asked(lambda: self._board.store.set(key, value))

    def get(self, key: str) -> bytes:
        """Return a value that is there; gloo waits for it before."""
        value: bytes = self._asked(lambda: self._board.store.get(key))
        return value

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys have values."""
        return bool(self._asked(lambda: self._board.store.check(list(keys))))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys have values."""
        begun = time.perf_counter()
        seconds = self._seconds if timeout is None else timeout.total_seconds()
        while not self.check(keys):
            waited = time.perf_counter() - begun
            if waited > seconds:
                raise RuntimeError(f"nobody wrote {', '.join(keys)} within {seconds:g} s")
            time.sleep(min(_BETWEEN, waited / 4))  # many ranks ask one store

    def has_extended_api(self) -> bool:
        """Return false: there is nothing but what is here."""
        return False

    def _asked(self, question: Any) -> Any:
        answer = self._board.thread.ask(question, _SILENCE, time.perf_counter() + self._seconds)
        if answer is _SILENCE:
            raise RuntimeError("the store of torch.distributed does not answer")
        return answer
