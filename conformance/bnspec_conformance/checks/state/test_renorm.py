"""Checks of SPEC.md, "Batch renormalization"."""

import dataclasses
import functools
from typing import Any

import numpy as np

import bnspec
from bnspec import BatchNormConfig, Renorm
from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import configured, example
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_FORMS = ("tensorpack", "paper")
#: Limits that no example reaches, so that r and d are functions of the batch there.
_WIDE = 2.0**40


def config(form: Any, **fields: Any) -> BatchNormConfig:
    """Renorm on axis 1 with limits that do not bind, unless told otherwise."""
    limits = {name: fields.pop(name, _WIDE) for name in ("rmax", "dmax")}
    renorm = Renorm(form=form, decay=0.5, **limits)
    usual: dict[str, Any] = {"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 0, "renorm": renorm}
    return BatchNormConfig(**(usual | fields))


def limited(case: Case, rmax: float, dmax: float) -> Case:
    """Return the same case with other limits."""
    assert case.config.renorm is not None
    renorm = dataclasses.replace(case.config.renorm, rmax=rmax, dmax=dmax)
    return configured(case, renorm=renorm)


def drawn(s: Subject, **options: Any) -> Any:
    """Renorm cases."""
    return strategies.cases(s, renorm=True, lean=True, **options)


@clauses("BN-RENORM-1")
@explore(lambda s: drawn(s, running=True))
def test_formula(t: Trial, case: Case) -> None:
    """y is gamma*(xhat*r + d) + beta, r and d clipped, and the statistics are the batch's own."""
    t.agree(case, "y")
    t.agree(limited(case, _WIDE, _WIDE), "y")


@clauses("BN-RENORM-1", "BN-RENORM-5", "BN-RENORM-6")
@explore()
def test_clipping_and_floor(t: Trial) -> None:
    """Each limit binds from both sides; the reference is the form's own, its deviation never below sqrt(epsilon)."""
    with t.found.gathering():  # each form breaks its own clause
        _clipped(t)


def _clipped(t: Trial) -> None:
    __tracebackhide__ = True
    for form in _FORMS:
        case = example(config(form))
        assert case.state is not None
        # One value per channel; below sqrt(epsilon), at 0, and far from the batch on either side.
        for deviation, centre in (((0.0, 1e-6, 0.03), (0.0, 5.0, 0.0)), ((100.0, 0.01, 1.0), (-1e3, 1e3, 0.5))):
            own = ("mean", "stddev") if form == "paper" else ("renorm_mean", "renorm_stddev")
            values = dict(zip(own, (centre, deviation), strict=True))
            state = case.state | {k: np.asarray(v, np.float32) for k, v in values.items()}
            for rmax, dmax in ((_WIDE, _WIDE), (1.25, 0.5), (1.0, 3.0), (3.0, 0.0)):
                t.agree(limited(dataclasses.replace(case, state=state), rmax, dmax), "y")


@clauses("BN-RENORM-2")
@explore(lambda s: drawn(s, derivatives=True, plain=True))
def test_corrections_are_constants(t: Trial, case: Case) -> None:
    """dx, dgamma, dbeta and ydot hold r and d constant where neither is clipped."""
    t.agree(limited(case, _WIDE, _WIDE), "dx", "dgamma", "dbeta", "ydot")
    t.agree(case, "dx", "dgamma", "dbeta", "ydot")


def neutral(form: Any) -> Case:
    """Batch mean and deviation equal the reference exactly: r is 1 and d is 0, with no limit near."""
    shift = np.asarray([0.0, 4.0, -3.0], np.float32)
    x = np.asarray([[0, 2, 0], [0, 0, 0], [2, 0, 0], [0, 0, 2]], np.float32) + shift
    case = example(config(form, epsilon=0.25), [x.shape])
    assert case.state is not None
    one, mean = np.ones(3, np.float32), shift + np.float32(0.5)
    state = {k: {"mean": mean, "renorm_mean": mean}.get(k, one) for k in case.state}
    return dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], x=x),), state=state)


def without(case: Case) -> Case:
    """Return the case without renorm and its variables."""
    state = {k: v for k, v in (case.state or {}).items() if k in ("mean", "var")}
    return dataclasses.replace(case, config=dataclasses.replace(case.config, renorm=None), state=state)


@clauses("BN-RENORM-3")
@explore(lambda s: drawn(s, derivatives=True, ghost=True, mask=True, ranks=2 if s.examples >= 10 else 1), share=0.5)
def test_closed_limits(t: Trial, case: Case) -> None:
    """rmax = 1 and dmax = 0 is batch normalization to the bit, whatever the reference."""
    case = limited(case, 1.0, 0.0)
    _equal(t, case)
    assert case.state is not None
    _equal(t, dataclasses.replace(case, state={k: np.zeros_like(v) for k, v in case.state.items()}))


