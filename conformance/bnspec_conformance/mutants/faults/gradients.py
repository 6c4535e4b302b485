"""Mutants of the derivatives: terms of dx, parameter gradients, tangents, and the frozen derivatives."""

from bnspec._derivatives import batch_norm_tangents
from bnspec._gradients import grad_sums, input_coefficients, parameter_gradients, tangent_coefficients
from bnspec._kernels import Kernels
from bnspec_conformance.mutants.mutant import Mutant, edit

__all__ = ["MUTANTS"]

_A = "a = factor(saved.gamma, saved.r, inverse)"
_B = "b = -a * (inverse * (inverse * (s2 / n)))"
_C = "c = -a * (s1 / n)"
_TANGENT_B = "b = -a * (inverse * (inverse * (var_dot * 0.5)))"

_FROZEN = "dx = kernels.normalize(g, still, scale, still, groups)"

MUTANTS = (
    Mutant(
        name="dx-without-mean-term",
        clause="BN-GRAD-1",
        breaks="Leaves the mean of g out of dx: the mean is treated as a constant.",
        apply=edit(input_coefficients, _C, "c = 0.0 * a"),
    ),
    Mutant(
        name="dx-without-variance-term",
        clause="BN-GRAD-1",
        breaks="Leaves xhat*mean(g*xhat) out of dx: the variance is treated as a constant.",
        apply=edit(input_coefficients, _B, "b = 0.0 * a"),
    ),
    Mutant(
        name="dx-without-gamma",
        clause="BN-GRAD-1",
        breaks="Forgets gamma in dx.",
        apply=edit(input_coefficients, _A, "a = factor(None, saved.r, inverse)"),
    ),
    Mutant(
        name="dx-zero",
        clause="BN-GRAD-9",
        row="D27",
        breaks="Gives dx = 0, which is right for every loss that is a sum of y.",
        apply=edit(
            Kernels.pull_back,
            "dx = kernels.grad_input(g, x, saved.centre, a, b, c, groups, saved.mask)",
            "dx = array_namespace(x).zeros_like(x)",
        ),
    ),
    Mutant(
        name="dx-corrected",
        clause="BN-GRAD-1",
        row="D2",
        breaks="Divides the sums of dx by n - 1.",
        apply=edit(input_coefficients, "n = saved.divisor[:, None]", "n = saved.divisor[:, None]\n    n = n - (n > 1)"),
    ),
    Mutant(
        name="dx-by-one-pass-sums",
        clause="BN-GRAD-8",
        row="D11",
        breaks="Takes sum g*(x - mean) as sum g*x - mean*sum g in float32.",
        apply=edit(
            grad_sums,
            "product = g * (xp.astype(split(x, groups), dtype, copy=False) - spread(centre, x, groups))",
            "f = lambda v: xp.astype(v, xp.float32)\n"
            "    product = f(g) * f(split(x, groups)) - f(g) * f(spread(centre, x, groups))\n"
            "    product = xp.astype(product, dtype)",
        ),
    ),
    Mutant(
        name="dgamma-of-x",
        clause="BN-GRAD-2",
        breaks="Sums g*(x - mean) for dgamma and forgets the deviation.",
        apply=edit(parameter_gradients, "each = s2 * factor(None, saved.r, saved.inverse_stddev)", "each = s2 * 1.0"),
    ),
    Mutant(
        name="dgamma-of-the-first-group",
        clause="BN-GRAD-2",
        breaks="Takes dgamma from the first ghost group alone.",
        apply=edit(parameter_gradients, "dgamma = xp.astype(xp.sum(each, axis=0),", "dgamma = xp.astype(each[0, ...],"),
    ),
    Mutant(
        name="dbeta-averaged",
        clause="BN-GRAD-3",
        breaks="Averages dbeta over the ghost groups.",
        apply=edit(
            parameter_gradients, "dbeta = xp.astype(xp.sum(s1, axis=0),", "dbeta = xp.astype(xp.mean(s1, axis=0),"
        ),
    ),
    Mutant(
        name="jvp-without-gamma-dot",
        clause="BN-GRAD-4",
        breaks="Forgets the tangent of gamma.",
        apply=edit(tangent_coefficients, "if gamma_dot is not None:", "if False:"),
    ),
    Mutant(
        name="jvp-without-beta-dot",
        clause="BN-GRAD-4",
        breaks="Forgets the tangent of beta.",
        apply=edit(tangent_coefficients, "if beta_dot is not None:", "if False:"),
    ),
    Mutant(
        name="jvp-of-the-deviation",
        clause="BN-GRAD-4",
        breaks="Returns half the tangent of the variance.",
        apply=edit(
            batch_norm_tangents,
            "return Tangents(narrowed(y, saved.x), mean_dot, var_dot)",
            "return Tangents(narrowed(y, saved.x), mean_dot, None if var_dot is None else var_dot * 0.5)",
        ),
    ),
    Mutant(
        name="jvp-not-adjoint",
        clause="BN-GRAD-5",
        breaks="Treats the variance as a constant in the jvp and not in the vjp.",
        apply=edit(tangent_coefficients, _TANGENT_B, "b = 0.0 * a"),
    ),
    Mutant(
        name="cotangent-of-mean-dropped",
        clause="BN-GRAD-6",
        breaks="Lets nothing flow through the returned mean.",
        apply=edit(input_coefficients, "if dmean is not None:", "if False:"),
    ),
    Mutant(
        name="cotangent-of-variance-halved",
        clause="BN-GRAD-6",
        breaks="Forgets the factor 2 of the derivative of the returned variance.",
        apply=edit(input_coefficients, "b = b + 2.0 * (dvar / n)", "b = b + dvar / n"),
    ),
    Mutant(
        name="gradients-detached",
        clause="BN-GRAD-9",
        breaks="Treats mean and variance as constants: dx is a*g.",
        apply=edit(input_coefficients, _B, "b = 0.0 * a", _C, "c = 0.0 * a"),
    ),
    Mutant(
        name="frozen-as-batch",
        clause="BN-INF-3",
        row="D20",
        breaks="Takes the mean of g off a frozen dx, as if running statistics were the batch's.",
        apply=edit(
            Kernels.pull_back,
            _FROZEN,
            _FROZEN + "\n        axes = tuple(k for k in range(dx.ndim) if k != groups.axis)"
            "\n        dx = dx - (xp.mean(dx, axis=axes, keepdims=True) if dx.size else 0)",
        ),
    ),
    Mutant(
        name="frozen-without-parameters",
        clause="BN-INF-3",
        row="D20",
        breaks="Gives frozen parameters no gradients but zeros.",
        apply=edit(
            Kernels.pull_back,
            _FROZEN,
            "dgamma, dbeta = (v if v is None else v * 0.0 for v in (dgamma, dbeta))\n        " + _FROZEN,
        ),
    ),
)
