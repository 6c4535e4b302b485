"""Channels of a case on the axis where a library has them, and results back on the axis of the case."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from bnspec_conformance.cases.case import Case, RankOutcome
from bnspec_conformance.cases.scope import Scope

__all__ = ["PLACES", "called_with_channels"]

#: The places of the channels that a library can have, in words.
PLACES = {"first": "axis 1", "last": "the last axis"}

#: Results that are arranged as x is.
_LIKE_X = ("y", "dx", "ydot")


def called_with_channels(
    place: Literal["first", "last"], call: Callable[[Case], RankOutcome], case: Case
) -> RankOutcome:
    """Return what a call gives for the same numbers with the channels elsewhere, in the order of the case itself.

    Parameters
    ----------
    place : {"first", "last"}
        Where the call has its channels: on axis 1, or last.
    call : callable
    case : Case
        With channels on any axis.

    Raises
    ------
    ValueError
        For another place.

    Examples
    --------
    >>> from bnspec import BatchNormConfig
    >>> from bnspec_conformance import RankInputs
    >>> config = BatchNormConfig(axis=0, epsilon=1e-5, decay=0.9, correction=0)
    >>> case = Case(config=config, ranks=(RankInputs(np.ones((3, 4, 5), "float32")),))
    >>> seen = []
    >>> def call(case):
    ...     seen.append((case.ranks[0].x.shape, case.config.axis))
    ...     return RankOutcome(y=case.ranks[0].x)
    >>> called_with_channels("last", call, case).y.shape, seen
    ((3, 4, 5), [((4, 5, 3), 2)])
    """
    if place not in PLACES:
        raise ValueError(f"channels are to be moved to {place!r}; expected one of {', '.join(PLACES)}, or None.")
    moved = Scope(axes=place).arrange(case)
    outcome, axes = call(moved), (moved.config.axis, case.config.axis)
    like_x = {name: getattr(outcome, name) for name in _LIKE_X}
    back = {name: np.moveaxis(value, *axes) for name, value in like_x.items() if value is not None}
    return dataclasses.replace(outcome, **back)
