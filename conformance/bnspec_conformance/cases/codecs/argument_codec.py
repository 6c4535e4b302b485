"""The argument of a check as a JSON value, and back, so that a counterexample can be run again anywhere.

A check takes a `Case`, a `Size` or a tuple of cases, names, dtypes and numbers. An argument of another kind
cannot be written; then the whole check is repeated with its seed instead.
"""

import dataclasses
from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, dtype_named
from bnspec_conformance.cases.codecs.codec import BadData, array_from_json, array_to_json, case_from_json, case_to_json
from bnspec_conformance.cases.inputs.sizes import Size

__all__ = ["CannotWrite", "argument_from_json", "argument_to_json"]


class CannotWrite(TypeError):
    """The argument has a part that JSON cannot hold."""


def argument_to_json(value: Any) -> Any:
    """Return the value as a JSON value with a ``kind``.

    Raises
    ------
    CannotWrite
        For a part of another type.
    """
    if value is None or isinstance(value, bool | int | str):
        return {"kind": "plain", "value": value}
    if isinstance(value, float):
        return {"kind": "float", "value": value.hex()}
    if isinstance(value, Case):
        return {"kind": "case", "value": case_to_json(value)}
    if isinstance(value, Size):
        return {"kind": "size", "value": dataclasses.asdict(value) | {"shape": list(value.shape)}}
    if isinstance(value, BatchNormConfig):
        return {"kind": "config", "value": value.to_json()}
    if isinstance(value, np.ndarray):
        return {"kind": "array", "value": array_to_json(value)}
    if isinstance(value, np.dtype):
        return {"kind": "dtype", "value": value.name}
    if isinstance(value, list | tuple):
        return {"kind": type(value).__name__, "value": [argument_to_json(v) for v in value]}
    raise CannotWrite(f"{type(value).__name__} cannot be written")


def argument_from_json(value: Any) -> Any:
    """Return the value again.

    Raises
    ------
    BadData
        For anything that `argument_to_json` does not write.
    """
    try:
        kind, held = value["kind"], value["value"]
        if kind == "plain":
            return held
        if kind == "float":
            return float.fromhex(held)
        if kind == "case":
            return case_from_json(held)
        if kind == "size":
            return Size(**(held | {"shape": tuple(held["shape"])}))
        if kind == "config":
            return BatchNormConfig.from_json(held)
        if kind == "array":
            return array_from_json(held)
        if kind == "dtype":
            return dtype_named(held)
        if kind in ("list", "tuple"):
            items = [argument_from_json(v) for v in held]
            return items if kind == "list" else tuple(items)
    except BadData:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadData(f"not the argument of a check: {type(error).__name__}: {error}") from error
    raise BadData(f"not the argument of a check: kind {kind!r}")
