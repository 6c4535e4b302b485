"""Cases that must always occur, beside those that are drawn, and small changes of a case."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.checks.strategies import SHAPE, states

__all__ = ["config", "configured", "example", "with_state"]


def config(**fields: Any) -> BatchNormConfig:
    """Return batch normalization on axis 1 without correction, unless told otherwise."""
    return BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 0} | fields))


def configured(case: Case, **fields: Any) -> Case:
    """Return a case with other options."""
    return dataclasses.replace(case, config=dataclasses.replace(case.config, **fields))


def with_state(case: Case, **values: float) -> Case:
    """Return a case with other values in some arrays of its state, those that it has."""
    state: dict[str, Array] = dict(case.state or {})
    state |= {name: np.full_like(state[name], value) for name, value in values.items() if name in state}
    return dataclasses.replace(case, state=state)


def example(
    config: BatchNormConfig,
    shapes: Sequence[tuple[int, ...]] = (SHAPE,),
    masks: Sequence[Array | None] = (),
    *,
    seed: int = 0,
) -> Case:
    """Return a case that must always occur: float32 ranks of these shapes, and everything there is to be derived."""
    rng = np.random.default_rng(seed)
    channels, dtype = shapes[0][config.axis], np.dtype("float32")
    groups = 1 if config.virtual_batch_size is None else shapes[0][0] // config.virtual_batch_size
    ranks = [
        RankInputs(x + 2 * rank, dy, mask, xdot)
        for rank, (shape, mask) in enumerate(zip(shapes, masks or [None] * len(shapes), strict=True))
        for x, dy, xdot in [rng.standard_normal((3, *shape)).astype(dtype)]
    ]
    gamma, beta, gamma_dot, beta_dot = rng.standard_normal((4, channels)).astype(dtype)
    dmean, dvar = (tuple(rng.standard_normal((len(shapes), groups, channels)).astype(dtype)) for _ in range(2))
    return Case(
        config=config,
        ranks=tuple(ranks),
        gamma=gamma if config.scale else None,
        beta=beta if config.center else None,
        gamma_dot=gamma_dot if config.scale else None,
        beta_dot=beta_dot if config.center else None,
        dmean=dmean,
        dvar=dvar,
        state=states(config, channels, dtype, seed),
    )
