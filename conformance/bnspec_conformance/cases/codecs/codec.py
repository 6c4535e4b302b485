"""Cases and outcomes as JSON values, and back: what travels to a program, into a report and out of it again.

An array is ``{"dtype": "float32", "shape": [4, 3], "data": "<base64>"}``, the data its little-endian bytes, row by row;
what is absent is null. docs/protocol.md is the description for those who read it without Python.
"""

import base64
import binascii
import dataclasses
import json
import math
from typing import Any

import ml_dtypes
import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome

__all__ = ["DTYPES", "BadData", "array_from_json", "array_to_json", "case_from_json", "case_to_json",
           "outcome_from_json", "outcome_to_json"]  # fmt: skip

DTYPES = {
    name: np.dtype(name)
    for name in ("bool", "float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint32", "uint64")
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
_PER_CHANNEL = ("gamma", "beta", "gamma_dot", "beta_dot")
_PER_RANK = ("dmean", "dvar")


class BadData(ValueError):
    """JSON that is no array, case or outcome; the text says what is wrong with it."""


def array_to_json(array: Array | None) -> dict[str, Any] | None:
    """Return an array as dtype, shape and base64 of its little-endian bytes."""
    if array is None:
        return None
    data = np.ascontiguousarray(array)
    little = data.astype(data.dtype.newbyteorder("<")) if data.dtype.byteorder == ">" else data
    text = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": data.dtype.name, "shape": [int(n) for n in array.shape], "data": text}


def array_from_json(value: Any, what: str = "an array") -> Array | None:
    """Return the array again; read-only.

    Raises
    ------
    BadData
        Naming `what` and what is wrong: a missing key, an unknown dtype, a length that does not fit the shape.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not {"dtype", "shape", "data"} <= value.keys():
        raise BadData(f"{what} is {_short(value)}; expected an object with dtype, shape and data, or null")
    name, shape, text = value["dtype"], value["shape"], value["data"]
    if not isinstance(name, str) or name not in DTYPES:
        raise BadData(f"{what} has dtype {_short(name)}; expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise BadData(f"{what} has shape {_short(shape)}; expected a list of integers >= 0")
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadData(f"{what} has data that is not base64: {error}") from error
    expected = math.prod(shape) * DTYPES[name].itemsize
    if len(data) != expected:
        wanted = expected if expected < 2**63 else "more than there can be"
        raise BadData(f"{what} has {len(data)} bytes; expected {wanted} for {name} of shape {_short(shape)}")
    try:
        return np.frombuffer(data, DTYPES[name]).reshape(shape)
    except (ValueError, OverflowError) as error:  # without elements, but with extents that no array can have
        raise BadData(f"{what} has shape {_short(shape)}, which no array can have: {error}") from None


def case_to_json(case: Case) -> dict[str, Any]:
    """Return a case as a JSON value."""
    return {
        "config": json.loads(case.config.to_json()),
        "mode": case.mode,
        "update": case.update,
        "note": case.note,
        "ranks": [{f.name: array_to_json(getattr(r, f.name)) for f in dataclasses.fields(r)} for r in case.ranks],
        **{name: array_to_json(getattr(case, name)) for name in _PER_CHANNEL},
        **{name: _each(getattr(case, name)) for name in _PER_RANK},
        "state": None if case.state is None else {k: array_to_json(v) for k, v in case.state.items()},
    }


def case_from_json(value: Any) -> Case:
    """Return the case again.

    Raises
    ------
    BadData
        For anything that `case_to_json` does not write.
    """
    try:
        config = BatchNormConfig.from_json(json.dumps(value["config"]))
        ranks = tuple(
            RankInputs(**{k: array_from_json(v, f"{k} of rank {i}") for k, v in rank.items()})  # type: ignore[arg-type]
            for i, rank in enumerate(value["ranks"])
        )
        fields: dict[str, Any] = {name: array_from_json(value[name], name) for name in _PER_CHANNEL}
        for name in _PER_RANK:
            many = value[name]
            fields[name] = None if many is None else tuple(array_from_json(v, name) for v in many)
        state = None if value["state"] is None else _state_from_json(value["state"])
        rest = {name: value[name] for name in ("mode", "update", "note")}
        return Case(config=config, ranks=ranks, state=state, **fields, **rest)
    except BadData:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise BadData(f"not a case: {type(error).__name__}: {error}") from error


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as a JSON value."""

    def one(rank: RankOutcome) -> dict[str, Any]:
        fields = {f.name: getattr(rank, f.name) for f in dataclasses.fields(rank)}
        state = fields.pop("state")
        kept = None if state is None else {k: array_to_json(v) for k, v in state.items()}
        return {name: array_to_json(array) for name, array in fields.items()} | {"state": kept}

    return {"ranks": [one(rank) for rank in outcome.ranks]}


def outcome_from_json(value: Any) -> Outcome:
    """Return the outcome again; fields that are left out count as null.

    Raises
    ------
    BadData
        For anything else than ranks of known fields.
    """
    known = {f.name for f in dataclasses.fields(RankOutcome)}
    if not isinstance(value, dict) or not isinstance(value.get("ranks"), list):
        raise BadData(f"the answer is {_short(value)}; expected an object with a list of ranks")
    ranks = []
    for i, rank in enumerate(value["ranks"]):
        if not isinstance(rank, dict) or not rank.keys() <= known:
            extra = sorted(set(rank) - known) if isinstance(rank, dict) else _short(rank)
            raise BadData(f"rank {i} of the answer has {extra}; expected some of {', '.join(sorted(known))}")
        fields: dict[str, Any] = {k: array_from_json(v, k) for k, v in rank.items() if k != "state"}
        state = rank.get("state")
        if state is not None:
            if not isinstance(state, dict):
                raise BadData(f"state is {_short(state)}; expected an object of arrays, or null")
            fields["state"] = _state_from_json(state)
        ranks.append(RankOutcome(**fields))
    return Outcome(tuple(ranks))


def _each(arrays: tuple[Array, ...] | None) -> list[Any] | None:
    return None if arrays is None else [array_to_json(v) for v in arrays]


def _state_from_json(value: dict[str, Any]) -> dict[str, Array]:
    """Return the fields of a running state that are there; null is one that is not."""
    found = {name: array_from_json(v, f"state.{name}") for name, v in value.items()}
    return {name: array for name, array in found.items() if array is not None}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
