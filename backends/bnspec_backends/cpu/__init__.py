"""Batch normalization on a CPU: which kernels, how many threads, how much memory kept for results.

``use`` chooses the kernels that serve NumPy arrays and, if they are compiled, torch's CPU tensors. ``resources`` has
the rest: ``resources.threads``, ``resources.pool.limit``, ``resources.counters``. The environment can set the same
before the first call: BNSPEC_CPU_KERNELS, BNSPEC_NUM_THREADS, BNSPEC_POOL_BYTES.
"""

import functools
import importlib
from contextlib import AbstractContextManager

from bnspec import Kernels
from bnspec._errors import refusal
from bnspec_backends._choice import Choice
from bnspec_backends.cpu.resources import resources

__all__ = ["KERNELS", "in_use", "make", "not_compiled", "remark", "resources", "use", "using"]


def in_use() -> str:
    """Return the name of the kernels that serve NumPy arrays.

    Unless chosen, "compiled" where numba is installed and compiles, else "blocked".
    """
    return _CHOICE.asked() or ("blocked" if not_compiled() else "compiled")


@functools.cache
def not_compiled() -> str:
    """Return why there are no compiled kernels here; an empty text if there are."""
    try:
        importlib.import_module("bnspec_backends.cpu.compiled_kernels")
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # a numba that does not fit its NumPy may raise anything
        return str(error) or type(error).__name__
    return ""


def remark() -> str:
    """Return a remark for users who expect compiled kernels and have others; empty if there is none to make."""
    if _CHOICE.asked() or not not_compiled():
        return ""
    return f"kernels 'blocked' in the place of 'compiled': {not_compiled()}"


def use(name: str) -> None:
    """Serve NumPy arrays, and torch's CPU tensors, by other kernels from now on.

    Parameters
    ----------
    name : {"compiled", "blocked", "specification"}
        Compiled by numba; NumPy block by block; NumPy by the specification's own formulas. torch's tensors are
        served by compiled kernels or the specification's.

    Raises
    ------
    ValueError
        For another name.
    ImportError
        If they need a package that is not installed; the text names the extra. Nothing is changed then.

    Examples
    --------
    >>> before = in_use()
    >>> use("blocked")
    >>> in_use()
    'blocked'
    >>> use(before)
    """
    _CHOICE.use(name)


def using(name: str) -> AbstractContextManager[None]:
    """Use other kernels inside a ``with`` block."""
    return _CHOICE.using(name)


def make(name: str) -> Kernels:
    """Return new kernels for NumPy arrays; raise as `use` does."""
    return _CHOICE.make(name)


def _blocked() -> Kernels:
    from bnspec_backends.cpu.blocked import BlockedKernels

    return BlockedKernels()


def _compiled() -> Kernels:
    if not_compiled():
        raise refusal(
            ImportError,
            "BN-ERR-5",
            got=f"compiled CPU kernels cannot be imported ({not_compiled()})",
            expected="numba to be installed, and to compile",
            do="Try `pip install bnspec[cpu]`.",
        )
    from bnspec_backends.cpu.compiled_kernels import CompiledKernels

    return CompiledKernels()


_CHOICE = Choice(
    {"compiled": _compiled, "blocked": _blocked, "specification": Kernels},
    variable="BNSPEC_CPU_KERNELS",
    libraries=("numpy", "torch"),
    kind="CPU kernels",
)

#: Names of the kernels for NumPy arrays.
KERNELS = _CHOICE.names
