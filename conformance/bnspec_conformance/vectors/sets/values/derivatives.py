"""Vectors of gradients, tangents and cotangents of the statistics; plain, without groups, masks or renorm."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import RankInputs
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import equal, moved, parts
from bnspec_conformance.vectors.vector import Vector

__all__ = ["cotangents", "grad", "jvp"]

_GRADIENTS = ("dx", "dgamma", "dbeta")
_TANGENTS = ("ydot", "mean_dot", "var_dot")

#: Shapes, dtypes and options that every derivative has to do with.
_FORMS: tuple[tuple[str, tuple[int, ...], dict[str, Any], str], ...] = (
    ("rank-2", (6, 3), {}, "A plain matrix"),
    ("rank-3", (3, 2, 4), {}, "Channels in the middle"),
    ("rank-3-last", (3, 4, 2), {"axis": -1}, "Channels on the last axis"),
    ("rank-4", (2, 3, 2, 3), {}, "Images, channels first"),
    ("rank-4-last", (2, 2, 3, 3), {"axis": 3}, "Images, channels last"),
    ("rank-5-axis-0", (2, 2, 1, 3, 2), {"axis": 0}, "Rank 5, channels on axis 0"),
    ("float64", (5, 3), {"dtype": "float64"}, "float64 x"),
    ("no-gamma", (5, 3), {"scale": False}, "Without gamma"),
    ("no-beta", (5, 3), {"center": False}, "Without beta"),
    ("neither", (5, 3), {"center": False, "scale": False}, "Without gamma and beta"),
    ("large-epsilon", (5, 3), {"epsilon": 10.0}, "epsilon larger than the variance"),
    ("small-epsilon", (5, 3), {"epsilon": 1e-12}, "epsilon 1e-12"),
    ("one-channel", (5, 1), {}, "One channel"),
    ("one-sample", (1, 3), {}, "One element per channel, where y is constant"),
    ("two-samples", (2, 3), {}, "Two elements per channel"),
    ("no-samples", (0, 3), {}, "No samples"),
    ("no-channels", (4, 0), {}, "No channels"),
    ("gamma-zero", (4, 3), {"gamma": [0.0, -1.5, 2.0]}, "gamma 0 and negative"),
)


def grad(draw: Draw) -> Iterator[Vector]:
    """Yield the family "grad"."""
    for name, shape, options, what in _FORMS:
        yield draw.vector(
            f"grad/{name}",
            f"{what}: a port that forgets that the mean and the variance depend on x.",
            shape,
            vjp=True,
            outputs=_present("dx dgamma dbeta", options),
            clauses=_empty(shape, _GRADIENTS, options),
            **options,
        )
    shape = (5, 3)
    base = draw.vector("grad/base", "A batch for the cotangents that follow.", shape, vjp=True, outputs=_GRADIENTS)
    yield base
    unit = np.zeros(shape)
    unit[2, 1] = 1.0
    for name, dy, why in (
        ("constant-dy", np.full(shape, 0.75), "dy constant: dx is 0 but for rounding, and sum y has no gradient."),
        ("one-element-dy", unit, "dy of one element: all elements of its channel have a dx, and no other channel's."),
        ("dy-like-y", base.case.ranks[0].x, "dy equal to x: what is left of dx comes from epsilon."),
        ("large-dy", draw.stream("grad/large-dy").normals(shape) * 1e6, "dy of 1e6."),
        ("zero-dy", np.zeros(shape), "dy 0: every gradient is 0, to the bit."),
    ):
        yield draw.vector(
            f"grad/{name}",
            why,
            shape,
            x=base.case.ranks[0].x,
            dy=dy,
            outputs=_GRADIENTS,
            exact=_GRADIENTS if name == "zero-dy" else (),
        )
    stream = draw.stream("grad/far")
    yield draw.vector(
        "grad/far",
        "Means 1e4 deviations from zero: a port that takes sum dy*x - mean*sum dy in one precision.",
        (6, 3),
        x=stream.normals((6, 3)) + np.array([1e4, -1e4, 1e5]),
        vjp=True,
        outputs=_GRADIENTS,
    )
    yield draw.vector(
        "grad/constant-channel",
        "A constant channel: dx is the dy without its mean, by gamma/sqrt(epsilon).",
        (5, 3),
        x=np.array([1 / 3, 2.0, -0.1]),
        vjp=True,
        outputs=_GRADIENTS,
    )
    order = draw.stream("grad/order").permutation(np.arange(5)).tolist()
    rank = base.case.ranks[0]
    assert rank.dy is not None
    yield base.but(
        "permuted-samples",
        "Samples in another order with their dy: dx goes along, and the parameters' gradients stay.",
        case=dataclasses.replace(base.case, ranks=(RankInputs(rank.x[order], rank.dy[order]),)),
        relations=(
            parts("permutation", base.id, moved("dx", shape, 0, range(5), order), "BN-GRAD-1"),
            equal("permutation", base.id, "dgamma", "BN-GRAD-2"),
            equal("permutation", base.id, "dbeta", "BN-GRAD-3"),
        ),
    )
    for number in range(6):
        yield _drawn(draw, f"grad/drawn-{number}", _GRADIENTS, vjp=True)


def jvp(draw: Draw) -> Iterator[Vector]:
    """Yield the family "jvp"."""
    for name, shape, options, what in _FORMS:
        if name in ("rank-5-axis-0", "two-samples", "small-epsilon"):
            continue
        yield draw.vector(
            f"jvp/{name}",
            f"{what}: a port whose tangent of the variance, or of a parameter, is missing.",
            shape,
            jvp=True,
            outputs=_TANGENTS,
            clauses=_empty(shape, _TANGENTS, options),
            **options,
        )
    shape = (5, 3)
    base = draw.case("jvp/base", shape, jvp=True)
    x = base.ranks[0].x
    for name, xdot, why in (
        ("constant-xdot", np.full(shape, 0.5, np.float32), "xdot constant moves the mean, and y by nothing."),
        ("xdot-like-x", x, "xdot equal to x: only epsilon keeps y from standing still."),
    ):
        case = dataclasses.replace(base, ranks=(RankInputs(x, xdot=xdot),), gamma_dot=None, beta_dot=None)
        yield Vector(id=f"jvp/{name}", why=why, case=case, outputs=_TANGENTS)
    still = dataclasses.replace(base, ranks=(RankInputs(x, xdot=np.zeros(shape, np.float32)),))
    yield Vector(
        id="jvp/parameters-only",
        why="xdot 0: ydot is gamma_dot*xhat + beta_dot; a port without tangents of the parameters.",
        case=still,
        outputs=_TANGENTS,
    )
    for number in range(4):
        yield _drawn(draw, f"jvp/drawn-{number}", _TANGENTS, jvp=True)


def cotangents(draw: Draw) -> Iterator[Vector]:
    """Yield the family "cotangents": gradients of what is made of the returned mean and variance."""
    for name, shape, options, what in _FORMS:
        if name in ("rank-4-last", "rank-5-axis-0", "no-beta", "neither", "gamma-zero", "large-epsilon"):
            continue
        yield draw.vector(
            f"cotangents/{name}",
            f"{what}, with cotangents of mean and var: a port that returns them as constants.",
            shape,
            vjp=True,
            cotangents=True,
            outputs=_present("dx dgamma dbeta", options),
            clauses={"dx": ("BN-GRAD-6",)} | _empty(shape, ("dx",), options),
            **options,
        )
    shape = (4, 3)
    base = draw.case("cotangents/base", shape, cotangents=True, dy=np.zeros(shape))
    halves = (
        ("of-the-mean-alone", dataclasses.replace(base, dvar=None), "Of the mean alone: each dx is dmean/n."),
        (
            "of-the-variance-alone",
            dataclasses.replace(base, dmean=None),
            "Of the variance alone: each dx is 2*dvar*(x - mean)/n.",
        ),
    )
    for name, case, why in halves:
        yield Vector(
            id=f"cotangents/{name}",
            why=why,
            case=case,
            outputs=("dx",),
            clauses={"dx": ("BN-GRAD-6",)},
        )
    more: dict[str, dict[str, Any]] = {
        "mask": {"masks": ([True, False, True, True],)},
        "ghost": {"virtual_batch_size": 2},
    }
    for name, options in more.items():
        yield draw.vector(
            f"cotangents/with-{name}",
            f"With {name}: each group's cotangents reach its own unmasked elements, by its own count.",
            (4, 3),
            vjp=True,
            cotangents=True,
            outputs=("dx",),
            clauses={"dx": ("BN-GRAD-6",)},
            **options,
        )


def _present(names: str, options: dict[str, Any]) -> tuple[str, ...]:
    gone = {"dgamma": options.get("scale", True), "dbeta": options.get("center", True)}
    return tuple(name for name in names.split() if gone.get(name, True))


def _empty(shape: tuple[int, ...], names: tuple[str, ...], options: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the clauses that a batch without elements proves."""
    if 0 not in shape:
        return {}
    clause = "BN-SHAPE-4" if shape[options.get("axis", 1)] == 0 else "BN-MASK-5"
    return dict.fromkeys(names, (clause,))


def _drawn(draw: Draw, name: str, outputs: tuple[str, ...], **asked: bool) -> Vector:
    stream = draw.stream(f"{name}/shape")
    rank = stream.choice([2, 3, 4])
    axis = stream.integers(1, rank)
    shape = tuple(stream.integers(1, 4 if a == axis else {2: 9, 3: 5, 4: 3}[rank]) for a in range(rank))
    return draw.vector(
        name,
        "An ordinary batch of drawn shape and values, for what no other vector thought of.",
        shape,
        dtype=("float32", "float64")[stream.integers(0, 2)],
        axis=axis,
        x=stream.normals(shape) + stream.choice([0, 3, 30]),
        outputs=outputs,
        **asked,  # type: ignore[arg-type]
    )
