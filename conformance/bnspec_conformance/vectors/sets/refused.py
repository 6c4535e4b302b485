"""Vectors that have to be refused: what no implementation may answer with numbers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import Case, RankInputs, dtype_named
from bnspec_conformance.vectors.draw import Draw
from bnspec_conformance.vectors.vector import Vector

__all__ = ["vectors"]

_NAN, _INF = float("nan"), float("inf")


def vectors(draw: Draw) -> Iterator[Vector]:
    """Yield the family "refused"."""
    base = draw.case("refused/base", (4, 3))
    yield from _options(base)
    yield from _arrays(draw, base)
    yield from _updates(draw)


def _options(base: Case) -> Iterator[Vector]:
    """Configurations that do not exist."""
    rows: tuple[tuple[str, dict[str, Any], str, str], ...] = (
        ("epsilon-negative", {"epsilon": -1e-5}, "BN-NORM-1", "A negative epsilon"),
        ("epsilon-nan", {"epsilon": _NAN}, "BN-NORM-1", "An epsilon that is not a number"),
        ("epsilon-inf", {"epsilon": _INF}, "BN-NORM-1", "An infinite epsilon"),
        ("decay-above-1", {"decay": 1.5}, "BN-RUN-1", "A decay above 1"),
        ("decay-negative", {"decay": -0.1}, "BN-RUN-1", "A negative decay"),
        ("decay-nan", {"decay": _NAN}, "BN-RUN-1", "A decay that is not a number"),
        ("correction-2", {"correction": 2}, "BN-RUN-3", "A correction of 2"),
        ("correction-negative", {"correction": -1}, "BN-RUN-3", "A negative correction"),
        ("groups-of-0", {"virtual_batch_size": 0}, "BN-GRP-3", "Groups of 0 samples"),
        ("groups-of-minus-2", {"virtual_batch_size": -2}, "BN-GRP-3", "Groups of -2 samples"),
        ("groups-of-2.5", {"virtual_batch_size": 2.5}, "BN-GRP-3", "Groups of two samples and a half"),
        ("averaging-unknown", {"averaging": "ema"}, "BN-RUN-1", "An averaging that does not exist"),
        ("source-unknown", {"ghost_source": "last"}, "BN-RUN-8", "A ghost source that does not exist"),
        ("weighting-unknown", {"sync_weighting": "sample"}, "BN-SYNC-8", "A weighting that does not exist"),
        ("debiased-decay-1", {"averaging": "debiased", "decay": 1.0}, "BN-RUN-7", "1 - decay^t would stay 0"),
        (
            "pooled-mean-of-groups",
            {"averaging": "pooled", "ghost_source": "mean", "virtual_batch_size": 2},
            "BN-RUN-6",
            "A mean of variances belongs to no set of elements",
        ),
        (
            "keep-cumulative",
            {"averaging": "cumulative", "single_value": "keep", "correction": 1},
            "BN-RUN-4",
            "The counter would count variances that were never averaged",
        ),
        (
            "keep-debiased",
            {"averaging": "debiased", "single_value": "keep", "correction": 1},
            "BN-RUN-4",
            "The counter would count variances that were never averaged",
        ),
    )
    for name, spoil, clause, what in rows:
        yield Vector(id=f"refused/{name}", why=f"{what}.", case=base, refused=clause, spoil=spoil)
    good = {"form": "tensorpack", "rmax": 2.0, "dmax": 1.0, "decay": 0.99}
    state = {k: np.ones(3, np.float32) for k in ("mean", "var", "stddev", "renorm_mean", "renorm_stddev")}
    own = dataclasses.replace(base, state=state, config=dataclasses.replace(base.config, renorm=Renorm(rmax=2, dmax=1)))
    for name, change, clause in (
        ("rmax-below-1", {"rmax": 0.5}, "BN-RENORM-9"),
        ("rmax-inf", {"rmax": _INF}, "BN-RENORM-9"),
        ("dmax-negative", {"dmax": -1.0}, "BN-RENORM-9"),
        ("dmax-nan", {"dmax": _NAN}, "BN-RENORM-9"),
    ):
        yield Vector(
            id=f"refused/{name}",
            why=f"Limits of renorm outside of theirs: {name}.",
            case=own,
            refused=clause,
            spoil={"renorm": good | change},
        )
    counted = dataclasses.replace(own, state=state | {"count": np.full(3, 2)})
    for averaging in ("cumulative", "pooled", "debiased"):
        yield Vector(
            id=f"refused/renorm-{averaging}",
            why="Renorm with another averaging than exponential.",
            case=counted,
            refused="BN-RENORM-5",
            spoil={"averaging": averaging},
        )
    bare = dataclasses.replace(own, state=None)
    yield Vector(id="refused/renorm-without-a-state", why="Renorm has no reference.", case=bare, refused="BN-RENORM-4")


def _arrays(draw: Draw, base: Case) -> Iterator[Vector]:
    """Arrays that do not fit."""

    def refused(name: str, why: str, clause: str, case: Case) -> Vector:
        return Vector(id=f"refused/{name}", why=why, case=case, refused=clause)

    def changed(**fields: Any) -> Case:
        return dataclasses.replace(base, config=dataclasses.replace(base.config, **fields))

    x = base.ranks[0].x
    yield refused(
        "rank-1", "x of rank 1.", "BN-SHAPE-1", dataclasses.replace(changed(axis=0), ranks=(RankInputs(x[0]),))
    )
    for axis in (2, -3):
        yield refused(f"axis-{axis}", f"axis {axis} of a matrix.", "BN-SHAPE-2", changed(axis=axis))
    for dtype in ("int32", "bool"):
        own = dataclasses.replace(base, ranks=(RankInputs(np.ones((4, 3), dtype)),))
        yield refused(f"{dtype}-x", f"x of {dtype}: refused, not converted.", "BN-SHAPE-5", own)
    for shape in ((1,), (4,), (1, 3)):
        odd, text = np.ones(shape, np.float32), "x".join(map(str, shape))
        for name, own in (
            ("gamma", dataclasses.replace(base, gamma=odd)),
            ("beta", dataclasses.replace(base, beta=odd)),
        ):
            yield refused(f"{name}-of-{text}", f"{name} of shape {shape} for 3 channels.", "BN-SHAPE-6", own)
        state = {"mean": np.zeros(3, np.float32), "var": odd}
        own = dataclasses.replace(base, state=state, mode="inference")
        yield refused(f"var-of-{text}", f"A running variance of shape {shape} for 3 channels.", "BN-SHAPE-6", own)
    for narrow in ("float16", "bfloat16"):
        thin = {k: np.ones(3, dtype_named(narrow)) for k in ("mean", "var")}
        own = dataclasses.replace(base, state=thin, update=True)
        yield refused(
            f"state-of-{narrow}", f"A running state of {narrow}, whose averages stand still.", "BN-PREC-1", own
        )
    for size in (3, 8):
        yield refused(
            f"groups-of-{size}", f"Groups of {size} samples of 4: no ragged last group.", "BN-GRP-3",
            changed(virtual_batch_size=size)
        )  # fmt: skip
    first = draw.case("refused/groups-on-axis-0", (4, 4), axis=0)
    own = dataclasses.replace(first, config=dataclasses.replace(first.config, virtual_batch_size=2))
    yield refused("groups-on-axis-0", "Groups where axis 0 holds the channels.", "BN-GRP-3", own)
    for mask in (np.ones((4, 2), bool), np.ones((3, 1), bool), np.ones((4, 1, 1), bool), np.ones((4, 1), np.float32)):
        name = f"mask-{mask.dtype}-{'x'.join(map(str, mask.shape))}"
        own = dataclasses.replace(base, ranks=(RankInputs(x, mask=mask),))
        yield refused(name, f"A mask of {mask.dtype} and shape {mask.shape} for x of (4, 3).", "BN-MASK-7", own)
    for shape in ((3, 3), (4, 4), (3,)):
        own = dataclasses.replace(base, ranks=(RankInputs(x, dy=np.ones(shape, np.float32)),))
        text = "x".join(map(str, shape))
        yield refused(f"dy-of-{text}", f"dy of shape {shape} for x of (4, 3).", "BN-GRAD-1", own)
    groups = draw.case("refused/groups-differ", (4, 3), (6, 3), virtual_batch_size=2)
    yield refused("groups-differ", "Ranks with 2 and 3 groups: an error on both, not a hang.", "BN-SYNC-9", groups)


def _updates(draw: Draw) -> Iterator[Vector]:
    """Updates of the state that are refused."""
    for averaging in ("exponential", "cumulative", "debiased"):
        yield Vector(
            id=f"refused/one-value-{averaging}",
            why=f"One value per channel, correction 1 and single_value raise, {averaging}: there is no variance.",
            case=draw.case(f"refused/one-value-{averaging}", (1, 3), correction=1, averaging=averaging, state="used"),
            refused="BN-RUN-4",
        )
    yield Vector(
        id="refused/one-value-pooled",
        why="One value per channel as the first ever, pooled, correction 1: there is no variance.",
        case=draw.case("refused/one-value-pooled", (1, 3), correction=1, averaging="pooled", state="fresh"),
        refused="BN-RUN-4",
    )
    yield Vector(
        id="refused/one-value-in-one-group",
        why="One group of two has a single value, source mean: the mean of the variances does not exist.",
        case=draw.case(
            "refused/one-value-in-one-group",
            (4, 2),
            masks=([True, False, True, True],),
            correction=1,
            state="used",
            ghost_source="mean",
            virtual_batch_size=2,
        ),
        refused="BN-RUN-4",
    )
    rows: tuple[tuple[str, float, dict[str, Any]], ...] = (
        ("nan", _NAN, {}),
        ("inf", _INF, {}),
        ("nan-decay-1", _NAN, {"decay": 1.0}),
        ("nan-pooled", _NAN, {"averaging": "pooled"}),
    )
    for name, value, fields in rows:
        x = draw.stream(f"refused/not-finite-{name}/x").normals((3, 2))
        x[1, 1] = value
        yield Vector(
            id=f"refused/not-finite-{name}",
            why="A statistic that is not finite under nonfinite raise, whatever the weight.",
            case=draw.case(
                f"refused/not-finite-{name}",
                (3, 2),
                x=x,
                state="used",
                nonfinite="raise",
                **fields,
            ),
            refused="BN-RUN-10",
        )
