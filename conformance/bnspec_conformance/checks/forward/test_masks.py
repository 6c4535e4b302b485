"""Checks of SPEC.md, "Masks"."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

import bnspec
from bnspec import Renorm
from bnspec_conformance.cases.case import Array, Case, RankInputs, RankOutcome
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import config, configured, example
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

#: Values that a masked element may hold.
_HELD = (float("nan"), float("inf"), float("-inf"), -1e4, 0.0)
_RENORM = Renorm(rmax=2.0, dmax=3.0)


def drawn(s: Subject, **options: Any) -> Any:
    """Masked cases."""
    return strategies.cases(s, mask=True, lean=True, **options)


def live(rank: RankInputs) -> Array:
    """Return the mask in x's shape."""
    assert rank.mask is not None
    return np.broadcast_to(rank.mask, rank.x.shape)


def holding(case: Case, values: Sequence[float]) -> Case:
    """Return the case with these values, in turn, at the masked positions."""
    ranks = []
    for rank in case.ranks:
        x, out = rank.x.copy(), ~live(rank)
        x[out] = np.resize(np.asarray(values), int(out.sum())).astype(x.dtype)
        ranks.append(dataclasses.replace(rank, x=x))
    return dataclasses.replace(case, ranks=tuple(ranks))


def masked_example(mask: Any, **fields: Any) -> Case:
    """Return a forced case of shape (4, 3, 2) with this mask."""
    mask = np.asarray(mask)
    return example(config(**fields), [(4, 3, 2)], [mask.reshape(-1, 1, mask.size // len(mask))])


#: Half a sample masked, whole samples, all but one element, one element.
_PARTS = ([1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, 1])


def forced(**fields: Any) -> list[Case]:
    """Return each of the masks that must always occur."""
    return [masked_example(np.reshape(np.asarray(p, bool), (4, -1)), **fields) for p in _PARTS]


@clauses("BN-MASK-1")
@explore(lambda s: drawn(s, ghost=True, running=True))
def test_statistics(t: Trial, case: Case) -> None:
    """Count, mean, variance and running state are those of the unmasked elements, and no masked value changes a bit."""
    got = t.agree(case, "count", "mean", "var", "state")
    for values in (_HELD, [100.0]):
        other = t.run(holding(case, values))
        for before, after, rank in zip(got.ranks, other.ranks, case.ranks, strict=True):
            for field in ("count", "mean", "var", "state"):
                t.same(getattr(after, field), getattr(before, field), f"{field} for other masked values", case)
            assert before.y is not None and after.y is not None
            keep = live(rank)
            t.same(after.y[keep], before.y[keep], "unmasked y for other masked values", case)


@clauses("BN-MASK-1", "BN-MASK-2", "BN-MASK-4")
@explore()
def test_forced(t: Trial) -> None:
    """Parts of samples, whole samples, all but one and only one element masked; plain, ghost and renorm."""
    for fields in ({}, {"virtual_batch_size": 2, "ghost_source": "merged"}, {"renorm": _RENORM}):
        for case in forced(**fields):
            t.agree(case, "count", "mean", "var", "y", "dx", "dgamma", "dbeta", "ydot", "state")


@clauses("BN-MASK-2")
@explore(lambda s: drawn(s, ghost=True))
def test_image(t: Trial, case: Case) -> None:
    """y at a masked position is the affine image of its x, however far from the others."""
    t.agree(case, "y")
    t.agree(holding(case, (-300.0, 0.0, 7.0)), "y")


@clauses("BN-MASK-3")
@explore(lambda s: drawn(s, ghost=True, derivatives=True, running=True))
def test_masked_nonfinite(t: Trial, case: Case) -> None:
    """NaN and infinity at masked positions reach y there, and nothing else."""
    finite = holding(case, [0.0])
    t.agree(holding(case, _HELD), "y", "dx", "dgamma", "dbeta", "ydot", "state", control=finite)


@clauses("BN-MASK-3")
@explore()
def test_masked_nonfinite_and_renorm(t: Trial) -> None:
    """A masked NaN adds g*d to dgamma, its g to dbeta and sum g, and gets gamma*r*istd*g."""
    for fields in ({"renorm": _RENORM}, {}):
        for case in forced(**fields):
            for value in _HELD[:3]:
                held = holding(case, [value])
                t.agree(held, "y", "dx", "dgamma", "dbeta", "ydot", "state", control=case)


@clauses("BN-MASK-4")
@explore(lambda s: drawn(s, ghost=True, renorm=True, derivatives=True, statistics=True))
def test_gradient(t: Trial, case: Case) -> None:
    """dx, dgamma and dbeta sum over masked elements too, and the second part of dx is absent at masked positions."""
    t.agree(case, "dx", "dgamma", "dbeta")
    t.agree(configured(case, renorm=None), "dx", "dgamma", "dbeta")


def kept(t: Trial, case: Case, got: RankOutcome, control: Case) -> None:
    """Require the state of before; the subject's integers may be of another width."""
    __tracebackhide__ = True
    assert case.state is not None and got.state is not None
    before = {k: v.astype(got.state[k].dtype) for k, v in case.state.items()}
    t.same(got.state, before, "the state", case, control=control)


@clauses("BN-MASK-5")
@explore()
def test_all_masked(t: Trial) -> None:
    """A group without elements has mean 0 and variance 0, feeds no state, and makes nothing NaN."""
    nothing, half = np.zeros((4, 1, 2), bool), np.zeros((4, 1, 2), bool)
    half[2:] = True
    some = ~nothing
    some[0, 0, 0] = some[2, 0, 1] = False
    for fields in (
        {},
        {"renorm": _RENORM},
        {"averaging": "cumulative"},
        {"averaging": "pooled"},
        {"averaging": "debiased"},
        {"correction": 1, "single_value": "raise"},
        {"virtual_batch_size": 2},
        {"virtual_batch_size": 2, "ghost_source": "merged"},
    ):
        fed = fields.get("virtual_batch_size") and fields.get("ghost_source") == "merged"
        for mask in (nothing, half) if "virtual_batch_size" in fields else (nothing,):
            case, control = masked_example(mask, **fields), masked_example(some, **fields)
            every = ("count", "mean", "var", "y", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")
            got = t.agree(case, *every, control=control).ranks[0]
            if mask is nothing or not fed:  # "first" is an empty group here
                kept(t, case, got, control)
            else:
                t.agree(case, "state", control=control)
            for field in ("y", "dx", "dgamma", "dbeta"):
                finite = bool(np.isfinite(getattr(got, field)).all())
                t.require(finite, f"{field} is not finite", case, output=field, control=control)
            veiled = holding(case, [float("nan"), 1.0])
            bad = t.agree(veiled, "y", "dx", "dgamma", "dbeta", control=control).ranks[0]
            assert bad.dgamma is not None
            finite = bool(np.isfinite(bad.dgamma).all())
            t.require(finite, "dgamma is not finite", case, output="dgamma", control=control)


@clauses("BN-MASK-5")
@explore()
def test_empty_batch(t: Trial) -> None:
    """An empty batch has empty y and dx, parameter gradients 0, and leaves the state to the bit."""
    mask = np.ones((0, 1, 2), bool)
    for fields in ({}, {"averaging": "pooled"}, {"virtual_batch_size": 2}, {"renorm": _RENORM}):
        case = example(config(**fields), [(0, 3, 2)], [None if "averaging" in fields else mask])
        control = example(config(**fields))
        got = t.agree(case, "count", "mean", "var", "y", "dx", "dgamma", "dbeta", "ydot", control=control).ranks[0]
        kept(t, case, got, control)
        t.same(got.dgamma, np.zeros(3, np.float32), "dgamma", case, control=control)
        t.same(got.dbeta, np.zeros(3, np.float32), "dbeta", case, control=control)


@clauses("BN-MASK-5")
@explore()
def test_empty_batch_by_a_reference_that_is_not_finite(t: Trial) -> None:
    """Parameter gradients of an empty batch are 0 also where renorm's r and d are NaN."""
    case = example(config(renorm=_RENORM), [(0, 3, 2)], [np.ones((0, 1, 2), bool)])
    assert case.state is not None
    bad = {k: np.where(np.arange(3) == 0, np.nan, v).astype(v.dtype) for k, v in case.state.items()}
    t.agree(example(config(renorm=_RENORM)), "dgamma", "dbeta", proves=())
    by_nan = dataclasses.replace(case, state=bad, update=False)
    got = t.run(by_nan).ranks[0]
    for output in ("dgamma", "dbeta"):
        t.same(getattr(got, output), np.zeros(3, np.float32), output, by_nan, control=case)


@clauses("BN-MASK-6")
@explore(lambda s: strategies.cases(s, lean=True, running=True, derivatives=True, inference=False))
def test_dropped_samples(t: Trial, case: Case) -> None:
    """Masking whole samples equals the batch without them."""
    rank = case.ranks[0]
    keep = np.arange(rank.x.shape[0]) % 2 == 0
    assert rank.dy is not None
    dy = np.where(keep.reshape(-1, *[1] * (rank.x.ndim - 1)), rank.dy, 0).astype(rank.dy.dtype)
    mask = keep.reshape(-1, *[1] * (rank.x.ndim - 1))
    masked = dataclasses.replace(case, ranks=(dataclasses.replace(rank, dy=dy, mask=mask),))
    dropped = dataclasses.replace(case, ranks=(RankInputs(rank.x[keep], rank.dy[keep]),))
    want, got = exact(dropped).ranks[0], t.run(masked).ranks[0]
    allowed = t.bounds(masked, exact(masked)).ranks[0]
    for field in ("count", "mean", "var", "dgamma", "dbeta", "state", "y", "dx"):
        values, references, limits = (getattr(o, field) for o in (got, want, allowed))
        if references is None or values is None:
            continue
        if field != "state":
            values, references, limits = {field: values}, {field: references}, {field: limits}
        for name in references:
            part = keep if field in ("y", "dx") else slice(None)
            output = f"state.{name}" if field == "state" else name
            what = f"{output} of the other samples"
            off = (values[name][part], references[name], limits[name][part], what, masked)
            t.within(*off, output=output, statistic=field in ("mean", "var", "state"), control=case)


@clauses("BN-MASK-7")
@explore(lambda s: strategies.cases(s, lean=True, running=True, derivatives=True), share=0.5)
def test_nothing_masked(t: Trial, case: Case) -> None:
    """A mask that is true everywhere, of any extents, is no mask; a mask broadcasts over extents of 1."""
    rank, reference = case.ranks[0], exact(case)
    shape = tuple(1 if a == case.config.axis else n for a, n in enumerate(rank.x.shape))
    if True in t.subject.scope.options.get("mask.channels", (True,)):
        each = dataclasses.replace(rank, mask=np.ones(rank.x.shape, bool))
        t.agree(dataclasses.replace(case, ranks=(each,)), "y", "dx", "state", "mean", "var", reference=reference)
    for extents in ((1,) * len(shape), shape[:1] + (1,) * (len(shape) - 1), (1, *shape[1:]), shape):
        full = dataclasses.replace(case, ranks=(dataclasses.replace(rank, mask=np.ones(extents, bool)),))
        t.agree(full, "y", "dx", "dgamma", "dbeta", "state", "count", reference=reference)
        mask = np.random.default_rng(len(extents)).random(extents) < 0.5
        narrow = dataclasses.replace(case, ranks=(dataclasses.replace(rank, mask=mask),))
        spread = dataclasses.replace(rank, mask=np.broadcast_to(mask, shape).copy())
        whole = dataclasses.replace(case, ranks=(spread,))
        if t.is_silently_right(whole, "count", "mean", "y"):  # else the mask is at fault, and not its extents
            t.agree(narrow, "count", "mean", "y", control=whole)


@clauses("BN-MASK-7")
@explore()
def test_refusals(t: Trial) -> None:
    """A mask of another rank, extent or dtype is refused."""
    backend = t.needs_backend()
    case = example(config())
    x = backend.asarray(case.ranks[0].x)
    params, _ = bnspec.init(case.config, channels=3, like=x)
    yes = np.ones((4, 1, 2), bool)
    for wrong in (yes[:3, 0], yes[..., None], np.ones((4, 2, 2), bool), yes[:3], yes[..., :0], np.ones((8, 1, 2), bool),
                  np.ones(4, bool), yes.astype("float32"), yes.astype("int32"), yes.astype("uint8")):  # fmt: skip
        mask = backend.asarray(wrong)
        kinds = (TypeError, ValueError)
        t.refuses(functools.partial(bnspec.batch_norm, x, params, case.config, mask=mask), kinds, "BN-MASK-7")
    t.refuses(lambda: bnspec.batch_norm(x, params, case.config, mask=[True] * 4), TypeError, "BN-MASK-7")
    if backend.name == "numpy":  # an array that has a mask of its own
        odd = np.ma.masked_array(x, ~np.broadcast_to(yes, x.shape))
        t.refuses(lambda: bnspec.batch_norm(odd, params, case.config), TypeError, "BN-MASK-7")
