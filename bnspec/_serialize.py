"""Named arrays and text in one file, ``.npz`` or ``.safetensors``: written whole or not at all, read without pickle.

Both formats carry one JSON text, the *header*, under a reserved name: the format's version, each
array's name and dtype in order, and the caller's metadata. A file is refused unless its arrays are
exactly those the header lists, so a foreign, shortened or edited file never loads as something else
[BN-STATE-5]. Every array in a ``.npz`` is an ordinary uncompressed member, which ``numpy.load``
opens too; bfloat16, which that format cannot name, is stored there as its 16 bits in a uint16.
"""

import errno
import io
import json
import math
import os
import secrets
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnspec._errors import refusal

if TYPE_CHECKING:  # `import bnspec` must not load NumPy
    import numpy as np

__all__ = [
    "DTYPES",
    "FORMAT_VERSION",
    "HEADER",
    "RESERVED",
    "load_arrays",
    "save_arrays",
]

#: Version of the layout that is written; files of any other version are refused.
FORMAT_VERSION = 1

#: Names that no array may have: our header's, and the one safetensors keeps its own metadata under.
HEADER = "__bnspec__"
RESERVED = (HEADER, "__metadata__")

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


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write named arrays and a text mapping to one file, replacing an older one in a single step.

    Parameters
    ----------
    path : path
        Ends in ``.npz`` or ``.safetensors``; the suffix chooses the format.
    arrays : mapping of str to array
        Whatever ``numpy.asarray`` accepts, of a boolean, integer or floating dtype up to 64 bits.
    metadata : mapping of str to str
        Returned unchanged by `load_arrays`.

    Raises
    ------
    ImportError
        The path ends in ``.safetensors`` and that package is missing.
    OSError
        The file cannot be written. As after every other error the old file, if any, is still there
        and no temporary file is. (Only when the directory itself fails to sync is the new file already in place.)
    TypeError
        An array has a dtype that the formats do not hold, or a name or text is not a string.
    ValueError
        The suffix or a name cannot be used.

    Notes
    -----
    The same arguments give the same bytes. Byte order becomes the machine's, memory order becomes C.
    """
    suffix = _suffix(path)
    _check_text(metadata)
    plain = {name: _plain(name, value) for name, value in arrays.items()}
    header = json.dumps(
        {
            "format": "bnspec",
            "version": FORMAT_VERSION,
            "arrays": {name: array.dtype.name for name, array in plain.items()},
            "metadata": dict(metadata),
        }
    )
    # All of the file is made in memory first, so nothing that can be wrong with the arrays happens while writing.
    _write_atomically(path, _to_npz(plain, header) if suffix == ".npz" else _to_safetensors(plain, header))


def load_arrays(path: str | os.PathLike[str]) -> "tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]":
    """Read what `save_arrays` wrote: the arrays, each writable and of its own, and the metadata.

    Nothing in the file is ever executed: there is no unpickling, and a member is read only after its
    dtype and its size were found to be what the header and the file's length say.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        The path ends in ``.safetensors`` and that package is missing, or the file holds bfloat16
        and ``ml_dtypes`` is missing.
    ValueError
        The file is truncated, damaged, of another format or version, or holds anything but plain arrays [BN-STATE-5].
    """
    suffix = _suffix(path)
    data = Path(path).read_bytes()
    try:
        header, members = _from_npz(data) if suffix == ".npz" else _from_safetensors(data)
        dtypes, metadata = _read_header(header)
        if set(members) != set(dtypes):
            raise ValueError(f"it holds the arrays {sorted(members)} and its header lists {sorted(dtypes)}")
        return {name: _typed(name, members[name], dtype) for name, dtype in dtypes.items()}, metadata
    except ImportError:
        raise
    except Exception as error:  # whatever a parser says about hostile bytes, it is the file that is bad
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"{os.fspath(path)!r} ({len(data)} bytes) cannot be loaded: {error or type(error).__name__}",
            expected=f"an intact {suffix} file written by bnspec, format version {FORMAT_VERSION}",
            do="Load another copy or save the state again; nothing was changed by this attempt.",
        ) from error


# --- what may be saved ------------------------------------------------------------------------------------------------


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise refusal(
            ValueError,
            "BN-STATE-3",
            got=f"the path {os.fspath(path)!r} has the suffix {suffix!r}",
            expected=".npz or .safetensors",
            do="Give the file one of these suffixes; it chooses the format.",
        )
    return suffix


def _check_text(metadata: Mapping[str, str]) -> None:
    for key, text in metadata.items():
        if not (isinstance(key, str) and isinstance(text, str)):
            raise refusal(
                TypeError,
                "BN-STATE-3",
                got=f"metadata maps {key!r} to a {type(text).__name__}",
                expected="strings mapped to strings",
                do="Convert it, for example with json.dumps.",
            )


def _plain(name: str, value: Any) -> "np.ndarray[Any, Any]":
    """A C-ordered array of the machine's byte order, 0-d ones included, after the name and dtype were checked."""
    import numpy as np

    if not isinstance(name, str):
        raise refusal(TypeError, "BN-STATE-3", got=f"an array is named {name!r}", expected="a string", do="Rename it.")
    # A zip member's name ends at a NUL, and neither format can encode half of a surrogate pair.
    if name in RESERVED or "\0" in name or name.encode(errors="replace").decode() != name:
        raise refusal(
            ValueError,
            "BN-STATE-3",
            got=f"an array is named {name!r}",
            expected=f"a name other than {' and '.join(RESERVED)}, without NUL and without lone surrogates",
            do="Rename the array.",
        )
    try:
        array = np.asarray(value)
        problem = "" if array.dtype.name in DTYPES else f"of dtype {array.dtype}"
    except Exception as error:  # each library has its own words for an array that NumPy cannot see
        array, problem = np.empty(0), f"which NumPy cannot read: {error}"
    if problem:
        raise refusal(
            TypeError,
            "BN-STATE-3",
            got=f"{name!r} is a {type(value).__module__}.{type(value).__qualname__}, {problem}",
            expected=f"an array of dtype {', '.join(DTYPES)}",
            do="Convert it to a NumPy array of such a dtype first.",
        )
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False)


