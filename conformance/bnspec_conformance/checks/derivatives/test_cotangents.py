"""Checks of BN-GRAD-6 and BN-GRAD-4 where cotangents and tangents meet masks, groups, renorm and what is absent."""

import dataclasses
from typing import Any

import numpy as np

import bnspec
from bnspec import Renorm
from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_MASK = np.asarray([[1, 0], [1, 1], [0, 0], [1, 1]], bool).reshape(4, 1, 2)
_NAN = float("nan")
#: An element that is masked.
_POSITION = (2, 1, 0)
#: Alone, in groups, under renorm, with a mask, and all of them.
_KINDS: tuple[tuple[dict[str, Any], Array | None], ...] = (
    ({}, None),
    ({"virtual_batch_size": 2}, None),
    ({"renorm": Renorm(rmax=4.0, dmax=5.0)}, None),
    ({}, _MASK),
    ({"renorm": Renorm(form="paper", rmax=4.0, dmax=5.0), "virtual_batch_size": 2}, _MASK),
)


def made(mask: Array | None = None, ranks: int = 1, **fields: Any) -> Case:
    """Return a case on axis 1 with everything there is to be derived, and no update."""
    case = example(config(**fields), [(4, 3, 2)] * ranks, [mask] * ranks)
    kept: dict[str, Any] = {"state": None} if case.config.renorm is None else {"update": False}
    return dataclasses.replace(case, **kept)


def held(case: Case, **values: float) -> Case:
    """Return the case with a value at one masked position of x or xdot."""
    rank = case.ranks[0]
    arrays = {name: np.array(getattr(rank, name)) for name in values}
    for name, value in values.items():
        arrays[name][_POSITION] = value
    return dataclasses.replace(case, ranks=(dataclasses.replace(rank, **arrays),))


@clauses("BN-GRAD-6")
@explore()
def test_one_at_a_time(t: Trial) -> None:
    """A cotangent of the mean alone, of the variance alone, and both: in groups, masked, under renorm, over ranks."""
    cases = [made(mask, **fields) for fields, mask in _KINDS]
    cases += [made(None, 2), made(_MASK, 2, virtual_batch_size=2), made(_MASK, 2, sync_weighting="rank")]
    for case in t.inside(cases):
        none = dataclasses.replace(case, dmean=None, dvar=None)
        one_left: tuple[dict[str, Any], ...] = ({"dvar": None}, {"dmean": None}, {})
        for without in one_left:
            t.agree(dataclasses.replace(case, **without), "dx", control=none)


@clauses("BN-GRAD-6")
@explore()
def test_frozen(t: Trial) -> None:
    """In inference a cotangent of a statistic belongs to nothing, and is refused."""
    put = t.needs_backend().asarray
    case = made()
    x, params = put(case.ranks[0].x), bnspec.Params(put(case.gamma), put(case.beta))
    state = bnspec.RunningState(*(put(np.ones(3, "float32")) for _ in range(2)))
    _, saved = bnspec.batch_norm_inference(x, params, state, case.config)
    cotangent = put(np.ones((1, 3), "float32"))
    t.refuses(lambda: bnspec.batch_norm_vjp(x, saved, dmean=cotangent), ValueError, "BN-GRAD-6")
    t.refuses(lambda: bnspec.batch_norm_vjp(x, saved, dvar=cotangent), ValueError, "BN-GRAD-6")


@clauses("BN-GRAD-4")
@explore()
def test_masked_tangents(t: Trial) -> None:
    """A masked tangent reaches ydot at its own position only, whatever its value is."""
    for case in t.inside(made(_MASK, **fields) for fields, mask in _KINDS if mask is not None):
        zero = held(case, xdot=0.0)
        usual = t.agree(zero, "ydot", "mean_dot", "var_dot", proves=()).ranks[0]
        for value in (1e3, _NAN, float("inf")):
            own = held(case, xdot=value)
            got = t.run(own).ranks[0]
            elsewhere = np.ones(own.ranks[0].x.shape, bool)
            elsewhere[_POSITION] = False
            for name, where in (("ydot", elsewhere), ("mean_dot", ...), ("var_dot", ...)):
                found, want = getattr(got, name), getattr(usual, name)
                if found is not None and want is not None:
                    t.same(found[where], want[where], f"{name} beside a masked tangent", own, output=name)


@clauses("BN-GRAD-4")
@explore()
def test_absent_parameters(t: Trial) -> None:
    """A parameter that does not exist has no term: neither a masked NaN nor a NaN for d reaches ydot by it."""
    by_nan = made(scale=False, renorm=Renorm(rmax=4.0, dmax=5.0))
    assert by_nan.state is not None
    reference = np.where(np.arange(3) == 0, _NAN, by_nan.state["renorm_mean"]).astype("float32")
    far = dataclasses.replace(by_nan, state=by_nan.state | {"renorm_mean": reference})
    veiled = held(made(_MASK, scale=False), x=_NAN)
    if t.asks("a masked NaN beside no gamma", veiled) and t.is_silently_right(held(made(_MASK), x=_NAN), "ydot"):
        t.agree(veiled, "ydot", control=made(_MASK, scale=False))  # else it is the NaN, and not the absent term
    if t.asks("a d of NaN beside no gamma", far):
        t.agree(by_nan, "ydot", proves=())
        got, want = (t.run(own).ranks[0].ydot for own in (far, by_nan))
        t.same(got, want, "ydot, into which no d goes,", far, output="ydot")
