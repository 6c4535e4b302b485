"""The operations: normalization by batch statistics, by running statistics, and their derivatives.

Each is a few lines over the four primitives. There is no training flag: normalizing by the batch,
normalizing by the running state and updating that state are three functions, and the options of a layer
are ways to compose them.
"""

from array_api_compat import array_namespace

from bnspec import _validate
from bnspec._config import BatchNormConfig
from bnspec._gradients import input_coefficients, parameter_gradients, tangent_coefficients
from bnspec._groups import split, spread, unsplit
from bnspec._moments import expand_mask
from bnspec._normalize import factor, inverse_stddev, scale_and_shift
from bnspec._precision import arithmetic_dtype, stop_gradient
from bnspec._protocols import Communicator, Kernels
from bnspec._registry import kernels_for
from bnspec._renorm import corrections
from bnspec._running import running_statistics
from bnspec._sync import join_moments, join_sums, signature
from bnspec._types import Array, Gradients, Groups, Moments, Params, RunningState, Saved, Static, Tangents

__all__ = ["batch_norm", "batch_norm_inference", "batch_norm_jvp", "batch_norm_tangents", "batch_norm_vjp"]


def batch_norm(
    x: Array,
    params: Params,
    config: BatchNormConfig,
    *,
    state: RunningState | None = None,
    mask: Array | None = None,
    comm: Communicator | None = None,
    name: str = "batch_norm",
) -> tuple[Array, Moments, Saved]:
    """Normalize each group of x by its own mean and variance.

    With mean and var over the group (joined across ranks), and r = 1, d = 0 unless renorm is on::

        y = gamma * ((x - mean)/sqrt(var + epsilon) * r + d) + beta

    Parameters
    ----------
    x : array, shape (N, ..., C, ...)
        float16, bfloat16, float32 or float64, rank >= 2 [BN-SHAPE-1, BN-SHAPE-5].
    params : Params
        gamma and beta, shape (C,), None where the configuration has none.
    config : BatchNormConfig
        What to compute.
    state : RunningState, optional
        Only read, and only by renorm, which needs it.
    mask : array of bool, optional
        Broadcasts against x with channel size 1; False elements enter no statistic [BN-MASK-1].
    comm : Communicator, optional
        Joins group j of all ranks into one [BN-SYNC-1].
    name : str
        The layer's name, in error texts and in what ranks compare.

    Returns
    -------
    y : array
        x's shape and dtype.
    stats : Moments
        count (G,), mean, mean_low, m2 (G, C): what `update_running` takes; ``stats.var`` is m2/count.
    saved : Saved
        What `batch_norm_vjp` and `batch_norm_jvp` take.

    Raises
    ------
    TypeError, ValueError
        For input that breaks a clause, which the text names.
    CommunicatorError
        On every rank, when the ranks do not meet in the same call [BN-SYNC-9].

    References
    ----------
    Ioffe, Szegedy 2015, algorithm 1; Ioffe 2017, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> y, stats, saved = bnspec.batch_norm(np.asarray([[1.0], [3.0]]), params, config)
    >>> y.tolist(), stats.mean.tolist(), stats.var.tolist()
    ([[-0.5], [0.5]], [[2.0]], [[1.0]])
    """
    groups = _validate.forward(x, params, config, state, mask, name)
    kernels = kernels_for(x)
    local = kernels.moments(x, groups, mask)
    shape = (int(local.m2.shape[0]), int(local.m2.shape[1]))
    stats, divisor = join_moments(local, config, comm, signature("moments", name, x, shape, config))
    inverse = inverse_stddev(stats.var, config.epsilon)
    r = d = None
    if config.renorm is not None:
        assert state is not None
        r, d = corrections(stats, state, config)
    scale, shift = scale_and_shift(params, inverse, stats.mean_low, r, d)
    y = _normalize(kernels, x, mask, stats, scale, shift, groups)
    saved = Saved(
        x,
        mask,
        params.gamma,
        params.beta,
        stats.mean,
        stats.mean_low,
        inverse,
        divisor,
        r,
        d,
        Static(groups, config, name),
    )
    return y, stats, saved


