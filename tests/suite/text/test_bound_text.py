"""The bound as SPEC.md states it, executed, against the bound that the suite applies."""

import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given, seed, settings

from bnspec._clauses import specification
from bnspec_conformance import Case, Outcome, RankOutcome, exact, find_subject
from bnspec_conformance.bounds import bounds, violations
from bnspec_conformance.bounds.declared import arithmetics
from bnspec_conformance.bounds.rounding import arithmetic, limits
from bnspec_conformance.cases.case import as_float64
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.checks import strategies

HEADING = "## Appendix: the bound, step by step"
#: Cases of each kind. Exact answers take their time.
EXAMPLES = 25


def program() -> str:
    """Return the code of the appendix."""
    text = specification().split(HEADING, 1)[1].split("\n## ", 1)[0]
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def sum_e(values: Any) -> Any:
    return np.sum(values, axis=1, keepdims=True, dtype=np.float64)


def total(entries: list[Any]) -> Any:
    found = entries[0]
    for entry in entries[1:]:
        found = found + entry
    return found


def extreme(take: Any, empty: float) -> Any:
    def over(ranks: list[Any]) -> Any:
        return take.reduce(
            [take.reduce(np.where(r.M, r.x, empty), axis=1, keepdims=True, initial=empty) for r in ranks]
        )

    return over


