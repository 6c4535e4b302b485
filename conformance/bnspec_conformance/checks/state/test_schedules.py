"""Checks of numbers that are given with a call: limits of renorm and the decay, in the place of a configuration's."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Case, Outcome, RankOutcome
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import configured, example
from bnspec_conformance.checks.state.test_renorm import config, limited
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_RMAX, _DMAX, _DECAY = 1.25, 0.5, 0.375


def scheduled(t: Trial, case: Case, schedule: bnspec.Schedule, compiled: Callable[..., Any] | None = None) -> Outcome:
    """Return what a step of a case gives with a schedule, which is an input of the program where there is one."""
    backend, held = t.needs_backend(), case.state
    assert held is not None
    put = {k: None if v is None else backend.asarray(v) for k, v in (("gamma", case.gamma), ("beta", case.beta))}
    params = bnspec.Params(**put)
    state = bnspec.RunningState(**{k: backend.asarray(v) for k, v in held.items()})

    def step(x: Any, schedule: bnspec.Schedule) -> tuple[Any, Any]:
        y, stats, _ = bnspec.batch_norm(x, params, case.config, state=state, schedule=schedule)
        new = bnspec.update_running(state, stats, case.config, schedule=schedule)
        return y, {k: v for k, v in new._asdict().items() if v is not None}

    with np.errstate(all="ignore"):
        y, new = (compiled or (lambda f: f))(step)(backend.asarray(case.ranks[0].x), schedule)
    return Outcome((RankOutcome(y=backend.to_numpy(y), state={k: backend.to_numpy(v) for k, v in new.items()}),))


def ways(t: Trial) -> list[tuple[str, Callable[[float], Any], Callable[..., Any] | None]]:
    """List how numbers are given: as Python's, as arrays, and to JAX's compiler, which does not know them."""
    backend = t.needs_backend()

    def array(v: float) -> Any:
        return backend.asarray(np.asarray(v, "float32"))

    found: list[Any] = [("numbers", float, None), ("arrays", array, None)]
    if backend.name == "jax":
        import jax

        found.append(("inputs of a compiled program", array, jax.jit))
    return found


def plain(subject: Subject) -> Any:
    """Cases of renorm without ranks, masks and groups."""
    return strategies.cases(subject, renorm=True, lean=True, running=True, plain=True)


@clauses("BN-RENORM-9", "BN-RUN-1")
@explore(plain, share=lambda s: 0.2 if s.name.startswith("jax") else 0.5)
def test_numbers_of_a_call(t: Trial, case: Case) -> None:
    """Limits and a decay that are given with a call act as those of a configuration do."""
    other = configured(limited(case, _RMAX, _DMAX), decay=_DECAY)
    for _, given, compiled in ways(t):
        got = scheduled(t, case, bnspec.Schedule(given(_RMAX), given(_DMAX), given(_DECAY)), compiled)
        with t.found.gathering():
            t.agree(other, "y", outcome=got, proves=("BN-RENORM-9",), control=limited(case, 3.0, 5.0))
            t.agree(other, "state", outcome=got, proves=("BN-RUN-1",))


@clauses("BN-RENORM-9", "BN-RUN-1")
@explore()
def test_each_number_of_a_call(t: Trial) -> None:
    """Each number takes the place of its own one, and of no other; the configuration keeps what it has."""
    for form in ("tensorpack", "paper"):
        case = example(config(form, rmax=3.0, dmax=5.0))
        assert case.state is not None
        far = {"mean": -3.0, "renorm_mean": -3.0, "stddev": 0.25, "renorm_stddev": 0.25}
        case = dataclasses.replace(case, state={k: np.full_like(v, far.get(k, 1.0)) for k, v in case.state.items()})
        for name, given, compiled in ways(t):
            for field, value, other, clause in (
                ("rmax", _RMAX, limited(case, _RMAX, 5.0), "BN-RENORM-9"),
                ("dmax", _DMAX, limited(case, 3.0, _DMAX), "BN-RENORM-9"),
                ("decay", _DECAY, configured(case, decay=_DECAY), "BN-RUN-1"),
            ):
                got = scheduled(t, case, bnspec.Schedule(**{field: given(value)}), compiled)
                t.agree(other, "y", "state", outcome=got, proves=(clause,))
            again = scheduled(t, case, bnspec.Schedule(), compiled)
            t.agree(case, "y", "state", outcome=again, proves=("BN-RENORM-9",))
            _out_of_range(t, case, name, given, compiled)


def _out_of_range(t: Trial, case: Case, name: str, given: Any, compiled: Any) -> None:
    """Require a number out of its range to be refused where it can be read, and to make NaN where it cannot."""
    __tracebackhide__ = True
    bad = (("rmax", 0.5, "BN-RENORM-9"), ("dmax", -1.0, "BN-RENORM-9"), ("decay", 1.5, "BN-RUN-1"))
    for field, value, clause in bad:
        schedule = bnspec.Schedule(**{field: given(value)})
        call = functools.partial(scheduled, t, case, schedule, compiled)
        if name == "numbers":
            t.refuses(call, ValueError, clause)
            continue
        try:
            (got,) = call().ranks
        except ValueError as error:
            t.require(clause in str(error), f"{field}={value} is refused without its clause", case, proves=(clause,))
        else:
            assert got.y is not None and got.state is not None
            kept = got.y if field != "decay" else got.state["mean"]
            text = f"{field}={value}, which cannot be read, makes no NaN"
            t.require(bool(np.isnan(kept).all()), text, case, proves=(clause,))


@clauses("BN-RENORM-9")
@explore()
def test_numbers_of_a_call_are_constants(t: Trial) -> None:
    """No derivative passes through a number that is given with a call, where the library differentiates."""
    backend = t.needs_backend()
    if backend.name not in ("jax", "torch"):
        raise t.has_nothing(f"{t.subject.name} differentiates nothing by itself")
    case = example(config("tensorpack", rmax=3.0, dmax=5.0))
    x, params = backend.asarray(case.ranks[0].x), bnspec.Params(backend.asarray(case.gamma), backend.asarray(case.beta))
    assert case.state is not None
    state = bnspec.RunningState(**{k: backend.asarray(v) for k, v in case.state.items()})

    def loss(rmax: Any, dmax: Any, decay: Any) -> Any:
        schedule = bnspec.Schedule(rmax, dmax, decay)
        y, stats, _ = bnspec.batch_norm(x, params, case.config, state=state, schedule=schedule)
        return (y * y).sum() + bnspec.update_running(state, stats, case.config, schedule=schedule).mean.sum()

    numbers = [backend.asarray(np.asarray(v, "float32")) for v in (_RMAX, _DMAX, _DECAY)]
    if backend.name == "jax":
        import jax

        found = [float(v) for v in jax.grad(loss, argnums=(0, 1, 2))(*numbers)]
        t.require(found == [0.0, 0.0, 0.0], f"the derivatives by rmax, dmax and decay are {found}", case)
        return
    got = loss(*(v.requires_grad_() for v in numbers))
    t.require(not got.requires_grad, "the result has derivatives by rmax, dmax or decay", case)
