"""Checks of SPEC.md, "Inference and frozen"."""

import dataclasses
import itertools
import warnings
from typing import Any

import numpy as np

import bnspec
from bnspec import BatchNormConfig, Renorm
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import example
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


def drawn(s: Subject, **options: Any) -> Any:
    """Inference cases of every kind of state."""
    return strategies.cases(s, inference=True, running=True, lean=True, **options)


def inference_example(**fields: Any) -> Case:
    """Return a forced inference case, derivatives included."""
    config = BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 0} | fields))
    return dataclasses.replace(example(config), mode="inference", dmean=None, dvar=None)


#: Every averaging, a ghost batch that does not divide the batch, and both forms of renorm.
_KINDS: tuple[dict[str, Any], ...] = (
    {"averaging": "exponential", "virtual_batch_size": 3},
    {"averaging": "cumulative"},
    {"averaging": "pooled", "correction": 1},
    {"averaging": "debiased"},
    {"renorm": Renorm(rmax=3.0, dmax=5.0)},
    {"renorm": Renorm(form="paper", rmax=3.0, dmax=5.0), "scale": False},
)


@clauses("BN-INF-1")
@explore(drawn, share=1.5)
def test_formula(t: Trial, case: Case) -> None:
    """y is gamma*(x - mean)/sqrt(var + epsilon) + beta with the running statistics."""
    t.agree(case, "y")


@clauses("BN-INF-1", "BN-INF-2", "BN-INF-3")
@explore()
def test_kinds(t: Trial) -> None:
    """Every averaging, renorm and a ghost batch size that divides nothing: y and derivatives, and before any update."""
    for case in t.inside(inference_example(**fields) for fields in _KINDS):
        t.agree(case, "y", "dx", "dgamma", "dbeta", "ydot")
        fresh = strategies.states(case.config, case.channels, np.float32, 0, fresh=True)
        t.agree(dataclasses.replace(case, state=fresh), "y", "dx")


@clauses("BN-INF-1")
@explore(lambda s: strategies.cases(s, inference=True, lean=True, half_precision=False))
def test_far_mean(t: Trial, case: Case) -> None:
    """x - mean is taken before anything is multiplied: no digit is lost where the mean is large."""
    assert case.state is not None
    x = case.ranks[0].x
    case = dataclasses.replace(
        case,
        ranks=(RankInputs((x % 4 + 65536).astype(x.dtype)),),
        state=case.state | {"mean": np.full_like(case.state["mean"], 65537.5)},
    )
    t.agree(case, "y")


@clauses("BN-INF-2")
@explore(lambda s: drawn(s, ghost=True, derivatives=True))
def test_elements_alone(t: Trial, case: Case) -> None:
    """An element's y is the same to the bit in whatever batch, beside whatever values, and with a mask."""
    rank = case.ranks[0]
    whole = t.run(case).ranks[0]
    first = dataclasses.replace(case, ranks=(RankInputs(rank.x[:1]),))
    assert whole.y is not None
    t.same(t.run(first).ranks[0].y, whole.y[:1], "y of the first sample alone", case)
    x = rank.x.copy()
    x[1:] = float("nan")
    beside = t.run(dataclasses.replace(case, ranks=(RankInputs(x),))).ranks[0].y
    assert beside is not None
    t.same(beside[:1], whole.y[:1], "y of the first sample beside NaN", case)
    mask = np.zeros([1] * x.ndim, bool)
    veiled = dataclasses.replace(case, ranks=(dataclasses.replace(rank, mask=mask),))
    if t.takes(veiled):
        masked = t.run(veiled).ranks[0]
        for field in ("y", "dx", "dgamma", "dbeta", "ydot"):
            t.same(getattr(masked, field), getattr(whole, field), f"{field} with a mask", case)


