"""Dialect: the conventions of one framework as a record, and the configuration that follows from it."""

import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from bnspec._checks.scalars import real, shown
from bnspec._config import Averaging, BatchNormConfig, GhostSource, Renorm, SingleValue, SyncWeighting
from bnspec._errors import refusal
from bnspec._storage import Storage

__all__ = ["Dialect"]

_ALIKE = {"gamma": "gamma", "beta": "beta", "mean": "mean", "var": "var", "count": "count"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One framework's conventions.

    Attributes
    ----------
    name, title : str
        Short name, and what exactly was looked at.
    momentum_weighs : {"old", "new"}
        The value that the framework's own "momentum" multiplies: the old running value (then it is our decay) or
        the new batch (then decay is its complement).
    fused_correction : bool
        Whether `correction` holds only on the fused path: rank 4, no ghost, no sync, no renorm, and not
        float64; elsewhere it is 0.
    names : mapping
        Our field names to the framework's variable names.
    ranks, axes : tuple of int or None
        The only ranks of x and channel axes it takes; None for any.
    ghost_with_sync, wide_ghost_and_sync : bool
        Whether it takes ghost together with sync, and float64 input with either.
    default_update : {"internal", "collection"}
        The update mode that ``ema_update="default"`` stands for.
    ghost_and_sync_update_inside : bool
        Whether ghost and sync layers update inside the call although a collection was asked for.
    communicators : tuple of str or None
        The values of ``sync_statistics`` it knows; None for every installed one.
    float32_decay : bool
        Whether, for float64 input, 1 - decay passes through float32.
    storage : Storage
        How it stores a layer; conversion reads this.
    """

    name: str
    title: str
    epsilon: float
    decay: float
    correction: Literal[0, 1] = 0
    averaging: Averaging = "exponential"
    ghost_source: GhostSource = "first"
    sync_weighting: SyncWeighting = "count"
    single_value: SingleValue = "raise"
    axis: int = 1
    momentum_weighs: Literal["old", "new"] = "old"
    fused_correction: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: _ALIKE)
    renorm_names: Mapping[str, str] | None = None
    ranks: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    ghost_with_sync: bool = True
    wide_ghost_and_sync: bool = True
    default_update: Literal["internal", "collection"] = "internal"
    ghost_and_sync_update_inside: bool = False
    communicators: tuple[str, ...] | None = None
    float32_decay: bool = False
    storage: Storage = field(default_factory=Storage)

    def config(
        self,
        *,
        axis: int | None = None,
        momentum: float | None = None,
        decay: float | None = None,
        rank: int = 4,
        dtype: str = "float32",
        sync: bool = False,
        renorm: Renorm | None = None,
        virtual_batch_size: int | None = None,
        **fields: Any,
    ) -> BatchNormConfig:
        """Return the configuration with which bnspec computes what this framework computes.

        Parameters
        ----------
        axis : int, optional
            Channel axis; the framework's own by default.
        momentum : float, optional
            In the framework's sense; give this or `decay`, not both.
        decay : float, optional
            In ours; the framework's default by default.
        rank, dtype, sync
            x's rank and dtype, and whether ranks are joined: some frameworks compute differently by them.
        renorm, virtual_batch_size, **fields
            Further fields of `BatchNormConfig`.

        Raises
        ------
        ValueError, TypeError
            For what the framework refuses, and for both momentum and decay.

        Examples
        --------
        >>> from bnspec import dialects
        >>> dialects.torch.config(momentum=0.25).decay, dialects.keras.config(momentum=0.25).decay
        (0.75, 0.25)
        """
        if momentum is not None and decay is not None:
            raise refusal(
                TypeError,
                "BN-RUN-1",
                got=f"momentum={shown(momentum)} and decay={shown(decay)}",
                expected="one of them",
                do="decay is the weight of the old value whatever the framework.",
            )
        if momentum is not None:
            decay = self.decay_of(momentum)
        decay = self.decay if decay is None else decay
        axis = self.axis if axis is None else axis
        ghost = virtual_batch_size is not None
        plain = not (ghost or sync or renorm is not None)
        correction = self.correction_of(rank=rank, dtype=dtype) if plain or not self.fused_correction else 0
        values: dict[str, Any] = {
            "epsilon": self.epsilon,
            "correction": correction,
            "averaging": self.averaging,
            "ghost_source": self.ghost_source,
            "sync_weighting": self.sync_weighting,
            "single_value": self.single_value,
        }
        config = BatchNormConfig(
            axis=axis, decay=decay, renorm=renorm, virtual_batch_size=virtual_batch_size, **(values | fields)
        )
        self.check(rank=rank, axis=config.axis, dtype=dtype, ghost=ghost, sync=sync)
        if self.float32_decay and dtype == "float64":
            decay = 1.0 - struct.unpack("f", struct.pack("f", 1.0 - config.decay))[0]
            config = dataclasses.replace(config, decay=decay)
        return config

    def decay_of(self, momentum: float) -> float:
        """Return the decay that the framework's own momentum stands for [BN-RUN-1].

        Examples
        --------
        >>> from bnspec import dialects
        >>> dialects.torch.decay_of(0.25), dialects.keras.decay_of(0.25)
        (0.75, 0.25)
        """
        do = f"Under the {self.name} dialect it is the weight of the {self.momentum_weighs} value."
        number = real("momentum", momentum, lambda v: 0 <= v <= 1, "a number in [0, 1]", "BN-RUN-1", do)
        return number if self.momentum_weighs == "old" else 1.0 - number

    def momentum_of(self, decay: float) -> float:
        """Return the framework's own momentum for a decay, as the number that one would write [BN-RUN-1].

        Examples
        --------
        >>> from bnspec import dialects
        >>> dialects.torch.momentum_of(0.9), dialects.keras.momentum_of(0.9)
        (0.1, 0.9)
        """
        decay = real("decay", decay, lambda v: 0 <= v <= 1, "a number in [0, 1]", "BN-RUN-1", "")
        return decay if self.momentum_weighs == "old" else float(1 - Decimal(repr(decay)))

    def correction_of(self, *, rank: int, dtype: str) -> Literal[0, 1]:
        """Return the correction of the running variance, for plain layers and x of a rank and dtype [BN-RUN-3].

        Examples
        --------
        >>> from bnspec import dialects
        >>> row = dialects.tf_keras
        >>> row.correction_of(rank=4, dtype="float32"), row.correction_of(rank=2, dtype="float32")
        (1, 0)
        """
        fused = rank == 4 and dtype != "float64"
        return self.correction if fused or not self.fused_correction else 0

    def check(self, *, rank: int, axis: int, dtype: str, ghost: bool, sync: bool) -> None:
        """Refuse what the framework refuses; the specification itself may allow it.

        The axis is named as it was written: a negative one, and one that x of this rank has not.
        """
        who = f"the {self.name} dialect"
        if self.ranks is not None and rank not in self.ranks:
            raise refusal(
                ValueError,
                "BN-SHAPE-1",
                got=f"x of rank {rank} under {who}",
                expected=f"rank {_or(self.ranks)}",
                do="Reshape x, or use the bnspec dialect, which takes any rank from 2.",
            )
        if self.axes is not None and (axis % rank if -rank <= axis < rank else axis) not in self.axes:
            raise refusal(
                ValueError,
                "BN-SHAPE-2",
                got=f"axis={axis} under {who}",
                expected=f"axis {_or(self.axes)}",
                do="Move the channel axis, or use the bnspec dialect, which takes any.",
            )
        if ghost and sync and not self.ghost_with_sync:
            raise refusal(
                ValueError,
                "BN-SYNC-5",
                got=f"virtual_batch_size with sync_statistics under {who}",
                expected="one of them",
                do="Drop one, or use the bnspec dialect, which combines them.",
            )
        if dtype == "float64" and (ghost or sync) and not self.wide_ghost_and_sync:
            raise refusal(
                TypeError,
                "BN-PREC-1",
                got=f"float64 x with {'ghost' if ghost else 'sync'} under {who}",
                expected="float32 or float16",
                do="Cast x, or use the bnspec dialect.",
            )


def _or(values: tuple[int, ...]) -> str:
    return " or ".join(map(str, values))
