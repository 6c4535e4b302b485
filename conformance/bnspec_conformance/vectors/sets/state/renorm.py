"""Vectors of batch renormalization, in both forms."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.outputs import proving
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.sets.laws import equal
from bnspec_conformance.vectors.vector import Vector

__all__ = ["vectors"]

_FORMS: tuple[Any, ...] = ("tensorpack", "paper")


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "renorm"."""
    for form in _FORMS:
        yield from _limits(draw, form)
        yield from _closed(draw, form)
        yield from _together(draw, form)
        yield from _state(draw, form)


def _reference(form: str, mean: Any, deviation: Any) -> dict[str, Any]:
    """Return the state whose reference is this."""
    names = ("renorm_mean", "renorm_stddev") if form == "tensorpack" else ("mean", "stddev")
    return dict(zip(names, (mean, deviation)))


def _limits(draw: Draw, form: Any) -> Iterator[Vector]:
    wide = 2.0**10
    rows: tuple[tuple[str, float, float, Any, Any, str], ...] = (
        ("inactive", wide, wide, [0.5, -1.0, 0.0], [0.75, 1.5, 1.0], "neither limit is met"),
        ("r-above", 1.25, wide, [0.5, -1.0, 0.0], [0.25, 0.125, 0.5], "r is clipped to rmax"),
        ("r-below", 1.25, wide, [0.5, -1.0, 0.0], [4.0, 8.0, 2.5], "r is clipped to 1/rmax"),
        ("d-above", wide, 0.5, [-4.0, -8.0, -2.0], [0.75, 1.5, 1.0], "d is clipped to dmax"),
        ("d-below", wide, 0.5, [4.0, 8.0, 2.0], [0.75, 1.5, 1.0], "d is clipped to -dmax"),
        ("mixed", 1.25, 0.5, [4.0, -8.0, 0.0], [0.25, 8.0, 1.0], "each channel is clipped in another way"),
        ("floor", 2.0, 3.0, [0.5, -1.0, 0.0], [0.0, 2.0**-20, 1.0], "a reference deviation below sqrt(epsilon)"),
        ("no-r", 1.0, 3.0, [0.5, -1.0, 0.0], [0.25, 4.0, 1.0], "rmax = 1 leaves d alone"),
        ("no-d", 3.0, 0.0, [0.5, -1.0, 4.0], [0.25, 4.0, 1.0], "dmax = 0 leaves r alone"),
    )
    for name, rmax, dmax, mean, deviation, what in rows:
        yield draw.vector(
            f"renorm/{form}-{name}",
            f"{form}, {what}: a port that clips otherwise, or lets r and d into the derivative.",
            (5, 3),
            state=_reference(form, mean, deviation),
            vjp=True,
            jvp=name in ("inactive", "mixed"),
            renorm=Renorm(form=form, rmax=rmax, dmax=dmax),
        )
    yield draw.vector(
        f"renorm/{form}-far",
        f"{form} where the mean is far from zero and its reference near it: a port that subtracts rounded means.",
        (6, 2),
        x=draw.stream(f"renorm/{form}-far").normals((6, 2)) + np.array([3000.0, -70000.0]),
        state=_reference(form, [3000.25, -70000.5], [1.0, 0.75]),
        outputs=("y", "state"),
        renorm=Renorm(form=form, rmax=wide, dmax=wide),
    )
    yield draw.vector(
        f"renorm/{form}-float64",
        f"{form} for float64 x.",
        (4, 2),
        dtype="float64",
        state="used",
        vjp=True,
        renorm=Renorm(form=form, rmax=2.0, dmax=1.0),
    )


def _closed(draw: Draw, form: Any) -> Iterator[Vector]:
    """rmax = 1 and dmax = 0 beside no renorm; also in float64, where no cast hides a bit."""
    for dtype in ("float32", "float64"):
        options: dict[str, Any] = {"dtype": dtype, "vjp": True, "jvp": True}
        plain = draw.vector(
            f"renorm/{form}-without-{dtype}", "Batch normalization, for the next one.", (5, 3), **options
        )
        yield plain
        own = draw.case(
            plain.id,
            (5, 3),
            state=_reference(form, [7.0, -3.0, 0.25], [0.25, 6.0, 1e-3]),
            renorm=Renorm(form=form, rmax=1.0, dmax=0.0),
            **options,
        )
        yield plain.but(
            f"{form}-closed-{dtype}",
            f"{form}, rmax = 1 and dmax = 0 are batch normalization to the bit: a port whose r of 1 or d of 0 passes "
            "through a rounding.",
            case=dataclasses.replace(plain.case, config=own.config, state=own.state, update=False),
            clauses=proving("y dx dgamma ydot", "BN-RENORM-3"),
            relations=(equal("no correction", plain.id, "y dx dgamma dbeta ydot", "BN-RENORM-3", to_the_bit=True),),
        )


