"""Checks of SPEC.md, "Determinism"."""

import copy
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import bnspec
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.checks import strategies
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_EVERYTHING = ("y", "mean", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")


def whole(subject: Subject) -> st.SearchStrategy[Case]:
    """Cases that ask for everything: derivatives, and where the subject is no compiler's also masks and the state."""
    plain = strategies.cases(subject, derivatives=True, running=True)
    if subject.examples < 10:
        return plain
    return st.one_of(
        plain,
        strategies.cases(subject, ghost=True, derivatives=True),
        strategies.cases(subject, mask=True, derivatives=True),
    )


def values_of(outcome: RankOutcome) -> dict[str, Any]:
    """Return the fields that are there."""
    return {
        f.name: getattr(outcome, f.name) for f in dataclasses.fields(outcome) if getattr(outcome, f.name) is not None
    }


@clauses("BN-DET-1")
@explore(whole, share=0.3)
def test_same_bits(t: Trial, case: Case) -> None:
    """The same call gives the same bits, whatever ran in between."""
    first = copy.deepcopy(values_of(t.run(case).ranks[0]))
    other = dataclasses.replace(
        case, ranks=(RankInputs(-3 * case.ranks[0].x[..., ::-1].copy()),), gamma_dot=None, beta_dot=None
    )
    t.run(other)
    t.same(values_of(t.run(case).ranks[0]), first, "the second result", case)


@clauses("BN-DET-1")
@explore(lambda s: strategies.dtypes(s) if s.examples >= 10 else st.just(np.dtype("float32")), share=0.1)
def test_same_bits_of_many(t: Trial, dtype: Any) -> None:
    """A batch large enough to be divided among threads gives the same bits every time."""
    rng = np.random.default_rng(4)
    shape = (64, 24, 24, 8) if t.subject.examples >= 10 else (4, 3, 2, 2)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    config = bnspec.BatchNormConfig(axis=3, epsilon=1e-5, decay=0.9, correction=0)
    case = t.subject.scope.arrange(Case(config=config, ranks=(RankInputs(x + dtype.type(3), dy),)))
    first = copy.deepcopy(values_of(t.run(case).ranks[0]))
    for _ in range(2):
        t.same(values_of(t.run(case).ranks[0]), first, "a later result", case)


class Compiler(NamedTuple):
    """Ways of a library to compile a call."""

    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    trace: Callable[[Callable[..., Any], Array], Any]  # a call on an array's shape and dtype alone
    errors: tuple[type[Exception], ...]  # that a call which is being compiled raises for what the call refuses
    share: float  # of the subject's cases that are compiled: each takes seconds


def compiler(subject: Subject) -> Compiler:
    """`jax.jit` or `torch.compile`, or not supported."""
    library = None if subject.backend is None else subject.backend.name
    if library == "jax":
        import jax

        trace = lambda f, v: jax.eval_shape(f, jax.ShapeDtypeStruct(v.shape, v.dtype))  # noqa: E731
        return Compiler(jax.jit, trace, (ValueError, TypeError), 0.5)
    if library == "torch":
        return _of_torch()
    raise NotSupported(f"{subject.name} has no calls that are traced and compiled, as jax.jit does")


def _of_torch() -> Compiler:
    """Record a call as one graph, without torch's C++: that would take minutes and is torch's own."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    def graph(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            torch._dynamo.reset()  # each case is a graph of its own, and only so many are kept
            with warnings.catch_warnings():  # of torch's compiler, about itself and about caches that it does not keep
                warnings.simplefilter("ignore")
                return torch.compile(f, fullgraph=True, backend="aot_eager")(*args)

        return call

    def trace(f: Callable[..., Any], v: Array) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return f(torch.empty(v.shape, dtype=getattr(torch, v.dtype.name)))

    return Compiler(graph, trace, (ValueError, TypeError, RuntimeError), 0.25)


def compilable(subject: Subject) -> st.SearchStrategy[Case]:
    """Cases with everything, where the library compiles."""
    compiler(subject)
    plain = strategies.cases(subject, derivatives=True, running=True)
    if subject.examples < 10:
        return plain
    return st.one_of(plain, strategies.cases(subject, ghost=True, derivatives=True, running=True))


def compiled(t: Trial, case: Case) -> Outcome:
    """Return the case inside one compiled function."""
    backend, rank, held = t.needs_backend(), case.ranks[0], case.state
    assert held is not None
    put = {
        k: None if v is None else backend.asarray(v)
        for k, v in {**vars(rank), **vars(case)}.items()
        if isinstance(v, np.ndarray)
    }
    params = bnspec.Params(put.get("gamma"), put.get("beta"))
    state = bnspec.RunningState(**{k: backend.asarray(v) for k, v in held.items()})

    def step(x: Any, dy: Any, xdot: Any, params: Any, dots: Any, state: Any) -> dict[str, Any]:
        y, stats, saved = bnspec.batch_norm(x, params, case.config, state=state)
        grads = bnspec.batch_norm_vjp(dy, saved)
        tangents = bnspec.batch_norm_tangents(xdot, saved, *dots)
        new = bnspec.update_running(state, stats, case.config)
        return {"y": y, "mean": stats.mean + stats.mean_low, "var": stats.var, "dx": grads.x, "dgamma": grads.gamma,
                "dbeta": grads.beta, "ydot": tangents.y, "mean_dot": tangents.mean, "var_dot": tangents.var,
                "state": {k: v for k, v in new._asdict().items() if v is not None}}  # fmt: skip

    dots = put.get("gamma_dot"), put.get("beta_dot")
    found = compiler(t.subject).compile(step)(put["x"], put["dy"], put["xdot"], params, dots, state)
    kept = {k: backend.to_numpy(v) for k, v in found.pop("state").items()}
    arrays = {k: None if v is None else backend.to_numpy(v) for k, v in found.items()}
    return Outcome((RankOutcome(state=kept, **arrays),))


@clauses("BN-DET-3")
@explore(compilable, share=lambda subject: compiler(subject).share)
def test_compiled(t: Trial, case: Case) -> None:
    """Forward, vjp, jvp and update inside jax.jit or torch.compile equal the eager call within the bound."""
    rank = case.ranks[0]
    far = RankInputs(rank.x + rank.x.dtype.type(30), rank.dy, None, rank.xdot)  # where a rewritten variance would show
    case = dataclasses.replace(case, ranks=(far,))
    reference = exact(case)
    t.agree(case, *_EVERYTHING, "state", reference=reference, proves=())
    t.agree(case, *_EVERYTHING, "state", reference=reference, outcome=compiled(t, case))


@clauses("BN-DET-3")
@explore()
def test_raises_at_tracing(t: Trial) -> None:
    """A call refused for its shape, dtype or configuration is refused while tracing too, with the eager call's text."""
    how = compiler(t.subject)
    put = t.needs_backend().asarray
    ghost = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=1, virtual_batch_size=3)
    config = dataclasses.replace(ghost, virtual_batch_size=None)
    x = put(np.ones((4, 2), "float32"))
    params, state = bnspec.init(config, channels=2, like=x)
    _, saved_of_x = bnspec.batch_norm_inference(x, params, state, config)
    short = bnspec.RunningState(state.mean[:1], state.var)

    def forward(config: Any = config, params: Any = params, **more: Any) -> Callable[[Any], Any]:
        return lambda v: bnspec.batch_norm(v, params, config, **more)[0]

    rows: list[tuple[str, Callable[[Any], Any], Array]] = [
        ("BN-SHAPE-1", forward(), np.ones(2, "float32")),
        ("BN-SHAPE-2", forward(dataclasses.replace(config, axis=2)), np.ones((4, 2), "float32")),
        ("BN-SHAPE-5", forward(), np.ones((4, 2), "int32")),
        ("BN-SHAPE-6", forward(), np.ones((4, 3), "float32")),
        ("BN-GRP-3", forward(ghost), np.ones((4, 2), "float32")),
        ("BN-MASK-7", forward(mask=put(np.ones((3, 2), bool))), np.ones((4, 2), "float32")),
        ("BN-SHAPE-6", lambda v: bnspec.batch_norm_inference(v, params, short, config)[0], np.ones((4, 2), "float32")),
        ("BN-GRAD-1", lambda v: bnspec.batch_norm_vjp(v, saved_of_x).x, np.ones((5, 2), "float32")),
    ]
    own = ("BN-DET-3",)
    for clause, call, bad in rows:
        eager = t.refuses(lambda: call(put(bad)), (ValueError, TypeError), clause, proves=(clause,))  # noqa: B023
        traced = t.refuses(lambda: how.trace(call, bad), (ValueError, TypeError), clause, proves=own)  # noqa: B023
        t.require(traced == eager, f"traced: {traced}\neager:  {eager}")
        t.refuses(lambda: how.compile(call)(put(bad)), how.errors, clause, proves=own)  # noqa: B023
