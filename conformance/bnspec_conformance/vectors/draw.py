"""Cases for the catalogue, with ordinary numbers where none are given."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Array, Case, RankInputs
from bnspec_conformance.vectors.stream import Stream, as_dtype
from bnspec_conformance.vectors.vector import Vector

__all__ = ["Draw", "configured", "statistics_dtype"]

_DEFAULTS: dict[str, Any] = {"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 0}


def configured(**fields: Any) -> BatchNormConfig:
    """Return a configuration, axis 1 unless told otherwise."""
    return BatchNormConfig(**(_DEFAULTS | fields))


def statistics_dtype(dtype: str) -> str:
    """Return the dtype of parameters and running states for an x of this dtype."""
    return "float64" if dtype == "float64" else "float32"


class Draw:
    """The catalogue's source of numbers.

    Parameters
    ----------
    seed : int
        Of everything that is drawn; each vector has a stream of its own, so none depends on the others.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, name: str) -> Stream:
        """Return the stream of a vector."""
        return Stream(self.seed, name)

    def vector(
        self,
        name: str,
        why: str,
        *shapes: tuple[int, ...],
        outputs: tuple[str, ...] | None = None,
        clauses: Mapping[str, tuple[str, ...]] | None = None,
        exact: tuple[str, ...] = (),
        notes: str = "",
        **options: Any,
    ) -> Vector:
        """Return a vector around the case of these shapes, one for each rank; the options are those of `case`."""
        return Vector(
            id=name,
            why=why,
            case=self.case(name, *shapes, **options),
            outputs=outputs,
            clauses=clauses or {},
            exact=exact,
            notes=notes,
        )

    def case(
        self,
        name: str,
        *shapes: tuple[int, ...],
        dtype: str = "float32",
        masks: Sequence[Any] = (),
        x: Any = None,
        dy: Any = None,
        gamma: Any = None,
        beta: Any = None,
        vjp: bool = False,
        jvp: bool = False,
        cotangents: bool = False,
        state: Literal["", "fresh", "used"] | dict[str, Any] = "",
        mode: Literal["batch", "inference"] = "batch",
        update: bool = True,
        **fields: Any,
    ) -> Case:
        """Return a case.

        Parameters
        ----------
        name : str
            Of the stream.
        *shapes : tuple of int
            One for each rank.
        dtype : str
            Of x, dy and xdot.
        masks : sequence of array or None
            One for each rank; any shape that broadcasts, or of the samples alone.
        x, dy : array or sequence of arrays, optional
            Instead of drawn ones; of several ranks one for each.
        gamma, beta : sequence of float, optional
            Instead of drawn ones.
        vjp, jvp, cotangents : bool
            The derivatives that are asked for; cotangents are those of the mean and variance.
        state : {"", "fresh", "used"} or dict
            None, that of a new layer, one after some updates, or given values over the latter's.
        mode, update
            As in `Case`.
        **fields
            Of the configuration.
        """
        stream, config = self.stream(name), configured(**fields)
        kept = statistics_dtype(dtype)
        first = shapes[0]
        channels = first[config.axis]
        given_x = [None] * len(shapes) if x is None else [x] if len(shapes) == 1 else list(x)
        given_dy = [None] * len(shapes) if dy is None else [dy] if len(shapes) == 1 else list(dy)
        ranks = []
        for number, shape in enumerate(shapes):
            own, mask = given_x[number], masks[number] if number < len(masks) else None
            cotangent, tangent = given_dy[number], None
            drawn = stream.normals(shape) if own is None else own
            if cotangent is None and vjp:
                cotangent = stream.normals(shape)
            if jvp:
                tangent = stream.normals(shape)
            ranks.append(
                RankInputs(
                    _placed(drawn, shape, dtype),
                    None if cotangent is None else _placed(cotangent, shape, dtype),
                    None if mask is None else _mask(mask, shape, config.axis),
                    None if tangent is None else as_dtype(tangent, dtype),
                )
            )
        signs = np.array([stream.choice([-1, 1]) for _ in range(channels)], dtype=np.float64)
        parameters = {
            "gamma": stream.uniforms(0.5, 1.5, (channels,)) * signs if gamma is None else gamma,
            "beta": stream.normals((channels,)) if beta is None else beta,
            "gamma_dot": stream.normals((channels,)),
            "beta_dot": stream.normals((channels,)),
        }
        present = {"gamma": config.scale, "beta": config.center}
        present |= {"gamma_dot": jvp and config.scale, "beta_dot": jvp and config.center}
        size = config.virtual_batch_size
        groups = 1 if size is None or mode == "inference" else first[0] // size
        each = [as_dtype(stream.normals((groups, channels)), kept) for _ in range(2 * len(shapes))]
        affine: dict[str, Any] = {k: as_dtype(v, kept) if present[k] else None for k, v in parameters.items()}
        return Case(
            config=config,
            ranks=tuple(ranks),
            dmean=tuple(each[: len(shapes)]) if cotangents else None,
            dvar=tuple(each[len(shapes) :]) if cotangents else None,
            state=None if state == "" else _state(stream, config, channels, kept, state),
            mode=mode,
            update=update and state != "" and mode == "batch",
            **affine,
        )


def _placed(values: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """Values as an array of a dtype; one that has a dtype of 16 bits already keeps it."""
    array = np.asarray(values)
    if array.dtype.name != dtype:
        array = as_dtype(array.astype(np.float64), dtype)
    return np.ascontiguousarray(np.broadcast_to(array, shape))


def _mask(values: Any, shape: tuple[int, ...], axis: int) -> Array:
    """Return a mask of x's rank; a flat one is of the samples."""
    mask = np.asarray(values, dtype=bool)
    if mask.ndim == 1:
        mask = mask.reshape(-1, *[1] * (len(shape) - 1))
    assert mask.shape[axis] in (1, shape[axis]), (mask.shape, axis)
    return mask


def _state(stream: Stream, config: BatchNormConfig, channels: int, kept: str, kind: Any) -> dict[str, Array]:
    zero = np.zeros(channels, kept)
    used = {"mean": stream.normals((channels,)), "var": stream.uniforms(0.25, 3.0, (channels,))}
    fresh = {"mean": zero, "var": zero if config.averaging == "debiased" else zero + 1}
    if config.renorm is not None:
        used["stddev"], fresh["stddev"] = stream.uniforms(0.25, 2.0, (channels,)), zero + 1
        if config.renorm.form == "tensorpack":
            used |= {
                "renorm_mean": stream.normals((channels,)),
                "renorm_stddev": stream.uniforms(0.25, 2.0, (channels,)),
            }
            fresh |= {"renorm_mean": zero, "renorm_stddev": zero + 1}
    values = fresh if kind == "fresh" else used | ({} if kind == "used" else kind)
    state = {k: as_dtype(np.broadcast_to(v, (channels,)), kept) for k, v in values.items() if k != "count"}
    if config.counts_updates:
        count = 0 if kind == "fresh" else stream.integers(2, 9) if kind == "used" else kind.get("count", 5)
        state["count"] = np.full(channels, count, "int64") if np.ndim(count) == 0 else np.asarray(count)
    return state