def text(case: Case, reference: Outcome, declared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the bounds of every rank by the appendix, by output; shapes are those of the outcome."""
    config, x_dtype = case.config, case.ranks[0].x.dtype
    flush, plain = declared.get("flush", False), declared.get("plain", False)
    own = arithmetics(x_dtype, declared.get("arithmetic", "float64"), declared.get("evaluation"), flush)
    words: dict[str, Any] = {
        name: getattr(np, name) for name in ("where", "sqrt", "maximum", "minimum", "clip", "expm1", "log")
    }
    words |= {"inf": math.inf, "sum_e": sum_e, "total": total, "max_of": lambda v: np.max(v, axis=0)}
    words |= {"largest": extreme(np.maximum, -np.inf), "smallest": extreme(np.minimum, np.inf)}
    words |= {"over_groups": None, "plain": plain, "flushed": flush, "epsilon": config.epsilon}
    words |= {"tiny": 2.0 ** limits(x_dtype)[1] if flush else 0.0, "correction": config.correction}
    words |= {"single_value": config.single_value, "decay": config.decay, "renorm": config.renorm is not None}
    words["tensorpack"] = config.renorm is not None and config.renorm.form == "tensorpack"
    if config.renorm is not None:
        words |= {"rmax": config.renorm.rmax, "dmax": config.renorm.dmax}
    words["np"] = np
    exec(compile(program(), "SPEC.md", "exec"), words)
    book = SimpleNamespace(**words)
    number, W = book.Number, own.statistics

    def over_groups(value: Any) -> Any:  # the sum over the groups, one rounding for each
        turned = number(np.swapaxes(value.v, 0, 1), np.swapaxes(value.e, 0, 1), W)
        return turned.sum(True, np.asarray(float(len(value.v))))

    words["over_groups"] = over_groups
    parts = list(layouts(case))
    dtype = arithmetic(x_dtype, flush)

    def element(array: Any, layout: Any, low: float = 0.0) -> Any:
        values = np.zeros(layout.shape) if array is None else as_float64(array)
        values = np.swapaxes(layout.fold(values), 1, 2)
        return number(values, low * (values != 0), W)

    def parameter(array: Any, there: bool, absent: float) -> Any:
        if array is None or not there:
            return number(np.full((1, 1, case.channels), absent), np.zeros((1, 1, case.channels)), W)
        values = as_float64(array)[None, None]
        return number(values, W.u * np.abs(values) * (arithmetic(array.dtype).u < W.u), W)

    gamma, beta = parameter(case.gamma, config.scale, 1.0), parameter(case.beta, config.center, 0.0)
    gamma_dot, beta_dot = parameter(case.gamma_dot, config.scale, 0.0), parameter(case.beta_dot, config.center, 0.0)
    kept = np.float64 if x_dtype == np.float64 else np.float32
    of_gamma, of_beta = (arithmetic(kept if a is None else a.dtype, flush) for a in (case.gamma, case.beta))
    tiny = words["tiny"]
    ranks = []
    for rank, layout in zip(case.ranks, parts, strict=True):
        mask = np.ones(layout.shape, bool) if rank.mask is None else np.asarray(rank.mask, bool)
        x, M = (np.swapaxes(layout.fold(v), 1, 2) for v in (as_float64(rank.x), mask))
        g, xdot = element(rank.dy, layout, tiny), element(rank.xdot, layout, tiny)
        ranks.append(SimpleNamespace(x=x, M=M, known=M | np.isfinite(x), g=g, xdot=xdot))

    def unfolded(values: Any, layout: Any) -> Any:
        wide = np.broadcast_to(values, np.swapaxes(layout.fold(np.zeros(layout.shape)), 1, 2).shape)
        return layout.unfold(np.swapaxes(wide, 1, 2))

    if case.mode == "inference":
        return _inference(
            case, book, ranks, parts, own, (gamma, beta, gamma_dot, beta_dot), (dtype, of_gamma, of_beta), unfolded
        )
    first = reference.ranks[0]
    assert first.mean is not None
    assert first.var is not None
    mean, var = as_float64(first.mean)[:, None], as_float64(first.var)[:, None]
    counts = [sum_e(r.M) for r in ranks]
    n = total(counts)
    filled = np.maximum(np.sum([k > 0 for k in counts], axis=0), 1)
    for r, k in zip(ranks, counts, strict=True):
        by_rank = np.where(k > 0, 1 / (filled * np.maximum(k, 1)), 0.0)
        r.weight = 1 / np.maximum(n, 1) if config.sync_weighting == "count" else by_rank
    J, n, e_hi, e_mean, v = book.statistics(ranks, mean, var, W)
    one, eps = number(np.ones(()), np.zeros(()), W), number(config.epsilon, W.u * config.epsilon, W)
    istd = one / (v + eps).root()
    R, D = number(np.ones_like(mean), 0 * mean, W), number(0 * mean, 0 * mean, W)
    if config.renorm is not None:
        assert case.state is not None
        names = ("renorm_mean", "renorm_stddev") if words["tensorpack"] else ("mean", "stddev")
        R, D = book.corrections(mean, e_mean, istd, *(as_float64(case.state[name])[None, None] for name in names), W)
    found: list[dict[str, Any]] = []
    for r, layout in zip(ranks, parts, strict=True):
        y = book.y_bound(r, mean, e_hi, gamma, beta, R, D, istd, own.y, dtype)
        found.append(
            {
                "y": unfolded(y, layout),
                "mean": (e_mean + W.u * np.abs(mean))[:, 0],
                "mean_low": e_mean[:, 0],
                "var": v.e[:, 0],
            }
        )
    if case.has_vjp:
        zero = np.zeros_like(mean)
        dmean, dvar = (
            number(zero if q is None else np.sum([as_float64(a) for a in q], axis=0)[:, None], zero, W)
            for q in (case.dmean, case.dvar)
        )
        book.gradients(ranks, J, n, mean, e_hi, gamma, R, D, istd, dmean, dvar, own.dx, dtype, of_gamma, of_beta)
        for r, layout, outputs in zip(ranks, parts, found, strict=True):
            outputs |= {"dx": unfolded(r.dx, layout), "dgamma": r.dgamma.reshape(-1), "dbeta": r.dbeta.reshape(-1)}
    if case.has_jvp:
        dots = book.tangents(ranks, J, n, mean, e_hi, gamma, R, D, istd, gamma_dot, beta_dot, own.y, dtype)
        for r, layout, outputs in zip(ranks, parts, found, strict=True):
            outputs |= {"ydot": unfolded(r.ydot, layout), "mean_dot": dots[0][:, 0], "var_dot": dots[1][:, 0]}
    if case.state is not None and case.update:
        state = _state(case, book, n, mean, e_mean, v, W, flush)
        for outputs in found:
            outputs |= state
    return found


def _inference(
    case: Case, book: Any, ranks: Any, parts: Any, own: Any, given: Any, dtypes: Any, unfolded: Any
) -> list[dict[str, Any]]:
    W, config = own.statistics, case.config
    assert case.state is not None
    mean, var = (as_float64(case.state[name])[None, None] for name in ("mean", "var"))
    stored = [book.Number(v, np.zeros_like(v), W) for v in (mean, var)]
    if config.averaging == "debiased":
        t = as_float64(case.state["count"])[None, None]
        kept = arithmetic(case.state["mean"].dtype)
        none = (t == 0) | (np.where(t > 0, config.decay**t, 1.0) == 1)
        used = [book.debiased(s, np.where(none, 1, t), kept, W) for s in stored]
        stored = [
            book.Number(np.where(none, fresh, s.v), np.where(none, 0.0, s.e), W)
            for s, fresh in zip(used, (0.0, 1.0), strict=True)
        ]
    found = []
    for r, layout in zip(ranks, parts, strict=True):
        tiny = book.tiny
        r.xdot = book.Number(r.xdot.v, np.full_like(r.xdot.v, tiny), W)
        book.inference(r, *stored, *given, own.y, own.dx, *dtypes)
        outputs = {name: unfolded(getattr(r, name), layout) for name in ("y", "ydot", "dx")}
        found.append(outputs | {name: getattr(r, name).reshape(-1) for name in ("dgamma", "dbeta")})
    return found


def _state(case: Case, book: Any, n: Any, mean: Any, e_mean: Any, v: Any, W: Any, flush: bool) -> dict[str, Any]:
    """Return the bounds of the state: the program has one update, the clauses say what feeds it."""
    config, number = case.config, book.Number
    assert case.state is not None
    dtypes = {name: arithmetic(a.dtype, flush) for name, a in case.state.items() if a.dtype.kind == "f"}
    state = {name: number(as_float64(a), np.zeros(a.shape), W) for name, a in case.state.items()}
    groups = [
        (int(k), number(m[0], e[0], W), number(value[0], error[0], W))
        for k, m, e, value, error in zip(
            n[:, 0, 0] if n.shape[2] else n[:, 0].sum(axis=1), mean, e_mean, v.v, v.e, strict=True
        )
    ]
    filled = [g for g in groups if g[0]]
    source = config.ghost_source
    joined = [[book.merged(filled, W)]] if filled else []
    feeds = {"first": [groups[:1]], "mean": [filled], "sequential": [[g] for g in filled], "merged": joined}[source]
    for feed in feeds:
        fed = [f for f in feed if f[0]]
        if not fed:
            continue
        finite = np.all([np.isfinite(m.v) & np.isfinite(var.v) for _, m, var in fed], axis=0)
        if config.averaging == "pooled":
            new = book.pooled(state, state["count"].v, *fed[0], W)
            state["count"] = number(state["count"].v + fed[0][0], 0.0, W)
        else:
            weights = []
            for decay in (config.decay, config.decay if config.renorm is None else config.renorm.decay):
                weights.append(number(np.full(case.channels, 1 - decay), 0.0 if decay in (0, 1) else 2 * W.u, W))
            if config.counts_updates:
                t = state["count"].v + 1
                state["count"] = number(t, 0 * t, W)
                if config.averaging == "cumulative":
                    weights[0] = number(1 / t, np.where(t == 1, 0.0, 2 * W.u / t), W)
            stored = dtypes.get("stddev", W)
            new = book.update(state, fed, *weights, stored, W)
        for name, dtype in dtypes.items():
            error = new[name].cast(dtype) if name in new else new[name].e
            value = new[name].v
            if config.nonfinite == "skip":
                value, error = (np.where(finite, a, b) for a, b in ((value, state[name].v), (error, state[name].e)))
            state[name] = number(value, error, W)
    return {f"state.{name}": state[name].e for name in dtypes}


DECLARED: dict[str, dict[str, Any]] = {
    "float64": {},
    "float32": {"arithmetic": "float32"},
    "twofold": {"arithmetic": "twofold"},
    "E": {"evaluation": {"y": "float32", "dx": "twofold"}},
    "twofold and E": {"arithmetic": "twofold", "evaluation": {"y": "float32", "dx": "float32"}},
    "plain": {"plain": True, "arithmetic": "float32"},
    "plain and E": {"plain": True, "evaluation": {"y": "float32"}},
    "flush": {"flush": True, "arithmetic": "float32"},
}
KINDS: dict[str, dict[str, Any]] = {
    "batch": {"derivatives": True, "statistics": True, "ghost": True, "mask": True},
    "running": {"running": True, "ghost": True},
    "renorm": {"derivatives": True, "renorm": True, "running": True},
    "ranks": {"derivatives": True, "running": True, "ranks": 3, "mask": True},
    "inference": {"derivatives": True, "inference": True},
}


def outputs_of(rank: RankOutcome) -> Iterator[tuple[str, Any]]:
    for name in ("y", "mean", "mean_low", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot"):
        if getattr(rank, name) is not None:
            yield name, getattr(rank, name)
    for name, values in (rank.state or {}).items():
        if name != "count":
            yield f"state.{name}", values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DECLARED)
def test_the_text_and_the_suite_have_one_bound(kind: str, name: str) -> None:
    """At 0.99 of the text's bound the suite accepts a result, at 1.01 it rejects it; for every output."""
    subject, seen = find_subject("numpy"), set()

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @given(strategies.cases(subject, **KINDS[kind]))
    def one(case: Case) -> None:
        try:
            reference = exact(case)
        except (ValueError, FloatingPointError):
            return  # it is to be refused
        suite = bounds(case, reference, **DECLARED[name])
        with np.errstate(all="ignore"):
            written = text(case, reference, DECLARED[name])
        for want, applied, stated in zip(reference.ranks, suite.ranks, written, strict=True):
            given_bounds = dict(outputs_of(applied))
            for output, values in outputs_of(want):
                bound = stated[output] + 2.0**-53 * np.abs(np.where(np.isfinite(values), values, 0.0))
                bound = np.broadcast_to(np.where(np.isnan(bound), np.inf, bound), values.shape)
                own = np.broadcast_to(given_bounds[output], values.shape)
                assert np.array_equal(np.isfinite(bound), np.isfinite(own)), output
                some = np.isfinite(bound) & np.isfinite(values)
                np.testing.assert_allclose(bound[some], own[some], rtol=1e-6, atol=0, err_msg=output)
                some &= bound > np.maximum(1e-9 * np.abs(values), 1e-300)  # else float64 has no number between
                for share, outside in ((0.99, False), (1.01, True)):
                    for side in (-1, 1):
                        found = violations(values + side * share * bound, values, own, np.float64)
                        assert np.all(found[some] == outside), (output, share)
                if some.any():
                    seen.add(output)

    one()
    expected = {"y"} | ({"dx", "ydot", "dgamma", "dbeta"} if "derivatives" in KINDS[kind] else set())
    expected |= {"state.mean", "state.var"} if KINDS[kind].get("running") else set()
    if DECLARED[name].get("arithmetic") == "float32":
        expected |= set() if kind == "inference" else {"mean", "var"}
    assert expected <= seen
