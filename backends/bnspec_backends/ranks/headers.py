"""Format of the messages between processes: a header of 64 bytes, an array, and now and then a text.

Every message carries the sequence number of its collective and a digest of the sender's facts (layer, operation, shape,
configuration), so that a rank never takes the numbers of another layer, or of another shape, for its own. The facts
themselves follow as text the first time that a sender uses the digest; after that a layer costs 64 bytes beside its
numbers.
"""

import functools
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bnspec._communicator import Signature
from bnspec_backends.ranks.facts import signature_facts

__all__ = ["HEADER", "SAME", "About", "Header", "about", "body_text", "of_facts", "packed", "parse_header",
           "unpacked"]  # fmt: skip

#: Bytes of a header, and of its beginning that is equal in all messages of one collective; the rest counts the text.
HEADER, SAME = 64, 56

_LAYOUT = struct.Struct("<4s4xQ16sQ16sI4x")
_MAGIC = b"bns1"


class Header(NamedTuple):
    """Fields of a header."""

    sequence: int
    digest: bytes
    payload: int  # bytes of the array
    group: bytes  # id of the group of ranks
    text: int  # bytes of the text behind it


class About(NamedTuple):
    """Facts about the collective that a rank is about to enter, with their text and its digest."""

    digest: bytes
    facts: Mapping[str, str]
    text: bytes  # the facts as JSON

    def header(self, sequence: int, payload: int, group: bytes, text: int) -> bytes:
        """Return the header of a message."""
        return _LAYOUT.pack(_MAGIC, sequence, self.digest, payload, group, text)


def about(signature: Signature, payload: npt.NDArray[Any]) -> About:
    """Return the facts of a layer's collective; they are computed once for each layer and shape."""
    return _about(signature, payload.shape, payload.dtype.str)


@functools.lru_cache(maxsize=4096)
def _about(signature: Signature, shape: tuple[int, ...], dtype: str) -> About:
    return of_facts(signature_facts(np.broadcast_to(np.zeros((), dtype), shape), signature))


def of_facts(facts: Mapping[str, str]) -> About:
    """Return facts with their text and its digest."""
    text = json.dumps(facts).encode()
    return About(hashlib.blake2b(text, digest_size=16).digest(), facts, text)


def parse_header(frame: Any) -> Header:
    """Read the header at the beginning of a message.

    Raises
    ------
    ValueError
        The bytes are no message of ours.
    """
    if len(frame) < HEADER:
        raise ValueError(f"{len(frame)} bytes are no frame")
    magic, *fields = _LAYOUT.unpack_from(frame)
    if magic != _MAGIC:
        raise ValueError(f"a frame that begins with {magic!r}")
    return Header(*fields)


def body_text(frame: Any, header: Header) -> dict[str, Any]:
    """Read the text of a message as JSON."""
    start = HEADER + header.payload
    found: dict[str, Any] = json.loads(bytes(frame[start : start + header.text]))
    return found


def packed(entries: Sequence[bytes]) -> Any:
    """Join pieces of bytes to one array: their number and lengths, then the pieces."""
    head = np.asarray([len(entries), *map(len, entries)], "<u8")
    return np.frombuffer(head.tobytes() + b"".join(entries), np.uint8)


def unpacked(array: Any) -> list[bytes]:
    """Return the pieces of bytes that `packed` joined."""
    data = bytes(array)
    number = int.from_bytes(data[:8], "little")
    ends = np.cumsum(np.frombuffer(data, "<u8", number, 8)) + 8 * (number + 1)
    return [data[a:b] for a, b in zip((8 * (number + 1), *ends), ends)]
