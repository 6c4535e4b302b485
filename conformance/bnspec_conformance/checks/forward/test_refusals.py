"""Checks of refusals that every subject can be asked for: arrays, axes, groups, masks and states that do not fit.

The refusal of an option that does not exist, and the form of an error's text, are asked of bnspec's own backends alone.
"""

from bnspec._checks.elements import is_readable
from bnspec_conformance.cases.inputs.bad import bad_cases, good_case
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import NeverSupported, Trial


def asked(t: Trial, clause: str) -> None:
    """Require that everything that a clause has refused is refused, and that a good case is right before and after."""
    scope, ours = t.subject.scope, t.subject.backend is not None
    cases = bad_cases(scope, clause)
    if not cases:
        raise t.has_nothing("nothing in its scope can be wrong in this way")
    if not ours and not scope.turns_away(clause):
        raise NeverSupported(f"it does not say that it refuses what {clause} has refused")
    good = t.inside([good_case(scope)])[0]
    outputs = ("y", "state") if "running" in scope and good.mode == "batch" else ("y",)
    t.agree(good, *outputs, proves=())
    refused = [t.turns_away(what, case, clause) for what, case in cases]
    if not any(refused):
        raise NotSupported(next(reason for _, reason in t.evidence.parts.values() if reason is not None))
    t.agree(good, *outputs, proves=(clause,))


@clauses("BN-SHAPE-1")
@explore()
def test_ranks(t: Trial) -> None:
    """x of rank 0 and 1."""
    asked(t, "BN-SHAPE-1")


@clauses("BN-SHAPE-2")
@explore()
def test_axes(t: Trial) -> None:
    """A channel axis that x does not have."""
    asked(t, "BN-SHAPE-2")


@clauses("BN-SHAPE-5")
@explore()
def test_dtypes(t: Trial) -> None:
    """x of integers and booleans."""
    asked(t, "BN-SHAPE-5")


@clauses("BN-SHAPE-6")
@explore()
def test_vectors(t: Trial) -> None:
    """Parameters and arrays of the state of another length, or with a further axis."""
    asked(t, "BN-SHAPE-6")


@clauses("BN-GRP-3")
@explore()
def test_groups(t: Trial) -> None:
    """Groups that do not divide the batch, and groups where axis 0 holds the channels."""
    asked(t, "BN-GRP-3")


@clauses("BN-MASK-7")
@explore()
def test_masks(t: Trial) -> None:
    """Masks of another rank, extent or dtype."""
    asked(t, "BN-MASK-7")


@clauses("BN-RUN-14")
@explore()
def test_below_zero(t: Trial) -> None:
    """A variance or a counter of the state below 0."""
    backend = t.subject.backend
    if backend is not None and not is_readable(backend.asarray(good_case(t.subject.scope).ranks[0].x)):
        raise t.has_nothing(f"a check of values would wait for {t.subject.name}")
    asked(t, "BN-RUN-14")


@clauses("BN-PREC-1")
@explore()
def test_narrow_states(t: Trial) -> None:
    """A running state of 16 bits."""
    asked(t, "BN-PREC-1")


@clauses("BN-SYNC-9")
@explore()
def test_uneven_groups(t: Trial) -> None:
    """Ranks whose numbers of groups differ: an error, neither numbers nor a hang."""
    asked(t, "BN-SYNC-9")
