"""Kernels: the operations on one library's arrays, and the one place where a backend may put better ones.

Four primitives touch every element of x. The operations composed of them do the arithmetic on (G, C) numbers in
between, and join ranks. Here all nine are written once, for the arrays of any library; a backend overrides those that
it has a better way for, and calls ``super()`` for what it does not serve.
"""

import copy
from collections.abc import Sequence
from typing import Any

from bnspec import _gradients, _moments, _normalize, _running
from bnspec._arrays import array_namespace
from bnspec._communicator import Communicator
from bnspec._config import BatchNormConfig
from bnspec._dtypes import arithmetic_dtype, has_headroom
from bnspec._errors import refusal
from bnspec._modes import differentiated
from bnspec._renorm import corrections
from bnspec._sync import join_moments, join_sums, signature
from bnspec._types import Array, Gradients, Groups, Moments, Normalized, Params, RunningState, Saved

__all__ = ["Kernels", "narrowed", "widened"]


class Kernels:
    """Operations on the arrays of one library: four primitives, and five operations composed of them.

    An instance of this class is the specification itself, for the arrays of every library. A subclass may override any
    of the nine methods and no other public name, which is refused. An override that does not serve a call calls
    ``super()``. The methods do not check what they are given: the public functions do, before they call them.

    ``x`` and ``dy`` have any floating dtype and shape (N, ..., C, ...). Arrays of shape (G, C) have the arithmetic
    dtype. An implementation may accumulate as it likes as long as the clauses of BN-MOM and BN-PREC hold.

    Raises
    ------
    TypeError
        Where a subclass is defined that has a public method of another name [BN-ERR-5].

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> class Loud(bnspec.Kernels):
    ...     def normalize(self, x, centre, scale, shift, groups):
    ...         print("normalize", x.shape)
    ...         return super().normalize(x, centre, scale, shift, groups)
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> with bnspec.use_kernels("numpy", Loud()):
    ...     y, stats, saved = bnspec.batch_norm(np.asarray([[1.0], [3.0]]), params, config)
    normalize (2, 1)
    """

    #: How the specification's sums are formed: plainly, or with each addition's error; None lets the dtype decide.
    _plain_sums: bool | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__mro__:
            if base is object or base is Kernels:
                continue
            unknown = sorted(n for n in vars(base) if not n.startswith("_") and not hasattr(Kernels, n))
            if unknown:
                raise refusal(
                    TypeError,
                    "BN-ERR-5",
                    got=f"kernels {cls.__name__} with {', '.join(unknown)}",
                    expected="only " + ", ".join(sorted(n for n in vars(Kernels) if not n.startswith("_"))),
                    do="Correct the name, or begin it with an underscore where it is none of an operation.",
                )

    # The primitives ------------------------------------------------------------------------------------------------

    def moments(self, x: Array, groups: Groups, mask: Array | None) -> Moments:
        """Return count, mean (high and low part) and m2 of the unmasked elements of each group."""
        return _moments.moments(x, groups, mask, plain=self._plain_sums)

    def normalize(self, x: Array, centre: Array, scale: Array, shift: Array, groups: Groups) -> Array:
        """Return ``(x - centre)*scale + shift`` in x's dtype and shape."""
        return _normalize.normalize(x, centre, scale, shift, groups)

    def grad_sums(self, dy: Array, x: Array, centre: Array, groups: Groups, mask: Array | None) -> tuple[Array, Array]:
        """Return ``sum dy`` and ``sum dy*(x - centre)`` where the mask is true, per group, each (G, C)."""
        return _gradients.grad_sums(dy, x, centre, groups, mask, plain=self._plain_sums)

    def grad_input(
        self, dy: Array, x: Array, centre: Array, a: Array, b: Array, c: Array, groups: Groups, mask: Array | None
    ) -> Array:
        """Return ``a*dy + m*(b*(x - centre) + c)`` in x's dtype and shape; m is the mask as 0 and 1."""
        return _gradients.grad_input(dy, x, centre, a, b, c, groups, mask)

    # The operations composed of them -------------------------------------------------------------------------------

    def forward(
        self,
        x: Array,
        params: Params,
        config: BatchNormConfig,
        groups: Groups,
        *,
        state: RunningState | None = None,
        mask: Array | None = None,
        comm: Communicator | None = None,
        name: str = "batch_norm",
    ) -> tuple[Moments, Normalized]:
        """Normalize each group by its own mean and variance: what `bnspec.batch_norm` computes."""
        kernels, (wide,), used = widened(self, (x,), *params)
        local = kernels.moments(wide, groups, mask)
        about = signature(comm, "moments", name, x, local.m2, config)
        stats, divisor = join_moments(local, config, comm, about, self.merge)
        inverse = _normalize.inverse_stddev(stats.var, config.epsilon)
        r = d = None
        if config.renorm is not None:
            assert state is not None
            r, d = corrections(stats, state, config)
        constants = _normalize.constants_of(x, groups, inverse, stats.mean_low, r, d)
        scale, shift = _normalize.scale_and_shift(Params(*used), *constants)
        y = narrowed(_normalize.normalize_usable(kernels.normalize, wide, mask, stats, scale, shift, groups), x)
        return stats, Normalized(y, stats.mean, stats.mean_low, inverse, divisor, r, d)

    def pull_back(
        self,
        dy: Array,
        saved: Saved,
        *,
        comm: Communicator | None = None,
        dmean: Array | None = None,
        dvar: Array | None = None,
    ) -> Gradients:
        """Pull a cotangent of y, and those of mean and var, back to x, gamma and beta: `bnspec.batch_norm_vjp`."""
        groups, config, name = saved.static.groups, saved.static.config, saved.static.name
        kernels, (g, x), _ = widened(self, (dy, saved.x), saved.gamma, saved.centre, saved.inverse_stddev)
        x, s1, s2 = _gradients.cotangent_sums(kernels.grad_sums, g, x, saved)
        dgamma, dbeta = _gradients.parameter_gradients(s1, s2, saved)
        if saved.frozen:  # an affine map: not even an infinite x reaches dx
            xp = array_namespace(x)
            still = xp.zeros_like(saved.centre)
            g = g if g.dtype == x.dtype else xp.astype(g, saved.centre.dtype)
            scale = _normalize.factor(saved.gamma, None, saved.inverse_stddev)
            dx = kernels.normalize(g, still, scale, still, groups)
            return Gradients(narrowed(dx, saved.x), dgamma, dbeta)

        extra = [v for v in (dmean, dvar) if v is not None]
        about = signature(comm, "gradients", name, saved.x, s1, config)
        s1, s2, *extra = join_sums([s1, s2, *extra], comm, about)
        dmean = extra.pop(0) if dmean is not None else None
        dvar = extra.pop(0) if dvar is not None else None
        a, b, c = _gradients.input_coefficients(s1, s2, dmean, dvar, saved)
        c = c - b * saved.centre_low
        dx = kernels.grad_input(g, x, saved.centre, a, b, c, groups, saved.mask)
        return Gradients(narrowed(dx, saved.x), dgamma, dbeta)

    def infer(self, x: Array, params: Params, mean: Array, var: Array, epsilon: float, groups: Groups) -> Normalized:
        """Normalize by given statistics, shape (C,): what `bnspec.batch_norm_inference` computes."""
        xp, dtype = array_namespace(mean), arithmetic_dtype(x)
        mean, var = (xp.astype(v, dtype)[None, :] for v in (mean, var))
        inverse = _normalize.inverse_stddev(var, epsilon)
        low = xp.zeros_like(mean)
        scale, shift = _normalize.scale_and_shift(params, *_normalize.constants_of(x, groups, inverse, low, None, None))
        return Normalized(self.normalize(x, mean, scale, shift, groups), mean, low, inverse)

    def update(
        self, state: RunningState, stats: Moments, config: BatchNormConfig, *, name: str = "batch_norm"
    ) -> RunningState:
        """Return the running state after one batch: what `bnspec.update_running` computes.

        Only this method looks at the values of its arrays: it refuses those of which BN-RUN-4, 10 and 14 speak.
        """
        return _running.update(state, stats, config, name)

    def merge(self, a: Array, b: Array, added: int) -> Array:
        """Return the moments of two sets of elements joined, as rows: see `bnspec._moments.merge_rows`."""
        return _moments.merge_rows(a, b, added)

    def differentiable(self, *, plain_sums: bool) -> "Kernels":
        """Return kernels whose operations the library can differentiate, for arrays that were widened.

        Parameters
        ----------
        plain_sums : bool
            Whether the arrays were narrower before, so that plain sums of them are as good as exact ones.
        """
        if not plain_sums:
            return self
        kernels = copy.copy(self)
        kernels._plain_sums = True
        return kernels


