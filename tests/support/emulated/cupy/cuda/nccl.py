"""NCCL between processes of one machine, over sockets: collectives wait on their stream until all ranks are there.

As with NCCL, nothing ever gives up by itself, a rank that is gone leaves the others waiting, and what happens when
two ranks disagree about a length is not defined. `EMULATED_NCCL` chooses what does: "wait" for ever, or "garbage", in
which what fits is taken and the rest is not written. A communicator's work lasts until it is aborted.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import select
import shutil
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cupy import _array, _stream
from cupy.cuda import device as _device

available = True

NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_INT64, NCCL_UINT64, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 1, 2, 4, 5, 7, 8
_SIZES = {0: 1, 1: 1, 2: 4, 4: 8, 5: 8, 7: 4, 8: 8}

_LENGTH = struct.Struct("<Q")
_group = threading.local()


class NcclError(RuntimeError):
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.libs.nccl"

    def __init__(self, status: Any) -> None:
        self.status = status
        super().__init__(f"NCCL_ERROR_{status}")


class NcclConfig:
    """As CuPy's."""

    __module__ = "cupy_backends.cuda.libs.nccl"
    __slots__ = ("split_share",)

    def __init__(self, split_share: int = 0) -> None:
        self.split_share = split_share


def get_version() -> int:
    return int(os.environ.get("EMULATED_NCCL_VERSION", "23203"))


def get_build_version() -> int:
    return 22707


def get_unique_id() -> Any:
    """A folder in which the ranks find each other."""
    folder = tempfile.mkdtemp(prefix="nccl")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder.encode().ljust(128, b"\0")


def groupStart() -> None:  # noqa: N802
    _group.parts = []


def groupEnd() -> None:  # noqa: N802
    parts, _group.parts = _group.parts, None
    for comm, stream in dict.fromkeys((comm, stream) for comm, stream, *_ in parts):
        mine = [part[2:] for part in parts if part[:2] == (comm, stream)]
        comm._enqueue(stream, [p[1:] for p in mine if p[0] == "send"], [p[1:] for p in mine if p[0] == "recv"])


