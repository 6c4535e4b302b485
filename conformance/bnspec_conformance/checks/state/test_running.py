"""Checks of SPEC.md, "Running statistics"."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bnspec import BatchNormConfig, Renorm
from bnspec._checks.elements import is_readable
from bnspec._config import Averaging, SingleValue
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import configured, example
from bnspec_conformance.checks.forward.test_inference import inference_example
from bnspec_conformance.checks.layers import snapshot
from bnspec_conformance.oracle import exact
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import NeverSupported, Trial


@clauses("BN-RUN-1", "BN-RUN-3")
@explore(lambda s: strategies.cases(s, running=True, averaging="exponential"))
def test_exponential(t: Trial, case: Case) -> None:
    """new = old + (1 - decay)*(batch - old), the variance with its correction."""
    t.agree(case, "state")


def averaging(kind: str) -> Any:
    """Cases of one averaging mode, with ghost groups of every source the mode allows."""
    sources: dict[str, Any] = {"ghost_source": "merged"} if kind == "pooled" else {}
    return lambda s: strategies.cases(s, running=True, ghost=True, averaging=kind, **sources)


@clauses("BN-RUN-5")
@explore(averaging("cumulative"))
def test_cumulative(t: Trial, case: Case) -> None:
    """Every batch has the same weight."""
    t.agree(case, "state")


@clauses("BN-RUN-6")
@explore(averaging("pooled"))
def test_pooled(t: Trial, case: Case) -> None:
    """Every element has the same weight."""
    t.agree(case, "state")


@clauses("BN-RUN-6")
@explore(
    lambda s: strategies.cases(s, running=True, plain=True, half_precision=False, averaging="pooled", correction=1),
    share=0.5,
)
def test_pooled_over_steps_is_the_population(t: Trial, case: Case) -> None:
    """After several batches the pooled state is the mean and variance of all their elements."""
    x, config = case.ranks[0].x, case.config
    fresh = strategies.states(config, case.channels, x.dtype, 0, fresh=True)
    batches = [(x + 3 * k).astype(x.dtype) for k in range(3)]
    state, gap = fresh, np.zeros(case.channels)
    slack = {"mean": np.zeros(case.channels), "var": np.zeros(case.channels)}
    for batch in batches:
        own = dataclasses.replace(case, ranks=(RankInputs(batch),), state=state)
        reference = exact(own)
        allowed = t.bounds(own, reference).ranks[0].state
        got, seen = t.agree(own, "state", reference=reference).ranks[0], reference.ranks[0].mean
        assert got.state is not None and allowed is not None and seen is not None
        gap = np.maximum(gap, np.abs(seen[0] - state["mean"]))
        slack = {k: v + allowed[k] for k, v in slack.items()}
        state = got.state
    # Every step passes an error of the old mean or variance on by a factor of at most 1, and one of the mean into
    # the variance by at most twice the distance of the means (the derivative of d^2).
    slack["var"] = slack["var"] + 2 * gap * slack["mean"]
    joined = dataclasses.replace(case, ranks=(RankInputs(np.concatenate(batches, axis=0)),), state=fresh)
    want = exact(joined).ranks[0].state
    assert want is not None
    for name, limit in slack.items():
        t.within(state[name], want[name], limit, f"state.{name}", joined, statistic=True)
    t.same(state["count"], want["count"].astype(state["count"].dtype), "state.count", joined)


@clauses("BN-RUN-7", "BN-INF-1")
@explore(lambda s: strategies.cases(s, inference=True, averaging="debiased", derivatives=True))
def test_debiased_use(t: Trial, case: Case) -> None:
    """Inference divides the sums by 1 - decay^t, and uses 0 and 1 before the first update."""
    t.agree(case, "y", "dx", "dgamma")


@clauses("BN-RUN-7")
@explore()
def test_debiased_near_one(t: Trial) -> None:
    """1 - decay^t keeps its digits where decay is close to 1, and where decay^t is nothing."""
    cases = []
    for dtype in (name for name in ("float32", "float64") if name in t.subject.scope.dtypes):
        for decay in (0.75, 0.999, 1 - 2.0**-20):
            for updates in (1, 3, 1000):
                case = inference_example(averaging="debiased", decay=decay)
                grown = -np.expm1(updates * np.log(decay))
                mean, var = (np.asarray(v) * grown for v in ([0.5, -2.0, 3.0], [1.0, 0.25, 4.0]))
                state = {"mean": mean.astype(dtype), "var": var.astype(dtype), "count": np.full(3, updates)}
                rank = RankInputs(case.ranks[0].x.astype(dtype))
                held: dict[str, Any] = {k: getattr(case, k).astype(dtype) for k in ("gamma", "beta")}
                own = dataclasses.replace(case, ranks=(rank,), state=state, gamma_dot=None, beta_dot=None, **held)
                cases.append(t.subject.scope.arrange(own))
    for case in t.inside(cases):
        t.agree(case, "y")


@clauses("BN-RUN-7")
@explore(averaging("debiased"))
def test_debiased_update(t: Trial, case: Case) -> None:
    """The sums themselves are averaged from 0."""
    t.agree(case, "state")


@clauses("BN-RUN-8")
@explore(lambda s: strategies.cases(s, running=True, ghost=True, mask=True), share=2.0)
def test_ghost_source(t: Trial, case: Case) -> None:
    """The first group, the mean of groups, the merged groups or all in order feed the state, as configured."""
    t.agree(case, "state")


@clauses("BN-RUN-8")
@explore()
def test_each_ghost_source(t: Trial) -> None:
    """Groups that differ, and one without elements in every place: each source feeds what it is to feed, in order."""
    masks = [np.arange(4).reshape(4, 1, 1) // 2 != empty for empty in (2, 0, 1)]
    for source in ("first", "mean", "merged", "sequential"):
        fields: dict[str, Any] = {"ghost_source": source, "virtual_batch_size": 2, "correction": 1}
        config = BatchNormConfig(axis=1, epsilon=1e-3, decay=0.75, **fields)
        for mask in masks if "mask" in t.subject.scope else [None]:
            t.agree(example(config, masks=[mask]), "state")


@clauses("BN-RUN-2")
@explore()
def test_initial_values(t: Trial) -> None:
    """A fresh state is mean 0 and variance 1, and what else is remembered starts as stated."""
    import bnspec

    backend = t.needs_backend()
    for kind in ("exponential", "cumulative", "pooled", "debiased"):
        config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, averaging=kind)
        params, state = bnspec.init(config, channels=3, like=backend.asarray(np.ones((2, 3), "float32")))
        values = {k: backend.to_numpy(v) for k, v in state._asdict().items() if v is not None}
        want = strategies.states(config, 3, np.dtype("float32"), 0, fresh=True)
        if "count" in values:
            want["count"] = want["count"].astype(values["count"].dtype)
        t.same(values, want, f"the fresh state of {kind}", None)
        used = bnspec.running_statistics(state, config)
        t.same(backend.to_numpy(used[0]), np.zeros(3, "float32"), "the mean used at first", None)
        t.same(backend.to_numpy(used[1]), np.ones(3, "float32"), "the variance used at first", None)
        t.same(backend.to_numpy(params.gamma), np.ones(3, "float32"), "gamma at first", None)
        t.same(backend.to_numpy(params.beta), np.zeros(3, "float32"), "beta at first", None)
    for form in ("tensorpack", "paper"):
        config = BatchNormConfig(
            axis=1, epsilon=1e-5, decay=0.9, correction=0, renorm=bnspec.Renorm(form=form, rmax=2.0, dmax=1.0)
        )
        _, state = bnspec.init(config, channels=2, like=backend.asarray(np.ones((2, 2), "float32")))
        values = {k: backend.to_numpy(v) for k, v in state._asdict().items() if v is not None}
        t.same(
            values,
            strategies.states(config, 2, np.dtype("float32"), 0, fresh=True),
            f"the fresh state of renorm {form}",
            None,
        )


@clauses("BN-RUN-4")
@explore(lambda s: strategies.cases(s, running=True, plain=True, correction=1, averaging="exponential"), share=0.5)
def test_single_value(t: Trial, case: Case) -> None:
    """One value per channel and correction 1: refused, kept or divided by 1, as configured."""
    one = case.ranks[0].x[
        tuple(slice(None) if a == case.config.axis else slice(0, 1) for a in range(case.ranks[0].x.ndim))
    ]
    several, case = case, dataclasses.replace(case, ranks=(RankInputs(one.copy()),))
    policies: tuple[SingleValue, ...] = ("keep", "floor", "raise")
    keep, floor, raising = (configured(case, single_value=policy) for policy in policies)
    for own in (c for c in (keep, floor) if t.asks(f"single_value={c.config.single_value}", c)):
        several = dataclasses.replace(several, config=own.config)
        got = t.agree(own, "y", "state", control=several).ranks[0].state
        assert got is not None and own.state is not None
        if own is keep:
            t.same(got["var"], own.state["var"], "state.var that is to be kept", own, control=several)
    text = t.rejects(raising, ValueError, "BN-RUN-4") if t.can_refuse(raising) else ""
    if text and t.subject.backend is not None:
        t.require(f"{case.channels} channels" in text, f"the refusal does not name the channel count: {text}", raising)


@clauses("BN-RUN-9")
@explore(lambda s: strategies.cases(s, running=True, mask=True, ghost=True))
def test_count_zero(t: Trial, case: Case) -> None:
    """A batch that is empty, or masked throughout, leaves the state, its counter included, to the bit."""
    rank = case.ranks[0]
    batches = [RankInputs(rank.x[:0])]
    if not t.asks("an empty batch", dataclasses.replace(case, ranks=(batches[0],))):
        batches.clear()
    if rank.mask is not None:
        batches.append(dataclasses.replace(rank, mask=np.zeros_like(rank.mask)))
    for batch in batches:
        own = dataclasses.replace(case, ranks=(batch,))
        got = t.run(own).ranks[0].state
        assert got is not None and own.state is not None
        t.same({k: v.astype(own.state[k].dtype) for k, v in got.items()}, own.state, "the state", own, control=case)


@clauses("BN-RUN-10")
@explore(lambda s: strategies.cases(s, running=True, half_precision=False))
def test_nonfinite(t: Trial, case: Case) -> None:
    """A NaN or infinite statistic reaches its channel's state, or leaves it to the bit, or raises, as configured."""
    rank, axis = case.ranks[0], case.config.axis
    finite = configured(case, nonfinite="propagate")
    for bad in (np.nan, np.inf, -np.inf):
        x = rank.x.copy()
        np.moveaxis(x, axis, 0)[0].flat[:1] = bad
        poisoned = dataclasses.replace(case, ranks=(dataclasses.replace(rank, x=x),))
        assert case.state is not None
        spread, skip, refuse = (
            dataclasses.replace(poisoned, config=dataclasses.replace(case.config, nonfinite=policy))
            for policy in ("propagate", "skip", "raise")
        )
        if not t.asks("a statistic that is not finite", spread):
            continue
        if case.config.decay < 1 or case.config.averaging != "exponential":
            got = t.agree(spread, "state", control=finite).ranks[0].state
            assert got is not None
            t.require(not np.isfinite(got["mean"][0]), "a mean that is not finite did not reach the state", spread)
        if t.asks("nonfinite=skip", skip):
            kept = t.agree(skip, "state", control=finite).ranks[0].state
            assert kept is not None
            for name, old in case.state.items():
                before, what = old[:1].astype(kept[name].dtype), f"state.{name} that is to be skipped"
                t.same(kept[name][:1], before, what, skip, control=finite)
        if t.asks("nonfinite=raise", refuse):
            t.rejects(refuse, FloatingPointError, "BN-RUN-10")
    clean = configured(case, nonfinite="raise")
    for own in filter(t.takes, (clean,)):
        t.agree(own, "state", control=finite)


