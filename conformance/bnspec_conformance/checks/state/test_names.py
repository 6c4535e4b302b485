"""Checks of SPEC.md, "Names and serialization"."""

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

import bnspec
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.layers import arrays_of, awkward, host, layer_of, names_of, state_of
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


def layers(subject: Subject) -> st.SearchStrategy[Case]:
    """Cases whose state has every field that some averaging or form of renorm knows."""
    return st.one_of(strategies.cases(subject, running=True), strategies.cases(subject, running=True, renorm=True))


@clauses("BN-STATE-1")
@explore(layers)
def test_names(t: Trial, case: Case) -> None:
    """Variables have the names of the table, exactly those that exist, also after training."""
    for center, scale in itertools.product((True, False), repeat=2):
        config = dataclasses.replace(case.config, center=center, scale=scale)
        fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        t.needs_backend()
        layer = bnspec.BatchNorm(**fields)
        layer(t.needs_backend().asarray(case.ranks[0].x))
        wanted = sorted(names_of(config).values())
        for what in (layer.variables, layer.state_dict()):
            t.require(sorted(what) == wanted, f"variables {sorted(what)}, expected {wanted}", case)
            shapes = {name: tuple(v.shape) for name, v in what.items()}
            t.require(set(shapes.values()) == {(case.channels,)}, f"variables of shapes {shapes}", case)
        held, params, state = state_of(t, layer), layer.params, layer.state
        assert params is not None and state is not None
        for field, name in names_of(config).items():  # the name belongs to that array, not to another one
            value = getattr(params, field) if field in ("beta", "gamma") else getattr(state, field)
            t.same(held[name], host(t, value), name, case)


@clauses("BN-STATE-2")
@explore(layers, share=0.5)
def test_state_dict(t: Trial, case: Case) -> None:
    """A loaded state_dict is the saved one to the bit, in new and used layers, and training does not change it."""
    put, values = t.needs_backend().asarray, awkward(case)
    given = {name: put(v) for name, v in values.items()}
    source, new, used = (layer_of(t, case) for _ in range(3))
    source(put(case.ranks[0].x))
    used(put(case.ranks[0].x))
    source.load_state_dict(given)
    kept = source.state_dict()
    before = {name: host(t, v) for name, v in kept.items()}
    t.same(before, {n: v.astype(before[n].dtype) for n, v in values.items()}, "state_dict", case)
    for other in (new, used):
        other.load_state_dict(kept)
        t.same(state_of(t, other), before, "variables after loading", case)
    with np.errstate(all="ignore"):
        source(put(case.ranks[0].x))
        used(put(case.ranks[0].x))
    t.same(state_of(t, used), state_of(t, source), "variables after loading and one more step", case)
    after = {name: host(t, v) for name, v in kept.items()}
    t.same(after, before, "the state_dict after the layer trained on", case)
    used.load_state_dict(given)
    with np.errstate(all="ignore"):
        used(put(case.ranks[0].x))
    t.same(
        {n: host(t, v) for n, v in given.items()},
        values,
        "the dictionary that was loaded",
        case,
    )


@clauses("BN-STATE-2")
@explore(lambda s: strategies.cases(s, running=True), share=0.1)
def test_dict_is_no_window(t: Trial, case: Case) -> None:
    """Writing to what state_dict returned, or to what was loaded, does not reach into the layer."""
    if t.needs_backend().name not in ("numpy", "torch", "strict", "cupy"):
        raise NotSupported(f"{t.subject.name} arrays cannot be written")
    given = {name: t.needs_backend().asarray(v) for name, v in arrays_of(case).items()}
    layer = layer_of(t, case)
    layer(t.needs_backend().asarray(case.ranks[0].x))
    layer.load_state_dict(given)
    before = state_of(t, layer)
    for v in (*given.values(), *layer.state_dict().values()):
        v[...] = 3
    t.same(state_of(t, layer), before, "variables", case)


def configurations(subject: Subject) -> st.SearchStrategy[bnspec.BatchNormConfig]:
    """Configurations with and without ghost groups, renorm and the options of the running state."""
    switches = itertools.product((False, True), (False, True), (None, 2))
    return st.one_of(*(strategies.configs(1, running=r, renorm=n, ghost=g) for r, n, g in switches))


@clauses("BN-STATE-6")
@explore(configurations, share=2.0)
def test_configuration(t: Trial, config: bnspec.BatchNormConfig) -> None:
    """from_json(to_json()) is the configuration, every field of it; an unknown field is refused."""
    t.needs_backend()
    text = config.to_json()
    back = bnspec.BatchNormConfig.from_json(text)
    t.require(back == config and repr(back) == repr(config), f"{config} came back as {back}")
    fields = json.loads(text)
    t.require(set(fields) == {f.name for f in dataclasses.fields(config)}, f"the JSON has the fields {sorted(fields)}")
    said = t.refuses(
        lambda: bnspec.BatchNormConfig.from_json(json.dumps(fields | {"momentum": 0.1})), ValueError, "BN-STATE-6"
    )
    t.require("momentum" in said, f"the refusal does not name the field: {said}")
    for name in ("axis", "epsilon", "decay", "correction"):  # another value is another configuration
        change: dict[str, Any] = {name: {"axis": 2, "correction": 1 - config.correction}.get(name, 0.625)}
        other = dataclasses.replace(config, **change)
        t.require(
            bnspec.BatchNormConfig.from_json(other.to_json()) == other != config, f"{name} is lost in {other.to_json()}"
        )