def batch_norm_inference(
    x: Array, params: Params, state: RunningState, config: BatchNormConfig, *, name: str = "batch_norm"
) -> tuple[Array, Saved]:
    """Normalize x by the running statistics: no group, no ghost, no mask, no communication [BN-INF-2].

    ::

        y = gamma * (x - mean)/sqrt(var + epsilon) + beta

    Parameters
    ----------
    x, params, config, name
        As in `batch_norm`.
    state : RunningState
        Its statistics, debiased where the averaging asks for it, are constants.

    Returns
    -------
    y : array
        x's shape and dtype.
    saved : Saved
        For the frozen derivatives: those of an affine map [BN-INF-3].

    Raises
    ------
    TypeError, ValueError
        For input that breaks a clause, which the text names.

    References
    ----------
    Ioffe, Szegedy 2015, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> state = state._replace(mean=np.asarray([1.0]), var=np.asarray([3.0]))
    >>> bnspec.batch_norm_inference(np.asarray([[5.0]]), params, state, config)[0].tolist()
    [[2.0]]
    """
    groups = _validate.inference(x, params, state, config, name)
    xp = array_namespace(x)
    wide = state._replace(
        mean=xp.astype(state.mean, arithmetic_dtype(x)), var=xp.astype(state.var, arithmetic_dtype(x))
    )
    mean, var = (stop_gradient(v)[None, :] for v in running_statistics(wide, config))
    inverse = inverse_stddev(var, config.epsilon)
    low = xp.zeros_like(mean)
    scale, shift = scale_and_shift(params, inverse, low, None, None)
    y = kernels_for(x).normalize(x, mean, scale, shift, groups)
    saved = Saved(
        x, None, params.gamma, params.beta, mean, low, inverse, None, None, None, Static(groups, config, name)
    )
    return y, saved


def batch_norm_vjp(
    dy: Array,
    saved: Saved,
    comm: Communicator | None = None,
    *,
    dmean: Array | None = None,
    dvar: Array | None = None,
) -> Gradients:
    """Pull a cotangent of y back to x, gamma and beta.

    With g = dy, m the mask as 0 and 1, sums over the group and joined across ranks::

        dbeta  = sum_local g
        dgamma = sum_local g*(xhat*r + d)
        dx     = gamma*r/sqrt(var + epsilon) * (g - m*(sum g + xhat * sum g*xhat)/n)
                 + m*(dmean + 2*dvar*(x - mean))/n

    and, for what `batch_norm_inference` saved, ``dx = g*gamma/sqrt(var + epsilon)``.

    Parameters
    ----------
    dy : array
        x's shape, any floating dtype.
    saved : Saved
        From the forward pass.
    comm : Communicator, optional
        The one of the forward pass; frozen gradients never use it [BN-SYNC-10].
    dmean, dvar : array, shape (G, C), optional
        Cotangents of the returned ``stats.mean`` and ``stats.var`` [BN-GRAD-6]; on all ranks or none.

    Returns
    -------
    Gradients
        x in x's dtype; gamma and beta in theirs, or None; both are this rank's own [BN-SYNC-7].

    Raises
    ------
    TypeError, ValueError
        For a dy that does not belong to the saved x.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> y, stats, saved = bnspec.batch_norm(np.asarray([[1.0], [3.0]]), params, config)   # xhat = -1/2, 1/2
    >>> grads = bnspec.batch_norm_vjp(np.asarray([[0.0], [4.0]]), saved)
    >>> grads.x.tolist(), grads.gamma.tolist(), grads.beta.tolist()
    ([[-0.75], [0.75]], [2.0], [4.0])
    """
    groups, config, name = saved.static.groups, saved.static.config, saved.static.name
    _validate.derivative("dy", dy, saved, dmean=dmean, dvar=dvar)
    kernels = kernels_for(saved.x)
    x, s1, s2 = _cotangent_sums(kernels, dy, saved)
    dgamma, dbeta = parameter_gradients(s1, s2, saved)
    if saved.divisor is None:  # an affine map: not even an infinite x reaches dx
        xp = array_namespace(x)
        still = xp.zeros_like(saved.centre)
        g = dy if dy.dtype == x.dtype else xp.astype(dy, saved.centre.dtype)
        dx = kernels.normalize(g, still, factor(saved.gamma, None, saved.inverse_stddev), still, groups)
        return Gradients(xp.astype(dx, x.dtype), dgamma, dbeta)

    extra = [v for v in (dmean, dvar) if v is not None]
    about = signature("gradients", name, saved.x, s1.shape, config)
    s1, s2, *extra = join_sums([s1, s2, *extra], comm, about)
    dmean = extra.pop(0) if dmean is not None else None
    dvar = extra.pop(0) if dvar is not None else None
    a, b, c = input_coefficients(s1, s2, dmean, dvar, saved)
    c = c - b * saved.centre_low
    return Gradients(kernels.grad_input(dy, x, saved.centre, a, b, c, groups, saved.mask), dgamma, dbeta)