# --- the two formats --------------------------------------------------------------------------------------------------


def _to_npz(arrays: "Mapping[str, np.ndarray[Any, Any]]", header: str) -> bytes:
    import numpy as np

    # numpy.savez takes the names as keyword arguments, where "file" and "allow_pickle" mean something else.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {**arrays, HEADER: np.frombuffer(header.encode(), np.uint8)}.items():
            bits = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
            member = io.BytesIO()
            np.lib.format.write_array(member, bits, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo()  # with a fixed date, so that equal arrays give equal bytes
            info.filename = f"{name}.npy"  # set here: the constructor would change a backslash on Windows
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def _from_npz(data: bytes) -> "tuple[str, dict[str, np.ndarray[Any, Any]]]":
    members = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            name = info.orig_filename.removesuffix(".npy")
            if name == info.orig_filename or name in members:
                raise ValueError(f"its member {info.orig_filename!r} is no .npy array, or is there twice")
            # Stored members cannot be larger than the file, so none can fill the memory.
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its member {info.orig_filename!r} is compressed")
            members[name] = _from_npy(archive.read(info), info.orig_filename)
    if HEADER not in members:
        raise ValueError(f"it has no member {HEADER}.npy, so bnspec did not write it")
    return members.pop(HEADER).tobytes().decode(), members


def _from_npy(data: bytes, name: str) -> "np.ndarray[Any, Any]":
    """The array of a ``.npy`` text; numpy.load would allocate what the header claims before it looks at the rest."""
    import numpy as np

    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"its member {name!r} is a .npy array of version {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    rest = data[stream.tell() :]
    if dtype.name not in DTYPES or not dtype.isnative or fortran_order:
        raise ValueError(f"its member {name!r} holds {dtype} (objects and pickles are never read)")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"its member {name!r} has {len(rest)} bytes for shape {shape} and dtype {dtype}")
    return np.frombuffer(rest, dtype).reshape(shape).copy()


def _to_safetensors(arrays: "Mapping[str, np.ndarray[Any, Any]]", header: str) -> bytes:
    _safetensors()
    from safetensors.numpy import save

    return bytes(save(dict(arrays), {HEADER: header}))


def _from_safetensors(data: bytes) -> "tuple[str, dict[str, np.ndarray[Any, Any]]]":
    import numpy as np

    # safetensors checks offsets and shapes against the length; it returns no metadata and, to NumPy, no bfloat16.
    tensors = _safetensors().deserialize(data)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    if HEADER not in metadata:
        raise ValueError(f"its metadata has no {HEADER}, so bnspec did not write it")
    names = {code: name for name, code in DTYPES.items()}
    members = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in names:
            raise ValueError(f"its array {name!r} has the dtype {tensor['dtype']}")
        bits = names[tensor["dtype"]]
        members[name] = np.frombuffer(tensor["data"], _dtype(bits)).reshape(tensor["shape"]).copy()
    return metadata[HEADER], members


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs the package safetensors: pip install bnspec[safetensors], or use .npz"
        ) from error
    return safetensors


def _read_header(text: str) -> tuple[dict[str, str], dict[str, str]]:
    header = json.loads(text)
    if not (isinstance(header, dict) and header.get("format") == "bnspec"):
        raise ValueError("its header is not bnspec's")
    if header.get("version") != FORMAT_VERSION:
        raise ValueError(f"its format version is {header.get('version')!r}")
    return _strings(header.get("arrays")), _strings(header.get("metadata"))


def _strings(part: object) -> dict[str, str]:
    if not isinstance(part, dict) or not all(isinstance(text, str) for text in part.values()):
        raise ValueError("its header does not map names to dtypes and metadata to strings")
    return part


def _typed(name: str, array: "np.ndarray[Any, Any]", dtype: str) -> "np.ndarray[Any, Any]":
    """The array as the header names its dtype: only the 16 bits of a bfloat16 may be stored under another."""
    if dtype == "bfloat16" and array.dtype.name == "uint16":
        return array.view(_dtype("bfloat16"))
    if array.dtype.name != dtype:
        raise ValueError(f"its array {name!r} is {array.dtype} and its header says {dtype}")
    return array


def _dtype(name: str) -> "np.dtype[Any]":
    import numpy as np

    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("the file holds bfloat16, which NumPy has from ml_dtypes: pip install ml_dtypes") from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


# --- the disk ---------------------------------------------------------------------------------------------------------


def _write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Whoever opens the path sees the old file or all of the new one, also after a crash [BN-STATE-4]."""
    target = Path(os.path.realpath(path))  # a symbolic link keeps pointing where it did
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    # Opened here and not by `tempfile`, whose files only their owner may read.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a directory cannot be opened, and the rename is durable by itself
        _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no directories
            raise
    finally:
        os.close(descriptor)
