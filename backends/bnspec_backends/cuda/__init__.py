"""Batch normalization on CUDA devices: which kernels serve CuPy's arrays, and counts of what they did.

``use`` chooses the kernels, as the variable BNSPEC_CUDA_KERNELS does before the first call. ``counters`` tells how many
kernels were started, how many arrays had to be copied first, and what no kernel served.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from bnspec import Kernels, _discovery
from bnspec._errors import refusal
from bnspec_backends._environment import choice
from bnspec_backends.cuda.counters import counters

__all__ = ["KERNELS", "counters", "in_use", "make", "remark", "use", "using"]

#: Names of the kernels for CuPy arrays.
KERNELS = ("compiled", "specification")

_chosen = ""


def in_use() -> str:
    """Return the name of the kernels that serve CuPy's arrays: "compiled" unless others were chosen."""
    return _chosen or choice("BNSPEC_CUDA_KERNELS", KERNELS, "BN-ERR-5") or KERNELS[0]


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
    global _chosen
    make(name)
    _chosen = name
    _discovery.forget_kernels("cupy")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Use other kernels inside a ``with`` block."""
    global _chosen
    before = _chosen
    use(name)
    try:
        yield
    finally:
        _chosen = before
        _discovery.forget_kernels("cupy")


def make(name: str) -> Kernels:
    """Return new kernels for CuPy arrays; raise as `use` does."""
    if name not in KERNELS:
        raise refusal(
            ValueError,
            "BN-ERR-5",
            got=f"CUDA kernels {name!r}",
            expected="one of " + ", ".join(KERNELS),
            do="Leave the choice to bnspec, or name one of these.",
        )
    if name == "specification":
        return Kernels()
    from bnspec_backends.cuda.kernels import CudaKernels

    return CudaKernels()
