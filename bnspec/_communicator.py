"""Communicator: joins one small array per rank and layer. Nothing here computes; `bnspec_backends.ranks` implements it.

A package declares a communicator by the entry-point group ``bnspec.communicators``.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from bnspec._types import Array

__all__ = ["Communicator", "Signature"]


class Signature(NamedTuple):
    """Facts that every rank must agree on before a collective means anything [BN-SYNC-9]."""

    # "moments", "gradients", "tangents" or "population"; torch's differentiation sends "cotangents of" one, and so on
    operation: str
    layer: str  # the layer's name
    channels: int
    groups: int
    dtype: str  # of x
    options: str  # the configuration as JSON


class Communicator(Protocol):
    """Joins one small array per rank and layer; bit-identical on every rank [BN-SYNC-2].

    Attributes
    ----------
    rank : int
        This rank, 0 .. size - 1.
    size : int
        Number of ranks.
    traceable : bool, optional
        True where `all_reduce` is made of operations of JAX alone, so that tracers may come; without it the core
        refuses them before they are sent. The rank may be traced then.
    """

    rank: int
    size: int

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Combine the ranks' payloads in an order fixed by rank, and return the result on each.

        Parameters
        ----------
        payload : array
            The same shape and dtype on every rank, float64 where the device has it; part of no graph of torch, since
            the core differentiates through the message.
        combine : callable
            ``combine(a, b)``, associative up to rounding, where a holds lower ranks than b.
        signature : Signature
            Must be equal on all ranks.

        Raises
        ------
        CollectiveMismatch
            On every rank, naming the layers and ranks, when signatures or payload shapes differ.
        CollectiveTimeout
            When a rank is missing at the deadline.
        CommunicatorError
            When a rank failed, or the communicator failed before.
        """
        ...