def widened(case: Case) -> Case:
    """Return the same values in float64, where no cast hides a bit."""
    double = [
        RankInputs(r.x.astype("f8"), r.dy.astype("f8"), r.mask, r.xdot.astype("f8"))
        for r in case.ranks
        if r.dy is not None and r.xdot is not None
    ]
    return dataclasses.replace(case, ranks=tuple(double))


def _equal(t: Trial, case: Case) -> None:
    __tracebackhide__ = True
    if "float64" in t.subject.scope.dtypes:
        case = widened(case)
    for got, want in zip(t.run(case).ranks, t.run(without(case)).ranks, strict=True):
        for field in ("y", "dx", "dgamma", "dbeta", "ydot"):
            t.same(getattr(got, field), getattr(want, field), f"{field} with rmax=1 and dmax=0", case)


@clauses("BN-RENORM-2", "BN-RENORM-3")
@explore()
def test_neutral_reference(t: Trial) -> None:
    """A reference equal to the batch gives r = 1 and d = 0, so batch normalization, to the bit."""
    for form in _FORMS:
        _equal(t, neutral(form))


@clauses("BN-RENORM-4", "BN-RENORM-9")
@explore(lambda s: drawn(s, running=True, plain=True), share=0.7)
def test_steps(t: Trial, case: Case) -> None:
    """Every step is measured against the state that the step before left, while the limits change."""
    first, begin = case.ranks[0], case
    for step, (rmax, dmax) in enumerate(((3.0, 5.0), (1.0, 0.0), (_WIDE, _WIDE))):
        x = first.x if step == 0 else (first.x * (1 + step) + step).astype(first.x.dtype)
        case = limited(dataclasses.replace(case, ranks=(RankInputs(x),)), rmax, dmax)
        unmoved, begin = dataclasses.replace(case, update=False), case if step == 0 else begin
        got = t.run(case)
        with t.found.gathering():
            t.agree(case, "y", outcome=got, proves=("BN-RENORM-4",), control=without(case))
            if step:
                t.agree(case, "y", outcome=got, proves=("BN-RENORM-9",), control=begin)
            t.agree(case, "state", outcome=got, proves=())
            what = "y with and without an update in the step"
            t.same(t.run(unmoved).ranks[0].y, got.ranks[0].y, what, case, proves=("BN-RENORM-4",))
        case = dataclasses.replace(case, state=got.ranks[0].state)


@clauses("BN-RENORM-4")
@explore()
def test_layer_reads_before_it_writes(t: Trial) -> None:
    """A layer's y is the same whenever its update takes place; without a state there is no y."""
    backend = t.needs_backend()
    case = example(config("tensorpack"))
    x = backend.asarray(case.ranks[0].x)
    for form in _FORMS:
        results: dict[str, list[Array]] = {}
        for mode in ("internal", "collection", "skip"):
            layer = bnspec.BatchRenorm(_WIDE, _WIDE, axis=1, form=form, renorm_decay=0.5, decay=0.5, ema_update=mode)
            with bnspec.training_context() as context:
                results[mode] = [backend.to_numpy(layer(x))]
                context.updates.run()
                layer.rmax, layer.dmax = 1.25, 0.5
                results[mode].append(backend.to_numpy(layer(x)))
                context.updates.run()
        t.same(results["internal"][0], results["skip"][0], "y of the first step", case)
        t.same(results["internal"][0], results["collection"][0], "y of the first step", case)
        t.same(results["internal"][1], results["collection"][1], "y of the second step", case)
        t.require(not np.array_equal(results["internal"][1], results["skip"][1]), "the reference does not move", case)
    params, _ = bnspec.init(case.config, channels=3, like=x)
    t.refuses(lambda: bnspec.batch_norm(x, params, case.config), (TypeError, ValueError), "BN-RENORM-4")