def widened(
    kernels: Kernels, arrays: Sequence[Array], *others: Array | None
) -> tuple[Kernels, list[Array], list[Array | None]]:
    """Return arrays in the arithmetic dtype, and the kernels for them, if the library may differentiate them.

    A library's own differentiation rounds once for each conversion that an array went through, and only then adds what
    the uses of the array left in its gradient. The parts of dx cancel almost wholly where a group holds few values: of
    parts that were rounded, nothing but their roundoffs is left. So an operation that may be differentiated converts
    its arrays at its entry and its result at its exit, and the gradient is rounded once, of any order [BN-PREC-3].
    Other calls convert nothing here: the primitives convert what they read, and no wide copy is kept.

    Parameters
    ----------
    kernels : Kernels
        Kernels of the arrays' library.
    arrays : sequence of array
        Of x's shape; the first decides the dtype.
    *others : array or None
        All else that derivatives are taken by, or that is one.

    Returns
    -------
    kernels : Kernels
        Primitives that the library differentiates, whose sums are those of the narrow arrays to the bit.
    arrays, others : list
        The given arrays themselves where nobody differentiates them.
    """
    if not differentiated(*arrays, *others):
        return kernels, list(arrays), list(others)
    kernels = kernels.differentiable(plain_sums=all(map(has_headroom, arrays)))
    dtype = arithmetic_dtype(arrays[0])
    return kernels, [_astype(v, dtype) for v in arrays], [None if v is None else _astype(v, dtype) for v in others]


def narrowed(v: Array, like: Array) -> Array:
    """Return v in like's dtype: the one rounding of a result that was computed from widened arrays."""
    return v if v.dtype == like.dtype else _astype(v, like.dtype)


def _astype(v: Array, dtype: Any) -> Array:
    return array_namespace(v).astype(v, dtype, copy=False)
