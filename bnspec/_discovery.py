"""Discovery of what was installed beside the core: backends and communicators, by entry point.

Nothing falls back silently: a name that is asked for and cannot be had is an error that lists the known
names and the extra to install. A backend that is only listed is listed with the reason why it cannot be had.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

from bnspec._arrays import library
from bnspec._communicator import Communicator
from bnspec._errors import refusal
from bnspec._kernels import Kernels
from bnspec._types import Array

__all__ = [
    "ALIASES",
    "Backend",
    "BackendInfo",
    "EXTRAS",
    "forget_kernels",
    "get_backend",
    "get_communicator",
    "kernels_for",
    "known_backends",
    "use_kernels",
]

#: The extra of ``pip install bnspec[...]`` that brings each backend and communicator.
EXTRAS = {"numpy": "", "strict": "strict", "torch": "torch", "jax": "jax", "cupy": "cuda", "mpi": "mpi", "nccl": "cuda"}

#: tensorpack's name for synchronization over MPI ranks.
ALIASES = {"horovod": "mpi"}


@runtime_checkable
class Backend(Protocol):
    """The arrays of one library on its devices."""

    name: str

    @property
    def kernels(self) -> Kernels:
        """Kernels for its arrays; asked for once, at the first call."""
        ...

    def version(self) -> str:
        """The library's version."""
        ...

    def devices(self) -> Sequence[str]:
        """Names of the devices that can be used now; empty when there is none."""
        ...

    def dtypes(self) -> Sequence[str]:
        """The floating dtypes x may have here, a subset of float16, bfloat16, float32, float64."""
        ...

    def asarray(self, values: Any) -> Array:
        """A new array of this library with the values and dtype of a NumPy array."""
        ...

    def to_numpy(self, x: Array) -> Any:
        """A NumPy array with the values and dtype of x (bfloat16 as ``ml_dtypes.bfloat16``)."""
        ...

    def synchronize(self) -> None:
        """Return when all work queued so far is done."""
        ...


@dataclass(frozen=True)
class BackendInfo:
    """One line of ``bnspec backends``."""

    name: str
    available: bool
    reason: str  # why it is not available, what it makes do without, or what its kernels do not serve; else empty
    version: str
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    extra: str  # "torch" in "pip install bnspec[torch]"; empty where nothing is needed
    kernels: str = ""  # which kernels serve its arrays, such as "compiled" or "specification"; empty if it does not say


_backends: dict[str, Backend] = {}
_kernels: dict[str, Kernels] = {}
_SPECIFICATION = Kernels()
_communicators: dict[str, Callable[[], Communicator]] = {}


def get_backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises
    ------
    LookupError
        If no installed package knows the name; the text lists the known ones.
    ImportError
        If its library is missing; the text names the extra to install.
    """
    _text("a backend's name", name)
    if name not in _backends:
        point = _find("bnspec.backends", name, "backend")
        try:
            _backends[name] = point.load()()
        except ImportError as error:
            raise refusal(
                ImportError,
                "BN-ERR-5",
                got=f"backend {name!r} cannot be imported ({error})",
                expected="its library to be installed",
                do=_advice(name),
            ) from error
    return _backends[name]


def known_backends() -> list[BackendInfo]:
    """Describe every backend that an installed package declares, usable or not, in alphabetical order."""
    found = []
    for name in _names("bnspec.backends"):
        extra = EXTRAS.get(name, "")
        try:
            backend = get_backend(name)
        except ImportError as error:
            cause = error.__cause__ or error
            found.append(BackendInfo(name, False, str(cause), "", (), (), extra))
            continue
        devices = tuple(backend.devices())
        reason = getattr(backend, "remark", "") if devices else "no device"
        serving = getattr(backend, "serving", "") if devices else ""
        found.append(
            BackendInfo(
                name, bool(devices), reason, backend.version(), devices, tuple(backend.dtypes()), extra, serving
            )
        )
    return found


def get_communicator(name: str) -> Communicator:
    """Return the communicator that ``sync_statistics=name`` stands for.

    Raises
    ------
    LookupError
        If no installed package provides it; the text lists the known ones.
    ImportError
        If its library is missing; the text names the extra to install.
    """
    _text("a communicator's name", name)
    wanted = ALIASES.get(name.lower(), name.lower())
    if wanted in _communicators:
        return _communicators[wanted]()
    point = _find("bnspec.communicators", wanted, "communicator", asked=name)
    try:
        factory: Callable[[], Communicator] = point.load()
    except (ImportError, RuntimeError) as error:  # mpi4py raises the latter where it finds no MPI library
        raise refusal(
            ImportError,
            "BN-ERR-5",
            got=f"communicator {wanted!r} cannot be imported ({error})",
            expected="its library to be installed",
            do=_advice(wanted),
        ) from error
    _communicators[wanted] = factory  # layers ask at every call
    return factory()


def kernels_for(x: Array) -> Kernels:
    """Return the kernels that serve x's library: its backend's, else the specification's own.

    They do not check what they are given: the public functions do, before they call them.

    Raises
    ------
    TypeError
        If x is no array of a library that follows the standard, or its backend has no `bnspec.Kernels`.
    """
    try:
        name = library(x)
    except TypeError as error:
        raise refusal(
            TypeError,
            "BN-SHAPE-5",
            got=f"x is a {type(x).__name__}",
            expected="an array of NumPy, CuPy, torch, JAX or another array-API library",
            do="Convert it first, for example with numpy.asarray.",
        ) from error
    if name not in _kernels:
        if name == "torch" and sys.modules["torch"].compiler.is_compiling():
            return _SPECIFICATION  # no compiler can trace how a backend is found, and formulas are what it is to trace
        declared = "strict" if name == "array_api_strict" else name
        known = declared in _names("bnspec.backends")
        _kernels[name] = _checked(get_backend(declared).kernels, f"backend {declared!r}") if known else Kernels()
    return _kernels[name]


def forget_kernels(name: str) -> None:
    """Ask a library's backend anew for its kernels, at the next call."""
    _kernels.pop(name, None)


