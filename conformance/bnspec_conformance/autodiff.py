"""What an array library's own differentiation makes of a function of bnspec: for clauses about constants and NaN."""

from collections.abc import Callable
from typing import Any

from bnspec_conformance.case import Array
from bnspec_conformance.trial import NotSupported

__all__ = ["library_derivatives"]


def library_derivatives(backend: Any, loss: Callable[[Any], Any], x: Array, direction: Array) -> tuple[Array, Array]:
    """Return the gradient of ``loss`` at x and its Hessian times a direction, as the library computes them.

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
        (second,) = torch.autograd.grad((first * along).sum(), at)
    elif backend.name == "jax":
        import jax

        gradient = jax.grad(loss)
        first, pull = jax.vjp(gradient, at)
        (second,) = pull(along)
    else:
        raise NotSupported(f"{backend.name} does not differentiate")
    return backend.to_numpy(first), backend.to_numpy(second)
