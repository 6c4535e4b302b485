"""A device without a device: as much of CuPy as bnspec uses, emulated by NumPy arrays and threads.

What is asked of a device array is queued on the current stream, as on a GPU, and done later by the stream's thread;
memory that nothing has been written to yet is NaN; reading an array makes the host wait, and is counted. So code that
forgets an order, reads too early, or waits where it must not, shows it here. What cannot be shown here is that CuPy
itself behaves as this does: tests/cuda/test_emulated_cupy.py compares the names and arguments where CuPy is installed.

For tests only, in processes of their own with this folder on PYTHONPATH. Never installed.
"""

import numpy as np

from cupy import _array, _driver  # noqa: F401
from cupy._array import ndarray

__version__ = "0.0.0+emulated"


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        return obj.astype(dtype or obj.dtype, copy=bool(copy))
    if next(_array.arrays_in(obj), None) is not None:
        return _array.queue(lambda values: np.array(values, dtype), (obj,), {})
    return _array.from_host(np.array(obj, dtype))


def asarray(a, dtype=None, order=None, *, blocking=False):
    if isinstance(a, ndarray):
        return a if dtype is None or np.dtype(dtype) == a.dtype else a.astype(dtype)
    return array(a, dtype)


def ascontiguousarray(a, dtype=None):
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else a.copy()


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return ndarray(prototype.shape if shape is None else shape, dtype or prototype.dtype)


def _wrapped(name):
    function = getattr(np, name)

    def call(*args, **kwargs):
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
