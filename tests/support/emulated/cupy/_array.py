"""Device arrays: calls on them are queued, and done by NumPy when their turn comes."""

import collections
import operator
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from cupy._stream import get_current_stream

#: Functions whose results' shapes depend on values, or are Python's own values: they wait, as in CuPy.
_WAITING = {"allclose", "argwhere", "array_equal", "flatnonzero", "nonzero", "unique", "unique_all", "unique_counts",
            "unique_inverse", "unique_values", "extract"}  # fmt: skip
#: Functions that return another view of the same memory where they can.
_VIEWING = {"atleast_1d", "atleast_2d", "broadcast_arrays", "broadcast_to", "diagonal", "expand_dims",
            "matrix_transpose", "moveaxis", "permute_dims", "ravel", "reshape", "rollaxis", "squeeze", "swapaxes",
            "transpose", "unstack"}  # fmt: skip

#: Memory that is in use, by address, so that a bare pointer is found to belong to something.
_memory: Any = weakref.WeakValueDictionary()
_listed = threading.Lock()


#: Memory that was freed, by size, to be used again with what is in it: as from CuPy's pool, if the environment says so.
_freed: Any = collections.defaultdict(list)
_REUSE = bool(os.environ.get("EMULATED_POOL"))


def _allocated(shape: Any, dtype: Any) -> Any:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if _freed[size]:
        return _freed[size].pop().view(dtype).reshape(shape)
    host = np.empty(shape, dtype)
    host.reshape(-1).view(np.uint8)[...] = 0xFF
    return host


class _Memory:
    """One allocation."""

    def __del__(self) -> None:
        if _REUSE and self.host.nbytes:
            _freed[self.host.nbytes].append(self.host.reshape(-1).view(np.uint8))

    def __init__(self, host: Any) -> None:
        self.host, self.size, self.device = host, max(1, host.nbytes), _device().id
        self.address = host.__array_interface__["data"][0]
        with _listed:
            _memory[self.address] = self


def in_use() -> list[Any]:
    """All memory that some array or pointer still needs."""
    with _listed:
        return list(_memory.values())


def memory_at(address: Any, size: int) -> Any:
    """The allocation that contains these bytes, or an error, where a GPU would read someone else's."""
    for memory in in_use():
        start = memory.address
        if start <= address and address + size <= start + memory.size:
            return memory
    raise MemoryError(f"{size} bytes at {address:#x} are in no allocation")


class _Pointer:
    def __init__(self, address: Any) -> None:
        self.ptr = address


def _quiet(function: Any, args: Any, kwargs: Any) -> Any:
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


def _replaced(value: Any, by: Any) -> Any:
    if isinstance(value, ndarray):
        return by(value)
    if isinstance(value, tuple | list):
        return type(value)(_replaced(each, by) for each in value)
    return value


def arrays_in(value: Any) -> Iterator[Any]:
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from arrays_in(each)


def queue(function: Any, args: Any, kwargs: Any) -> Any:
    """Queue a call on the current device; its results exist at once, their values later."""
    for array in [*arrays_in(args), *arrays_in(list(kwargs.values()))]:
        if array._keep.device != _device().id:  # as CuPy where devices cannot reach each other's memory
            raise ValueError(
                f"The device where the array resides ({array._keep.device}) is different from the current device "
                f"({_device().id}). Peer access is unavailable between these devices."
            )
    like = _quiet(
        function,
        _replaced(args, lambda a: np.ones(a.shape, a.dtype)),
        {k: _replaced(v, lambda a: np.ones(a.shape, a.dtype)) for k, v in kwargs.items()},
    )
    results = like if isinstance(like, tuple | list) else (like,)
    if not any(isinstance(each, np.ndarray | np.generic) for each in results):
        return like
    made = [ndarray(np.shape(each), np.asarray(each).dtype) for each in results]

    def work() -> None:
        got = _quiet(
            function,
            _replaced(args, lambda a: a._host),
            {k: _replaced(v, lambda a: a._host) for k, v in kwargs.items()},
        )
        for array, values in zip(made, got if isinstance(like, tuple | list) else (got,)):
            array._host[...] = values

    get_current_stream()._enqueue(work)
    return type(like)(made) if type(like) in (tuple, list) else tuple(made) if isinstance(like, tuple) else made[0]


def call(name: str, function: Any, args: Any, kwargs: Any) -> Any:
    if kwargs.pop("device", None) is not None:
        raise TypeError(f"{name}() got an unexpected keyword argument 'device'")
    arrays = [*arrays_in(args), *arrays_in(list(kwargs.values()))]
    for value in [*args, *kwargs.values()]:
        if isinstance(value, np.ndarray) and name not in ("array", "asarray"):
            raise TypeError(f"Unsupported type {type(value)}")  # as CuPy: host arrays do not mix with device arrays
    if not arrays:
        got = _quiet(function, args, kwargs)
        return from_host(got) if isinstance(got, np.ndarray) else got
    if name in _WAITING:
        host = _quiet(function, _replaced(args, lambda a: a.get()), kwargs)
        return (
            tuple(map(from_host, host))
            if isinstance(host, tuple)
            else from_host(host)
            if isinstance(host, np.ndarray)
            else host
        )
    if name in _VIEWING:
        got = function(*_replaced(args, lambda a: a._host), **kwargs)
        many = got if isinstance(got, tuple | list) else (got,)
        if all(np.may_share_memory(each, arrays[0]._host) or each.size == 0 for each in many) or len(arrays) > 1:
            views = [ndarray._view(each, _owner(each, arrays)) for each in many]
            return type(got)(views) if isinstance(got, tuple | list) else views[0]
    return queue(function, args, kwargs)


