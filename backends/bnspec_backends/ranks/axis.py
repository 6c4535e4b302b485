"""Communicator of the ranks along a named axis of JAX: lanes of `jax.vmap`, devices of `jax.pmap` and `jax.shard_map`.

All ranks run one traced program, so the message is an operation in it, which JAX compiles and differentiates. Payloads
are gathered as rows, one for each rank, and folded in the order of the axis index. Inside of `jax.shard_map` the rows
come by a sum in which each rank adds its own row to zeros: the result is then known to JAX to be the same everywhere,
which that of ``jax.lax.all_gather`` is not, and a running state made of it may leave as replicated.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bnspec._communicator import Signature
from bnspec._errors import refusal

__all__ = ["AxisCommunicator"]

#: From so many ranks on neighbours are joined pair by pair, in few steps however many they are.
_PAIRS_FROM = 9


@dataclass(frozen=True)
class AxisCommunicator:
    """Communicator over a named axis of `jax.vmap`, `jax.pmap` or `jax.shard_map`; not thread, process or device bound.

    Ranks may hold different counts by their masks; their arrays have one shape, since one program serves all. For the
    same reason no rank can be missing, late, or in another layer: JAX traces the layers once for all of them, and what
    other communicators compare between hosts, the `bnspec.Signature`, is equal by construction and not compared here.
    Several hosts that trace different programs are for the runtime of JAX to find.

    Statistics and gradients in both modes and of any order go through it. Inside of `jax.grad` a loss is a rank's own,
    and the gradients are those of the sum of all ranks' losses [BN-SYNC-6].

    Parameters
    ----------
    axis_name : hashable or tuple of them
        Name of the axis, or of several, whose last index runs fastest.
    axis_index_groups : sequence of sequences of int, optional
        Parts of the axis that join among themselves, as in `jax.lax.psum`, but under every transformation: each index
        of the axis in one of them, all of one length. Within a group ranks are combined in the order that it lists.

    Attributes
    ----------
    rank : array of int, shape ()
        This rank within its group; traced.
    size : int
        Number of ranks of a group.

    Raises
    ------
    TypeError, ValueError
        For groups that do not divide the axis; in a call outside of the axis.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import bnspec
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=3.0, decay=0.9, correction=0)
    >>> comm = AxisCommunicator("batch")
    >>> def rank(x):
    ...     y, stats, saved = bnspec.batch_norm(x, bnspec.init(config, channels=1, like=x)[0], config, comm=comm)
    ...     return y
    >>> jax.vmap(rank, axis_name="batch")(jnp.asarray([[[1.0]], [[3.0]]])).tolist()      # two ranks of one value each
    [[[-0.5]], [[0.5]]]
    """

    axis_name: Any
    axis_index_groups: Any = None

    #: Its messages are operations of JAX, so arrays without values may be sent.
    traceable = True

    def __post_init__(self) -> None:
        if self.axis_name is None:
            raise _wrong("axis_name is None", "the name of an axis of jax.vmap, jax.pmap or jax.shard_map")
        if self.axis_index_groups is None:
            return
        groups = _as_tuples(self.axis_index_groups)
        flat = sorted(i for group in groups for i in group)
        if not flat or flat != list(range(len(flat))) or len({len(group) for group in groups}) != 1:
            raise _wrong(
                f"axis_index_groups is {self.axis_index_groups!r}",
                "groups of one length that have each index of the axis once",
                ValueError,
            )
        object.__setattr__(self, "axis_index_groups", groups)  # hashable, as a static argument has to be

    @property
    def size(self) -> int:
        """Number of ranks that join."""
        return self._extent() if self.axis_index_groups is None else len(self.axis_index_groups[0])

    @property
    def rank(self) -> Any:
        """Place of this rank among those that join, as a traced integer."""
        self._extent()
        index = jax.lax.axis_index(self.axis_name)
        return index if self.axis_index_groups is None else self._places(1)[index]

    def all_reduce(self, payload: Any, combine: Callable[[Any, Any], Any], signature: Signature) -> Any:
        """Combine the ranks' payloads in the order of the axis index (`bnspec.Communicator`).

        Parameters
        ----------
        payload : jax.Array
            Of one shape and dtype on all ranks.
        combine : callable
            ``combine(a, b)``, where a holds lower ranks than b.
        signature : Signature
            Named in refusals; there is no other program that it could be compared with.

        Raises
        ------
        TypeError
            For an array of another library, and outside of the axis.
        """
        if not isinstance(payload, jax.Array):
            raise _wrong(
                f"{signature.layer}: a payload of type {type(payload).__name__} for the axis {self.axis_name!r}",
                "an array of JAX",
            )
        extent = self._extent(signature.layer)
        index = jax.lax.axis_index(self.axis_name)
        typeof = getattr(jax, "typeof", None)  # absent in old versions
        if typeof is None or getattr(typeof(index), "vma", True):  # JAX keeps track of what is the same on all ranks
            own = (jnp.arange(extent) == index).reshape((extent,) + (1,) * payload.ndim)
            rows = jax.lax.psum(jnp.where(own, payload[None], jnp.zeros_like(payload)[None]), self.axis_name)
        else:
            rows = jax.lax.all_gather(payload, self.axis_name)
        if self.axis_index_groups is not None:
            rows = rows[jnp.asarray(self.axis_index_groups)[self._places(0)[index]]]
        return _folded(rows, combine)

    def _extent(self, layer: str | None = None) -> int:
        """Return the extent of the axis."""
        try:
            extent = int(jax.lax.psum(1, self.axis_name))  # JAX knows it while it traces, in versions without axis_size
        except NameError as error:
            raise _wrong(
                f"{'' if layer is None else f'{layer}: '}statistics to be joined over the axis {self.axis_name!r}, "
                "outside of a transformation that has it",
                "a call inside of jax.vmap, jax.pmap or jax.shard_map with an axis of that name",
                do=f"Map the function over it, such as jax.vmap(..., axis_name={self.axis_name!r}); a jitted function "
                "of sharded arrays needs no communicator.",
            ) from error
        if self.axis_index_groups is not None and extent != sum(map(len, self.axis_index_groups)):
            raise _wrong(
                f"axis_index_groups with {sum(map(len, self.axis_index_groups))} indices for the axis "
                f"{self.axis_name!r} of extent {extent}",
                "each index of the axis in one group",
                ValueError,
            )
        return extent

    def _places(self, which: int) -> Any:
        """Return, for each index of the axis, the number of its group (0) or its place in it (1)."""
        at = {i: (g, p) for g, group in enumerate(self.axis_index_groups) for p, i in enumerate(group)}
        return jnp.asarray([at[i][which] for i in range(len(at))])


def _folded(rows: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine rows in their order."""
    if rows.shape[0] < _PAIRS_FROM:
        return functools.reduce(combine, [rows[i] for i in range(rows.shape[0])])
    while rows.shape[0] > 1:
        even = rows.shape[0] // 2 * 2
        rows = jnp.concatenate([jax.vmap(combine)(rows[0:even:2], rows[1:even:2]), rows[even:]])
    return rows[0]


def _as_tuples(groups: Any) -> tuple[tuple[int, ...], ...]:
    """Return groups as tuples of integers; what is none becomes a group that no axis has."""
    if not isinstance(groups, Sequence) or not all(isinstance(group, Sequence) for group in groups):
        return ()
    plain = all(isinstance(i, int) and not isinstance(i, bool) for group in groups for i in group)
    return tuple(tuple(group) for group in groups) if plain else ()


def _wrong(got: str, expected: str, kind: type[Exception] = TypeError, do: str | None = None) -> Exception:
    return refusal(kind, "BN-SYNC-9", got=got, expected=expected, do=do or "Name the axis as where it was made.")
