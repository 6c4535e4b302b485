"""A device without a device: as much of CuPy as bnspec uses, emulated by NumPy arrays and threads.

What is asked of a device array is queued on the current stream, as on a GPU, and done later by the stream's thread;
memory that nothing has been written to yet is NaN; reading an array makes the host wait, and is counted. So code that
forgets an order, reads too early, or waits where it must not, shows it here. What cannot be shown here is that CuPy
itself behaves as this does: tests/cuda/test_emulated_cupy.py compares the names and arguments where CuPy is installed.

For tests only, in processes of their own with this folder on PYTHONPATH. Never installed.
"""

from typing import Any

import numpy as np

from cupy import _array, _driver  # noqa: F401
from cupy._array import ndarray

__version__ = "0.0.0+emulated"


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> Any:
    if isinstance(obj, ndarray):
        return obj.astype(dtype or obj.dtype, copy=bool(copy))
    if next(_array.arrays_in(obj), None) is not None:
        return _array.queue(lambda values: np.array(values, dtype), (obj,), {})
    return _array.from_host(np.array(obj, dtype))


def asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> Any:
    if isinstance(a, ndarray):
        return a if dtype is None or np.dtype(dtype) == a.dtype else a.astype(dtype)
    return array(a, dtype)


def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    return ndarray(shape, dtype)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> Any:
    return ndarray(prototype.shape if shape is None else shape, dtype or prototype.dtype)


def _wrapped(name: str) -> Any:
    function = getattr(np, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        return _array.call(name, function, args, kwargs)

    call.__name__ = name
    return call


#: What NumPy has and CuPy has not, so that nothing comes to rely on it.
_ABSENT = set(
    """
    asmatrix block bmat busday_count busday_offset datetime_as_string datetime_data einsum_path fft frompyfunc
    fromregex geomspace get_include getbufsize geterr geterrcall histogram_bin_edges info insert is_busday isnat linalg
    ma matvec nanpercentile nanquantile nested_iters polyder polydiv polyint polynomial random setbufsize seterr
    seterrcall show_runtime spacing test testing unstack vecdot vecmat ctypeslib
""".split()
)

_OWN = set(globals())
for _name in np.__all__:
    _value = getattr(np, _name)
    if _name in _OWN | _ABSENT:
        continue
    globals()[_name] = _wrapped(_name) if callable(_value) and not isinstance(_value, type) else _value
del _name, _value

bool_ = np.bool_
__all__ = sorted({name for name in globals() if not name.startswith("_")} & (set(np.__all__) | {"asnumpy"}))

from cupy import cuda, fft, linalg  # noqa: E402, F401