@contextmanager
def use_kernels(name: str, kernels: Kernels) -> Iterator[Kernels]:
    """Serve one library's arrays by other kernels inside a ``with`` block.

    Parameters
    ----------
    name : str
        A backend's name, such as "numpy" or "strict".
    kernels : Kernels
        An instance of a subclass that overrides what it is to replace; ``bnspec.Kernels()`` is the specification.

    Raises
    ------
    TypeError
        If it is no instance of `bnspec.Kernels`.

    Examples
    --------
    >>> import numpy as np
    >>> with use_kernels("numpy", Kernels()) as kernels:
    ...     kernels_for(np.ones((2, 1))) is kernels
    True
    """
    _text("a backend's name", name)
    _checked(kernels, "use_kernels")
    name = "array_api_strict" if name == "strict" else name
    before = _kernels.get(name)
    _kernels[name] = kernels
    try:
        yield kernels
    finally:
        if before is None:
            del _kernels[name]
        else:
            _kernels[name] = before


def _checked(kernels: Any, who: str) -> Kernels:
    """Return kernels, and refuse what is none."""
    if isinstance(kernels, Kernels):
        return kernels
    raise refusal(
        TypeError,
        "BN-ERR-5",
        got=f"{who}: kernels are {'the class ' if isinstance(kernels, type) else 'a '}"
        f"{kernels.__name__ if isinstance(kernels, type) else type(kernels).__name__}",
        expected="an instance of bnspec.Kernels",
        do="Derive a class from bnspec.Kernels, override what it is to replace, and make an instance.",
    )


def _text(what: str, name: Any) -> None:
    if not isinstance(name, str):
        raise refusal(
            TypeError, "BN-ERR-5", got=f"{what} is a {type(name).__name__}", expected="a str", do="Pass a name."
        )


def _names(group: str) -> list[str]:
    return sorted(entry_points(group=group).names)


def _find(group: str, name: str, what: str, asked: str | None = None) -> EntryPoint:
    points = entry_points(group=group)
    if name in points.names:
        return points[name]
    known = (
        ", ".join(sorted(points.names))
        or "none: run `pip install -e .` first, entry points exist only in an installed package"
    )
    alias = f" (asked for as {asked!r})" if asked is not None and asked.lower() != name else ""
    raise refusal(
        LookupError,
        "BN-ERR-5",
        got=f"unknown {what} {name!r}{alias}",
        expected=f"one of those installed: {known}",
        do=_advice(name),
    )


def _advice(name: str) -> str:
    if EXTRAS.get(name):
        return f"Try `pip install bnspec[{EXTRAS[name]}]`."
    return "Install the package that provides it."
