"""Batch normalization in JAX: sums that XLA compiles, or compiled loops for arrays in the memory of the host.

``use`` chooses the kernels that serve JAX arrays; the environment can by BNSPEC_JAX_KERNELS before the first call:

- "xla", unless another is chosen: everything is XLA's, on any device, spread over devices, exported.
- "compiled": in a program for one CPU the sums are those of the loops that serve NumPy, in float64, called through
  XLA's foreign function interface. float64 arrays, masks, and programs for other devices stay with XLA.
"""

from contextlib import AbstractContextManager

from bnspec import Kernels
from bnspec._errors import refusal
from bnspec_backends._choice import Choice

__all__ = ["KERNELS", "in_use", "make", "use", "using"]


def in_use() -> str:
    """Return the name of the kernels that serve JAX arrays."""
    return _CHOICE.asked() or "xla"


def use(name: str) -> None:
    """Serve JAX arrays by other kernels from now on; a program that was traced before keeps what it was traced with.

    Parameters
    ----------
    name : {"xla", "compiled"}
        Sums that XLA compiles, or compiled loops called from XLA's programs for a CPU.

    Raises
    ------
    ValueError
        For another name.
    ImportError
        If they need a package that is not installed; the text names the extra. Nothing is changed then.

    Examples
    --------
    >>> before = in_use()
    >>> use("xla")
    >>> in_use()
    'xla'
    >>> use(before)
    """
    _CHOICE.use(name)


def using(name: str) -> AbstractContextManager[None]:
    """Use other kernels for what is traced inside a ``with`` block."""
    return _CHOICE.using(name)


def make(name: str) -> Kernels:
    """Return new kernels for JAX arrays; raise as `use` does."""
    return _CHOICE.make(name)


def _formulas() -> Kernels:
    from bnspec_backends.xla.kernels import JaxKernels

    return JaxKernels()


def _compiled() -> Kernels:
    try:
        from bnspec_backends.xla.compiled import operations
        from bnspec_backends.xla.kernels import JaxKernels
    except Exception as error:  # a numba that does not fit its NumPy may raise anything
        raise refusal(
            ImportError,
            "BN-ERR-5",
            got=f"compiled kernels for JAX cannot be imported ({error})",
            expected="JAX with `jax.ffi`, and numba, which compiles",
            do="Try `pip install 'bnspec[cpu,jax]'`, and a JAX of 0.5 or later.",
        ) from error
    return JaxKernels(operations)


_CHOICE = Choice(
    {"xla": _formulas, "compiled": _compiled},
    variable="BNSPEC_JAX_KERNELS",
    libraries=("jax",),
    kind="JAX kernels",
)

#: Names of the kernels for JAX arrays.
KERNELS = _CHOICE.names