def batch_norm_tangents(
    xdot: Array,
    saved: Saved,
    gamma_dot: Array | None = None,
    beta_dot: Array | None = None,
    comm: Communicator | None = None,
) -> Tangents:
    """Push a tangent of x, gamma and beta forward to y, mean and var.

    ::

        mean_dot = sum m*xdot / n,    var_dot = 2 * sum m*xdot*(x - mean) / n
        ydot = gamma*r*((xdot - mean_dot) - (x - mean)*var_dot/(2*(var + epsilon)))/sqrt(var + epsilon)
               + gamma_dot*(xhat*r + d) + beta_dot

    Parameters
    ----------
    xdot : array
        x's shape, any floating dtype.
    saved : Saved
        From the forward pass.
    gamma_dot, beta_dot : array, shape (C,), optional
        Tangents of the parameters; absent means 0.
    comm : Communicator, optional
        The one of the forward pass.

    Returns
    -------
    Tangents
        y in x's dtype; mean and var (G, C), None for frozen statistics.

    Raises
    ------
    TypeError, ValueError
        For a tangent that does not belong to the saved x.

    Examples
    --------
    >>> import numpy as np
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    >>> params, state = bnspec.init(config, channels=1, like=np.zeros(1))
    >>> y, stats, saved = bnspec.batch_norm(np.asarray([[1.0], [3.0]]), params, config)
    >>> t = bnspec.batch_norm_tangents(np.asarray([[0.0], [4.0]]), saved)
    >>> t.y.tolist(), t.mean.tolist(), t.var.tolist()
    ([[-0.75], [0.75]], [[2.0]], [[4.0]])
    """
    groups, config, name = saved.static.groups, saved.static.config, saved.static.name
    _validate.derivative("xdot", xdot, saved, gamma_dot=gamma_dot, beta_dot=beta_dot)
    kernels = kernels_for(saved.x)
    if saved.divisor is None:
        xp = array_namespace(saved.centre)
        mean_dot = var_dot = None
        still = xp.zeros_like(saved.centre)
        a, b, c = tangent_coefficients(still, still, gamma_dot, beta_dot, saved)
    else:
        s1, centred = kernels.grad_sums(xdot, saved.x, saved.centre, groups, saved.mask)
        s2 = centred - saved.centre_low * s1
        n = saved.divisor[:, None]
        about = signature("tangents", name, saved.x, s1.shape, config)
        mean_dot, var_dot = join_sums([s1 / n, 2.0 * (s2 / n)], comm, about)
        a, b, c = tangent_coefficients(mean_dot, var_dot, gamma_dot, beta_dot, saved)
    x, usable = _usable(saved)
    y = kernels.grad_input(xdot, x, saved.centre, a, b, c - b * saved.centre_low, groups, None)
    if usable is not None:  # xhat counts as 0 where x is masked and not finite
        still = kernels.grad_input(xdot, x, saved.centre, a, b * 0.0, c, groups, None)
        y = array_namespace(y).where(usable, y, still)
    return Tangents(y, mean_dot, var_dot)


def batch_norm_jvp(
    xdot: Array,
    saved: Saved,
    gamma_dot: Array | None = None,
    beta_dot: Array | None = None,
    comm: Communicator | None = None,
) -> Array:
    """Return the directional derivative of y alone: ``batch_norm_tangents(...).y`` [BN-GRAD-4]."""
    return batch_norm_tangents(xdot, saved, gamma_dot, beta_dot, comm).y


def _normalize(
    kernels: Kernels, x: Array, mask: Array | None, stats: Moments, scale: Array, shift: Array, groups: Groups
) -> Array:
    """Normalize; automatic differentiation takes xhat as 0 where x is masked and not finite [BN-MASK-3]."""
    centre = stats.mean
    if mask is None:
        return kernels.normalize(x, centre, scale, shift, groups)
    xp = array_namespace(x)
    usable = expand_mask(mask, x, groups) | xp.isfinite(x)
    y = kernels.normalize(xp.where(usable, x, xp.zeros_like(x)), centre, scale, shift, groups)
    image = kernels.normalize(x, stop_gradient(centre), stop_gradient(scale), stop_gradient(shift), groups)
    # y of an x at the mean: its derivative, added as a zero, is what the statistics and parameters see of the others.
    middle = ((stop_gradient(centre) - centre) + stop_gradient(stats.mean_low)) * scale + shift
    seen = spread(xp.astype(middle - stop_gradient(middle), x.dtype), x, groups)
    return xp.where(usable, y, unsplit(split(image, groups) + seen, x))


def _usable(saved: Saved) -> tuple[Array, Array | None]:
    """Return x with 0 for masked NaN and infinity, and where x counts as it is (None: everywhere)."""
    if saved.mask is None:
        return saved.x, None
    xp = array_namespace(saved.x)
    usable = expand_mask(saved.mask, saved.x, saved.static.groups) | xp.isfinite(saved.x)
    return xp.where(usable, saved.x, xp.zeros_like(saved.x)), usable


def _cotangent_sums(kernels: Kernels, dy: Array, saved: Saved) -> tuple[Array, Array, Array]:
    """Return x without masked NaN and infinity, the local ``sum g`` and ``sum g*(x - mean)``.

    Every g counts, masked or not, since every y depends on the statistics; an x that is masked and not
    finite adds nothing to the second sum [BN-MASK-3].
    """
    x, usable = _usable(saved)
    s1, centred = kernels.grad_sums(dy, x, saved.centre, saved.static.groups, None)
    if usable is None:
        return x, s1, centred - saved.centre_low * s1
    s1_usable, centred = kernels.grad_sums(dy, x, saved.centre, saved.static.groups, usable)
    return x, s1, centred - saved.centre_low * s1_usable
