"""The bytes of a file of named arrays, ``.npz`` and ``.safetensors``: made of arrays, and read without trust.

Both carry one text, the *header*, under a reserved name, and a SHA-256 of all other bytes of the file: of a ``.npz``
in the comment at its end, of a ``.safetensors`` inside the header. A file that has neither is *foreign*: somebody
else's, and read as the plain named arrays it holds. Every array in a ``.npz`` is an ordinary uncompressed member, which
``numpy.load`` opens too; bfloat16, which that format cannot name, is stored there as its 16 bits in a uint16.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from bnspec._files.npy import DTYPES, npy_header, plain_npz, refuse_inflated

if TYPE_CHECKING:  # `import bnspec` must not load NumPy
    import numpy as np

__all__ = ["DIGEST", "DTYPES", "HEADER", "check_length", "dtype_named", "from_bytes", "safetensors", "to_bytes"]

#: Names that no array may have: our header's, and the one safetensors keeps its own metadata under.
HEADER = "__bnspec__"

#: What stands in a header's place of the digest until it is known.
DIGEST = "sha256:" + "0" * 64

_COMMENT = b"bnspec "


def to_bytes(suffix: str, arrays: "Mapping[str, np.ndarray[Any, Any]]", header: str) -> bytes:
    """The file's content; the header of a ``.safetensors`` has `DIGEST` in it, before any other text of that form."""
    return _to_npz(arrays, header) if suffix == ".npz" else _to_safetensors(arrays, header)


def from_bytes(suffix: str, data: bytes) -> "tuple[str | None, dict[str, np.ndarray[Any, Any]]]":
    """The header, or None of a foreign file, and the arrays; ValueError if a byte is not as it was written."""
    return _from_npz(data) if suffix == ".npz" else _from_safetensors(data)


def check_length(suffix: str, file: BinaryIO, length: int) -> None:
    """Refuse a file that is longer or shorter than its own tables say, before it is read."""
    if suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            # The fields around a member's data are at most this long.
            most = sum(i.compress_size + 30 + 2 * 0xFFFF for i in archive.infolist())
            if not most >= archive.start_dir:
                raise ValueError("it is longer than what its directory lists")
        return
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or size > min(length - 8, 100_000_000):  # no more than safetensors itself reads
        raise ValueError("its header is longer than the file")
    table = json.loads(file.read(size))
    ends = [0] + [e["data_offsets"][1] for name, e in table.items() if name != "__metadata__"]
    if 8 + size + max(ends) != length:
        raise ValueError("its length is not what its header says")


def _to_npz(arrays: "Mapping[str, np.ndarray[Any, Any]]", header: str) -> bytes:
    import numpy as np

    bits = {name: array.view(np.uint16) if array.dtype.name == "bfloat16" else array for name, array in arrays.items()}
    data = plain_npz(bits | {HEADER: np.frombuffer(header.encode(), np.uint8)}, _COMMENT + DIGEST.encode())
    return _sealed(data, len(data) - len(DIGEST))


def _from_npz(data: bytes) -> "tuple[str | None, dict[str, np.ndarray[Any, Any]]]":
    members = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        refuse_inflated(archive)
        names = [info.orig_filename for info in archive.infolist()]
        ours = f"{HEADER}.npy" in names or archive.comment.startswith(_COMMENT)
        if ours:
            if archive.comment[: len(_COMMENT)] != _COMMENT:
                raise ValueError("it has no digest at its end")
            _verify(data, len(data) - len(DIGEST))
        for info in archive.infolist():
            name = info.orig_filename.removesuffix(".npy")
            if name == info.orig_filename or name in members:
                raise ValueError(f"its member {info.orig_filename!r} is no .npy array, or is there twice")
            # Stored members cannot be larger than the file, so none can fill the memory.
            if ours and info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {info.orig_filename!r} is compressed")
            with archive.open(info) as member:
                members[name] = _from_npy(member, info.file_size, info.orig_filename)
    if not ours:
        return None, members
    if HEADER not in members:
        raise ValueError(f"it has no member {HEADER}.npy")
    return members.pop(HEADER).tobytes().decode(), members


def _from_npy(stream: Any, length: int, name: str) -> "np.ndarray[Any, Any]":
    """The array of a ``.npy`` text; numpy.load would allocate what the header claims before it looks at the rest."""
    import numpy as np

    shape, fortran_order, dtype = npy_header(stream, name)
    rest = length - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"its member {name!r} has {rest} bytes for shape {shape} and dtype {dtype}")
    content = stream.read(rest)
    if len(content) != rest or stream.read(1):  # reading to the end also compares the member's checksum
        raise ValueError(f"its member {name!r} is not as long as the archive says")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.array(values, dtype=dtype.newbyteorder("="), order="C")


def _to_safetensors(arrays: "Mapping[str, np.ndarray[Any, Any]]", header: str) -> bytes:
    safetensors()
    from safetensors.numpy import save

    data = bytes(save(dict(arrays), {HEADER: header}))
    return _sealed(data, data.index(DIGEST.encode()))


def _from_safetensors(data: bytes) -> "tuple[str | None, dict[str, np.ndarray[Any, Any]]]":
    import numpy as np

    # safetensors checks offsets and shapes against the length; it returns no metadata and, to NumPy, no bfloat16.
    tensors = safetensors().deserialize(data)
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:end]).get("__metadata__", {})
    if ours := any(key == HEADER or _is_header(text) for key, text in metadata.items()):
        if HEADER not in metadata:
            raise ValueError(f"its metadata has no {HEADER}")
        _verify(data, data.find(b"sha256:", 8, end))
    names = {code: name for name, code in DTYPES.items()}
    members = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in names:
            raise ValueError(f"its array {name!r} has the dtype {tensor['dtype']}")
        bits = names[tensor["dtype"]]
        members[name] = np.frombuffer(tensor["data"], dtype_named(bits)).reshape(tensor["shape"]).copy()
    return metadata[HEADER] if ours else None, members


def _is_header(text: str) -> bool:
    return text.startswith("{") and '"bnspec"' in text


def _sealed(data: bytes, at: int) -> bytes:
    """The bytes with the digest of all of them, itself taken as zeros, in its place."""
    return data[:at] + b"sha256:" + hashlib.sha256(data).hexdigest().encode() + data[at + len(DIGEST) :]


def _verify(data: bytes, at: int) -> None:
    found = data[max(at, 0) : max(at, 0) + len(DIGEST)]
    if not re.fullmatch(rb"sha256:[0-9a-f]{64}", found):
        raise ValueError("it has no digest where bnspec writes one")
    if _sealed(data[:at] + DIGEST.encode() + data[at + len(DIGEST) :], at) != data:
        raise ValueError("its bytes are not those that were written: their SHA-256 is another one")


def safetensors() -> Any:
    """The package, or an ImportError that says how to have it."""
    try:
        import safetensors as package
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs the package safetensors: pip install bnspec[safetensors], or use .npz"
        ) from error
    return package


def dtype_named(name: str) -> "np.dtype[Any]":
    """NumPy's dtype of a name in `DTYPES`."""
    import numpy as np

    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("the file holds bfloat16, which NumPy has from ml_dtypes: pip install ml_dtypes") from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
