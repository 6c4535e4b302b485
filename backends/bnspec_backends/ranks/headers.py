"""What ranks of different processes send each other: a header of 64 bytes, an array, and now and then a text.

Every frame carries the sequence number of its collective and a digest of what the sender is about to do, so that a
rank never takes the numbers of another layer, or of another shape, for its own. What the digest stands for, the
*facts*, follows as text the first time that a sender uses it; after that a layer costs 64 bytes beside its numbers.
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

__all__ = ["HEADER", "SAME", "About", "Header", "about", "body_text", "of_facts", "packed", "parse_header", "together",
           "unpacked"]  # fmt: skip

#: Bytes of a header, and how many of them are equal in all frames of one collective; the rest counts the text.
HEADER, SAME = 64, 56

_LAYOUT = struct.Struct("<4s4xQ16sQ16sI4x")
_MAGIC = b"bns1"


class Header(NamedTuple):
    """The fields of a header."""

    sequence: int
    digest: bytes
    payload: int  # bytes of the array
    group: bytes  # which ranks these are
    text: int  # bytes of the text behind it


class About(NamedTuple):
    """What a rank is about to do."""

    digest: bytes
    facts: Mapping[str, str]
    text: bytes  # the facts as JSON

    def header(self, sequence: int, payload: int, group: bytes, text: int) -> bytes:
        """The header of a frame about this."""
        return _LAYOUT.pack(_MAGIC, sequence, self.digest, payload, group, text)


def about(signature: Signature, payload: npt.NDArray[Any]) -> About:
    """What a layer is about to do with its payload; the work is done once for each layer and shape."""
    return _about(signature, payload.shape, payload.dtype.str)


@functools.lru_cache(maxsize=4096)
def _about(signature: Signature, shape: tuple[int, ...], dtype: str) -> About:
    return of_facts(signature_facts(np.broadcast_to(np.zeros((), dtype), shape), signature))


def together(parts: Sequence[About]) -> About:
    """What several layers are about to do in one message."""
    layers = " and ".join(part.facts["layer"] for part in parts)
    operations = sorted({part.facts["operation"].strip("'") for part in parts})
    facts = {"operation": repr(f"{' and '.join(operations)} together"), "layer": layers}
    for number, part in enumerate(parts, 1):
        facts |= {f"{key} of layer {number}": value for key, value in part.facts.items()}
    return of_facts(facts)


def of_facts(facts: Mapping[str, str]) -> About:
    """Facts with their text and its digest."""
    text = json.dumps(facts).encode()
    return About(hashlib.blake2b(text, digest_size=16).digest(), facts, text)


def parse_header(frame: Any) -> Header:
    """The header at the beginning of a frame.

    Raises
    ------
    ValueError
        For something else.
    """
    if len(frame) < HEADER:
        raise ValueError(f"{len(frame)} bytes are no frame")
    magic, *fields = _LAYOUT.unpack_from(frame)
    if magic != _MAGIC:
        raise ValueError(f"a frame that begins with {magic!r}")
    return Header(*fields)


def body_text(frame: Any, header: Header) -> dict[str, Any]:
    """The text of a frame as JSON."""
    start = HEADER + header.payload
    found: dict[str, Any] = json.loads(bytes(frame[start : start + header.text]))
    return found


def packed(entries: Sequence[bytes]) -> Any:
    """Pieces of bytes in one array: their number and lengths, then they themselves."""
    head = np.asarray([len(entries), *map(len, entries)], "<u8")
    return np.frombuffer(head.tobytes() + b"".join(entries), np.uint8)


def unpacked(array: Any) -> list[bytes]:
    """The pieces of bytes that `packed` joined."""
    data = bytes(array)
    number = int.from_bytes(data[:8], "little")
    ends = np.cumsum(np.frombuffer(data, "<u8", number, 8)) + 8 * (number + 1)
    return [data[a:b] for a, b in zip((8 * (number + 1), *ends), ends)]
