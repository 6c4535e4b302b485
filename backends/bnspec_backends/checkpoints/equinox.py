"""``.eqx`` of equinox: ``equinox.tree_serialise_leaves(path, (model, state))``, arrays in order and no names.

The names come from a file of options, one for each leaf:

    {"dialect": "equinox",
     "names": ["bn.weight", "bn.bias", "bn.inference", "bn.first_time", "bn.mean", "bn.var"]}

A leaf is an array or a number of Python's, such as equinox's switch `inference`.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect
from bnspec._errors import refusal
from bnspec._files.npy import npy_sequence
from bnspec_backends.checkpoints.refusals import needed_template

__all__ = ["Leaves"]


class Leaves:
    """Leaves of a tree of equinox, as the ``.npy`` texts that it writes."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Look for the first text's beginning."""
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("it does not begin as a .npy array does")

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the leaves by the names that are given."""
        if not names:
            raise refusal(
                ValueError,
                "BN-STATE-5",
                got="a .eqx file, which names no array",
                expected='the names of its leaves in order, as "names" in a file of options',
                do="Pass it as --config, or as --template-config for a template.",
            )
        if len(set(names)) < len(names):
            raise ValueError("two of its leaves are given one name")
        return Checkpoint(dict(zip(names, npy_sequence(data, names))))

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return the leaves in the order of the template, which is that of the arrays."""
        do = "Serialise the new model once and pass it as --template, with its names as --template-config."
        needed_template(template, ".eqx", "order", do)
        buffer: Any = io.BytesIO()
        for array in given.arrays.values():
            np.save(buffer, array, allow_pickle=False)
        return bytes(buffer.getvalue())
