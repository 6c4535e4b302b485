"""Batch renormalization as a layer (SPEC.md, "Batch renormalization")."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from bnspec._config import Renorm
from bnspec._layer.layer import BatchNorm

__all__ = ["BatchRenorm"]


def _showing_the_options_of(other: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let help() show the arguments of another constructor, all but renorm, in the place of ``**options``."""

    def decorate(constructor: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(constructor)
        theirs = inspect.signature(other).parameters.values()
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {"renorm", *(p.name for p in kept)}
        constructor.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*kept, *(p for p in theirs if p.name not in names)]
        )
        return constructor

    return decorate


class BatchRenorm(BatchNorm):
    """Batch renormalization as a layer: `BatchNorm` with limits r and d that may change between steps.

    Parameters
    ----------
    rmax, dmax : float
        Limits of the corrections, >= 1 and >= 0; set the attributes of these names to change them [BN-RENORM-9].
    form : {"tensorpack", "paper"}
        Where the reference lives [BN-RENORM-5, BN-RENORM-6].
    renorm_decay : float
        Decay of the "tensorpack" form's reference.
    **options
        Options of `BatchNorm`, by keyword, such as axis.

    References
    ----------
    Ioffe 2017, algorithm 1; the options are those of tensorpack.models.BatchRenorm.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchRenorm(1.0, 0.0, epsilon=3.0)
    >>> layer(np.asarray([[1.0], [3.0]])).tolist()     # rmax = 1 and dmax = 0: plain batch normalization
    [[-0.5], [0.5]]
    >>> layer.rmax = 3.0
    >>> list(layer.variables)
    ['beta', 'gamma', 'moving_mean', 'moving_variance', 'moving_stddev', 'renorm_mean', 'renorm_stddev']
    """

    @_showing_the_options_of(BatchNorm.__init__)
    def __init__(
        self,
        rmax: float,
        dmax: float,
        *positional: Any,
        form: Any = "tensorpack",
        renorm_decay: float = 0.99,
        **options: Any,
    ) -> None:
        super().__init__(*positional, renorm=Renorm(form=form, rmax=rmax, dmax=dmax, decay=renorm_decay), **options)

    def _limit(self, field: str, value: float) -> None:
        assert self.renorm is not None
        limits: dict[str, Any] = {field: value}
        self.renorm = dataclasses.replace(self.renorm, **limits)

    @property
    def rmax(self) -> float:
        """Limit of r and 1/r, >= 1."""
        assert self.renorm is not None
        return self.renorm.rmax

    @rmax.setter
    def rmax(self, value: float) -> None:
        self._limit("rmax", value)

    @property
    def dmax(self) -> float:
        """Limit of the absolute value of d, >= 0."""
        assert self.renorm is not None
        return self.renorm.dmax

    @dmax.setter
    def dmax(self, value: float) -> None:
        self._limit("dmax", value)
