"""Mutants of masks where they meet derivatives, ghost groups and cotangents of the statistics."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Saved
from bnspec._derivatives import batch_norm_tangents
from bnspec._gradients import usable_part
from bnspec._groups import spread
from bnspec._normalize import factor
from bnspec_conformance.mutants.cotangents import batch_only, from_saved, live
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import dx_plus, kept, total, wide
from bnspec_conformance.mutants.overriding import Override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _veiled(saved: Saved) -> Any:
    """Return where x is masked and not finite."""
    return ~live(saved) & ~np.isfinite(saved.x)


def _with_g(fields: str, change: Callable[[Any, Saved], Any]) -> Override:
    """Take some of the gradients from another cotangent of y: ``change(dy, saved)``."""

    def pull_back(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
        right = original(dy, saved, **more)
        if saved.mask is None or not saved.x.size:
            return right
        local = more if fields == "x" else more | {"comm": None}  # the parameters' own need no message
        other = original(change(dy, saved), saved, **local)
        return right._replace(**{name: getattr(other, name) for name in fields.split()})

    return batch_only(pull_back)


def _unmasked(dy: Any, saved: Saved) -> Any:
    return np.where(live(saved), dy, np.zeros_like(dy))


def _not_veiled(dy: Any, saved: Saved) -> Any:
    return np.where(_veiled(saved), np.zeros_like(dy), dy)


def _only_in_its_own_dx(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    """Keep g of masked elements out of the sums of dx, and give them their own a*g."""
    right = original(dy, saved, **more)
    if saved.mask is None or not saved.x.size:
        return right
    other = original(_unmasked(dy, saved), saved, **more)
    return right._replace(x=np.where(live(saved), other.x, right.x))


def _veiled_dropped(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    """Leave g out of every sum where x is masked and not finite."""
    if saved.mask is None or not _veiled(saved).any() or more.get("comm") is not None:
        return original(dy, saved, **more)
    right, other = original(dy, saved, **more), original(_not_veiled(dy, saved), saved, **more)
    return other._replace(x=np.where(_veiled(saved), right.x, other.x))


def _reach_masked(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
    gradients = original(dy, saved, **more)
    dmean = more.get("dmean")
    if saved.mask is None or dmean is None or more.get("comm") is not None or not saved.x.size:
        return gradients
    groups, divisor = saved.static.groups, saved.divisor
    assert divisor is not None
    share = spread(dmean / (divisor[:, None] if divisor.ndim == 1 else divisor), saved.x, groups)
    away = ~np.broadcast_to(kept(saved.x, groups, saved.mask), wide(saved.x, groups).shape)
    return gradients._replace(x=dx_plus(gradients.x, np.where(away, share, 0.0), groups))


def _padded_divisor(saved: Saved) -> Saved:
    assert saved.divisor is not None
    if saved.mask is None:
        return saved
    size = saved.x.size // max(saved.centre.size, 1)
    return saved._replace(divisor=np.full_like(saved.divisor, max(size, 1)))


def _first_divisor(saved: Saved) -> Saved:
    assert saved.divisor is not None
    return saved._replace(divisor=np.broadcast_to(saved.divisor[:1], saved.divisor.shape).copy())


def _sums_of_all(original: Any, xdot: Any, saved: Saved, *rest: Any, **more: Any) -> Any:
    if saved.frozen or saved.mask is None:
        return original(xdot, saved, *rest, **more)
    x, _ = usable_part(saved.x, saved)
    right, other = (original(xdot, own, *rest, **more) for own in (saved, saved._replace(x=x, mask=None)))
    return other._replace(y=np.where(_veiled(saved), right.y, other.y))


def _times_zero(original: Any, xdot: Any, saved: Saved, *rest: Any, **more: Any) -> Any:
    tangents = original(xdot, saved, *rest, **more)
    if saved.frozen or saved.mask is None or not saved.x.size:
        return tangents
    groups = saved.static.groups
    masked = np.where(kept(saved.x, groups, saved.mask), 0.0, wide(xdot, groups))
    nothing = total(masked * 0.0, saved.x, groups)
    y = dx_plus(tangents.y, spread(nothing, saved.x, groups), groups)
    return tangents._replace(y=y, mean=tangents.mean + nothing)


def _mean_of_the_first(original: Any, xdot: Any, saved: Saved, *rest: Any, **more: Any) -> Any:
    tangents = original(xdot, saved, *rest, **more)
    if saved.frozen or len(saved.centre) < 2 or not saved.x.size:
        return tangents
    off = factor(saved.gamma, saved.r, saved.inverse_stddev) * (tangents.mean - tangents.mean[:1])
    groups = saved.static.groups
    return tangents._replace(y=dx_plus(tangents.y, spread(off, saved.x, groups), groups))


MUTANTS = (
    Mutant(
        name="dbeta-of-unmasked-elements",
        clause="BN-GRAD-3",
        row="D14",
        breaks="Sums g of unmasked elements alone for dbeta, and of all for the rest.",
        apply=_with_g("beta", _unmasked),
    ),
    Mutant(
        name="dgamma-of-unmasked-elements",
        clause="BN-GRAD-2",
        row="D14",
        breaks="Sums g*xhat of unmasked elements alone for dgamma, and of all for dx.",
        apply=_with_g("gamma", _unmasked),
    ),
    Mutant(
        name="masked-cotangents-not-in-dx",
        clause="BN-MASK-4",
        row="D14",
        breaks="Leaves g of masked elements out of the sums of dx, though not out of dgamma and dbeta.",
        apply=batch_only(_only_in_its_own_dx),
    ),
    Mutant(
        name="veiled-elements-dropped",
        clause="BN-MASK-3",
        row="D17",
        breaks="Leaves g out of every sum where x is masked and not finite.",
        apply=batch_only(_veiled_dropped),
    ),
    Mutant(
        name="veiled-elements-without-d",
        clause="BN-MASK-3",
        row="D17",
        breaks="Leaves out of dgamma the g*d that a masked x that is not finite adds under renorm.",
        apply=_with_g("gamma", _not_veiled),
    ),
    Mutant(
        name="cotangent-of-mean-at-masked-elements",
        clause="BN-GRAD-6",
        row="D14",
        breaks="Gives masked elements their share of the cotangent of the mean.",
        apply=batch_only(_reach_masked),
    ),
    Mutant(
        name="dx-divided-by-masked-elements-too",
        clause="BN-MASK-4",
        row="D14",
        breaks="Divides the sums of dx by the number of all elements, masked ones included.",
        apply=batch_only(from_saved("x", _padded_divisor)),
    ),
    Mutant(
        name="divisor-of-the-first-group",
        clause="BN-MASK-4",
        row="D14",
        breaks="Divides the sums of dx of every ghost group by the unmasked count of the first.",
        apply=batch_only(from_saved("x", _first_divisor)),
    ),
    Mutant(
        name="masked-tangents-summed",
        clause="BN-GRAD-4",
        row="D14",
        breaks="Sums the tangents of masked elements into those of the statistics.",
        apply=wrap(batch_norm_tangents, _sums_of_all),
    ),
    Mutant(
        name="masked-tangents-times-zero",
        clause="BN-GRAD-4",
        row="D17",
        breaks="Multiplies tangents by the mask where it should select, so that NaN*0 enters the sums.",
        apply=wrap(batch_norm_tangents, _times_zero),
    ),
    Mutant(
        name="tangents-of-the-first-group",
        clause="BN-GRP-2",
        breaks="Takes the tangent of the first group's mean off all groups.",
        apply=wrap(batch_norm_tangents, _mean_of_the_first),
    ),
)
