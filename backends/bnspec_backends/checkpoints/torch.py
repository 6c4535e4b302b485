"""``.pt``, ``.pth`` and ``.bin`` of torch: a mapping of names to tensors, as ``torch.save(model.state_dict(), path)``.

Read with ``weights_only=True``: a file that would run code is refused. Of a training checkpoint, the model's
``state_dict`` is taken where it has one of the usual names.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import torch

from bnspec._conversion.checkpoint import Checkpoint
from bnspec._conversion.layers import flat
from bnspec._conversion.options import Options
from bnspec._dialect import Dialect
from bnspec._files.npy import refuse_inflated, refuse_size
from bnspec_backends.arrays.torch import TorchBackend

__all__ = ["Torch"]

#: Under which training programs keep the model's own state.
_MODELS = ("state_dict", "model_state_dict", "model")


class Torch:
    """Files of `torch.save`."""

    def check(self, file: BinaryIO, length: int) -> None:
        """Look for an archive as torch writes it, or the older form."""
        start = file.read(4)
        if start[:2] not in (b"PK", b"\x80\x02"):
            raise ValueError("it does not begin as a file of torch.save does")
        if start[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                refuse_inflated(archive)

    def read(self, data: bytes, row: Dialect, layers: Mapping[str, Options], names: Sequence[str]) -> Checkpoint:
        """Return the tensors; numbers, texts and other entries are no arrays and are left out."""
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise ValueError(f"it holds a {type(content).__name__} and not a mapping of names to tensors")
        content = next((content[k] for k in _MODELS if isinstance(content.get(k), Mapping)), content)
        to_numpy = TorchBackend().to_numpy
        found = {}
        for name, value in flat(content, row.storage.separator).items():
            if not isinstance(value, torch.Tensor):
                continue
            if value.layout != torch.strided:
                raise ValueError(f"its array {name!r} has the layout {value.layout}")
            refuse_size(name, value.numel() * value.element_size(), value.untyped_storage().nbytes())
            try:
                found[name] = to_numpy(value.detach())
            except (TypeError, RuntimeError) as error:
                raise ValueError(f"its array {name!r} has the dtype {value.dtype}, which NumPy has not") from error
        return Checkpoint(found)

    def write(self, given: Checkpoint, row: Dialect, template: bytes | None) -> bytes:
        """Return a file of a flat ``state_dict``."""
        backend: Any = TorchBackend()
        buffer = io.BytesIO()
        torch.save({name: backend.asarray(array) for name, array in given.arrays.items()}, buffer)
        return buffer.getvalue()
