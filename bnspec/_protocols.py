"""What a backend and a communicator supply. Nothing here computes; `bnspec_backends` implements it.

A new device or library needs a `Backend` (found by the entry-point group ``bnspec.backends``); a faster
one overrides some of the four `Kernels`; a way to join ranks is a `Communicator` (entry-point group
``bnspec.communicators``). The three combine freely.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from bnspec._config import BatchNormConfig
from bnspec._types import Array, Groups, Moments, RunningState

__all__ = ["Backend", "Communicator", "FusedKernels", "Kernels", "Signature"]


class Kernels(Protocol):
    """The four primitives that touch every element of x; all else is O(G*C) arithmetic.

    ``x``, ``dy`` have any floating dtype; arrays of shape (G, C) are of the arithmetic dtype. An
    implementation may accumulate as it likes as long as the clauses of BN-MOM and BN-PREC hold.
    """

    def moments(self, x: Array, groups: Groups, mask: Array | None) -> Moments:
        """Count, mean (high and low part) and m2 of the unmasked elements of each group."""
        ...

    def normalize(self, x: Array, centre: Array, scale: Array, shift: Array, groups: Groups) -> Array:
        """``(x - centre)*scale + shift`` in x's dtype and shape."""
        ...

    def grad_sums(self, dy: Array, x: Array, centre: Array, groups: Groups, mask: Array | None) -> tuple[Array, Array]:
        """``sum dy`` and ``sum dy*(x - centre)`` where the mask is true, per group, each (G, C)."""
        ...

    def grad_input(
        self, dy: Array, x: Array, centre: Array, a: Array, b: Array, c: Array, groups: Groups, mask: Array | None
    ) -> Array:
        """``a*dy + m*(b*(x - centre) + c)`` in x's dtype and shape; m is the mask as 0 and 1."""
        ...


@runtime_checkable
class FusedKernels(Kernels, Protocol):
    """Kernels that can do both passes of an operation while the data is in cache, and what lies around them at once.

    Nothing does without ranks to join, mask and renorm. The results equal those of the four primitives with
    the specification's arithmetic between them. Each method may return None for what it has no better way for;
    the four primitives and the specification's arithmetic serve it then. Kernels that lack a method count as `Kernels`.
    """

    def normalize_by_batch(
        self, x: Array, gamma: Array | None, beta: Array | None, epsilon: float, groups: Groups
    ) -> tuple[Moments, Array, Array] | None:
        """The moments, ``1/sqrt(var + epsilon)`` of shape (G, C), and y."""
        ...

    def pull_back(
        self,
        dy: Array,
        x: Array,
        gamma: Array | None,
        centre: Array,
        centre_low: Array,
        inverse: Array,
        divisor: Array,
        groups: Groups,
    ) -> tuple[Array, Array, Array] | None:
        """``sum dy`` and ``sum dy*(x - mean)`` of shape (G, C), the mean in both its parts, and dx."""
        ...

    def normalize_by_running(
        self, x: Array, gamma: Array | None, beta: Array | None, mean: Array, var: Array, epsilon: float, groups: Groups
    ) -> tuple[Array, Array, Array, Array] | None:
        """The mean, its low part (zeros) and ``1/sqrt(var + epsilon)`` of shape (1, C), and y."""
        ...

    def update(self, state: RunningState, stats: Moments, config: BatchNormConfig) -> RunningState | None:
        """The state after one batch; None also where something is to be refused, as by BN-RUN-14."""
        ...

    def merge(self, a: Array, b: Array, added: int) -> Array | None:
        """What `bnspec._moments.merge_rows` returns."""
        ...


@runtime_checkable
class Backend(Protocol):
    """The arrays of one library on its devices."""

    name: str

    @property
    def kernels(self) -> Kernels:
        """The primitives for its arrays; asked for once, at the first call."""
        ...

    def version(self) -> str:
        """The library's version."""
        ...

    def devices(self) -> Sequence[str]:
        """Names of the devices that can be used now; empty when there is none."""
        ...

    def dtypes(self) -> Sequence[str]:
        """The floating dtypes x may have here, a subset of float16, bfloat16, float32, float64."""
        ...

    def asarray(self, values: Any) -> Array:
        """A new array of this library with the values and dtype of a NumPy array."""
        ...

    def to_numpy(self, x: Array) -> Any:
        """A NumPy array with the values and dtype of x (bfloat16 as ``ml_dtypes.bfloat16``)."""
        ...

    def synchronize(self) -> None:
        """Return when all work queued so far is done."""
        ...


class Signature(NamedTuple):
    """What every rank must agree on before a collective means anything [BN-SYNC-9]."""

    operation: str  # "moments", "gradients" or "tangents"
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
    """

    rank: int
    size: int

    def all_reduce(self, payload: Array, combine: Callable[[Array, Array], Array], signature: Signature) -> Array:
        """Combine the ranks' payloads in an order fixed by rank, and return the result on each.

        Parameters
        ----------
        payload : array
            The same shape and dtype on every rank, float64 where the device has it.
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
