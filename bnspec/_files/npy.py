"""Arrays as ``.npy`` texts: one, several behind each other, or the members of an archive; read without trust."""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `import bnspec` must not load NumPy
    import numpy as np

__all__ = ["DTYPES", "npy_header", "npy_sequence", "plain_npz", "refuse_inflated", "refuse_size"]

#: dtype names that both formats hold, and what safetensors calls them.
DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bfloat16": "BF16",
}

#: A compressed array that is larger than the first, and larger than its file by the second, is taken for a trap.
_LARGE, _INFLATED = 1 << 30, 100


def plain_npz(arrays: "Mapping[str, np.ndarray[Any, Any]]", comment: bytes = b"") -> bytes:
    """Return a ``.npz`` as `numpy.savez` writes it: equal arrays give equal bytes."""
    import numpy as np

    # numpy.savez takes the names as keyword arguments, where "file" and "allow_pickle" mean something else.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo()  # with a fixed date
            info.filename = f"{name}.npy"  # set here: the constructor would change a backslash on Windows
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())
        archive.comment = comment
    return buffer.getvalue()


def npy_sequence(data: bytes, names: "Sequence[str]") -> "list[np.ndarray[Any, Any]]":
    """Return the arrays of ``.npy`` texts that follow each other, one for each name; ValueError for more or fewer."""
    import numpy as np

    stream = io.BytesIO(data)
    found = []
    for name in names:
        try:
            shape, fortran_order, dtype = npy_header(stream, name)
        except ValueError as error:
            raise ValueError(f"its array {name!r} cannot be read: {error}") from error
        size = math.prod(shape) * dtype.itemsize
        content = stream.read(size) if 0 <= size <= len(data) else b""
        if min(shape, default=0) < 0 or len(content) != size:
            raise ValueError(f"its array {name!r} is cut, at {len(content)} of {size} bytes")
        values = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
        found.append(np.array(values, dtype=dtype.newbyteorder("="), order="C"))
    if stream.read(1):
        raise ValueError(f"it holds more than the {len(names)} arrays that have a name")
    return found


def refuse_inflated(archive: zipfile.ZipFile) -> None:
    """Raise ValueError for a member that would fill the memory with what a small file compresses, such as zeros."""
    for info in archive.infolist():
        refuse_size(info.orig_filename.removesuffix(".npy"), info.file_size, info.compress_size)


def refuse_size(name: str, size: int, stored: int) -> None:
    """Raise ValueError for an array whose bytes are many, and many times those that the file has for it."""
    if size > max(_LARGE, _INFLATED * stored):
        raise ValueError(f"its array {name!r} has {size} bytes in {stored} of the file")


def npy_header(stream: Any, name: str) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    """The shape, order and dtype that a ``.npy`` text begins with; objects are refused."""
    import numpy as np

    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its member {name!r} is a .npy array of version {version}")
    if dtype.hasobject or dtype.newbyteorder("=").name not in DTYPES:
        raise ValueError(f"its member {name!r} holds {dtype} (objects and pickles are never read)")
    return shape, fortran_order, dtype
