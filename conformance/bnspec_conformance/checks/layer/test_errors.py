"""Checks of SPEC.md, "Errors": every refusal says four things and changes nothing."""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import bnspec
from bnspec._clauses import clauses as known_clauses
from bnspec_conformance.checks.layer.refusals import Refusal, Setting, arrays, masks, options, timing
from bnspec_conformance.checks.layers import host, snapshot, state_of
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

#: what came; expected what was expected [clause]. What to do.
_FORM = re.compile(r"\S.*; expected \S.* \[(BN-[A-Z]+-[1-9][0-9]*)\]\. \S.*[.]", re.DOTALL)

#: The clauses that break where a refusal has an effect.
_CHANGED = ("BN-ERR-2",)

Rows = Callable[[Setting], Iterator[Refusal]]


def setting(t: Trial, kind: type[bnspec.BatchNorm] = bnspec.BatchNorm, **options: Any) -> Setting:
    """Return a layer that has seen two batches, with an update pending and a backward pass due."""
    put = t.needs_backend().asarray
    x, dy = (put(v.astype("float32")) for v in np.random.default_rng(8).standard_normal((2, 6, 3)))
    layer = bnspec.BatchNorm(axis=1, ema_update="collection", name="bn7", **options)
    updates = bnspec.UpdateCollection()
    with bnspec.training_context(updates=updates):
        layer(x)
        updates.run()
        layer.forget()(x)
    return Setting(put, layer, updates, x, dy)


def refuse_all(t: Trial, rows: Rows, **options: Any) -> None:
    """Make every refusal of a table on one layer; afterwards it goes on like its twin, which saw none of them."""
    s, twin = (setting(t, **options) for _ in range(2))
    for row in rows(s):
        before = snapshot(t, s.layer, s.updates, s.x, s.dy, *row.given)
        text = t.refuses(row.call, row.kinds, row.clause)
        found = _FORM.fullmatch(text)
        said: Any = {"proves": ("BN-ERR-1",)}
        form = f"{row.what}: not of the form 'came; expected wanted [clause]. Advice.': {text}"
        t.require(found is not None, form, **said)
        assert found is not None
        t.require(found[1] in known_clauses(), f"{row.what}: {found[1]} is no clause", **said)
        for word in row.words:
            there = word in text.split(" [BN-")[0]
            t.require(there, f"{row.what}: the text does not mention {word!r}: {text}", **said)
        for content in row.contents:
            t.require(content not in text, f"{row.what}: the text shows the contents of an array: {text}", **said)
        after = snapshot(t, s.layer, s.updates, s.x, s.dy, *row.given)
        t.require(after == before, f"{row.what}: the refusal changed something", proves=_CHANGED)
    goes_on(t, s, twin)


def goes_on(t: Trial, s: Setting, twin: Setting) -> None:
    """Require that what is due on both layers comes out the same."""
    results = []
    for each in (s, twin):
        dx = each.layer.backward(each.dy)
        each.updates.run()
        with bnspec.training_context(updates=each.updates):
            y = each.layer(each.x)
        grads = each.layer.gradients
        assert grads is not None
        arrays = (dx, grads.gamma, grads.beta, y)
        results.append([None if a is None else host(t, a) for a in arrays])
    for name, a, b in zip(("dx", "dgamma", "dbeta", "y"), *results):
        t.same(a, b, f"{name} after the refusals", None, proves=_CHANGED)
    t.same(state_of(t, s.layer), state_of(t, twin.layer), "variables after the refusals", None, proves=_CHANGED)
    t.require(len(s.updates) == len(twin.updates), "other updates are pending after the refusals", proves=_CHANGED)


@clauses("BN-ERR-1", "BN-ERR-2", "BN-SHAPE-1", "BN-SHAPE-2", "BN-SHAPE-5", "BN-SHAPE-6", "BN-GRP-3")
@explore()
def test_refused_arrays(t: Trial) -> None:
    """Arrays of a wrong rank, dtype or length, an axis out of range, groups that do not fit."""
    refuse_all(t, arrays)


