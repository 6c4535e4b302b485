"""Checks of SPEC.md, "Precision and cast points"."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import bnspec
from bnspec_conformance.cases.case import Array, Case, RankInputs, as_float64, dtype_named
from bnspec_conformance.checks import strategies
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


def half_precisions(subject: Subject) -> st.SearchStrategy[Any]:
    """Return the 16-bit dtypes that the subject takes."""
    names = [n for n in ("float16", "bfloat16") if n in subject.scope.dtypes]
    if not names:
        raise NotSupported(f"{subject.name} has no dtype of 16 bits")
    return st.sampled_from(names).map(dtype_named)


def narrow_cases(subject: Subject, **options: Any) -> st.SearchStrategy[Case]:
    """Cases whose x has 16 bits."""
    return half_precisions(subject).flatmap(lambda dtype: strategies.cases(subject, dtype=dtype, **options))


def config(**fields: Any) -> bnspec.BatchNormConfig:
    """Return a plain configuration."""
    return bnspec.BatchNormConfig(**({"axis": 1, "epsilon": 0.25, "decay": 0.5, "correction": 0} | fields))


@clauses("BN-PREC-1")
@explore(lambda s: strategies.cases(s, running=True))
def test_dtypes(t: Trial, case: Case) -> None:
    """Statistics are in W, new parameters and states in the statistics dtype, which an update keeps."""
    backend = t.needs_backend()
    x = case.ranks[0].x
    kept = "float64" if x.dtype == np.float64 else "float32"
    params, state = bnspec.init(case.config, channels=case.channels, like=backend.asarray(x))
    y, stats, saved = bnspec.batch_norm(backend.asarray(x), params, case.config)
    new = bnspec.update_running(state, stats, case.config)

    def dtypes(record: Any, *fields: str) -> set[str]:
        arrays = [getattr(record, f) for f in fields if getattr(record, f) is not None]
        return {backend.to_numpy(a).dtype.name for a in arrays}

    arithmetic = {"float32" if x.dtype != np.float64 and t.subject.arithmetic == "float32" else "float64"}
    for found, wanted, what in (
        (dtypes(stats, "mean", "mean_low", "m2", "var"), arithmetic, "statistics"),
        (dtypes(saved, "inverse_stddev", "centre"), arithmetic, "what is saved"),
        (dtypes(params, "gamma", "beta"), {kept}, "parameters"),
        (dtypes(state, "mean", "var"), {kept}, "a new state"),
        (dtypes(new, "mean", "var"), {kept}, "an updated state"),
        ({backend.to_numpy(y).dtype.name}, {x.dtype.name}, "y"),
    ):
        t.require(found <= wanted, f"{what} is {sorted(found)}, expected {sorted(wanted)}", case)
    count = backend.to_numpy(stats.count).dtype
    t.require(np.issubdtype(count, np.integer), f"the count is {count}", case)


@clauses("BN-PREC-1")
@explore(half_precisions, share=0.1)
def test_narrow_state(t: Trial, dtype: Any) -> None:
    """A running state of 16 bits is refused: its averages would stand still."""
    put = t.needs_backend().asarray
    x, ones = put(np.asarray([[0.0], [2.0]], "float32")), np.ones(1, "float32")
    params, wide = bnspec.Params(put(ones), put(ones)), put(ones)
    _, stats, _ = bnspec.batch_norm(x, params, config())
    for state in (
        bnspec.RunningState(put(ones.astype(dtype)), wide),
        bnspec.RunningState(wide, put(ones.astype(dtype))),
    ):
        t.refuses(lambda: bnspec.update_running(state, stats, config()), TypeError, "BN-PREC-1")  # noqa: B023
        t.refuses(lambda: bnspec.batch_norm_inference(x, params, state, config()), TypeError, "BN-PREC-1")  # noqa: B023


@clauses("BN-PREC-1")
@explore(lambda s: strategies.cases(s, running=True, half_precision=False))
def test_arithmetic(t: Trial, case: Case) -> None:
    """All arithmetic is in W: on values far from zero nothing is lost that W can hold, and the state is cast once."""
    far = dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x + case.ranks[0].x.dtype.type(1000)),))
    t.agree(far, "y", "mean", "var", "state", control=case)


@clauses("BN-PREC-2")
@explore(narrow_cases)
def test_narrow(t: Trial, case: Case) -> None:
    """For 16-bit x statistics are in float32 or better; y is rounded once and equals that for float32 x, rounded."""
    got = t.agree(case, "y", "mean", "var")
    x = case.ranks[0].x.astype(np.float32)
    wide = dataclasses.replace(case, ranks=(RankInputs(x),))
    there = t.agree(wide, "y", proves=()).ranks[0].y
    y, reference = got.ranks[0].y, exact(case)
    allowed, more = (t.bounds(c, reference).ranks[0].y for c in (case, wide))
    assert there is not None and y is not None and allowed is not None and more is not None
    t.within(y, as_float64(there), allowed + more, "y, against that for float32 x", case)


@clauses("BN-PREC-2")
@explore(half_precisions, share=0.1)
def test_overflow(t: Trial, dtype: Any) -> None:
    """No sum and no square overflows at 65504, and a long sum does not stop growing where 16 bits end."""
    rng = np.random.default_rng(5)
    large = rng.choice([-40000.0, 30000.0, 60000.0], (32, 3))
    long = np.where(rng.random((4096, 2)) < 0.5, 1.0, 2.0)
    for values in (large, long):
        t.agree(Case(config=config(), ranks=(RankInputs(values.astype(dtype)),)), "y", "mean", "var")


@clauses("BN-PREC-2")
@explore(half_precisions, share=0.1)
def test_ties(t: Trial, dtype: Any) -> None:
    """y is rounded to nearest, ties to even: values that lie exactly between two numbers of x's dtype, and just off."""
    digits = 10 if dtype == np.float16 else 7
    ulp = 2.0**-digits
    # y = gamma*x + beta exactly, as 1/sqrt(0.75 + 0.25) is 1; below, x is 0 or one small power of two
    even, odd, x = 1 + ulp / 2, 1 + 3 * ulp / 2, np.asarray([[0.0] * 4, [2.0**-12] * 4]).astype(dtype)
    beta = np.asarray([even, odd, -even, -odd], "float32")
    gamma = np.asarray([2.0**-4, -(2.0**-4), 2.0**-4, -(2.0**-4)], "float32")
    state = {"mean": np.zeros(4, "float32"), "var": np.full(4, 0.75, "float32")}
    case = Case(config=config(), ranks=(RankInputs(x),), gamma=gamma, beta=beta, state=state, mode="inference")
    reason = t.outside(case)  # parameters of another dtype would be rounded, and y would be at no tie
    if reason is not None:
        raise NotSupported(reason)
    above = np.asarray([1 + ulp, 1 + ulp, -1.0, -1 - 2 * ulp])  # with the small term: up, down, up, down
    wanted = np.stack([np.asarray([1.0, 1 + 2 * ulp, -1.0, -1 - 2 * ulp]), above]).astype(dtype)
    y = t.run(case).ranks[0].y
    wide = dataclasses.replace(case, ranks=(RankInputs(x.astype(np.float32)),))
    t.same(y, wanted, "y at a tie", case, control=wide)


