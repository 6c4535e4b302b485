"""Mutants of cotangents and tangents one at a time, in groups, frozen, or beside a parameter that does not exist."""

from typing import Any

import numpy as np

from bnspec import Saved
from bnspec._derivatives import batch_norm_tangents, batch_norm_vjp
from bnspec._groups import spread
from bnspec_conformance.mutants.cotangents import batch_only
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import dx_plus, wide
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _gradients_together(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    gradients = original(dy, saved, **more)
    return gradients if saved.gamma is not None else gradients._replace(beta=None)


def _both_or_none(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    """Let cotangents of the statistics through where both are given."""
    if more.get("dmean") is None or more.get("dvar") is None:
        more = more | {"dmean": None, "dvar": None}
    return original(dy, saved, **more)


def _cotangents_of_the_first(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    for name in ("dmean", "dvar"):
        v = more.get(name)
        if v is not None and len(v) > 1:
            more = more | {name: v * (np.arange(len(v)) == 0)[:, None].astype(v.dtype)}
    return original(dy, saved, **more)


def _cotangents_times_r(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    if saved.r is not None:
        more = more | {k: more[k] * saved.r for k in ("dmean", "dvar") if more.get(k) is not None}
    return original(dy, saved, **more)


def _frozen_cotangents(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    return original(dy, saved, **({} if saved.frozen else more))


def _frozen_without_gamma_dot(
    original: Any, xdot: Any, saved: Saved, gamma_dot: Any = None, *rest: Any, **more: Any
) -> Any:
    return original(xdot, saved, None if saved.frozen else gamma_dot, *rest, **more)


def _absent_term(original: Any, xdot: Any, saved: Saved, gamma_dot: Any = None, *rest: Any, **more: Any) -> Any:
    """Take an absent tangent of gamma for one of 0, which is no number times an x that is not finite."""
    tangents = original(xdot, saved, gamma_dot, *rest, **more)
    if gamma_dot is not None or not saved.x.size:
        return tangents
    groups = saved.static.groups
    nothing = 0.0 * wide(saved.x, groups)
    if saved.d is not None:
        nothing = nothing + 0.0 * spread(saved.d, saved.x, groups)
    return tangents._replace(y=dx_plus(tangents.y, nothing, groups))


def _beta_dot_last(
    original: Any, xdot: Any, saved: Saved, gamma_dot: Any = None, beta_dot: Any = None, **more: Any
) -> Any:
    """Add the tangent of beta to a ydot that was rounded to x's dtype."""
    if saved.x.dtype.itemsize != 2 or beta_dot is None:
        return original(xdot, saved, gamma_dot, beta_dot, **more)
    tangents = original(xdot, saved, gamma_dot, None, **more)
    shape = [1 if a != saved.static.groups.axis else -1 for a in range(xdot.ndim)]
    y = tangents.y.astype("float64") + beta_dot.astype("float64").reshape(shape)
    return tangents._replace(y=y.astype(tangents.y.dtype))


MUTANTS = (
    Mutant(
        name="parameter-gradients-come-together",
        clause="BN-NORM-2",
        breaks="Gives no gradient of beta where there is no gamma.",
        apply=override(pull_back=_gradients_together),
    ),
    Mutant(
        name="cotangents-both-or-none",
        clause="BN-GRAD-6",
        breaks="Lets nothing flow through one statistic where the other one has no cotangent.",
        apply=batch_only(_both_or_none),
    ),
    Mutant(
        name="cotangents-of-the-first-group",
        clause="BN-GRAD-6",
        breaks="Lets the cotangents of the first ghost group's statistics through alone.",
        apply=batch_only(_cotangents_of_the_first),
    ),
    Mutant(
        name="cotangents-times-r",
        clause="BN-GRAD-6",
        row="D22",
        breaks="Scales the cotangents of the statistics by renorm's r.",
        apply=batch_only(_cotangents_times_r),
    ),
    Mutant(
        name="frozen-cotangents-dropped",
        clause="BN-GRAD-6",
        row="D20",
        breaks="Ignores cotangents of running statistics, which it has to refuse.",
        apply=wrap(batch_norm_vjp, _frozen_cotangents),
    ),
    Mutant(
        name="frozen-without-gamma-dot",
        clause="BN-INF-3",
        row="D20",
        breaks="Forgets the tangent of gamma where running statistics normalize.",
        apply=wrap(batch_norm_tangents, _frozen_without_gamma_dot),
    ),
    Mutant(
        name="absent-gamma-has-a-term",
        clause="BN-GRAD-4",
        row="D17",
        breaks="Multiplies x by 0 for a tangent of gamma that does not exist.",
        apply=wrap(batch_norm_tangents, _absent_term),
    ),
    Mutant(
        name="ydot-rounded-twice",
        clause="BN-PREC-3",
        row="D12",
        breaks="Rounds ydot to x's dtype before it adds the tangent of beta.",
        apply=wrap(batch_norm_tangents, _beta_dot_last),
    ),
)
