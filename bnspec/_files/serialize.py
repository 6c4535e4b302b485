"""Named arrays and text in one file, ``.npz`` or ``.safetensors``: written whole or not at all, read without pickle.

Both formats carry one JSON text, the *header*: the format's version, each array's name and dtype in order, and the
caller's metadata; and a digest. A file of bnspec's own is refused unless every byte of it is as it was written and its
arrays are exactly those the header lists [BN-STATE-5]. A file without the marks of bnspec is foreign, and read as the
plain named arrays that it holds.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnspec._errors import refusal
from bnspec._files.disk import read_regular, write_atomically
from bnspec._files.formats import DIGEST, DTYPES, HEADER, check_length, dtype_named, from_bytes, to_bytes
from bnspec._files.formats import safetensors as _need_safetensors

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
FORMAT_VERSION = 2

RESERVED = (HEADER, "__metadata__")


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
            "digest": DIGEST,
            "arrays": {name: array.dtype.name for name, array in plain.items()},
            "metadata": dict(metadata),
        }
    )
    # All of the file is made in memory first, so nothing that can be wrong with the arrays happens while writing.
    write_atomically(path, to_bytes(suffix, plain, header))


def load_arrays(path: str | os.PathLike[str]) -> "tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]":
    """Read named arrays, each writable and of its own, and the metadata.

    A file that `save_arrays` wrote is read if every byte is as it was written. Any other is read as plain named arrays,
    without metadata: a ``.npz`` of `numpy.savez` or `numpy.savez_compressed`, a ``.safetensors`` of any library.

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
        If the path is no regular file, or the file is truncated, damaged, of another format or version, or holds
        anything but plain arrays [BN-STATE-5].
    """
    suffix = _suffix(path)
    length = None

    def check(file: Any, size: int) -> None:
        nonlocal length
        length = size
        if suffix == ".safetensors":
            _need_safetensors()
        check_length(suffix, file, size)

    try:
        data = read_regular(path, check)
        text, members = from_bytes(suffix, data)
        if text is None:
            return members, {}
        dtypes, metadata = _read_header(text)
        if set(members) != set(dtypes):
            raise ValueError(f"it holds the arrays {sorted(members)} and its header lists {sorted(dtypes)}")
        return {name: _typed(name, members[name], dtype) for name, dtype in dtypes.items()}, metadata
    except (ImportError, OSError):
        raise
    except Exception as error:  # whatever a parser says about hostile bytes, it is the file that is bad
        if length is None:  # no regular file: nothing was read
            raise
        raise refusal(
            ValueError,
            "BN-STATE-5",
            got=f"{os.fspath(path)!r} ({length} bytes) cannot be loaded: {error or type(error).__name__}",
            expected=f"an intact {suffix} file, of bnspec (format version {FORMAT_VERSION}) or of plain named arrays",
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
        return array.view(dtype_named("bfloat16"))
    if array.dtype.name != dtype:
        raise ValueError(f"its array {name!r} is {array.dtype} and its header says {dtype}")
    return array