@clauses("BN-PREC-3")
@explore(lambda s: narrow_cases(s, derivatives=True))
def test_gradients(t: Trial, case: Case) -> None:
    """dx and ydot are rounded once to x's dtype, dgamma and dbeta once to their parameter's."""
    with t.found.gathering():
        got = t.agree(case, "dx", "ydot", "dgamma", "dbeta").ranks[0]
    for name, parameter in (("dgamma", case.gamma), ("dbeta", case.beta)):
        gradient = getattr(got, name)
        if gradient is not None and parameter is not None:
            t.require(
                gradient.dtype == parameter.dtype, f"{name} is {gradient.dtype}, the parameter {parameter.dtype}", case
            )
    for gradient in (got.dx, got.ydot):
        t.require(gradient is None or gradient.dtype == case.ranks[0].x.dtype, "dx or ydot has not x's dtype", case)


@clauses("BN-PREC-3")
@explore(half_precisions, share=0.1)
def test_gradient_sums(t: Trial, dtype: Any) -> None:
    """No gradient sum is kept in 16 bits: it would stop at 2048 (256), or overflow at 65504."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4096, 2)).astype(dtype)
    for dy in (np.ones_like(x), np.full_like(x, 30), rng.choice([1.0, 2.0], x.shape).astype(dtype)):
        case = Case(
            config=config(),
            ranks=(RankInputs(x, dy),),
            gamma=np.asarray([1.0, 2.0], "float32"),
            beta=np.zeros(2, "float32"),
        )
        t.agree(case, "dx", "dgamma", "dbeta")


@clauses("BN-PREC-3")
@explore(half_precisions, share=0.1)
def test_wide_cotangent(t: Trial, dtype: Any) -> None:
    """A float32 dy for a 16-bit x keeps its digits, and parameters may have other dtypes than x."""
    backend = t.needs_backend()
    x = np.asarray([[0.0, 1.0], [0.0, 3.0], [0.0, 1.0], [2.0, 3.0]]).astype(dtype)
    dy = (1 + 2.0**-16 * np.arange(8)).reshape(4, 2).astype("float32")
    for gamma, beta in (("float32", dtype), (dtype, "float32")):
        params = bnspec.Params(backend.asarray(np.ones(2, gamma)), backend.asarray(np.ones(2, beta)))
        _, _, saved = bnspec.batch_norm(backend.asarray(x), params, config())
        grads = bnspec.batch_norm_vjp(backend.asarray(dy), saved)
        found = [np.asarray(backend.to_numpy(g)) for g in (grads.x, grads.gamma, grads.beta)]
        t.require([g.dtype for g in found] == [x.dtype, np.dtype(gamma), np.dtype(beta)], f"{[g.dtype for g in found]}")
        t.same(found[2], dy.sum(axis=0, dtype="float64").astype(beta), "dbeta", None)  # exact in float32


@clauses("BN-PREC-3")
@explore(half_precisions, share=0.25)
def test_inference(t: Trial, dtype: Any) -> None:
    """In inference neither the running statistics nor gamma and beta are cast to x's dtype."""
    at = np.asarray([1000.0, 3.0, 5000.0]).astype(dtype)
    x = np.stack([at, at * dtype.type(1.25)])
    off = 1 + 2.0**-12  # between two 16-bit numbers
    state = {
        "mean": (as_float64(at) * off).astype("float32"),
        "var": np.asarray([0.75 * off, 1e-6, 70000.0], "float32"),
    }
    gamma, beta = (np.asarray(v, "float32") for v in ([off, 3 * off, 1.0], [0.0, off * 100, 2.0**-13]))
    dy = np.ones_like(x)
    case = Case(
        config=config(epsilon=1e-7), ranks=(RankInputs(x, dy),), gamma=gamma, beta=beta, state=state, mode="inference"
    )
    t.agree(case, "y", "dx", "dgamma", "dbeta")


@clauses("BN-PREC-1")
@explore(lambda s: strategies.dtypes(s), share=0.1)
def test_wide_x(t: Trial, dtype: Any) -> None:
    """float64 x is never computed in less; float32 x is computed in float64 where the device has it."""
    if dtype in (np.float16, ml_dtypes.bfloat16):
        raise NotSupported("the subject takes only 16-bit x")
    x: Array = np.asarray([[1.0], [1 + 2.0**-20], [1 - 2.0**-20], [1.0]]).astype(dtype)
    case = Case(config=config(epsilon=2.0**-60), ranks=(RankInputs(x),))
    easy = Case(config=config(), ranks=(RankInputs(np.asarray([[0.0], [1.0], [2.0], [5.0]]).astype(dtype)),))
    t.agree(case, "y", "mean", "var", control=easy)
