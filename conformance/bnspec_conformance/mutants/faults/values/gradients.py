"""Mutants of the derivatives: terms of dx, parameter gradients, tangents, and the frozen derivatives."""

from typing import Any

import numpy as np

from bnspec import Saved
from bnspec._derivatives import batch_norm_tangents
from bnspec._gradients import parameter_gradients
from bnspec._groups import reduced_axes, spread
from bnspec._normalize import factor
from bnspec_conformance.mutants.cotangents import batch_only, from_saved, with_coefficients
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import dx_plus, total, wide
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _first_group(v: Any) -> Any:
    """Return (G, C) numbers with 0 for all groups but the first."""
    return None if v is None else np.where(np.arange(len(v))[:, None] == 0, v, 0.0)


def _one_less(saved: Saved) -> Saved:
    assert saved.divisor is not None
    return saved._replace(divisor=saved.divisor - (saved.divisor > 1))


def _zero_dx(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    return original(dy, saved, **more)._replace(x=np.zeros_like(saved.x))


def _one_pass_sums(original: Any, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> Any:
    s1, s2 = original(dy, x, centre, groups, mask)
    if mask is not None or not x.size:
        return s1, s2
    g, v, k = (u.astype("float32") for u in (wide(dy, groups), wide(x, groups), spread(centre, x, groups)))
    return s1, total((g * v - g * k).astype("float64"), x, groups)


def _dbeta_averaged(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    gradients = original(dy, saved, **more)
    if gradients.beta is None:
        return gradients
    return gradients._replace(beta=gradients.beta / gradients.beta.dtype.type(max(saved.static.groups.number, 1)))


def _nothing_times(original: Any, s1: Any, s2: Any, saved: Saved) -> Any:
    dgamma, dbeta = original(s1, s2, saved)
    if dgamma is None or saved.x.size:
        return dgamma, dbeta
    with np.errstate(all="ignore"):
        each = s2 * factor(None, saved.r, saved.inverse_stddev)
    return np.sum(each, axis=0).astype(dgamma.dtype), dbeta


def _without_gamma_dot(original: Any, xdot: Any, saved: Any, gamma_dot: Any = None, *rest: Any, **more: Any) -> Any:
    return original(xdot, saved, None, *rest, **more)


def _without_beta_dot(original: Any, xdot: Any, saved: Any, gamma_dot: Any = None, *rest: Any, **more: Any) -> Any:
    return original(xdot, saved, gamma_dot, None, **{k: v for k, v in more.items() if k != "beta_dot"})


def _half_var_dot(original: Any, *given: Any, **more: Any) -> Any:
    tangents = original(*given, **more)
    return tangents if tangents.var is None else tangents._replace(var=tangents.var * 0.5)


def _variance_constant(original: Any, xdot: Any, saved: Any, *rest: Any, **more: Any) -> Any:
    tangents = original(xdot, saved, *rest, **more)
    if saved.frozen:
        return tangents
    groups, inverse = saved.static.groups, saved.inverse_stddev
    b = factor(saved.gamma, saved.r, inverse) * inverse * (inverse * tangents.var) * 0.5
    centred = wide(saved.x, groups) - spread(saved.centre, saved.x, groups)
    return tangents._replace(y=dx_plus(tangents.y, centred * spread(b, saved.x, groups), groups))


def _without(cotangent: str, share: float) -> Any:
    """Let a share of the cotangent of a statistic through."""

    def pull_back(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
        given = more.get(cotangent)
        new = None if given is None or not share else given * share
        return original(dy, saved, **(more | {cotangent: new}))

    return override(pull_back=pull_back)


def _frozen_as_batch(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    gradients = original(dy, saved, **more)
    if not saved.frozen or not saved.x.size:
        return gradients
    groups = saved.static.groups
    mean = np.mean(wide(gradients.x, groups), axis=reduced_axes(saved.x, groups), keepdims=True)
    return gradients._replace(x=dx_plus(gradients.x, -mean, groups))


def _frozen_parameters(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    gradients = original(dy, saved, **more)
    if not saved.frozen:
        return gradients
    return gradients._replace(
        **{k: None if v is None else np.zeros_like(v) for k, v in gradients._asdict().items() if k != "x"}
    )


MUTANTS = (
    Mutant(
        name="dx-without-mean-term",
        clause="BN-GRAD-1",
        breaks="Leaves the mean of g out of dx: the mean is treated as a constant.",
        apply=with_coefficients(lambda a, b, c: (a, b, 0.0 * a)),
    ),
    Mutant(
        name="dx-without-variance-term",
        clause="BN-GRAD-1",
        breaks="Leaves xhat*mean(g*xhat) out of dx: the variance is treated as a constant.",
        apply=with_coefficients(lambda a, b, c: (a, 0.0 * a, c)),
    ),
    Mutant(
        name="dx-without-gamma",
        clause="BN-GRAD-1",
        breaks="Forgets gamma in dx.",
        apply=batch_only(from_saved("x", lambda saved: saved._replace(gamma=None))),
    ),
    Mutant(
        name="dx-zero",
        clause="BN-GRAD-9",
        row="D27",
        breaks="Gives dx = 0, which is right for every loss that is a sum of y.",
        apply=batch_only(_zero_dx),
    ),
    Mutant(
        name="dx-corrected",
        clause="BN-GRAD-1",
        row="D2",
        breaks="Divides the sums of dx by n - 1.",
        apply=batch_only(from_saved("x", _one_less)),
    ),
    Mutant(
        name="dx-by-one-pass-sums",
        clause="BN-GRAD-8",
        row="D11",
        breaks="Takes sum g*(x - mean) as sum g*x - mean*sum g in float32.",
        apply=override(grad_sums=_one_pass_sums),
    ),
    Mutant(
        name="dgamma-of-x",
        clause="BN-GRAD-2",
        breaks="Sums g*(x - mean) for dgamma and forgets the deviation.",
        apply=override(
            pull_back=from_saved(
                "gamma", lambda saved: saved._replace(inverse_stddev=np.ones_like(saved.inverse_stddev), r=None)
            )
        ),
    ),
    Mutant(
        name="dgamma-of-the-first-group",
        clause="BN-GRAD-2",
        breaks="Takes dgamma from the first ghost group alone.",
        apply=override(
            pull_back=from_saved(
                "gamma",
                lambda saved: saved._replace(
                    inverse_stddev=_first_group(saved.inverse_stddev), d=_first_group(saved.d)
                ),
            )
        ),
    ),
    Mutant(
        name="dbeta-averaged",
        clause="BN-GRAD-3",
        breaks="Averages dbeta over the ghost groups.",
        apply=override(pull_back=_dbeta_averaged),
    ),
    Mutant(
        name="jvp-without-gamma-dot",
        clause="BN-GRAD-4",
        breaks="Forgets the tangent of gamma.",
        apply=wrap(batch_norm_tangents, _without_gamma_dot),
    ),
    Mutant(
        name="jvp-without-beta-dot",
        clause="BN-GRAD-4",
        breaks="Forgets the tangent of beta.",
        apply=wrap(batch_norm_tangents, _without_beta_dot),
    ),
    Mutant(
        name="jvp-of-the-deviation",
        clause="BN-GRAD-4",
        breaks="Returns half the tangent of the variance.",
        apply=wrap(batch_norm_tangents, _half_var_dot),
    ),
    Mutant(
        name="jvp-not-adjoint",
        clause="BN-GRAD-5",
        breaks="Treats the variance as a constant in the jvp and not in the vjp.",
        apply=wrap(batch_norm_tangents, _variance_constant),
    ),
    Mutant(
        name="cotangent-of-mean-dropped",
        clause="BN-GRAD-6",
        breaks="Lets nothing flow through the returned mean.",
        apply=_without("dmean", 0.0),
    ),
    Mutant(
        name="cotangent-of-variance-halved",
        clause="BN-GRAD-6",
        breaks="Forgets the factor 2 of the derivative of the returned variance.",
        apply=_without("dvar", 0.5),
    ),
    Mutant(
        name="gradients-detached",
        clause="BN-GRAD-9",
        breaks="Treats mean and variance as constants: dx is a*g.",
        apply=with_coefficients(lambda a, b, c: (a, 0.0 * a, 0.0 * a)),
    ),
    Mutant(
        name="nothing-times-nan",
        clause="BN-MASK-5",
        breaks="Multiplies a sum over nothing by 1/sqrt(var + epsilon): dgamma of an empty batch is 0*NaN.",
        apply=wrap(parameter_gradients, _nothing_times),
    ),
    Mutant(
        name="frozen-as-batch",
        clause="BN-INF-3",
        row="D20",
        breaks="Takes the mean of g off a frozen dx, as if running statistics were the batch's.",
        apply=override(pull_back=_frozen_as_batch),
    ),
    Mutant(
        name="frozen-without-parameters",
        clause="BN-INF-3",
        row="D20",
        breaks="Gives frozen parameters no gradients but zeros.",
        apply=override(pull_back=_frozen_parameters),
    ),
)