@clauses("BN-RUN-11")
@explore(lambda s: strategies.cases(s, running=True, averaging="exponential", ghost_source="first"))
def test_extreme_weights(t: Trial, case: Case) -> None:
    """decay 1 keeps the old state to the bit whatever the batch; decay 0 takes the batch whatever was there."""
    assert case.state is not None
    x = case.ranks[0].x.copy()
    np.moveaxis(x, case.config.axis, 0)[0].flat[:1] = np.nan
    keeping = dataclasses.replace(case, ranks=(RankInputs(x),), config=dataclasses.replace(case.config, decay=1.0))
    t.same(t.run(keeping).ranks[0].state, case.state, "the state with decay 1", keeping, control=case)
    taking = configured(case, decay=0.0)
    spoilt = dataclasses.replace(taking, state={k: np.full_like(v, np.nan) for k, v in case.state.items()})
    usual, instead = (t.agree(own, "state", control=case).ranks[0] for own in (taking, spoilt))
    t.same(instead.state, usual.state, "the state with decay 0", spoilt)
    if case.config.correction == 0:
        assert usual.state is not None and usual.mean is not None and usual.var is not None
        batch = t.fit(taking)
        for name, value in (("mean", usual.mean), ("var", usual.var)):
            if t.is_right(batch, name):  # else it is this value that is wrong, and not the state
                want = value[0].astype(usual.state[name].dtype)
                t.same(usual.state[name], want, f"state.{name} with decay 0", taking, control=case)


