"""Operations on CuPy arrays, each of one or two launches: what `CudaKernels` is made of.

Each function takes arrays that `serves` is true of, and queues its work on the current stream of the current device.
The host waits for nothing.
"""

from typing import Any

import cupy
import numpy

from bnspec import Groups, Moments
from bnspec._counts import remember
from bnspec._masks import one_count
from bnspec_backends.cuda.arrays import KINDS, dense_float64, factor, new_like, read, read_along, spread_mask
from bnspec_backends.cuda.call import Call
from bnspec_backends.layout import Layout

__all__ = ["forward", "grad_input", "grad_sums", "infer", "moments", "normalize", "pull_back", "serves"]

#: More elements of one channel than a thread can count.
MOST_ELEMENTS = 1 << 31


def serves(groups: Groups, x: Any, *others: Any) -> bool:
    """Return whether kernels take arrays: x has elements, not too many of a channel, and all have known dtypes."""
    if not x.size or x.size // x.shape[groups.axis] >= MOST_ELEMENTS:
        return False
    return all(v is None or v.dtype in KINDS for v in (x, *others))


def moments(x: Any, groups: Groups, mask: Any) -> Moments:
    """Return the moments of each group."""
    given = read(x, groups)
    count = _new_count(given.layout, mask, groups, numpy.int64)
    spread = None if mask is None else spread_mask(mask, x, given.layout, groups)
    call = Call(given, mask=spread, counts=count.size // given.layout.groups)
    mean, low, m2 = _new_statistics(3, given.layout)
    call.put(count=count, mean=mean, low=low, m2=m2)
    call.launch(("moments", call.masked))
    return Moments(_known(count, mask, given.layout), mean, low, m2)


def normalize(x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    """Return ``(x - centre)*scale + shift``."""
    given = read(x, groups)
    y = new_like(x, given.layout)
    call = Call(given, out=y)
    centre, scale, shift = (factor(v, given.layout) for v in (centre, scale, shift))
    call.put(centre=centre, scale=scale, shift=shift)
    call.launch(("normalize", "false"))
    return y.array


def grad_sums(dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
    """Return ``sum dy`` and ``sum dy*(x - centre)``."""
    given = read(x, groups)
    mask = None if mask is None else spread_mask(mask, x, given.layout, groups)
    call = Call(given, dy=read_along(dy, given.layout, groups), mask=mask)
    s1, s2 = _new_statistics(2, given.layout)
    call.put(s1=s1, s2=s2, centre=factor(centre, given.layout))
    call.launch(("grad_sums", call.masked))
    return s1, s2


def grad_input(dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
    """Return ``a*dy + m*(b*(x - centre) + c)``."""
    given = read(x, groups)
    dx = new_like(x, given.layout)
    mask = None if mask is None else spread_mask(mask, x, given.layout, groups)
    call = Call(given, dy=read_along(dy, given.layout, groups), out=dx, mask=mask)
    centre, a, b, c = (factor(v, given.layout) for v in (centre, a, b, c))
    call.put(centre=centre, scale=a, slope=b, shift=c)
    call.launch(("grad_input", call.masked))
    return dx.array


def forward(x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups, mask: Any) -> tuple[Moments, Any, Any, Any]:
    """Return the moments, ``1/sqrt(var + epsilon)``, the count as float64 (1 for 0) and y: two launches."""
    given = read(x, groups)
    layout = given.layout
    y = new_like(x, layout)
    count, divisor = (_new_count(layout, mask, groups, dtype) for dtype in (numpy.int64, numpy.float64))
    spread = None if mask is None else spread_mask(mask, x, layout, groups)
    call = Call(given, out=y, mask=spread, counts=count.size // layout.groups)
    (mean, low, m2, inverse), (scale, shift) = _with_scratch(4, 2, layout)
    call.put(count=count, divisor=divisor, mean=mean, centre=mean, low=low, m2=m2, inverse=inverse)
    call.set(scale=scale, shift=shift, epsilon=epsilon)
    call.parameter("gamma", gamma)
    call.parameter("beta", beta)
    call.launch(("moments", call.masked), ("normalize", "false"))
    return Moments(_known(count, mask, layout), mean, low, m2), inverse, divisor, y.array


def pull_back(
    dy: Any, x: Any, gamma: Any, beta: Any, centre: Any, low: Any, inverse: Any, divisor: Any, groups: Groups, mask: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Return ``sum dy``, ``sum dy*(x - mean)``, dx, and dgamma and dbeta where one group has them: two launches."""
    given = read(x, groups)
    layout = given.layout
    dx = new_like(x, layout)
    spread = None if mask is None else spread_mask(mask, x, layout, groups)
    counts = divisor.size // layout.groups
    call = Call(given, dy=read_along(dy, layout, groups), out=dx, mask=spread, counts=counts)
    (s1, s2), (a, b, c) = _with_scratch(2, 3, layout)
    centre, low, inverse = (factor(v, layout) for v in (centre, low, inverse))
    call.put(s1=s1, s2=s2, centre=centre, low=low, inverse=inverse, divisor=dense_float64(divisor, divisor.shape))
    call.set(scale=a, slope=b, shift=c)
    call.parameter("gamma", gamma)
    call.parameter("beta", beta)
    dgamma, dbeta = (
        None if v is None or layout.groups > 1 else cupy.empty((layout.channels,), v.dtype) for v in (gamma, beta)
    )
    call.put(dgamma=dgamma, dbeta=dbeta)
    call.launch(("grad_sums", call.masked), ("grad_input", call.masked))
    return s1, s2, dx.array, dgamma, dbeta


def infer(
    x: Any, gamma: Any, beta: Any, mean: Any, var: Any, epsilon: float, groups: Groups
) -> tuple[Any, Any, Any, Any]:
    """Return the mean and its low part, ``1/sqrt(var + epsilon)`` and y, of given statistics: one launch."""
    given = read(x, groups)
    y = new_like(x, given.layout)
    call = Call(given, out=y)
    centre, low, inverse = _new_statistics(3, given.layout._replace(groups=1))
    call.put(mean=centre, low=low, inverse=inverse)
    call.set(epsilon=epsilon)
    for name, v in (("gamma", gamma), ("beta", beta), ("running_mean", mean), ("running_var", var)):
        call.parameter(name, v)
    call.launch(("normalize", "true"))
    return centre, low, inverse, y.array


def _new_count(layout: Layout, mask: Any, groups: Groups, dtype: Any) -> Any:
    return cupy.empty((layout.groups,) if one_count(mask, groups) else (layout.groups, layout.channels), dtype)


def _new_statistics(number: int, layout: Layout) -> list[Any]:
    """Return new arrays (G, C) of float64, in one allocation."""
    return _with_scratch(number, 0, layout)[0]


def _with_scratch(number: int, more: int, layout: Layout) -> tuple[list[Any], list[int]]:
    """Return new arrays as `_new_statistics` does, and addresses of as large ones beside them that nobody will see."""
    made = cupy.empty((number + more, layout.groups, layout.channels), numpy.float64)
    begin, step = made.data.ptr, made.strides[0]
    return [made[i] for i in range(number)], [begin + step * i for i in range(number, number + more)]


def _known(count: Any, mask: Any, layout: Layout) -> Any:
    """Return a count; the host knows it where there is no mask."""
    return remember(count, [layout.elements] * layout.groups) if mask is None else count