@clauses("BN-INF-2")
@explore()
def test_no_other_rank(t: Trial) -> None:
    """Ranks do not join: each has the y and gradients of its own inference; an empty batch goes too."""
    case = inference_example()
    other = RankInputs(*(None if v is None else -2 * v for v in (case.ranks[0].x, case.ranks[0].dy)))  # type: ignore[arg-type]
    pair = dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], xdot=None), other))
    if t.takes(pair):
        both, alone = t.run(pair).ranks[0], t.run(case).ranks[0]
        for field in ("y", "dx", "dgamma", "dbeta"):
            t.same(getattr(both, field), getattr(alone, field), f"{field} beside another rank", case)
    empty = RankInputs(case.ranks[0].x[:0], case.ranks[0].x[:0])
    nothing = dataclasses.replace(case, ranks=(empty,), gamma_dot=None, beta_dot=None)
    t.agree(nothing, "y", "dx", "dgamma", "dbeta", control=case)


@clauses("BN-INF-3")
@explore(lambda s: drawn(s, derivatives=True))
def test_derivatives(t: Trial, case: Case) -> None:
    """The derivatives are those of an affine map; the statistics have no tangents."""
    with t.found.gathering():
        got = t.agree(case, "dx", "dgamma", "dbeta", "ydot").ranks[0]
        t.require(got.mean_dot is None and got.var_dot is None, "frozen statistics have tangents", case)
    rank = case.ranks[0]
    x = np.full_like(rank.x, float("inf"))
    far = t.run(dataclasses.replace(case, ranks=(dataclasses.replace(rank, x=x),))).ranks[0]
    t.same(far.dx, got.dx, "dx, which does not depend on x", case)


@clauses("BN-INF-3")
@explore()
def test_nothing_by_statistics_that_are_not_finite(t: Trial) -> None:
    """Parameter gradients of an empty batch are 0 also where the running statistics are NaN or infinite."""
    for array, value in itertools.product(("mean", "var"), (float("nan"), float("inf"))):
        some = inference_example()
        assert some.state is not None
        bad = some.state[array].copy()
        bad[0] = value
        rank = some.ranks[0]
        assert rank.dy is not None and rank.xdot is not None
        nothing = RankInputs(rank.x[:0], rank.dy[:0], None, rank.xdot[:0])
        empty = dataclasses.replace(some, ranks=(nothing,), state=some.state | {array: bad})
        control = dataclasses.replace(empty, state=some.state)
        t.agree(some, "dgamma", "dbeta", proves=())
        got = t.run(empty).ranks[0]
        for output in ("dgamma", "dbeta"):
            found = getattr(got, output)
            t.same(found, None if found is None else np.zeros_like(found), output, empty, control=control)


@clauses("BN-INF-3")
@explore()
def test_constants(t: Trial) -> None:
    """Running statistics get no gradient: a cotangent of them is refused."""
    backend = t.needs_backend()
    case = inference_example()
    x, state, params = placed(backend, case)
    _, saved = bnspec.batch_norm_inference(x, params, state, case.config)
    cotangent = backend.asarray(np.ones((1, 3), np.float32))
    t.refuses(lambda: bnspec.batch_norm_vjp(x, saved, dmean=cotangent), ValueError, "BN-GRAD-6")
    t.refuses(lambda: bnspec.batch_norm_vjp(x, saved, dvar=cotangent), ValueError, "BN-GRAD-6")


def placed(backend: Any, case: Case) -> tuple[Any, bnspec.RunningState, bnspec.Params]:
    """x, state and parameters of a case as the backend's arrays."""
    assert case.state is not None
    params = (None if v is None else backend.asarray(v) for v in (case.gamma, case.beta))
    state = bnspec.RunningState(**{k: backend.asarray(v) for k, v in case.state.items()})
    return backend.asarray(case.ranks[0].x), state, bnspec.Params(*params)


@clauses("BN-INF-4")
@explore(lambda s: drawn(s, derivatives=True), share=0.5)
def test_state_stays(t: Trial, case: Case) -> None:
    """Inference and its derivatives write no array of the state."""
    assert case.state is not None
    before = {k: v.copy() for k, v in case.state.items()}
    after = t.run(case).ranks[0].state
    t.same(case.state, before, "the state that was given", case)
    if after is not None:
        t.same(after, {k: v.astype(after[k].dtype) for k, v in before.items()}, "the state", case)


