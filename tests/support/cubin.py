"""What machine code of a kernel needs: registers of a thread, and bytes that it spills to memory."""

import struct
from collections import defaultdict
from collections.abc import Iterator

#: Attributes of ``.nv.info``: bytes of a thread's own memory, and its registers; how attributes with a length begin.
_FRAME_SIZE, _REGISTERS, _SIZED = 0x11, 0x2F, 0x04


def needs(code: bytes) -> tuple[int, int]:
    """Return the registers and the bytes of memory of a thread: the most that any function of the code has."""
    attributes = _attributes(next(body for name, body in _sections(code) if name == ".nv.info"))
    return max(attributes[_REGISTERS]), max(attributes[_FRAME_SIZE])


def _sections(code: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every section of an ELF file of 64 bits."""
    start = struct.unpack_from("<Q", code, 40)[0]
    each, number, names = struct.unpack_from("<3H", code, 58)
    heads = [struct.unpack_from("<IIQQQQ", code, start + each * i) for i in range(number)]
    for name, _, _, _, offset, size in heads:
        begin = heads[names][4] + name
        yield code[begin : code.index(b"\0", begin)].decode(), code[offset : offset + size]


def _attributes(body: bytes) -> dict[int, list[int]]:
    """Return the values of attributes by number; each is of a function, which is named first."""
    at, found = 0, defaultdict[int, list[int]](list)
    while at + 4 <= len(body):
        form, number, length = struct.unpack_from("<BBH", body, at)
        at += 4
        if form == _SIZED:
            if length == 8:
                found[number].append(struct.unpack_from("<II", body, at)[1])
            at += length
    return found