def _together(draw: Draw, form: Any) -> Iterator[Vector]:
    some: dict[str, Any] = {"renorm": Renorm(form=form, rmax=1.5, dmax=0.75, decay=0.5), "state": "used"}
    for source in ("first", "mean", "merged", "sequential"):
        yield draw.vector(
            f"renorm/{form}-ghost-{source}",
            f"{form} in groups, source {source}: every group is corrected against the state of before the step.",
            (6, 2),
            virtual_batch_size=2,
            ghost_source=source,
            correction=1,
            outputs=("y", "state"),
            clauses=proving("y state", "BN-RENORM-8"),
            **some,
        )
    yield draw.vector(
        f"renorm/{form}-mask",
        f"{form} with a mask: r and d follow from the unmasked elements, and dgamma has g*d of all of them.",
        (5, 2),
        masks=([True, False, True, True, False],),
        vjp=True,
        jvp=True,
        clauses={"y": ("BN-RENORM-8", "BN-MASK-2"), "dgamma": ("BN-GRAD-2", "BN-MASK-4")},
        **some,
    )
    x = draw.stream(f"renorm/{form}-mask-nan/x").normals((5, 2))
    x[1], x[4] = np.nan, np.inf
    yield draw.vector(
        f"renorm/{form}-mask-nan",
        f"{form} with NaN and infinity under the mask: their g*d enters dgamma, and nothing of theirs but that.",
        (5, 2),
        x=x,
        masks=([True, False, True, True, False],),
        vjp=True,
        clauses=proving("dx dgamma dbeta", "BN-MASK-3"),
        **some,
    )
    yield draw.vector(
        f"renorm/{form}-all-masked",
        f"{form} where everything is masked: r and d follow from mean 0 and variance 0, and the state stays.",
        (3, 2),
        masks=([False] * 3,),
        vjp=True,
        clauses=proving("y dx dgamma state", "BN-MASK-5"),
        exact=("mean", "var", "state"),
        **some,
    )
    yield draw.vector(
        f"renorm/{form}-constant",
        f"{form} on a constant channel: xhat is 0, so y is gamma*d + beta.",
        (4, 3),
        x=np.array([0.1, 3.0, -7.5]),
        vjp=True,
        outputs=("y", "dx", "dgamma"),
        **some,
    )


def _state(draw: Draw, form: Any) -> Iterator[Vector]:
    renorm = Renorm(form=form, rmax=1.5, dmax=2.0, decay=0.9)
    for name, fields, what in (
        ("fresh", {"state": "fresh"}, "from a new state"),
        ("correction", {"correction": 1}, "the fed deviation is sqrt(m2/(n - 1) + epsilon)"),
        ("decay-0", {"decay": 0.0}, "the layer's decay 0 does not move the reference of its own by more than its own"),
        ("decay-1", {"decay": 1.0}, "decay 1 keeps mean and stddev"),
        ("keep", {"correction": 1, "single_value": "keep", "n": 1}, "one value: mean moves and no deviation does"),
        ("floor", {"correction": 1, "single_value": "floor", "n": 1}, "one value divides by 1"),
        ("below-epsilon", {"epsilon": 1.0, "decay": 1.0, "state": {"stddev": [0.0, 0.5]}}, "var is never below 0"),
        ("skip", {"nonfinite": "skip", "nan": True}, "a NaN leaves every array of its channel"),
    ):
        options: dict[str, Any] = {"state": "used"} | dict(fields)
        n = options.pop("n", 4)
        x = draw.stream(f"renorm/{form}-state-{name}/x").normals((n, 2))
        if options.pop("nan", False):
            x[0, 0] = np.nan
        yield draw.vector(
            f"renorm/{form}-state-{name}",
            f"{form}, {what}: a port that averages the variance, or reads the state after it wrote it.",
            (n, 2),
            x=x,
            outputs=("y", "state"),
            clauses={"y": ("BN-RENORM-1", "BN-RENORM-4")},
            renorm=renorm,
            **options,
        )