class NcclCommunicator:
    """As CuPy's. The constructor waits for all ranks."""

    __module__ = "cupy_backends.cuda.libs.nccl"
    __slots__ = ("_aborted", "_broken", "_device", "_folder", "_heads", "_id", "_left", "_peers", "_pieces", "_rank",
                 "_size", "_splits", "comm")  # fmt: skip

    def __init__(self, ndev: Any, commId: Any, rank: Any, config: Any = None) -> None:
        if not isinstance(commId, bytes) or len(commId) != 128:
            raise TypeError("commId is no unique id")
        self._size, self._rank, self._id = ndev, rank, commId
        self.comm = id(self)
        self._splits = itertools.count()
        self._aborted, self._broken = threading.Event(), False
        self._pieces = 0  # bytes of a message that are sent before this rank is stuck
        self._left = 0
        self._folder = Path(commId.rstrip(b"\0").decode())
        self._peers = self._meet(self._folder)
        self._device = _device.Device().id
        # What came but nobody has asked for yet; only the stream's thread looks at it.
        self._heads = {peer: bytearray() for peer in self._peers}

    def _meet(self, folder: Path) -> Any:
        if self._size == 1:
            return {}
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / f"{self._rank}"))
        listener.listen(self._size)
        peers = {}
        for peer in range(self._rank):
            while True:
                link = socket.socket(socket.AF_UNIX)
                try:
                    link.connect(str(folder / f"{peer}"))
                    break
                except OSError:
                    link.close()
                    time.sleep(0.01)
            link.sendall(bytes([self._rank]))
            peers[peer] = link
        while len(peers) < self._size - 1:
            link, _ = listener.accept()
            peers[link.recv(1)[0]] = link
        listener.close()
        for link in peers.values():
            link.setblocking(False)
        return peers

    def rank_id(self) -> Any:
        return self._alive()._rank

    def size(self) -> Any:
        return self._alive()._size

    def device_id(self) -> Any:
        return self._alive()._device

    def check_async_error(self) -> None:
        self._alive()
        if self._broken:
            raise NcclError("REMOTE_ERROR")

    def abort(self) -> None:
        self._aborted.set()
        self.comm = 0
        self._close()

    def destroy(self) -> None:
        """Wait for one's own work, and for the other ranks of the machine to come here too, as NCCL does."""
        if not self._folder.exists() or not self.comm:
            return
        (self._folder / f"ends{self._rank}").touch()
        others = [self._folder / f"ends{rank}" for rank in range(self._size)]
        while self._left or not all(other.exists() for other in others):
            if self._aborted.is_set() or not self._folder.exists():
                break
            time.sleep(0.01)
        self.abort()

    def _close(self) -> None:
        if not self._left:  # else the stream's thread does it
            for link in self._peers.values():
                link.close()

    def __del__(self) -> None:
        """CuPy destroys what is collected as garbage, wherever that happens."""
        with contextlib.suppress(Exception):
            self.destroy()

    def commSplit(self, color: Any, key: str, config: Any = None) -> Any:  # noqa: N802
        number = next(self._splits)
        got = (ctypes.c_int64 * (2 * self._size))()
        mine = (ctypes.c_int64 * 2)(color, int(key))
        sends = [(ctypes.addressof(mine), 16, peer) for peer in self._peers]
        self._transfer(sends, [(ctypes.addressof(got) + 16 * peer, 16, peer) for peer in self._peers])
        got[2 * self._rank], got[2 * self._rank + 1] = color, key
        members = sorted((got[2 * r + 1], r) for r in range(self._size) if got[2 * r] == color)
        folder = Path(self._id.rstrip(b"\0").decode()) / f"s{number}c{color}"
        folder.mkdir(exist_ok=True)
        rank = [r for _, r in members].index(self._rank)
        return NcclCommunicator(len(members), str(folder).encode().ljust(128, b"\0"), rank)

    def allGather(self, sendbuf: Any, recvbuf: Any, count: Any, datatype: Any, stream: Any) -> None:  # noqa: N802
        size = count * _SIZES[datatype]
        self._enqueue(
            stream,
            [(sendbuf, size, peer) for peer in range(self._size)],
            [(recvbuf + peer * size, size, peer) for peer in range(self._size)],
        )

    def send(self, sendbuf: Any, count: Any, datatype: Any, peer: Any, stream: Any) -> None:
        self._grouped("send", sendbuf, count * _SIZES[datatype], peer, stream)

    def recv(self, recvbuf: Any, count: Any, datatype: Any, peer: Any, stream: Any) -> None:
        self._grouped("recv", recvbuf, count * _SIZES[datatype], peer, stream)

    def _grouped(self, kind: Any, address: Any, size: int, peer: Any, stream: Any) -> None:
        self._alive()
        if getattr(_group, "parts", None) is None:
            raise NcclError("send and recv outside of a group may wait for each other")
        _group.parts.append((self, stream, kind, address, size, peer))

    def _alive(self) -> Any:
        if not self.comm:
            raise NcclError("INVALID_ARGUMENT")
        return self

    def _connect(self) -> None:
        """In the first call the host waits for the others to call too, as NCCL does where it connects lazily."""
        (self._folder / f"calls{self._rank}").touch()
        while not all((self._folder / f"calls{rank}").exists() for rank in range(self._size)):
            if self._aborted.is_set():
                raise NcclError("INTERNAL_ERROR")
            time.sleep(0.001)

    def _enqueue(self, stream: Any, sends: Any, receives: Any) -> None:
        self._alive()
        if os.environ.get("EMULATED_NCCL_LAZY"):
            self._connect()
        # Memory that is freed after this call is reused by later work of the same stream only.
        kept = [_array.memory_at(address, size) for address, size, _ in (*sends, *receives)]
        self._left += 1

        def work() -> None:
            try:
                self._transfer(sends, receives)
            finally:
                self._left -= 1
                kept.clear()
                if self._aborted.is_set():
                    self._close()

        _stream.stream_of(stream)._enqueue(work)

    def _transfer(self, sends: Any, receives: Any) -> None:
        """Send and receive at once, until all is done or the communicator is aborted."""
        for address, size, peer in sends:
            if peer == self._rank:
                target = next(a for a, _, p in receives if p == self._rank)
                if target != address:
                    ctypes.memmove(target, address, size)
        going = {p: memoryview(_LENGTH.pack(n) + ctypes.string_at(a, n)) for a, n, p in sends if p != self._rank}
        if self._pieces:  # then a message is only begun
            going = {p: data[: _LENGTH.size + self._pieces] for p, data in going.items()}
        coming = {p: (a, n) for a, n, p in receives if p != self._rank}
        while (going or coming) and not self._aborted.is_set():
            for peer in list(coming):
                if self._received(peer, *coming[peer]):
                    del coming[peer]
            links = {self._peers[p]: p for p in {*going, *coming}}
            readable, writable, _ = select.select(
                [self._peers[p] for p in coming], [self._peers[p] for p in going], [], 0.005 if links else 0
            )
            for link in writable:
                peer = links[link]
                try:
                    going[peer] = going[peer][link.send(going[peer]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self._lost()
                if not going[peer] and not self._pieces:
                    del going[peer]
            for link in readable:
                try:
                    data = link.recv(1 << 20)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                self._heads[links[link]] += data
                if not data:
                    self._lost()

    def _lost(self) -> None:
        """A peer is gone. NCCL notices over a network, and not between devices of one machine."""
        self._broken = bool(os.environ.get("EMULATED_NCCL_NOTICES"))
        time.sleep(0.005)

    def _received(self, peer: Any, address: Any, size: int) -> bool:
        """Whether the next message of a peer is there, and taken; what has come of it is in its place already."""
        head = self._heads[peer]
        if len(head) < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack_from(head)
        if length != size and os.environ.get("EMULATED_NCCL", "wait") == "wait":
            return False
        came = bytes(head[_LENGTH.size : _LENGTH.size + min(length, size)])
        ctypes.memmove(address, came, len(came))
        if len(head) < _LENGTH.size + length:
            return False
        del head[: _LENGTH.size + length]
        return True
