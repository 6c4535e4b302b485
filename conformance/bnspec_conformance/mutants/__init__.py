"""Wrong implementations on purpose: each a few lines that break one clause, whose checks must find it.

`catalogue` has them all by name, `rows.ROWS` the divergences between implementations that many of them re-create.
``bnspec-conformance selftest`` applies one after the other and fails if any survives.
"""

import functools
from collections.abc import Mapping

from bnspec_conformance.mutants.faults import sync
from bnspec_conformance.mutants.faults.halves import (
    corrected,
    counting,
    derivatives,
    feeds,
    joined,
    masked,
    not_finite,
    plain,
    policies,
    switches,
)
from bnspec_conformance.mutants.faults.layer import errors, layers
from bnspec_conformance.mutants.faults.rows import ROWS
from bnspec_conformance.mutants.faults.state import (
    edge_states,
    names_and_files,
    renorm,
    running,
    schedules,
    state_order,
)
from bnspec_conformance.mutants.faults.values import (
    channel_masks,
    ghost,
    gradients,
    masks,
    memory,
    moments,
    normalize,
    precision,
    refusals,
    shapes,
    sizes,
)
from bnspec_conformance.mutants.mutant import CannotApply, Mutant

__all__ = ["ROWS", "CannotApply", "Mutant", "catalogue"]

#: In the order of the specification's pages; then what is right nearly everywhere, whatever the page, and what is wrong
#: in one half of a clause alone.
_FAMILIES = (
    shapes,
    ghost,
    moments,
    normalize,
    gradients,
    running,
    state_order,
    layers,
    renorm,
    schedules,
    channel_masks,
    masks,
    sync,
    precision,
    names_and_files,
    errors,
    refusals,
    sizes,
    memory,
    edge_states,
    plain,
    derivatives,
    feeds,
    counting,
    policies,
    not_finite,
    corrected,
    masked,
    joined,
    switches,
)


@functools.cache
def catalogue() -> Mapping[str, Mutant]:
    """Return every mutant by name.

    Raises
    ------
    ValueError
        If two have the same name.
    """
    found: dict[str, Mutant] = {}
    for family in _FAMILIES:
        for mutant in family.MUTANTS:
            if mutant.name in found:
                raise ValueError(f"two mutants are called {mutant.name!r}; expected one name for each.")
            found[mutant.name] = mutant
    return found
