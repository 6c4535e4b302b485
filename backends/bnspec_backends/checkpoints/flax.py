"""``.msgpack`` of flax: ``flax.serialization.to_bytes(variables)``, nested by collections and modules."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from flax.serialization import msgpack_restore, msgpack_serialize

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.layers import flat_arrays, nested
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect

__all__ = ["Msgpack"]


class Msgpack:
    """Files of `flax.serialization`."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Look for a mapping at the beginning, which is the first bits of its first byte."""
        start = file.read(1)
        if not start or not (start[0] >> 4 == 0x8 or start[0] in (0xDE, 0xDF)):
            raise ValueError("it does not begin with a mapping")

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the leaves that are arrays, under joined names."""
        return Checkpoint(flat_arrays(msgpack_restore(data), row.storage.separator))

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the arrays nested at the separators of their names."""
        return bytes(msgpack_serialize(nested(given.arrays, row.storage.separator)))
