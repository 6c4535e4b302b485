"""Folders of orbax, ``.orbax`` when they are written: the variables of flax nested by collections and modules."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.layers import flat, flat_arrays, nested
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect
from bnspec._files.npy import refuse_size

__all__ = ["Orbax"]


class Orbax:
    """Folders of `orbax.checkpoint`, which replaces them in one step itself."""

    def read_folder(
        self, path: str | os.PathLike[str], row: Dialect, layers: Mapping[str, Options], names: Sequence[str]
    ) -> Checkpoint:
        """Return the leaves that are arrays, under joined names, wherever they were placed."""
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(os.path.abspath(path)).item_metadata.tree
            stored = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
            for name, leaf in flat(tree, row.storage.separator).items():
                if getattr(leaf, "shape", None) is not None:
                    refuse_size(name, int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize, stored)
            plain = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            content = reader.restore(os.path.abspath(path), restore_args=plain)
        return Checkpoint(flat_arrays(content, row.storage.separator))

    def write_folder(self, path: str | os.PathLike[str], given: Checkpoint, row: Dialect) -> None:
        """Save the arrays nested at the separators of their names; a folder that is there is refused."""
        if os.path.lexists(path):
            raise ValueError("it is there already")
        tree: Any = nested(given.arrays, row.storage.separator)
        with ocp.PyTreeCheckpointer() as writer:
            writer.save(os.path.abspath(path), tree)
