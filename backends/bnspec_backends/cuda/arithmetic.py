"""Arithmetic of the kernels: float64, or two float32 numbers for one where a device's float64 is slow.

A kernel that does everything in float64 waits for memory on devices whose float64 rate is a half or a quarter of
float32's, and for its arithmetic on all others. There two float32 numbers do, which is 46 bits: as good as the bound of
many elements, and not as that of few. The bits of results differ between the two.
"""

import functools

from cupy.cuda import runtime

from bnspec_backends._environment import choice

__all__ = ["ARITHMETICS", "ELEMENTS", "NOT_SLOW", "arithmetic_of", "arithmetic_type"]

#: Names of the arithmetics, as the variable BNSPEC_CUDA_ARITHMETIC has them.
ARITHMETICS = ("wide", "twofold")

#: Elements of a channel and group from which two float32 numbers do.
ELEMENTS = 1024

#: How many times its float64 rate the float32 rate of a device may be for float64 not to be slow.
NOT_SLOW = 4


def arithmetic_of(device: int) -> str:
    """Return the arithmetic of a device: "wide" or "twofold", by its rates unless the environment chooses."""
    return choice("BNSPEC_CUDA_ARITHMETIC", ARITHMETICS, "BN-ERR-5") or _by_rates(device)


@functools.cache
def _by_rates(device: int) -> str:
    ratio = runtime.deviceGetAttribute(runtime.cudaDevAttrSingleToDoublePrecisionPerfRatio, device)
    return "twofold" if ratio > NOT_SLOW else "wide"


def arithmetic_type(name: str, flag: str, types: tuple[str, ...], elements: int, device: int) -> str:
    """Return the C++ type of the arithmetic of a kernel; empty for float64, which the kernels have by themselves.

    Parameters
    ----------
    name, flag : str
        The kernel, and its last template argument: sums with a mask, and y of given statistics, are made in float64.
    types : tuple of str
        C++ types of x, and of dy where the kernel reads it. Of 16 bits y and dx are made in float32 anyhow.
    elements : int
        Elements of a channel and group.
    device : int
        Number of the device.
    """
    if flag == "true" or elements < ELEMENTS or "double" in types:
        return ""
    if name in ("normalize", "grad_input") and types[0] != "float":
        return ""
    return "Twofold" if arithmetic_of(device) == "twofold" else ""
