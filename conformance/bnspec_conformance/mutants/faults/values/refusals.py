"""Mutants that take what they have to refuse, or are no longer what they were once they have refused it."""

from typing import Any

import numpy as np

from bnspec import batch_norm
from bnspec._checks import arguments, arrays
from bnspec._communicator import Signature
from bnspec._types import Groups
from bnspec_conformance.mutants.mutant import Mutant, together
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _modulo_the_rank(original: Any, x: Any, config: Any, name: str) -> int:
    arguments._ranked(x, name)
    return int(config.axis % x.ndim)


def _whole_batch(original: Any, x: Any, params: Any, config: Any, *rest: Any) -> Groups:
    try:
        return original(x, params, config, *rest)  # type: ignore[no-any-return]
    except ValueError:
        if config.virtual_batch_size is None or config.axis % x.ndim:
            raise
        return Groups(0, 1)


#: Whether a mask was refused since the last moments were computed.
_REFUSED: list[bool] = []


def _noted(original: Any, *given: Any, **more: Any) -> None:
    try:
        original(*given, **more)
    except Exception:
        _REFUSED[:] = [True]
        raise


def _less_a_sample(original: Any, x: Any, groups: Groups, mask: Any) -> Any:
    lingers, _REFUSED[:] = bool(_REFUSED), []
    if lingers and mask is None and groups.axis and groups.number == 1 and len(x) > 1:
        x = x[1:]
    return original(x, groups, mask)


def _surplus_dropped(original: Any, x: Any, params: Any, config: Any, **more: Any) -> Any:
    """Normalize as many samples as the rank with the fewest has, and repeat them for the others."""
    comm = more.get("comm")
    if comm is None or config.virtual_batch_size is None:
        return original(x, params, config, **more)
    about = Signature("groups", "", 0, 0, "", "{}")
    fewest = int(comm.all_reduce(np.asarray([len(x)]), np.minimum, about)[0])
    if fewest == len(x):
        return original(x, params, config, **more)
    y, *rest = original(x[:fewest], params, config, **more)
    return np.resize(y, x.shape), *rest


MUTANTS = (
    Mutant(
        name="axis-modulo-the-rank",
        clause="BN-SHAPE-2",
        breaks="Takes an axis that x does not have, modulo its rank.",
        apply=wrap(arguments.channel_axis, _modulo_the_rank),
    ),
    Mutant(
        name="groups-ignored-on-axis-0",
        clause="BN-GRP-3",
        row="D8",
        breaks="Takes the whole batch for one group where axis 0 holds the channels.",
        apply=wrap(arguments._forward, _whole_batch),
    ),
    Mutant(
        name="refused-mask-lingers",
        clause="BN-MASK-7",
        breaks="Leaves out a sample in the first call after one whose mask was refused.",
        apply=together(wrap(arrays.mask, _noted), override(moments=_less_a_sample)),
    ),
    Mutant(
        name="surplus-groups-dropped",
        clause="BN-SYNC-9",
        breaks="Joins ranks with different numbers of groups, by the groups that all of them have.",
        apply=wrap(batch_norm, _surplus_dropped),
    ),
)