def _owner(view: Any, arrays: Any) -> Any:
    return next((a for a in arrays if np.may_share_memory(view, a._host)), arrays[0])


def from_host(values: Any) -> Any:
    new = ndarray(values.shape, values.dtype)
    new._host[...] = values
    return new


class ndarray:  # noqa: N801
    """As `cupy.ndarray`, which takes no further attributes."""

    __slots__ = ("__weakref__", "_host", "_keep")
    __module__ = "cupy"
    __hash__ = None

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ) -> None:
        self._host = _allocated(shape, dtype)
        self._keep = _Memory(self._host)

    @classmethod
    def _view(cls, host: Any, of: Any) -> Any:
        self = cls.__new__(cls)
        self._host, self._keep = host, of._keep
        return self

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: _device(self._keep.device))
    data = property(lambda self: _Pointer(self._host.__array_interface__["data"][0]))
    T = property(lambda self: ndarray._view(self._host.T, self))
    mT = property(lambda self: ndarray._view(self._host.mT, self))  # noqa: N815

    def __len__(self) -> int:
        return len(self._host)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        stream = get_current_stream() if stream is None else stream
        host = np.empty(self.shape, self.dtype) if out is None else out
        if host.shape != self.shape or host.dtype != self.dtype:
            raise ValueError("shape or dtype mismatch")
        stream._enqueue(lambda: np.copyto(host, self._host))
        if blocking:
            stream.synchronize()
        return host

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray) or arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError("only numpy.ndarrays of the same shape and dtype can be set")
        if not self._host.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        kept = arr if is_pinned(arr) else arr.copy()
        (get_current_stream() if stream is None else stream)._enqueue(lambda: np.copyto(self._host, kept))

    def __array__(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: Any, method: Any, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return call(ufunc.__name__, ufunc, inputs, kwargs)

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __getitem__(self, key: Any) -> Any:
        arrays = list(arrays_in(key if isinstance(key, tuple) else (key,)))
        if any(each.dtype == bool and each.ndim for each in arrays):
            return from_host(self.get()[_replaced(key, lambda a: a.get())])
        if arrays or isinstance(key, list | np.ndarray):
            return queue(operator.getitem, (self, key), {})
        key = key if isinstance(key, tuple) else (key,)
        view = self._host[key]
        return ndarray._view(view if isinstance(view, np.ndarray) else self._host[(*key, ...)], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"Unsupported type {type(value)}")

        def work() -> None:
            self._host[_replaced(key, lambda a: a._host)] = _replaced(value, lambda a: a._host)

        queue(lambda a, k, v: operator.setitem(a, k, v), (self, key, value), {})  # an error comes at once
        get_current_stream()._enqueue(work)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self._host)))

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return queue(np.ndarray.astype, (self, dtype), {})

    def copy(self, order: str = "C") -> Any:
        return queue(np.ndarray.copy, (self,), {})

    def view(self, dtype: Any = None) -> Any:
        return ndarray._view(self._host.view(dtype), self)

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        return reshape(self, shape[0] if len(shape) == 1 else shape)

    def fill(self, value: Any) -> None:
        self[...] = value


def is_pinned(array: Any) -> bool:
    while array is not None:
        if _pinned.get(id(array)) is array:
            return True
        array = array.base if isinstance(array.base, np.ndarray) else None
    return False


_pinned: Any = weakref.WeakValueDictionary()


def _method(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(name, getattr(np, name), (self, *args), kwargs)

    return method


for _name in ("all", "any", "argmax", "argmin", "clip", "max", "mean", "min", "prod", "ravel", "repeat", "round",
              "squeeze", "std", "sum", "swapaxes", "take", "transpose", "var"):  # fmt: skip
    setattr(ndarray, _name, _method(_name))


def _operators() -> None:
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift",
                 "matmul", "eq", "ne", "lt", "le", "gt", "ge"):  # fmt: skip
        function = getattr(operator, f"__{name}__")

        def forward(self: Any, other: Any, function: Any = function) -> Any:
            if other is None or isinstance(other, str):
                return NotImplemented
            return call(function.__name__, function, (self, other), {})

        def backward(self: Any, other: Any, function: Any = function) -> Any:
            return call(function.__name__, function, (other, self), {})

        def inplace(self: Any, other: Any, function: Any = function) -> Any:
            self[...] = function(self, other)
            return self

        setattr(ndarray, f"__{name}__", forward)
        if name not in ("eq", "ne", "lt", "le", "gt", "ge"):
            setattr(ndarray, f"__r{name}__", backward)
            if name != "matmul":
                setattr(ndarray, f"__i{name}__", inplace)
    for name in ("neg", "pos", "abs", "invert"):
        function = getattr(operator, f"__{name}__")
        setattr(ndarray, f"__{name}__", lambda self, function=function: queue(function, (self,), {}))


_operators()
ndarray.__hash__ = None


def _device(number: Any = None) -> Any:
    from cupy.cuda import Device

    return Device(number)


def reshape(a: Any, shape: Any, order: str = "C") -> Any:
    return call("reshape", np.reshape, (a, shape), {})
