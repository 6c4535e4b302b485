"""XLA's call frames, read by compiled code: how a program of XLA hands its arrays to a function of ours.

XLA calls a function of its foreign function interface with the address of a frame, which leads to the arguments, the
results and the attributes. Numbers below are places in those structures, in bytes, as `xla/ffi/api/c_api.h` has them
for processors with addresses of 64 bits; a test compares them with the header that jaxlib brings.
"""

from typing import Any

import numpy
from llvmlite import ir
from numba import types
from numba.np.numpy_support import carray

from bnspec_backends.cpu.compiled.dtypes import instructions, internal

__all__ = ["PLACES", "VERSION", "answers", "argument", "attribute", "failure", "pointer", "readable", "result"]

#: Version of the interface that the places are those of; XLA takes functions of earlier versions than its own.
VERSION = (0, 3)

#: Places in structures, by the structure and the path from it.
PLACES = {
    "XLA_FFI_CallFrame": {
        "extension_start": 8, "api": 16, "args.args": 72, "rets.rets": 112, "attrs.attrs": 160,
    },
    "XLA_FFI_Buffer": {"data": 24},
    "XLA_FFI_Array": {"size": 8, "data": 16},
    "XLA_FFI_Api": {"XLA_FFI_Error_Create": 48},
    "XLA_FFI_Error_Create_Args": {"message": 16, "errc": 24},
    "XLA_FFI_Extension_Base": {"type": 8, "next": 16},
    "XLA_FFI_Metadata_Extension": {"metadata": 24},
    "XLA_FFI_Metadata": {
        "api_version.major_version": 24, "api_version.minor_version": 28, "traits": 32, "state_type_id.type_id": 40,
    },
}  # fmt: skip

_FRAME, _METADATA, _ERROR = (
    PLACES[name] for name in ("XLA_FFI_CallFrame", "XLA_FFI_Metadata", "XLA_FFI_Error_Create_Args")
)
_EXTENSIONS, _API = _FRAME["extension_start"], _FRAME["api"]
_ARGS, _RETS, _ATTRS = _FRAME["args.args"], _FRAME["rets.rets"], _FRAME["attrs.attrs"]
_DATA, _LENGTH, _VALUES = (
    PLACES["XLA_FFI_Buffer"]["data"],
    PLACES["XLA_FFI_Array"]["size"],
    PLACES["XLA_FFI_Array"]["data"],
)
_CREATE = PLACES["XLA_FFI_Api"]["XLA_FFI_Error_Create"]
_MESSAGE, _CODE = _ERROR["message"], _ERROR["errc"]
_KIND, _NEXT = PLACES["XLA_FFI_Extension_Base"]["type"], PLACES["XLA_FFI_Extension_Base"]["next"]
_ABOUT = PLACES["XLA_FFI_Metadata_Extension"]["metadata"]
_MAJOR, _MINOR = _METADATA["api_version.major_version"], _METADATA["api_version.minor_version"]
_TRAITS, _STATE = _METADATA["traits"], _METADATA["state_type_id.type_id"]

_ASKED = 1  # the kind of extension by which XLA asks for the metadata
_EXHAUSTED = 8  # the code of an error for want of memory
_WORD = ir.IntType(64)


@internal
def answers(frame: int) -> bool:
    """Answer a frame that only asks which version of the interface a function was made for; return whether it was."""
    extension = _long(frame + _EXTENSIONS)
    while extension:
        if _int(extension + _KIND) == _ASKED:
            about = _long(extension + _ABOUT)
            _put_int(about + _MAJOR, VERSION[0])
            _put_int(about + _MINOR, VERSION[1])
            _put_int(about + _TRAITS, 0)
            _put_long(about + _STATE, 0)
            return True
        extension = _long(extension + _NEXT)
    return False


@internal
def argument(frame: int, i: int, size: int, dtype: Any) -> Any:
    """Return an argument as an array of one axis."""
    return carray(pointer(_long(_long(_long(frame + _ARGS) + 8 * i) + _DATA)), (size,), dtype)


@internal
def result(frame: int, i: int, size: int, dtype: Any) -> Any:
    """Return a result, to be written, as an array of one axis."""
    return carray(pointer(_long(_long(_long(frame + _RETS) + 8 * i) + _DATA)), (size,), dtype)


@internal
def attribute(frame: int, i: int, dtype: Any) -> Any:
    """Return an attribute that is an array."""
    array = _long(_long(frame + _ATTRS) + 8 * i)
    return carray(pointer(_long(array + _VALUES)), (_long(array + _LENGTH),), dtype)


@internal
def failure(frame: int, message: Any) -> int:
    """Return an error for XLA to raise: that memory was wanting, with a message that ends in a byte 0."""
    given = numpy.zeros(4, numpy.int64)
    given[0] = given.nbytes
    address = given.ctypes.data
    _put_long(address + _MESSAGE, message.ctypes.data)
    _put_int(address + _CODE, _EXHAUSTED)
    error = _call(_long(_long(frame + _API) + _CREATE), address)
    return error if given.size and message.size else 0  # both live until here


@instructions  # type: ignore[untyped-decorator]
def readable(context: Any, array: Any) -> Any:
    """Return an array that may only be read, as kernels take those of NumPy."""
    return array.copy(readonly=True)(array), lambda context, builder, signature, arguments: arguments[0]


@instructions  # type: ignore[untyped-decorator]
def pointer(context: Any, address: Any) -> Any:
    """Return an address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def _call(context: Any, function: Any, given: Any) -> Any:
    """Call a function of C by its address, with one address, for another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])

    return types.int64(types.int64, types.int64), generate


def _reader(kind: Any) -> Any:
    def read(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(kind.bitwidth).as_pointer())
            return builder.load(place)

        return kind(types.int64), generate

    return instructions(read)


def _writer(kind: Any) -> Any:
    def write(context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = ir.IntType(kind.bitwidth)
            place = builder.inttoptr(arguments[0], number.as_pointer())
            builder.store(arguments[1], place)

        return types.void(types.int64, kind), generate

    return instructions(write)


_long, _int = _reader(types.int64), _reader(types.int32)
_put_long, _put_int = _writer(types.int64), _writer(types.int32)