@clauses("BN-RUN-12")
@explore(lambda s: strategies.cases(s, running=True), share=0.5)
def test_pure(t: Trial, case: Case) -> None:
    """The update returns new arrays; those of the old state hold what they held."""
    import bnspec

    backend = t.needs_backend()
    assert case.state is not None
    old = bnspec.RunningState(**{k: backend.asarray(v) for k, v in case.state.items()})
    before = {k: np.array(backend.to_numpy(v)) for k, v in old._asdict().items() if v is not None}
    params = bnspec.Params(*(None if v is None else backend.asarray(v) for v in (case.gamma, case.beta)))
    with np.errstate(all="ignore"):
        _, stats, _ = bnspec.batch_norm(backend.asarray(case.ranks[0].x), params, case.config)
        new = bnspec.update_running(old, stats, case.config)
    t.same({k: backend.to_numpy(v) for k, v in old._asdict().items() if v is not None}, before, "the old state", case)
    t.require(new.mean is not old.mean or case.config.decay == 1, "the new mean is the old array", case)


@clauses("BN-RUN-14", "BN-ERR-2")
@explore()
def test_below_zero(t: Trial) -> None:
    """A variance, deviation, counter, given count or m2 below 0 is refused where values are at hand; NaN is not."""
    import bnspec

    put = t.needs_backend().asarray
    x = put(np.asarray([[1.0, -2.0], [3.0, 2.0]], "float32"))
    if not is_readable(x):
        raise NeverSupported(f"a check of values would wait for {t.subject.name}")
    limits = Renorm(rmax=2.0, dmax=1.0)
    kinds: tuple[tuple[Averaging, Renorm | None], ...] = (
        ("exponential", None),
        ("exponential", limits),
        ("cumulative", None),
        ("debiased", None),
        ("pooled", None),
    )
    for averaging, renorm in kinds:
        config = BatchNormConfig(
            axis=1, epsilon=1e-5, decay=0.9, correction=0, averaging=averaging, renorm=renorm, center=False, scale=False
        )
        params, state = bnspec.init(config, channels=2, like=x)
        _, stats, _ = bnspec.batch_norm(x, params, config, state=state)

        def below(given: Any, field: str, value: float = -1) -> Any:
            values = np.array(t.needs_backend().to_numpy(getattr(given, field)))
            values[..., -1] = value
            return given._replace(**{field: put(values)})

        for field in ("var", "count", "stddev", "renorm_stddev"):
            if getattr(state, field) is None:
                continue
            bad = below(state, field)
            calls: list[Callable[[], Any]] = [partial(bnspec.update_running, bad, stats, config)]
            if field == "var" or averaging == "debiased":
                calls += [partial(bnspec.batch_norm_inference, x, params, bad, config),
                          partial(bnspec.running_statistics, bad, config)]  # fmt: skip
            elif field == "renorm_stddev":
                calls += [partial(bnspec.batch_norm, x, params, config, state=bad)]
            for call in calls:
                before = snapshot(t, x, *bad)
                t.refuses(call, ValueError, "BN-RUN-14")
                t.require(snapshot(t, x, *bad) == before, f"the refusal of state.{field} below 0 changed something")
        for field in ("count", "m2"):
            t.refuses(partial(bnspec.update_running, state, below(stats, field), config), ValueError, "BN-RUN-14")
            t.refuses(partial(bnspec.merge, stats, below(stats, field)), ValueError, "BN-RUN-14")
        with np.errstate(all="ignore"):
            bnspec.update_running(below(state, "var", np.nan), stats, config)
            bnspec.update_running(state, below(stats, "m2", np.nan), config)
            bnspec.batch_norm_inference(x, params, below(state, "var", np.nan), config)
