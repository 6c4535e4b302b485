"""``.npz`` and ``.safetensors``: named arrays and nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect
from bnspec._files.formats import check_length, from_bytes
from bnspec._files.formats import safetensors as need_safetensors
from bnspec._files.npy import plain_npz
from bnspec_backends.checkpoints.refusals import refuse_bfloat16

__all__ = ["Npz", "Safetensors"]


class Npz:
    """``.npz`` of NumPy, such as tensorpack dumps of TensorFlow's checkpoints."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Compare the archive's directory with the file's length."""
        check_length(".npz", file, length)

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the members; those of bnspec's own files only if all bytes are as they were written."""
        return Checkpoint(from_bytes(".npz", data)[1])

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return an archive without compression, which `numpy.load` opens."""
        refuse_bfloat16(given.arrays, "a dtype that a .npz can name", "Write a .safetensors file.")
        return plain_npz(given.arrays)


class Safetensors:
    """``.safetensors``."""

    def __init__(self) -> None:
        need_safetensors()

    def check(self, file: BinaryIO, length: int) -> None:
        """Compare the table at its beginning with the file's length, and look for names that are there twice."""
        check_length(".safetensors", file, length)
        file.seek(0)
        size = int.from_bytes(file.read(8), "little")
        json.loads(file.read(size), object_pairs_hook=_without_duplicates)

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the tensors."""
        return Checkpoint(from_bytes(".safetensors", data)[1])

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the tensors with the mark that loaders for torch look for."""
        from safetensors.numpy import save

        return bytes(save(dict(given.arrays), {"format": "pt" if row.name == "torch" else "np"}))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its array {name!r} is there twice")
        found[name] = value
    return found
