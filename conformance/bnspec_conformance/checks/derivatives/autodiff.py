"""Array libraries' own differentiation of a function of bnspec, for clauses about constants and NaN."""

import contextlib
from collections.abc import Callable
from typing import Any

from bnspec_conformance.cases.case import Array
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.trial import Trial

__all__ = ["double_precision", "library_derivatives", "third_derivative"]


def double_precision(t: Trial) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the subject's library has float64; JAX has to be asked for it.

    Raises
    ------
    NotSupported
        If the library has none.
    """
    if t.needs_backend().name == "jax":
        import jax

        context: contextlib.AbstractContextManager[Any] = jax.enable_x64(True)
        return context
    if "float64" not in t.subject.scope.dtypes:
        raise NotSupported(f"{t.subject.name} has no float64")
    return contextlib.nullcontext()


def library_derivatives(
    backend: Any, loss: Callable[[Any], Any], x: Array, direction: Array, *, compiled: bool = False
) -> tuple[Array, Array]:
    """Return the gradient of ``loss`` at x and its Hessian times a direction, as the library computes them.

    Parameters
    ----------
    backend : Backend
    loss : callable
        Takes an array of the backend's library, returns a scalar of it.
    x, direction : array
        One shape and dtype.
    compiled : bool
        In one program where the library compiles, which then may reorder the arithmetic; quicker than piece by piece.

    Raises
    ------
    NotSupported
        The library does not differentiate.
    """
    at, along = backend.asarray(x), backend.asarray(direction)
    if backend.name == "torch":
        import torch

        at.requires_grad_()
        (first,) = torch.autograd.grad(loss(at), at, create_graph=True)
        (second,) = torch.autograd.grad((first * along).sum(), at)
    elif backend.name == "jax":
        import jax

        def both(at: Any, along: Any) -> tuple[Any, Any]:
            first, pull = jax.vjp(jax.grad(loss), at)
            return first, pull(along)[0]

        first, second = (jax.jit(both) if compiled else both)(at, along)
    else:
        raise NotSupported(f"{backend.name} does not differentiate")
    return backend.to_numpy(first), backend.to_numpy(second)


def third_derivative(backend: Any, loss: Callable[[Any], Any], x: Array, direction: Array) -> Array:
    """Return the derivative of ``loss`` of third order, twice along a direction, as the library computes it.

    That is the gradient of ``direction @ hessian @ direction``, by reverse mode three times.

    Parameters
    ----------
    backend : Backend
    loss : callable
        Takes an array of the backend's library, returns a scalar of it.
    x, direction : array
        One shape and dtype.

    Raises
    ------
    NotSupported
        The library does not differentiate.
    """
    at, along = backend.asarray(x), backend.asarray(direction)
    if backend.name == "torch":
        import torch

        at.requires_grad_()
        (first,) = torch.autograd.grad(loss(at), at, create_graph=True)
        (second,) = torch.autograd.grad((first * along).sum(), at, create_graph=True)
        (third,) = torch.autograd.grad((second * along).sum(), at)
    elif backend.name == "jax":
        import jax

        def twice(at: Any) -> Any:
            return (jax.vjp(jax.grad(loss), at)[1](along)[0] * along).sum()

        third = jax.jit(jax.grad(twice))(at)
    else:
        raise NotSupported(f"{backend.name} does not differentiate")
    found: Array = backend.to_numpy(third)
    return found
