"""Checks of SPEC.md, "Shapes and axes"."""

import dataclasses
from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, RankInputs, dtype_named
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import configured, example
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


@clauses("BN-SHAPE-1", "BN-SHAPE-2")
@explore(lambda s: strategies.cases(s, derivatives=True), share=0.5)
def test_every_axis(t: Trial, case: Case) -> None:
    """Every channel axis, counted from either end, reduces all others, at every rank from 2."""
    rank = case.ranks[0]
    for axis in (a for a in range(rank.x.ndim) if t.subject.scope.takes_axis(a, rank.x.ndim)):
        given = {k: v for k, v in vars(rank).items() if v is not None}
        moved = RankInputs(**{k: np.moveaxis(v, case.config.axis, axis).copy() for k, v in given.items()})
        own = dataclasses.replace(case, ranks=(moved,), config=dataclasses.replace(case.config, axis=axis))
        positive = t.agree(own, "y", "dx", "dgamma", "dbeta", "ydot").ranks[0]
        negative = t.run(configured(own, axis=axis - rank.x.ndim)).ranks[0]
        for name in ("y", "dx"):
            what = f"{name} with the axis counted from the end"
            t.same(getattr(negative, name), getattr(positive, name), what, own, proves=("BN-SHAPE-2",))


@clauses("BN-SHAPE-2")
@explore()
def test_each_rank(t: Trial) -> None:
    """Every rank, with every channel axis but that of the samples: all other axes are reduced, to the last one."""
    rng = np.random.default_rng(1)
    for ndim in t.subject.scope.ndims:
        places = range(1, ndim) if t.subject.examples >= 10 else {1, ndim - 1}
        for axis in (a for a in places if t.subject.scope.takes_axis(a, ndim)):
            config = BatchNormConfig(axis=axis, epsilon=1e-3, decay=0.9, correction=0)
            x = rng.standard_normal((3, 2, 3, 4, 2)[:ndim]).astype("float32")
            gamma, beta = rng.standard_normal((2, x.shape[axis])).astype("float32")
            t.agree(Case(config=config, ranks=(RankInputs(x),), gamma=gamma, beta=beta), "y")


@clauses("BN-SHAPE-3")
@explore(lambda s: strategies.cases(s, derivatives=True, ghost=True, running=True))
def test_output_form_and_inputs_untouched(t: Trial, case: Case) -> None:
    """y, dx and ydot have x's shape and dtype, and nothing that was given is written."""
    given = [
        case.gamma,
        case.beta,
        *(v for r in case.ranks for v in dataclasses.astuple(r)),
        *(case.state or {}).values(),
    ]
    before = [None if v is None else v.tobytes() for v in given]
    got, x = t.run(case).ranks[0], case.ranks[0].x
    for name in ("y", "dx", "ydot"):
        value = getattr(got, name)
        if value is None:
            continue
        t.require(value.shape == x.shape and value.dtype == x.dtype, f"{name} is {value.dtype}{value.shape}", case)
    t.require(
        before == [None if v is None else v.tobytes() for v in given], "an array that was given has changed", case
    )
    backend = t.subject.backend
    if backend is not None:
        _untouched_in_place(t, case, backend)


def _untouched_in_place(t: Trial, case: Case, backend: Any) -> None:
    """The same for the library's own arrays, which a copy on the way in would hide."""
    import bnspec

    arrays = {
        n: backend.asarray(v)
        for n, v in (("x", case.ranks[0].x), ("dy", case.ranks[0].dy), ("gamma", case.gamma), ("beta", case.beta))
        if v is not None
    }
    state = bnspec.RunningState(**{k: backend.asarray(v) for k, v in (case.state or {}).items()})
    before = {n: backend.to_numpy(v).tobytes() for n, v in arrays.items()}
    kept = {n: backend.to_numpy(v).tobytes() for n, v in state._asdict().items() if v is not None}
    params = bnspec.Params(arrays.get("gamma"), arrays.get("beta"))
    with np.errstate(all="ignore"):
        y, stats, saved = bnspec.batch_norm(arrays["x"], params, case.config)
        grads = bnspec.batch_norm_vjp(arrays["dy"], saved)
        bnspec.update_running(state, stats, case.config)
    t.require(
        before == {n: backend.to_numpy(v).tobytes() for n, v in arrays.items()}, "an input array was written", case
    )
    t.require(
        kept == {n: backend.to_numpy(v).tobytes() for n, v in state._asdict().items() if v is not None},
        "the old state was written",
        case,
    )
    for result, source in ((y, "x"), (grads.x, "dy")):
        t.require(result is not arrays[source], f"an output is {source} itself", case)


