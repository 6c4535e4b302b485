"""Checks of one array: its library, device, dtype and shape; no element is read.

Each refusal names the clause it enforces. `records` puts these together for records, `arguments` for whole calls.
"""

from typing import Any

from array_api_compat import device, is_jax_array

from bnspec._arrays import is_array, library
from bnspec._dtypes import FLOATING, dtype_name
from bnspec._errors import refusal
from bnspec._types import Array

__all__ = ["floating", "integers", "lengths", "mask", "same_home", "statistic", "vector"]


def floating(what: str, x: Any, name: str) -> None:
    """Refuse what is no array of a floating dtype the specification covers."""
    _array(what, x, name)
    if type(x).__module__.startswith("numpy.ma"):  # half of what follows would honour its mask
        raise refusal(
            TypeError,
            "BN-MASK-7",
            got=f"{name}: {what} is a numpy.ma masked array",
            expected="a plain array",
            do="Pass its data, and mask=~numpy.ma.getmaskarray(x) for the elements that count.",
        )
    if type(x).__module__.startswith("torch.masked"):
        raise refusal(
            TypeError,
            "BN-MASK-7",
            got=f"{name}: {what} is a MaskedTensor of torch",
            expected="a plain tensor",
            do="Pass x.get_data(), and mask=x.get_mask() for the elements that count.",
        )
    if dtype_name(x.dtype) not in FLOATING:
        raise refusal(
            TypeError,
            "BN-SHAPE-5",
            got=f"{name}: {what} has dtype {dtype_name(x.dtype)}",
            expected="one of " + ", ".join(FLOATING),
            do="Cast it to a floating dtype.",
        )


def integers(what: str, v: Any, shape: tuple[int, ...], name: str, clause: str, do: str, *, signed: bool) -> None:
    """Refuse what is no array of integers of a shape; counts of moments are subtracted from, so they have a sign."""
    _array(what, v, name)
    kind = dtype_name(v.dtype)
    if not kind.startswith("int" if signed else ("int", "uint")) or tuple(v.shape) != shape:
        raise refusal(
            ValueError,
            clause,
            got=f"{name}: {what} is {kind} of shape {tuple(v.shape)}",
            expected=f"{'signed ' if signed else ''}integers of shape {shape}",
            do=do,
        )


def statistic(what: str, v: Any, shape: tuple[int, ...], name: str, clause: str, do: str) -> None:
    """Refuse what is no array of statistics, in float32 or float64, of a shape."""
    floating(what, v, name)
    if tuple(v.shape) != shape:
        raise refusal(
            ValueError,
            clause,
            got=f"{name}: {what} has shape {tuple(v.shape)}",
            expected=f"shape {shape}",
            do=do,
        )
    if dtype_name(v.dtype) in ("float16", "bfloat16"):
        raise refusal(
            TypeError,
            "BN-PREC-1",
            got=f"{name}: {what} has dtype {dtype_name(v.dtype)}",
            expected="float32 or float64",
            do="Pass statistics as they were computed; 16 bits do not hold them.",
        )


def vector(label: str, value: Array, x: Array, axis: int, name: str, owner: str, of: str = "x") -> None:
    """Refuse what is no floating array with one number for each channel of x."""
    floating(label, value, name)
    same_home(of, x, label, value, name)
    if tuple(value.shape) != (x.shape[axis],):
        raise refusal(
            ValueError,
            "BN-SHAPE-6",
            got=f"{name}: {label} has shape {tuple(value.shape)} for {x.shape[axis]} channels on axis {axis}",
            expected=f"shape ({x.shape[axis]},)",
            do=f"Check the channel axis, or make {owner} for {x.shape[axis]} channels.",
        )


