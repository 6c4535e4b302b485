"""Questions to a subject and its answers: `Case` and `Outcome`, in plain NumPy arrays.

A case is complete: one configuration, the arrays of every rank, and what is to be derived. Arrays have
the dtype a subject receives them in (bfloat16 as ``ml_dtypes.bfloat16``); those of an outcome of the
oracle are float64. ``G`` is the number of groups, ``C`` of channels, ``L`` of elements per channel.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bnspec._config import BatchNormConfig

__all__ = [
    "Array",
    "Case",
    "Outcome",
    "RankInputs",
    "RankOutcome",
    "as_float64",
    "dtype_named",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class RankInputs:
    """The arrays that differ from rank to rank.

    Attributes
    ----------
    x : array
        Rank >= 2, channels on ``config.axis``; the input.
    dy : array or None
        x's shape and dtype; cotangent of y. Asks for the vector-Jacobian product.
    mask : array of bool or None
        x's rank, every extent 1 or x's; False elements count in no statistic.
    xdot : array or None
        x's shape and dtype; tangent of x. Asks for the Jacobian-vector product.
    """

    x: Array
    dy: Array | None = None
    mask: Array | None = None
    xdot: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One call of batch normalization with everything it depends on.

    Attributes
    ----------
    config : BatchNormConfig
        The computation that is asked for.
    ranks : tuple of RankInputs
        One entry is a single process; several share their statistics.
    gamma, beta : array or None
        Shape (C,); None is 1 resp. 0. Ignored when the configuration switches them off.
    gamma_dot, beta_dot : array or None
        Shape (C,); tangents of the parameters, None is 0.
    dmean, dvar : tuple of array or None
        Per rank, shape (G, C); cotangents of the returned mean and population variance.
    state : dict of str to array, or None
        The running state before the call, by the field names of ``bnspec.RunningState``; each of shape (C,).
    mode : {"batch", "inference"}
        Which statistics normalize: the batch's, or the running ones as constants.
    update : bool
        Whether the running state advances afterwards (batch mode with a state only).
    note : str
        A name of the case, for the reader of a report whom its numbers alone do not tell.
    recipe : str
        For a case too large to be written out, the expression that makes it: a
        `bnspec_conformance.cases.inputs.sizes.Size`.
    """

    config: BatchNormConfig
    ranks: tuple[RankInputs, ...]
    gamma: Array | None = None
    beta: Array | None = None
    gamma_dot: Array | None = None
    beta_dot: Array | None = None
    dmean: tuple[Array, ...] | None = None
    dvar: tuple[Array, ...] | None = None
    state: dict[str, Array] | None = None
    mode: Literal["batch", "inference"] = "batch"
    update: bool = True
    note: str = ""
    recipe: str = ""

    def __repr__(self) -> str:
        return f"Case({self.describe()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what Hypothesis and IPython print
        printer.text(repr(self))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.ranks[0].x.shape[self.config.axis])

    @property
    def groups(self) -> int:
        """Number of groups: 1, or samples / virtual_batch_size; 1 for inference."""
        size = self.config.virtual_batch_size
        return 1 if size is None or self.mode == "inference" else int(self.ranks[0].x.shape[0]) // size

    @property
    def counts_channels(self) -> bool:
        """True if the channels have counts of their own, because a rank's mask has more than one extent there."""
        masks = [(r.mask, r.x.ndim) for r in self.ranks if r.mask is not None]
        own = any(mask.ndim == rank and mask.shape[self.config.axis] != 1 for mask, rank in masks)
        return self.mode == "batch" and own

    @property
    def has_vjp(self) -> bool:
        """True if gradients are asked for."""
        return any(r.dy is not None for r in self.ranks) or self.dmean is not None or self.dvar is not None

    @property
    def has_jvp(self) -> bool:
        """True if tangents are asked for."""
        return any(r.xdot is not None for r in self.ranks) or self.gamma_dot is not None or self.beta_dot is not None

    def describe(self) -> str:
        """Shapes, dtypes and every option that is not a default, on one line."""
        shapes = " + ".join(str(tuple(r.x.shape)).replace(" ", "") for r in self.ranks)
        words = [f"{self.ranks[0].x.dtype}{shapes}"]
        for field in dataclasses.fields(self.config):
            value = getattr(self.config, field.name)
            if field.default is dataclasses.MISSING or value != field.default:
                words.append(f"{field.name}={value!r}")
        for name in ("gamma", "beta"):
            array = getattr(self, name)
            if array is not None and array.dtype != self.ranks[0].x.dtype:
                words.append(f"{name}:{array.dtype}")
        if any(r.mask is not None for r in self.ranks):
            words.append("mask of each channel" if self.counts_channels else "mask")
        if self.state is not None:
            words.append("state:" + ",".join(self.state))
        if self.has_vjp:
            words.append("vjp" + "".join(f"+{n}" for n in ("dmean", "dvar") if getattr(self, n) is not None))
        if self.has_jvp:
            words.append("jvp")
        if self.mode == "inference":
            words.append("inference")
        elif self.state is not None and not self.update:
            words.append("no update")
        if self.note:
            words.append(f"({self.note})")
        return " ".join(words)


@dataclass(frozen=True, eq=False, kw_only=True)
class RankOutcome:
    """Results of one rank after a case; None where nothing was asked for.

    Attributes
    ----------
    y : array or None
        x's shape; the output.
    count : array or None
        Integer; unmasked elements per channel, joined over ranks. Shape (G,), or (G, C) where the case has a mask of
        the channels' own.
    mean, var : array or None
        Shape (G, C); mean and population variance of each group, joined over ranks.
    mean_low : array or None
        Shape (G, C); what `mean`, one number, misses of a mean that is carried in two [BN-MOM-2]. Nobody owes it.
    state : dict of str to array, or None
        The running state afterwards, shape (C,) each; None when it did not advance.
    dx : array or None
        x's shape; gradient of the sum of the ranks' losses.
    dgamma, dbeta : array or None
        Shape (C,); gradients of the rank's own loss.
    ydot : array or None
        x's shape; tangent of y.
    mean_dot, var_dot : array or None
        Shape (G, C); tangents of the returned mean and variance.
    """

    y: Array | None = None
    count: Array | None = None
    mean: Array | None = None
    var: Array | None = None
    state: dict[str, Array] | None = None
    dx: Array | None = None
    dgamma: Array | None = None
    dbeta: Array | None = None
    ydot: Array | None = None
    mean_dot: Array | None = None
    var_dot: Array | None = None
    mean_low: Array | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """The results of all ranks.

    Attributes
    ----------
    ranks : tuple of RankOutcome
        In the order of ``Case.ranks``.
    """

    ranks: tuple[RankOutcome, ...]


def as_float64(array: Array) -> npt.NDArray[np.float64]:
    """Return the same values in float64; exact for every dtype bnspec takes."""
    return np.asarray(array).astype(np.float64)


def dtype_named(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype of that name, that of ml_dtypes for bfloat16."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