@clauses("BN-SHAPE-4", "BN-MASK-5")
@explore(lambda s: strategies.cases(s, derivatives=True, running=True), share=0.3)
def test_empty(t: Trial, case: Case) -> None:
    """No channels, no samples, or an empty axis between: results of the right shape and nothing else."""
    rank, axis = case.ranks[0], case.config.axis
    for where in (axis, *(a for a in range(rank.x.ndim) if a != axis)):

        def cut(v: Any, where: int = where) -> Any:
            return None if v is None else np.take(v, [], axis=where)

        def per_channel(v: Any, where: int = where) -> Any:
            return v[:0] if v is not None and where == axis else v

        own = dataclasses.replace(
            case,
            ranks=(RankInputs(cut(rank.x), cut(rank.dy), None, cut(rank.xdot)),),
            state={k: per_channel(v) for k, v in (case.state or {}).items()},
            **{k: per_channel(getattr(case, k)) for k in ("gamma", "beta", "gamma_dot", "beta_dot")},
        )
        part = "channels" if where == axis else "samples" if where == 0 else "spatial"
        if not t.asks(f"nothing in {part}", own, "BN-SHAPE-4" if where == axis else "BN-MASK-5"):
            continue
        outcome, results = t.run(own), ("y", "dx", "dgamma", "dbeta", "ydot", "count", "mean", "var")
        got, counted = outcome.ranks[0].state, ("BN-RUN-9",) if where != axis else ("BN-SHAPE-4",)
        # Without channels there is a clause; without samples it is that of an empty batch, or each output's formula.
        empty = ("BN-SHAPE-4",) if where == axis else tuple(c for c in t.clauses if c == "BN-MASK-5")
        with t.found.gathering():
            t.agree(own, *results, outcome=outcome, proves=empty, control=case)
            if got is not None:  # what count 0 does to it is the clause of the state
                t.agree(own, "state", outcome=outcome, proves=counted, control=case)
            if where != axis and got is not None and own.state is not None:
                kept = {k: v.astype(got[k].dtype) for k, v in own.state.items()}  # JAX may have no int64 counter
                t.same(got, kept, "the state after a batch without elements", own, proves=counted, control=case)


@clauses("BN-SHAPE-4")
@explore()
def test_inference_without_channels(t: Trial) -> None:
    """Inference without channels, or of nothing, returns arrays of the right shape, its derivatives too."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    usual = dataclasses.replace(example(config), mode="inference", dmean=None, dvar=None)
    none = dataclasses.replace(example(config, [(4, 0, 2)]), mode="inference", dmean=None, dvar=None)
    for case in t.inside([none]):
        t.agree(usual, "y", proves=())
        t.agree(case, "y", "dx", "dgamma", "dbeta", "ydot", proves=("BN-SHAPE-4",), control=usual)


@clauses("BN-SHAPE-3")
@explore()
def test_byte_order(t: Trial) -> None:
    """y, dx and ydot have the byte order of x, whatever the machine's is, in training and in inference."""
    import bnspec

    backend = t.needs_backend()
    if backend.name != "numpy":
        raise t.has_nothing("its arrays have the byte order of the machine")
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    for name in ("float16", "float32", "float64"):
        orders: tuple[Any, ...] = ("<", ">")
        for order in orders:
            x = np.asarray([[1.0, -2.0], [3.0, 2.0], [0.5, 0.25]]).astype(np.dtype(name).newbyteorder(order))
            params, state = bnspec.init(config, channels=2, like=x)
            y, _, saved = bnspec.batch_norm(x, params, config)
            still, frozen = bnspec.batch_norm_inference(x, params, state, config)
            found = [("y", y), ("y of inference", still)]
            for kept, of in ((saved, ""), (frozen, " of inference")):
                found.append((f"dx{of}", bnspec.batch_norm_vjp(x, kept).x))
                found.append((f"ydot{of}", bnspec.batch_norm_tangents(x, kept).y))
            for what, array in found:
                t.require(array.dtype == x.dtype, f"{what} of a {x.dtype.str} x is {array.dtype.str}")


