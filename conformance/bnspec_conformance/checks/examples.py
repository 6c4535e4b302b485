"""Cases that must always occur, beside those that are drawn: ranks of given shapes and masks."""

from collections.abc import Sequence

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.checks.strategies import SHAPE, states

__all__ = ["example"]


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
