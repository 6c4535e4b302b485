"""Primitives of JAX that are computed by compiled loops on a CPU, and have derivative rules of their own.

`affine` is linear in v, a and b, and `sums` in g, and they are each other's transposes::

    affine(v, a, b) = v*u*s + (x - centre)*u*a + b,    sums(g) = sum g, sum g*(x - centre)*u

So reverse mode is made of sums over two arrays and of elementwise work, which XLA joins with what stands beside it. A
program for the CPU takes `measured` and `sums` by the functions of `handlers`. A program for several devices or for
another platform, a batch of them under `jax.vmap`, and derivatives of derivatives are those of the formulas.

x comes twice: widened, of which derivatives are taken, so that they are not rounded before they are added, and as it
lies in memory, which functions read. Centre and u are constants to derivatives.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bnspec._dtypes import arithmetic_dtype
from bnspec._groups import unsplit
from bnspec._types import Groups
from bnspec_backends.layout import Layout, find_layout
from bnspec_backends.xla import formulas
from bnspec_backends.xla.compiled import handlers
from bnspec_backends.xla.once import once

__all__ = ["affine", "measured", "sums"]


def affine(
    v: Any, s: Any, a: Any, b: Any, wide: Any, x: Any, centre: Any, u: Any, *, groups: Groups, dtype: Any
) -> Any:
    """Return ``v*u*s + (wide - centre)*u*a + b`` in a dtype; v and s are absent together, and u where it is 1."""
    front = () if v is None else (v, s)
    given = (*front, a, b, wide, x, centre, jnp.ones_like(centre) if u is None else u)
    (y,) = _AFFINE.bind(*given, groups=groups, dtype=jnp.dtype(dtype), scaled=u is not None)
    return y


def sums(g: Any, wide: Any, x: Any, centre: Any, u: Any, *, groups: Groups) -> tuple[Any, Any]:
    """Return ``sum g`` and ``sum g*(wide - centre)*u``."""
    s1, s2 = _SUMS.bind(g, wide, x, centre, u, groups=groups)
    return s1, s2


def measured(x: Any, *, groups: Groups) -> tuple[Any, Any, Any, Any]:
    """Return mean, the rest of it, squared deviations, both in units, and the units, as `statistics` has them."""
    high, low, m2, unit = _MEASURED.bind(x, groups=groups, dtype=jnp.dtype(arithmetic_dtype(x)))
    return high, low, m2, unit


def _affine_formula(*given: Any, groups: Groups, dtype: Any, scaled: bool) -> tuple[Any]:
    v, s, a, b, wide, x, centre, u = (None, None, *given) if len(given) == 6 else given
    u = u if scaled else None
    y = formulas.distance(wide, centre, u, groups) * formulas.spread_over(a, x, groups)
    y = y + formulas.spread_over(b, x, groups)
    if v is not None:
        factor = once(s if u is None else u * s, centre)
        y = formulas.wide(v, groups) * formulas.spread_over(factor, x, groups) + y
    return (unsplit(y.astype(dtype), x),)


def _sums_formula(g: Any, wide: Any, x: Any, centre: Any, u: Any, *, groups: Groups) -> tuple[Any, Any]:
    return formulas.summed(g, wide, centre, u, None, groups)


def _measured_formula(x: Any, *, groups: Groups, dtype: Any) -> tuple[Any, ...]:
    return tuple(formulas.measured(x, x, groups))


def _primitive(name: str, formula: Callable[..., Any], abstract: Callable[..., Any]) -> Any:
    """Return a primitive that is a formula, wherever it is not said to be something else."""
    made = Primitive(name)
    made.multiple_results = True
    found = jax.jit(made.bind, static_argnames=("groups", "dtype", "scaled"))
    made.def_impl(found)

    def batch(given: Any, axes: Any, **options: Any) -> Any:
        found = jax.vmap(lambda *v: formula(*v, **options), in_axes=tuple(axes))(*given)
        return found, [0] * len(found)

    made.def_abstract_eval(abstract)
    batching.primitive_batchers[made] = batch
    mlir.register_lowering(made, mlir.lower_fun(formula))
    return made


def _like_x(*given: Any, groups: Groups, dtype: Any, scaled: bool) -> Any:
    return [ShapedArray(given[-3].shape, dtype)]


def _two_numbers(g: Any, wide: Any, x: Any, centre: Any, u: Any, *, groups: Groups) -> Any:
    return [ShapedArray(centre.shape, centre.dtype)] * 2


def _four_numbers(x: Any, *, groups: Groups, dtype: Any) -> Any:
    return [ShapedArray((groups.number, x.shape[groups.axis]), dtype)] * 4


_AFFINE = _primitive("bnspec_affine", _affine_formula, _like_x)
_SUMS = _primitive("bnspec_sums", _sums_formula, _two_numbers)
_MEASURED = _primitive("bnspec_measured", _measured_formula, _four_numbers)


# Derivatives ---------------------------------------------------------------------------------------------------------


def _affine_jvp(given: Any, tangents: Any, **options: Any) -> Any:
    still = [isinstance(t, ad.Zero) for t in tangents]
    if all(still[i] for i in range(len(given)) if i not in _linear(len(given))):
        dots = [ad.instantiate_zeros(tangents[i]) for i in _linear(len(given))]
        return _AFFINE.bind(*given, **options), _AFFINE.bind(*_with(given, dots), **options)
    if len(given) == 6 and all(still[3:]):
        a, _, wide, *others = given
        if still[0]:  # (x - centre)*0 is not 0 where x is infinite
            return _AFFINE.bind(*given, **options), _moved(given, tangents, options)
        da, db, dwide = (ad.instantiate_zeros(t) for t in tangents[:3])
        db = once(db, others[1])
        return _AFFINE.bind(*given, **options), _AFFINE.bind(dwide, a, da, db, wide, *others, **options)
    return _of_formula(_affine_formula, given, tangents, options)


def _moved(given: Any, tangents: Any, options: Any) -> list[Any]:
    """Return the tangent of an affine map whose factor is a constant."""
    (a, _, _, x, _, u), (_, db, dwide, *_), groups = given, tangents, options["groups"]
    if isinstance(dwide, ad.Zero):
        y = formulas.spread_over(ad.instantiate_zeros(db), x, groups)
    else:
        y = formulas.wide(dwide, groups) * formulas.spread_over(u * a, x, groups)
        y = y if isinstance(db, ad.Zero) else y + formulas.spread_over(db, x, groups)
    return [unsplit(y.astype(options["dtype"]), x)]


def _affine_transpose(cotangents: Any, *given: Any, groups: Groups, dtype: Any, scaled: bool) -> Any:
    (g,), found = cotangents, [None] * len(given)
    if isinstance(g, ad.Zero):
        return found
    *front, wide, x, centre, u = given
    a, b = len(front) - 2, len(front) - 1
    if a == 2 and ad.is_undefined_primal(given[0]):
        factor = formulas.spread_over(u * given[1], x, groups)
        found[0] = unsplit(formulas.wide(g, groups) * factor, x).astype(given[0].aval.dtype)
    if any(ad.is_undefined_primal(given[i]) for i in (a, b)):
        s1, s2 = _SUMS.bind(g, wide, x, centre, u, groups=groups)
        found[a], found[b] = (s if ad.is_undefined_primal(given[i]) else None for i, s in ((a, s2), (b, s1)))
    return found


def _sums_jvp(given: Any, tangents: Any, *, groups: Groups) -> Any:
    if all(isinstance(t, ad.Zero) for t in tangents[1:]):
        dots = _SUMS.bind(ad.instantiate_zeros(tangents[0]), *given[1:], groups=groups)
        return _SUMS.bind(*given, groups=groups), dots
    return _of_formula(_sums_formula, given, tangents, {"groups": groups})


def _sums_transpose(cotangents: Any, g: Any, wide: Any, x: Any, centre: Any, u: Any, *, groups: Groups) -> Any:
    b, a = (ad.instantiate_zeros(t) for t in cotangents)
    found = affine(None, None, a, once(b, centre), wide, x, centre, u, groups=groups, dtype=g.aval.dtype)
    return [found, *[None] * 4]


def _linear(number: int) -> tuple[int, ...]:
    """Return the operands of `affine` in which it is linear."""
    return (0, 1) if number == 6 else (0, 2, 3)


def _with(given: Any, dots: Any) -> list[Any]:
    """Return the operands of `affine` with others in which it is linear."""
    found = list(given)
    for i, dot in zip(_linear(len(given)), dots, strict=True):
        found[i] = dot
    return found


def _of_formula(formula: Callable[..., Any], given: Any, tangents: Any, options: Any) -> Any:
    """Differentiate a formula."""
    dots = [ad.instantiate_zeros(t) for t in tangents]
    found, moved = jax.jvp(lambda *v: formula(*v, **options), tuple(given), tuple(dots))
    return list(found), list(moved)


ad.primitive_jvps[_AFFINE] = _affine_jvp
ad.primitive_transposes[_AFFINE] = _affine_transpose
ad.primitive_jvps[_SUMS] = _sums_jvp
ad.primitive_transposes[_SUMS] = _sums_transpose


# Programs for the CPU ------------------------------------------------------------------------------------------------


def _alone(context: Any) -> bool:
    """Return whether a program that is lowered is one for a single device, here and now."""
    about = context.module_context
    if getattr(about.lowering_parameters, "for_export", False):
        return False  # who loads it may not have these functions
    axes = about.axis_context
    manual = getattr(axes, "manual_axes", None)
    if manual is not None:  # in a shard_map each device has a program of its own, if it is one over all axes
        return frozenset(axes.mesh.axis_names) == frozenset(manual)
    return getattr(axes, "num_devices", 1) in (1, None)


def _layout_of(x: Any, groups: Groups) -> Layout:
    size = x.dtype.itemsize
    strides = tuple(size * math.prod(x.shape[a + 1 :]) for a in range(x.ndim))
    found = find_layout(x.shape, strides, size, groups.axis, groups.number)
    assert found is not None, "an array without gaps has a layout"
    return found


def _call(operation: str, x: Any, groups: Groups, results: int, *given: Any) -> Any:
    layout, number = _layout_of(x, groups), arithmetic_dtype(x)
    name = handlers.target(operation, x.dtype.name, jnp.dtype(number).name, layout.by_runs)
    shape = jax.ShapeDtypeStruct((groups.number, layout.channels), number)
    return jax.ffi.ffi_call(name, (shape,) * results)(*given, plan=handlers.description(layout, formulas.fits(x)))


def _measured_here(x: Any, *, groups: Groups, dtype: Any) -> Any:
    return _call("moments", x, groups, 4, x)


def _sums_here(g: Any, wide: Any, x: Any, centre: Any, u: Any, *, groups: Groups) -> Any:
    return _call("sums", x, groups, 2, g, x, centre, u)


def _lower_measured(context: Any, *given: Any, **options: Any) -> Any:
    rule = _measured_here if _alone(context) else _measured_formula
    return mlir.lower_fun(rule)(context, *given, **options)


def _lower_sums(context: Any, *given: Any, **options: Any) -> Any:
    same = context.avals_in[0].dtype == context.avals_in[2].dtype
    rule = _sums_here if same and _alone(context) else _sums_formula
    return mlir.lower_fun(rule)(context, *given, **options)


mlir.register_lowering(_MEASURED, _lower_measured, platform="cpu")
mlir.register_lowering(_SUMS, _lower_sums, platform="cpu")