@clauses("BN-INF-4", "BN-INF-2")
@explore()
def test_layer_state_stays(t: Trial) -> None:
    """A layer that normalizes by its running statistics keeps every variable, whatever ema_update or mask."""
    backend = t.needs_backend()
    for fields in _KINDS:
        case = inference_example(**fields)
        x, _, _ = placed(backend, case)
        options = {k: v for k, v in fields.items() if k != "virtual_batch_size"}
        layer = bnspec.BatchNorm(axis=1, ema_update="internal", epsilon=1e-3, virtual_batch_size=2, **options)
        layer(x)
        before = {k: backend.to_numpy(v).copy() for k, v in layer.state_dict().items()}
        y = backend.to_numpy(layer.eval()(x))
        part, alone = backend.to_numpy(layer(x[:3, ...])), ("BN-INF-2",)
        t.same(part, y[:3], "y of a batch that ghost groups do not divide", case, proves=alone)
        mask = backend.asarray(np.zeros((4, 1, 1), bool))
        t.same(backend.to_numpy(layer(x, mask=mask)), y, "y with a mask", case, proves=alone)
        layer.forget()(x)
        layer.backward(x)
        after = {k: backend.to_numpy(v) for k, v in layer.state_dict().items()}
        t.same(after, before, "the layer's variables", case, proves=("BN-INF-4",))


@clauses("BN-INF-6")
@explore()
def test_switches(t: Trial) -> None:
    """Every combination of normalizing statistics, state updates and parameter gradients works."""
    backend = t.needs_backend()
    case = inference_example()
    x, state, params = placed(backend, case)
    dy = backend.asarray(case.ranks[0].dy)
    fields = {"decay": 0.75, "epsilon": 1e-3, "correction": 0}
    y, stats, saved = bnspec.batch_norm(x, params, case.config)
    still, frozen = bnspec.batch_norm_inference(x, params, state, case.config)
    moved = bnspec.update_running(state, stats, case.config)
    expected = {
        True: (y, bnspec.batch_norm_vjp(dy, saved)),
        False: (still, bnspec.batch_norm_vjp(dy, frozen)),
    }
    modes = ("internal", "collection", "skip", "default")
    for training, mode, trainable, where in itertools.product(
        (None, True, False), modes, (True, False), (None, True, False)
    ):
        if mode == "collection" and where is None:
            continue  # there is no collection to hand the update to
        batch = training if training is not None else where is not False
        layer = bnspec.BatchNorm(axis=1, training=training, ema_update=mode, trainable=trainable, **fields)  # type: ignore[arg-type]
        layer.params, layer.state = params, state
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bnspec.FrozenStatisticsWarning)
            if where is None:
                got = layer(x)
            else:
                with bnspec.training_context(where) as context:
                    got = layer(x)
                    context.updates.run()
        dx = layer.backward(dy)
        what = f"training={training}, ema_update={mode!r}, trainable={trainable}, context {where}: "
        want, gradients = expected[batch]
        t.same(backend.to_numpy(got), backend.to_numpy(want), what + "y", case)
        t.same(backend.to_numpy(dx), backend.to_numpy(gradients.x), what + "dx", case)
        updates = batch and mode != "skip" and not (mode == "collection" and where is False)
        for name in ("mean", "var"):
            then = getattr(moved if updates else state, name)
            t.same(backend.to_numpy(getattr(layer.state, name)), backend.to_numpy(then), what + name, case)
        assert layer.gradients is not None
        for name in ("gamma", "beta"):
            found = getattr(layer.gradients, name)
            t.require(
                (found is not None) == trainable, what + f"the gradient of {name} is there exactly when trainable", case
            )
            if found is not None:
                t.same(backend.to_numpy(found), backend.to_numpy(getattr(gradients, name)), what + f"d{name}", case)