@clauses("BN-ERR-1", "BN-ERR-2", "BN-MASK-7")
@explore()
def test_refused_masks(t: Trial) -> None:
    """Masks of another shape or dtype."""
    refuse_all(t, masks)


@clauses("BN-ERR-1", "BN-ERR-2", "BN-NORM-1", "BN-RUN-1", "BN-RENORM-9", "BN-GRP-3")
@explore()
def test_refused_options(t: Trial) -> None:
    """Numbers outside their range, words that no clause knows, combinations that a dialect refuses."""
    refuse_all(t, options)


@clauses("BN-ERR-1", "BN-ERR-2", "BN-RUN-4", "BN-UPD-3")
@explore()
def test_refused_moments(t: Trial) -> None:
    """Refusals that depend on the time of the call or on the batch: one value and correction 1, no collection."""
    refuse_all(t, timing, correction=1)


@clauses("BN-RUN-4", "BN-ERR-2")
@explore()
def test_refused_run(t: Trial) -> None:
    """A collected update that cannot be made is refused by the run; what was pending before it is done, it stays."""
    s = setting(t, correction=1)
    with bnspec.training_context(updates=s.updates):
        s.layer(s.x[:1, :])
        s.layer(s.x)
    t.refuses(s.updates.run, ValueError, "BN-RUN-4")
    before = snapshot(t, s.layer, s.updates, s.x)
    t.refuses(s.updates.run, ValueError, "BN-RUN-4")
    t.require(snapshot(t, s.layer, s.updates, s.x) == before, "a refused run changed something", proves=_CHANGED)


@clauses("BN-ERR-2")
@explore()
def test_refused_call_has_no_backward(t: Trial) -> None:
    """A call that is refused for its update was no forward pass: backward still answers the call before."""
    s = setting(t)
    bad = s.put(np.where(np.arange(3) == 0, np.nan, host(t, s.x)).astype("float32"))
    found = []
    for refused in (True, False):
        layer = bnspec.BatchNorm(axis=1, nonfinite="raise", ema_update="internal", name="bn8")
        layer(s.x)
        if refused:
            before = snapshot(t, layer)
            t.refuses(lambda: layer(bad), FloatingPointError, "BN-RUN-10")  # noqa: B023
            t.require(snapshot(t, layer) == before, "the refused call changed something", proves=_CHANGED)
        try:
            found.append(host(t, layer.backward(s.dy)))
        except RuntimeError as error:
            t.require(not refused, f"backward of the call before a refused one raised {error}", proves=_CHANGED)
            raise
    t.same(found[0], found[1], "dx of the call before a refused one", None, proves=_CHANGED)


@clauses("BN-ERR-3", "BN-ERR-2")
@explore()
def test_two_libraries(t: Trial) -> None:
    """Arrays of two libraries in one call are refused, wherever the second one is."""
    backend = t.needs_backend()
    for name, module in (("numpy", "numpy"), ("strict", "array_api_strict"), ("torch", "torch")):
        if name != backend.name and find_spec(module) is not None:
            other = bnspec.get_backend(name).asarray
            break
    else:
        raise NotSupported("there is no second library")
    elsewhere(t, other, TypeError)


@clauses("BN-ERR-3", "BN-ERR-2")
@explore()
def test_two_devices(t: Trial) -> None:
    """Arrays on two devices in one call are refused, wherever the second one is."""
    backend = t.needs_backend()
    if backend.name == "strict":
        import array_api_strict

        elsewhere(t, lambda v: array_api_strict.asarray(v, device=array_api_strict.Device("device1")), ValueError)
    elif backend.name == "torch":
        elsewhere(t, lambda v: backend.asarray(v).to("meta"), ValueError)
    else:
        raise NotSupported(f"{t.subject.name} has one device here")


