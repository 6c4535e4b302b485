"""The derivatives of both forward operations: cotangents pulled back, tangents pushed forward.

Each is one pass that sums, one message between ranks, and one elementwise pass; `bnspec._gradients` holds
the formulas.
"""

from bnspec._arrays import array_namespace, on_device_of, where
from bnspec._checks import arguments
from bnspec._communicator import Communicator
from bnspec._discovery import kernels_for
from bnspec._gradients import tangent_coefficients, usable_part
from bnspec._kernels import narrowed, widened
from bnspec._modes import in_graph, recording, untraced
from bnspec._sync import join_sums, signature
from bnspec._types import Array, Gradients, Saved, Tangents, per_channel

__all__ = ["batch_norm_jvp", "batch_norm_tangents", "batch_norm_vjp"]


@on_device_of("dy")
def batch_norm_vjp(
    dy: Array,
    saved: Saved,
    *,
    comm: Communicator | None = None,
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
    if comm is None and recording(dy) and not in_graph(dy, *saved[:-1]):
        from bnspec._torch import calls

        return calls.batch_norm_vjp(dy, saved, dmean=dmean, dvar=dvar)
    untraced(arguments.derivative, "dy", dy, saved, comm, dmean=dmean, dvar=dvar)
    return kernels_for(saved.x).pull_back(dy, saved, comm=comm, dmean=dmean, dvar=dvar)


@on_device_of("xdot")
def batch_norm_tangents(
    xdot: Array,
    saved: Saved,
    gamma_dot: Array | None = None,
    beta_dot: Array | None = None,
    *,
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
    untraced(arguments.derivative, "xdot", xdot, saved, comm, gamma_dot=gamma_dot, beta_dot=beta_dot)
    groups, config, name = saved.static.groups, saved.static.config, saved.static.name
    given = (xdot, saved.x)
    others = (gamma_dot, beta_dot, saved.gamma, saved.centre, saved.inverse_stddev)
    kernels, (v, x), (gamma_dot, beta_dot, *_) = widened(kernels_for(saved.x), given, *others)
    if saved.frozen:
        xp = array_namespace(saved.centre)
        mean_dot = var_dot = None
        still = xp.zeros_like(saved.centre)
        a, b, c = tangent_coefficients(still, still, gamma_dot, beta_dot, saved)
        if gamma_dot is None:  # an affine map: not even an infinite x reaches ydot
            v = v if v.dtype == x.dtype else xp.astype(v, saved.centre.dtype)
            return Tangents(narrowed(kernels.normalize(v, still, a, c, groups), saved.x), None, None)
    else:
        s1, centred = kernels.grad_sums(v, x, saved.centre, groups, saved.mask)
        s2 = centred - saved.centre_low * s1
        assert saved.divisor is not None
        n = per_channel(saved.divisor)
        about = signature(comm, "tangents", name, saved.x, s1, config)
        mean_dot, var_dot = join_sums([s1 / n, 2.0 * (s2 / n)], comm, about)
        a, b, c = tangent_coefficients(mean_dot, var_dot, gamma_dot, beta_dot, saved)
    x, usable = usable_part(x, saved)
    y = kernels.grad_input(v, x, saved.centre, a, b, c - b * saved.centre_low, groups, None)
    if usable is not None:  # xhat counts as 0 where x is masked and not finite
        still = kernels.grad_input(v, x, saved.centre, a, b * 0.0, c, groups, None)
        y = where(usable, y, still)
    return Tangents(narrowed(y, saved.x), mean_dot, var_dot)


def batch_norm_jvp(
    xdot: Array,
    saved: Saved,
    gamma_dot: Array | None = None,
    beta_dot: Array | None = None,
    *,
    comm: Communicator | None = None,
) -> Array:
    """Return the directional derivative of y alone: ``batch_norm_tangents(...).y`` [BN-GRAD-4]."""
    return batch_norm_tangents(xdot, saved, gamma_dot, beta_dot, comm=comm).y
