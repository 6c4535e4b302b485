"""Tape: the calls that a layer keeps for `backward`, and which of them a backward may answer [BN-ERR-4].

A training call whose gradients nobody but `backward` can give is kept whole until it is answered. Of every other call
(inference, torch without gradients, torch that records the graph itself) the batch is not kept: x and the mask are
known by weak references, so that `backward` works only as long as the caller holds them.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from array_api_compat import device

from bnspec._arrays import array_namespace, is_array, on_device_of, stop_gradient
from bnspec._communicator import Communicator
from bnspec._errors import refusal
from bnspec._masks import mask_of
from bnspec._types import Array, Saved

__all__ = ["Call", "Tape"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, as far as its backward needs it.

    Attributes
    ----------
    saved : Saved
        Without x and mask where these are only referred to.
    comm : Communicator or None
        Communicator of the forward pass.
    due : bool
        Whether the call is a step of training that a backward is to answer.
    batch : tuple of callables or None
        Give x, and the mask and lengths of the call, or None for one that nobody holds any more; None where `saved`
        has what they say.
    shape, dtype
        Shape and dtype of x.
    """

    saved: Saved
    comm: Communicator | None
    due: bool
    batch: tuple[Callable[[], Array | None], ...] | None
    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def of(
        cls,
        saved: Saved,
        comm: Communicator | None,
        *,
        due: bool,
        trainable: bool,
        mask: Array | None = None,
        lengths: Array | None = None,
    ) -> "Call":
        """Keep a call: the batch itself only if a backward is due that needs it."""
        shape, dtype, batch = tuple(saved.x.shape), saved.x.dtype, None
        affine = saved.frozen and not (trainable and saved.gamma is not None)
        if not due or affine:
            batch = (_weak(saved.x), _weak(mask), _weak(lengths))
            fields: list[Any] = list(saved._replace(x=None, mask=None))
            saved = Saved(*(stop_gradient(v) if is_array(v) else v for v in fields))
        return cls(saved, comm, due, batch, shape, dtype)

    def whole(self, trainable: bool) -> Saved | None:
        """Return what the derivatives take, or None where they need a batch that is gone."""
        if self.batch is None:
            return self.saved
        x, mask, lengths = (given() for given in self.batch)
        masked = any(given is not _absent for given in self.batch[1:])
        if x is not None and (self.saved.frozen or not masked):
            return self.saved._replace(x=stop_gradient(x))
        if x is not None and not (mask is None and lengths is None):
            mask = mask_of(x, self.saved.static.groups.axis, mask, lengths)
            return self.saved._replace(x=stop_gradient(x), mask=mask)
        if self.saved.frozen and not (trainable and self.saved.gamma is not None):
            # An affine map's dx and dbeta depend on no x: zeros of its shape and dtype serve as well.
            return self.saved._replace(x=_zeros(self.saved.centre, self.shape, self.dtype))
        return None

    def on_its_own(self) -> "Call":
        """The same with a gamma that nobody else can write."""
        gamma = self.saved.gamma
        if gamma is None:
            return self
        copied = array_namespace(gamma).asarray(stop_gradient(gamma), copy=True)
        return replace(self, saved=self.saved._replace(gamma=copied))


@dataclass(frozen=True, eq=False)
class Tape:
    """The calls of one layer since its last backward. Each method returns a new tape.

    Attributes
    ----------
    calls : int
        How many there were.
    call : Call or None
        The call, if there was one: of several, none is kept.
    due : bool
        Whether a backward is due for one of them.
    repeated : bool
        Whether the last one repeated an earlier pass.
    mark : object
        The same in a tape that knows the same calls.
    """

    calls: int = 0
    call: Call | None = None
    due: bool = False
    repeated: bool = False
    mark: object = field(default_factory=object)

    def after(self, call: Call, *, repeated: bool = False) -> "Tape":
        """The tape after one more call.

        Inference before a step of training is over; a pass repeated under `recompute` is repeated for its backward.
        """
        if self.calls == 0 or (call.due and not self.due) or (repeated and not self.repeated):
            return Tape(1, call, call.due, repeated)
        return Tape(self.calls + 1, None, self.due or call.due, repeated)

    def answer(self, name: str, trainable: bool) -> tuple[Saved, Communicator | None]:
        """Return what a backward needs, or refuse it."""
        if self.calls == 0:
            raise refusal(
                RuntimeError,
                "BN-ERR-4",
                got=f"{name}: backward without a forward pass of its own",
                expected="one backward after each call",
                do="Call the layer first; a call serves one backward.",
            )
        if self.call is None:
            raise refusal(
                RuntimeError,
                "BN-ERR-4",
                got=f"{name}: backward after {self.calls} calls that no backward has answered",
                expected="one backward after each call, since it could be meant for any of them",
                do="Keep what batch_norm returns for each call and use batch_norm_vjp; or say `layer.forget()` before "
                "a call to drop those before it, as train() and eval() do.",
            )
        saved = self.call.whole(trainable)
        if saved is None:
            raise refusal(
                RuntimeError,
                "BN-ERR-4",
                got=f"{name}: backward of a call whose x nobody holds any more",
                expected="x to be held by the caller: a layer keeps it only in training, where torch neither records "
                "the graph nor was told to want no gradient",
                do="Hold x until then, or call a layer with frozen statistics inside training_context(); where only "
                "its dx is wanted, trainable=False needs no x. What torch recorded, loss.backward() answers.",
            )
        return saved, self.call.comm

    def on_its_own(self) -> "Tape":
        """The same, safe from whoever writes into the layer's gamma."""
        if self.call is None:
            return self
        return replace(self, call=self.call.on_its_own())


@on_device_of("like")
def _zeros(like: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros of any shape in the memory of one."""
    xp = array_namespace(like)
    return xp.broadcast_to(xp.zeros((), dtype=dtype, device=device(like)), shape)


def _absent() -> None:
    """Stand for an array that a call did not have."""


def _weak(v: Array | None) -> Callable[[], Array | None]:
    try:
        return _absent if v is None else weakref.ref(v)
    except TypeError:  # arrays of this library cannot be referred to, so nothing is kept
        return lambda: None