@clauses("BN-RENORM-5", "BN-RENORM-6", "BN-RENORM-7")
@explore(lambda s: drawn(s, running=True, mask=True), share=1.5)
def test_state(t: Trial, case: Case) -> None:
    """The state has the form's variables; deviations are averaged, and var follows from stddev alone."""
    assert case.config.renorm is not None and case.state is not None
    own = {"renorm_mean", "renorm_stddev"} if case.config.renorm.form == "tensorpack" else set()
    state = t.agree(case, "state").ranks[0].state
    assert state is not None
    form = ("BN-RENORM-5" if own else "BN-RENORM-6",)
    t.require(set(state) == {"mean", "var", "stddev"} | own, f"the state has {sorted(state)}", case, proves=form)
    averaged = ("BN-RENORM-7",)
    t.require(bool(np.all(state["var"] >= 0)), "a running variance is negative", case, proves=averaged)
    other = dataclasses.replace(case, state=case.state | {"var": case.state["var"] + 77})
    t.same(t.run(other).ranks[0].state, state, "the state when only the old var differs", other, proves=averaged)


@clauses("BN-RENORM-5", "BN-RENORM-6", "BN-RENORM-7")
@explore()
def test_state_and_inference(t: Trial) -> None:
    """Corrections, decays and a deviation below sqrt(epsilon) show in the state and in what inference makes of it."""
    for form in _FORMS:
        for correction, decay, deviation in (
            (0, 0.75, 1.0),
            (1, 0.25, 2.0),
            (1, 0.0, 1.0),
            (0, 1.0, 0.0),
            (0, 1.0, 0.5),
        ):
            case = example(config(form, correction=correction, decay=decay, epsilon=1.0))
            assert case.state is not None
            case = dataclasses.replace(case, state=case.state | {"stddev": np.full(3, deviation, np.float32)})
            state = t.agree(case, "state").ranks[0].state
            after = dataclasses.replace(case, state=state, mode="inference", dmean=None, dvar=None)
            t.agree(after, "y", "dx")


@clauses("BN-RENORM-5")
@explore()
def test_averaging(t: Trial) -> None:
    """Renorm with an averaging other than exponential is refused."""
    t.needs_backend()
    for averaging in ("cumulative", "pooled", "debiased"):
        t.refuses(functools.partial(config, "tensorpack", averaging=averaging), ValueError, "BN-RENORM-5")


@clauses("BN-RENORM-8")
@explore(lambda s: drawn(s, running=True, ghost=True, mask=True, derivatives=True))
def test_ghost_groups(t: Trial, case: Case) -> None:
    """Every ghost group has its own r and d against the one state of before the step."""
    whole = configured(case, virtual_batch_size=None)
    t.agree(limited(case, _WIDE, _WIDE), "y", "dx", "dgamma", "ydot", "state", control=limited(whole, _WIDE, _WIDE))
    t.agree(case, "y", "state", control=whole)


@clauses("BN-RENORM-8")
@explore()
def test_ghost_sources_and_ranks(t: Trial) -> None:
    """The fed groups follow ghost_source; over ranks r and d come of the joined statistics, the same on all."""
    mask = np.asarray([True, False, True, True]).reshape(4, 1, 1)
    for form, source in zip(_FORMS * 2, ("first", "mean", "merged", "sequential"), strict=True):
        case = example(
            config(form, virtual_batch_size=2, ghost_source=source, correction=1), [(4, 3, 2)] * 2, (mask, None)
        )
        got = t.agree(case, "y", "dx", "dgamma", "state")
        t.same(got.ranks[0].state, got.ranks[1].state, "the state of two ranks", case)


@clauses("BN-RENORM-9")
@explore()
def test_limits(t: Trial) -> None:
    """rmax below 1, a negative dmax and limits that are not finite are refused; 1 and 0 are allowed."""
    t.needs_backend()
    nan, infinite = float("nan"), float("inf")
    for rmax, dmax in (
        (0.999, 1.0),
        (-2.0, 1.0),
        (nan, 1.0),
        (infinite, 1.0),
        (2.0, -1e-9),
        (2.0, nan),
        (2.0, infinite),
    ):
        t.refuses(functools.partial(Renorm, rmax=rmax, dmax=dmax), ValueError, "BN-RENORM-9")
    t.require(Renorm(rmax=1, dmax=0).rmax == 1, "rmax=1 and dmax=0 must be allowed")
    case, backend = example(config("paper")), t.needs_backend()
    x = backend.asarray(case.ranks[0].x)
    layer, other = (
        bnspec.BatchRenorm(*limits, axis=1, form="paper", ema_update="skip") for limits in ((_WIDE, _WIDE), (1.0, 0.0))
    )
    layer(x)
    layer.rmax, layer.dmax = 1.0, 0.0
    t.same(backend.to_numpy(layer(x)), backend.to_numpy(other(x)), "y after a change of the limits", case)
    t.refuses(lambda: setattr(layer, "rmax", 0.5), ValueError, "BN-RENORM-9")
    t.refuses(lambda: setattr(layer, "dmax", -1.0), ValueError, "BN-RENORM-9")