def elsewhere(t: Trial, other: Callable[[Any], Any], kind: type[Exception]) -> None:
    """Refuse the foreign array in every place of every function and of the layer."""
    ones, config = np.ones(3, "float32"), bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.5, correction=0)

    def rows(s: Setting) -> Iterator[Refusal]:
        x = host(t, s.x)
        mine, _ = bnspec.init(config, channels=3, like=s.x)
        good = bnspec.RunningState(s.put(ones), s.put(ones))
        _, stats, saved = bnspec.batch_norm(s.x, mine, config)
        alien, vector, mask = other(x), other(ones), other(np.ones((6, 1), bool))
        gamma, beta = mine._replace(gamma=vector), mine._replace(beta=vector)
        bad_mean, bad_var = good._replace(mean=vector), good._replace(var=vector)
        calls: dict[str, Callable[[], Any]] = {
            "gamma": lambda: bnspec.batch_norm(s.x, gamma, config),
            "beta": lambda: bnspec.batch_norm(s.x, beta, config),
            "mask": lambda: bnspec.batch_norm(s.x, mine, config, mask=mask),
            "x": lambda: bnspec.batch_norm(alien, mine, config),
            "gamma of inference": lambda: bnspec.batch_norm_inference(s.x, gamma, good, config),
            "the state's mean": lambda: bnspec.batch_norm_inference(s.x, mine, bad_mean, config),
            "the state's var": lambda: bnspec.batch_norm_inference(s.x, mine, bad_var, config),
            "the state to update": lambda: bnspec.update_running(bad_var, stats, config),
            "dy": lambda: bnspec.batch_norm_vjp(alien, saved),
            "dmean": lambda: bnspec.batch_norm_vjp(s.x, saved, dmean=other(ones[None, :])),
            "xdot": lambda: bnspec.batch_norm_tangents(alien, saved),
            "gamma_dot": lambda: bnspec.batch_norm_tangents(s.x, saved, vector),
            "x of a layer": lambda: s.train(alien),
            "mask of a layer": lambda: s.train(s.x, mask=mask),
            "dy of a layer": lambda: s.layer.backward(alien),
        }
        for what, call in calls.items():
            yield Refusal(what, call, kind, "BN-ERR-3")

    refuse_all(t, rows)


@clauses("BN-ERR-4")
@explore()
def test_backward(t: Trial) -> None:
    """backward before a call, or twice for one, is refused; the next call serves one again."""
    s, twin = setting(t), setting(t)
    new = bnspec.BatchNorm(name="new")
    t.refuses(lambda: new.backward(s.dy), RuntimeError, "BN-ERR-4")
    t.require(new.gradients is None and not new.variables, "the refused backward left something behind")
    new(s.x)
    new.backward(s.dy)
    s.layer.backward(s.dy)
    for each in (new, s.layer):
        before = snapshot(t, each, s.updates, s.dy)
        for _ in range(2):
            t.refuses(lambda: each.backward(s.dy), RuntimeError, "BN-ERR-4")  # noqa: B023
        t.require(snapshot(t, each, s.updates, s.dy) == before, "the refused backward changed something")
    for each in (new, s.layer):
        for _ in range(3):  # which of several calls is meant cannot be known
            with bnspec.training_context():
                each(s.x)
        before = snapshot(t, each, s.updates, s.dy)
        for _ in range(2):
            t.refuses(lambda: each.backward(s.dy), RuntimeError, "BN-ERR-4")  # noqa: B023
        t.require(snapshot(t, each, s.updates, s.dy) == before, "the refused backward changed something")
        each.forget()
        t.refuses(lambda: each.backward(s.dy), RuntimeError, "BN-ERR-4")  # noqa: B023
    s.layer.eval()(s.x)  # frozen passes count as well
    s.layer.backward(s.dy)
    t.refuses(lambda: s.layer.backward(s.dy), RuntimeError, "BN-ERR-4")
    s.layer.train()
    with bnspec.training_context():
        s.layer(s.x)
    again, other = host(t, s.layer.backward(s.dy)), host(t, twin.layer.backward(s.dy))
    t.same(again, other, "dx of the next call", None)
