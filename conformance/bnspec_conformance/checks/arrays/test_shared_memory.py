"""Checks of BN-DET-2 and BN-SHAPE-3 where arrays of one call are the same memory."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.cases.inputs.memory import apart, arrays_of
from bnspec_conformance.cases.inputs.sizes import plain_config
from bnspec_conformance.checks.examples import example
from bnspec_conformance.checks.forward.test_determinism import values_of
from bnspec_conformance.checks.placing import library_of, run_shared
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

#: Names of arrays, as `cases.inputs.memory.ROLES` has them, and a change of a case by which they become one memory.
Sharing = tuple[str, Callable[[Case], Case]]

#: Elements between views of one memory: a line of a cache, so that each begins as an array of its own does.
_LINE = 16


def _rank(case: Case, **arrays: Any) -> Case:
    return dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], **arrays), *case.ranks[1:]))


def _state(case: Case, **arrays: Any) -> Case:
    return dataclasses.replace(case, state=(case.state or {}) | arrays)


def _overlapping(case: Case) -> Case:
    """Return x, dy and xdot a line apart in the same memory."""
    x = case.ranks[0].x
    room = np.resize(x.ravel(), x.size + 2 * _LINE)
    views = [room[k * _LINE : k * _LINE + x.size].reshape(x.shape) for k in range(3)]
    return _rank(case, **dict(zip(("x", "dy", "xdot"), views, strict=True)))


def _one_block(case: Case) -> Case:
    """Return gamma, beta and the state as the rows of one block."""
    assert case.gamma is not None and case.beta is not None and case.state is not None
    block = np.stack([case.gamma, case.beta, case.state["mean"], case.state["var"]])
    return dataclasses.replace(_state(case, mean=block[2], var=block[3]), gamma=block[0], beta=block[1])


def _mean_is_var(case: Case) -> Case:
    assert case.state is not None
    return _state(case, mean=case.state["var"])  # which is not negative


#: By what is the same memory, in the words of a report.
_SHARED: Mapping[str, Sharing] = {
    "dy is x": ("dy", lambda case: _rank(case, dy=case.ranks[0].x)),
    "xdot is x": ("xdot", lambda case: _rank(case, xdot=case.ranks[0].x)),
    "xdot is dy": ("dy xdot", lambda case: _rank(case, xdot=case.ranks[0].dy)),
    "x, dy and xdot overlap": ("dy xdot", _overlapping),
    "beta is gamma": ("gamma beta", lambda case: dataclasses.replace(case, beta=case.gamma)),
    "gamma_dot is gamma": ("gamma gamma_dot", lambda case: dataclasses.replace(case, gamma_dot=case.gamma)),
    "gamma is the running mean": (
        "gamma mean",
        lambda case: dataclasses.replace(case, gamma=(case.state or {})["mean"]),
    ),
    "beta is the running variance": (
        "beta var",
        lambda case: dataclasses.replace(case, beta=(case.state or {})["var"]),
    ),
    "the running mean is the variance": ("mean var", _mean_is_var),
    "vectors are rows of one block": ("gamma beta mean var", _one_block),
    "dmean is dvar": ("dmean dvar", lambda case: dataclasses.replace(case, dvar=case.dmean)),
}

#: Of views into one memory, which are made as NumPy arrays.
_VIEWS = ("x, dy and xdot overlap", "vectors are rows of one block")


@clauses("BN-DET-2", "BN-SHAPE-3")
@explore()
def test_shared_memory(t: Trial) -> None:
    """Arrays that are the same memory give the bits of separate ones of the same values, and none is written."""
    library, scope = library_of(t.subject), t.subject.scope
    given = scope.arrange(example(plain_config(scope, 1), [(4, 3, 2, 2)]))
    batch = t.fit(given)
    masked = t.fit(_rank(given, mask=_mask_of(given)))
    frozen = t.fit(dataclasses.replace(given, mode="inference", dmean=None, dvar=None))
    for case in t.inside([batch, masked, frozen]):
        there = {role for role, arrays in arrays_of(case).items() if arrays}
        for name, (roles, share) in _SHARED.items():
            if there.issuperset(roles.split()) and (library in (None, "numpy") or name not in _VIEWS):
                _alike(t, dataclasses.replace(share(case), note=name))


def _mask_of(case: Case) -> Array:
    x = case.ranks[0].x
    shape = tuple(1 if a == case.config.axis % x.ndim else n for a, n in enumerate(x.shape))
    return np.asarray(np.random.default_rng(3).random(shape) < 0.7)


def _alike(t: Trial, shared: Case) -> None:
    want = values_of(t.run(apart(shared)).ranks[0])
    got = values_of(run_shared(t, shared).ranks[0])
    with t.found.gathering():
        for name, value in want.items():
            t.same(got.get(name), value, name, shared, output=name, proves=("BN-DET-2",))