def mask(x: Array, axis: int, mask: Any, name: str, *, whole: bool = False) -> None:
    """Refuse a mask that does not fit x [BN-MASK-7]; a whole one has x's rank."""
    plain = is_array(mask) and not isinstance(mask, type) and not type(mask).__module__.startswith("numpy.ma")
    if not plain or dtype_name(mask.dtype) != "bool":
        raise refusal(
            TypeError,
            "BN-MASK-7",
            got=f"{name}: a mask of " + (f"dtype {dtype_name(mask.dtype)}" if plain else f"type {type(mask).__name__}"),
            expected="an array of booleans",
            do="Make it by a comparison; True marks the elements that count.",
        )
    _array("mask", mask, name)
    same_home("x", x, "mask", mask, name)
    shape = tuple(x.shape)
    thin = shape[:axis] + shape[axis + 1 :]
    fits = shape if mask.ndim == x.ndim else thin if mask.ndim == x.ndim - 1 and not whole else None
    if fits is None or any(m not in (1, n) for m, n in zip(mask.shape, fits, strict=True)):
        raise refusal(
            ValueError,
            "BN-MASK-7",
            got=f"{name}: a mask of shape {tuple(mask.shape)} for x of shape {shape}, channels on axis {axis}",
            expected=f"a shape that broadcasts to {shape}, or without the channel axis to {thin}, and has as many axes",
            do="Give it x's rank, with extent 1 on the channel axis if one count is to serve all channels.",
        )


def lengths(x: Array, axis: int, lengths: Any, mask: Any, name: str) -> None:
    """Refuse lengths of sequences that do not fit x [BN-MASK-9]."""
    if mask is not None:
        raise refusal(
            TypeError,
            "BN-MASK-9",
            got=f"{name}: a mask and lengths",
            expected="one of them",
            do="Put the lengths into the mask.",
        )
    if x.ndim < 3 or axis == 0:
        raise refusal(
            ValueError,
            "BN-MASK-9",
            got=f"{name}: lengths for x of shape {tuple(x.shape)} with channels on axis {axis}",
            expected="samples on axis 0, and a further axis along which sequences run",
            do="Write a mask.",
        )
    do = "Give one length for each sample."
    integers("lengths", lengths, (x.shape[0],), name, "BN-MASK-9", do, signed=False)
    same_home("x", x, "lengths", lengths, name)


def same_home(what: str, x: Array, other: str, v: Array, name: str) -> None:
    """Refuse arrays of two libraries, or of one library on two devices [BN-ERR-3]."""
    if library(x) != library(v):
        raise refusal(
            TypeError,
            "BN-ERR-3",
            got=f"{name}: {what} is a {library(x)} array and {other} a {library(v)} array",
            expected="one library in one call",
            do=f"Convert {other} to {library(x)}.",
        )
    if is_jax_array(x):  # a traced array has no device yet, and JAX itself refuses to mix
        return
    if device(x) != device(v):
        raise refusal(
            ValueError,
            "BN-ERR-3",
            got=f"{name}: {what} is on {device(x)} and {other} on {device(v)}",
            expected="one device in one call",
            do=f"Move {other} to {device(x)}.",
        )
    if hasattr(x, "full_tensor") != hasattr(v, "full_tensor"):  # of torch, over a mesh of processes
        raise refusal(
            TypeError,
            "BN-ERR-3",
            got=f"{name}: {what} is a {type(x).__name__} and {other} a {type(v).__name__}",
            expected="all tensors of a call over a mesh, or none",
            do=f"Distribute {other} too, for example with torch.distributed.tensor.distribute_module.",
        )


def _array(what: str, x: Any, name: str) -> None:
    """Refuse what is no array, or one that does not keep its elements at the strides of its shape."""
    if not is_array(x) or isinstance(x, type):  # NumPy's scalar types have the attributes of arrays
        raise refusal(
            TypeError,
            "BN-SHAPE-5",
            got=f"{name}: {what} is a {type(x).__name__}",
            expected="an array of NumPy, CuPy, torch, JAX or another array-API library",
            do="Convert it first, for example with numpy.asarray.",
        )
    kind = _unusual(x)
    if kind is not None:
        raise refusal(
            TypeError,
            "BN-SHAPE-5",
            got=f"{name}: {what} is a {kind}",
            expected="a dense array of any rank",
            do="Convert it first, with numpy.asarray or the tensor's to_dense.",
        )


def _unusual(x: Array) -> str | None:
    """Name the kind of an array that does not index, reshape and slice as every other does."""
    if any(c.__name__ == "matrix" and c.__module__.startswith("numpy") for c in type(x).__mro__):
        return "numpy.matrix"
    if library(x) != "torch":
        return None
    if x.is_nested:
        return "nested tensor"
    return None if str(x.layout) == "torch.strided" else f"tensor of layout {x.layout}"