@clauses("BN-SHAPE-5")
@explore()
def test_dtypes(t: Trial) -> None:
    """Every floating dtype the subject declares is taken, and gives back its own; every other is refused."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    rng = np.random.default_rng(0)
    for name in t.subject.scope.dtypes:
        x = rng.standard_normal((4, 3)).astype(dtype_named(name))
        case = t.subject.scope.arrange(
            Case(config=config, ranks=(RankInputs(x, dy=x),), gamma=np.ones(3, "float32"), beta=np.zeros(3, "float32"))
        )
        with t.found.gathering():
            got = t.agree(case, "y", "dx").ranks[0]
            t.require(got.y is not None and got.y.dtype == x.dtype, f"y of a {name} x has another dtype", case)
    backend = t.subject.backend
    if backend is None:
        return
    for dtype in ("int32", "bool"):
        x = backend.asarray(np.ones((4, 3), dtype))
        t.refuses(lambda x=x: _forward(x, config, backend), TypeError, "BN-SHAPE-5")  # type: ignore[misc]


@clauses("BN-SHAPE-6")
@explore()
def test_parameter_shapes(t: Trial) -> None:
    """Parameters and state of another length, or with axes of length 1, are refused."""
    backend = t.needs_backend()
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    x = backend.asarray(np.ones((4, 3), "float32"))
    for shape in ((1,), (4,), (1, 3), ()):
        odd = backend.asarray(np.ones(shape, "float32"))
        good = backend.asarray(np.ones(3, "float32"))
        t.refuses(lambda o=odd: _forward(x, config, backend, gamma=o), ValueError, "BN-SHAPE-6")  # type: ignore[misc]
        t.refuses(lambda o=odd: _forward(x, config, backend, beta=o), ValueError, "BN-SHAPE-6")  # type: ignore[misc]
        t.refuses(lambda o=odd, g=good: _infer(x, config, backend, o, g), ValueError, "BN-SHAPE-6")  # type: ignore[misc]
        t.refuses(lambda o=odd, g=good: _infer(x, config, backend, g, o), ValueError, "BN-SHAPE-6")  # type: ignore[misc]


@clauses("BN-SHAPE-1", "BN-SHAPE-2")
@explore()
def test_refused_ranks_and_axes(t: Trial) -> None:
    """Rank 0 and 1, and an axis beyond the rank, are refused."""
    backend = t.needs_backend()
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    for shape in ((), (3,)):
        x = backend.asarray(np.ones(shape, "float32"))
        t.refuses(lambda x=x: _forward(x, config, backend), ValueError, "BN-SHAPE-1")  # type: ignore[misc]
    x = backend.asarray(np.ones((4, 3), "float32"))
    for axis in (2, -3, 7):
        own = dataclasses.replace(config, axis=axis)
        t.refuses(lambda c=own: _forward(x, c, backend), ValueError, "BN-SHAPE-2")  # type: ignore[misc]


def _forward(x: Any, config: Any, backend: Any, **parameters: Any) -> Any:
    import bnspec

    one, zero = (backend.asarray(np.full(3, v, "float32")) for v in (1, 0))
    return bnspec.batch_norm(x, bnspec.Params(parameters.get("gamma", one), parameters.get("beta", zero)), config)


def _infer(x: Any, config: Any, backend: Any, mean: Any, var: Any) -> Any:
    import bnspec

    one, zero = (backend.asarray(np.full(3, v, "float32")) for v in (1, 0))
    return bnspec.batch_norm_inference(x, bnspec.Params(one, zero), bnspec.RunningState(mean, var), config)
