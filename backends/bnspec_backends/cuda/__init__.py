"""Batch normalization on CUDA devices: which kernels serve CuPy's arrays, and counts of what they did.

``use`` chooses the kernels, as the variable BNSPEC_CUDA_KERNELS does before the first call. ``counters`` tells how many
kernels were started, how many arrays had to be copied first, and what no kernel served.
"""

from contextlib import AbstractContextManager

from bnspec import Kernels
from bnspec_backends._choice import Choice
from bnspec_backends.cuda.counters import counters

__all__ = ["KERNELS", "counters", "in_use", "make", "remark", "use", "using"]


def in_use() -> str:
    """Return the name of the kernels that serve CuPy's arrays: "compiled" unless others were chosen."""
    return _CHOICE.asked() or "compiled"


def remark() -> str:
    """Return what compiled kernels leave to the specification's formulas; empty where those serve every call."""
    if in_use() != "compiled":
        return ""
    return (
        "no kernel takes arrays without elements or with 2^31 elements of one channel, nor rare updates of the running "
        "state; such calls go the specification's way, and bnspec_backends.cuda.counters.left counts them"
    )


def use(name: str) -> None:
    """Serve CuPy's arrays by other kernels from now on.

    Parameters
    ----------
    name : {"compiled", "specification"}
        Kernels in CUDA C++, compiled by NVRTC when they are first needed; or the specification's own formulas, each
        operation of them a kernel of CuPy's.

    Raises
    ------
    ValueError
        For another name. Nothing is changed then.
    """
    _CHOICE.use(name)


def using(name: str) -> AbstractContextManager[None]:
    """Use other kernels inside a ``with`` block."""
    return _CHOICE.using(name)


def make(name: str) -> Kernels:
    """Return new kernels for CuPy arrays; raise as `use` does."""
    return _CHOICE.make(name)


def _compiled() -> Kernels:
    from bnspec_backends.cuda.kernels import CudaKernels

    return CudaKernels()


_CHOICE = Choice(
    {"compiled": _compiled, "specification": Kernels},
    variable="BNSPEC_CUDA_KERNELS",
    libraries=("cupy",),
    kind="CUDA kernels",
)

#: Names of the kernels for CuPy arrays.
KERNELS = _CHOICE.names
