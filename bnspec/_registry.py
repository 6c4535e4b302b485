"""Finding what was installed beside the core: backends and communicators, by entry point.

Nothing falls back silently: a name that is asked for and cannot be had is an error that lists the known
names and the extra to install. What is only discovered is reported with its reason.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bnspec._errors import refusal
from bnspec._gradients import grad_input, grad_sums
from bnspec._moments import merge_rows, moments
from bnspec._normalize import normalize
from bnspec._precision import library
from bnspec._protocols import Backend, Communicator, FusedKernels, Kernels
from bnspec._types import Array

__all__ = [
    "ALIASES",
    "BackendInfo",
    "EXTRAS",
    "SpecificationKernels",
    "as_fused",
    "forget_kernels",
    "get_backend",
    "get_communicator",
    "kernels_for",
    "known_backends",
    "merge_rows_of",
    "use_kernels",
]

#: The extra of ``pip install bnspec[...]`` that brings each backend and communicator.
EXTRAS = {"numpy": "", "strict": "strict", "torch": "torch", "jax": "jax", "cupy": "cuda", "mpi": "mpi", "nccl": "cuda"}

#: The seed's name for synchronization over MPI ranks.
ALIASES = {"horovod": "mpi"}


class SpecificationKernels:
    """The four primitives as the specification writes them, for the arrays of any library."""

    moments = staticmethod(moments)
    normalize = staticmethod(normalize)
    grad_sums = staticmethod(grad_sums)
    grad_input = staticmethod(grad_input)


@dataclass(frozen=True)
class BackendInfo:
    """One line of ``bnspec backends``."""

    name: str
    available: bool
    reason: str  # why it is not available, or what it makes do without; else empty
    version: str
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    extra: str  # "torch" in "pip install bnspec[torch]"; empty where nothing is needed


_FUSED = ("normalize_by_batch", "pull_back", "normalize_by_running", "update", "merge")

_backends: dict[str, Backend] = {}
_kernels: dict[str, Kernels] = {}
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
        found.append(
            BackendInfo(name, bool(devices), reason, backend.version(), devices, tuple(backend.dtypes()), extra)
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
    """Return the primitives that serve x's library: its backend's, else the specification's own.

    They do not check what they are given: the public functions do, before they call them.

    Raises
    ------
    TypeError
        If x is no array of a library that follows the standard.
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
        declared = "strict" if name == "array_api_strict" else name
        known = declared in _names("bnspec.backends")
        _kernels[name] = get_backend(declared).kernels if known else SpecificationKernels()
    return _kernels[name]


def as_fused(kernels: Kernels) -> FusedKernels | None:
    """The kernels, if they have all that `FusedKernels` asks for."""
    return kernels if all(hasattr(kernels, name) for name in _FUSED) else None  # type: ignore[return-value]


def merge_rows_of(a: Array, b: Array, added: int) -> Array:
    """Merge moments given as rows by the kernels of their library, else as `bnspec._moments.merge_rows` does."""
    fused = as_fused(kernels_for(a))
    found = fused.merge(a, b, added) if fused else None
    return merge_rows(a, b, added) if found is None else found


def forget_kernels(name: str) -> None:
    """Ask a library's backend anew for its kernels, at the next call."""
    _kernels.pop(name, None)


@contextmanager
def use_kernels(name: str, kernels: Any) -> Iterator[Kernels]:
    """Serve one library's arrays by other primitives inside a ``with`` block.

    ``kernels`` needs only the primitives it replaces; the specification's serve the rest.

    Parameters
    ----------
    name : str
        A backend's name, such as "numpy" or "strict".
    kernels : object
        Has some of `Kernels`' four methods.

    Raises
    ------
    ValueError
        If it has none of them: a misspelt one would otherwise go unnoticed.

    Examples
    --------
    >>> import numpy as np
    >>> class Loud:
    ...     def normalize(self, x, centre, scale, shift, groups):
    ...         print("normalize", x.shape)
    ...         return normalize(x, centre, scale, shift, groups)
    >>> with use_kernels("numpy", Loud()) as kernels:
    ...     kernels_for(np.ones((2, 1))) is kernels
    True
    """

    class Overridden(SpecificationKernels):
        def __getattribute__(self, primitive: str) -> Any:
            if not primitive.startswith("_") and hasattr(kernels, primitive):
                return getattr(kernels, primitive)
            return object.__getattribute__(self, primitive)

    if not any(hasattr(kernels, primitive) for primitive in ("moments", "normalize", "grad_sums", "grad_input")):
        raise refusal(
            ValueError,
            "BN-ERR-5",
            got=f"kernels of type {type(kernels).__name__} without any primitive",
            expected="one of moments, normalize, grad_sums, grad_input",
            do="Give the object the methods that it is to replace.",
        )
    _text("a backend's name", name)
    name = "array_api_strict" if name == "strict" else name
    before = _kernels.get(name)
    overridden = Overridden()
    _kernels[name] = overridden
    try:
        yield overridden
    finally:
        if before is None:
            del _kernels[name]
        else:
            _kernels[name] = before


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
