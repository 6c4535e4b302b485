"""Writes vectors: one JSON file for each family, and an index."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bnspec
from bnspec._clauses import specification
from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.cases.scope import PROFILES, needs
from bnspec_conformance.vectors.catalogue import FAMILIES, catalogue
from bnspec_conformance.vectors.expected import Expected, expected
from bnspec_conformance.vectors.hex import encoded, hexed, lines, numbers
from bnspec_conformance.vectors.vector import Relation, Vector

__all__ = ["FORMAT", "export", "vector_to_json"]

FORMAT = "bnspec-vectors/1"

_PER_CHANNEL = ("gamma", "beta", "gamma_dot", "beta_dot")
#: Smallest normal number, by dtype; statistics may be of float32.
_NORMAL = {"float64": 2.0**-1022, "float16": 2.0**-14}


def export(folder: Path, families: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Write the files and return the index.

    Parameters
    ----------
    folder : Path
        Made if it is not there; other files in it stay.
    families : sequence of str
        Of `FAMILIES`; none is all.
    seed : int
        Of everything drawn. The same version, families and seed give the same bytes on every platform.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = {"format": FORMAT, "bnspec": bnspec.__version__, "seed": seed}
    files: list[dict[str, Any]] = []
    for family in FAMILIES:
        if families and family not in families:
            continue
        cases = [vector_to_json(vector) for vector in catalogue(family, seed)]
        data = _bytes(head | {"family": family, "about": FAMILIES[family][0], "cases": cases})
        (folder / f"{family}.json").write_bytes(data)
        files.append(
            {
                "file": f"{family}.json",
                "family": family,
                "about": FAMILIES[family][0],
                "cases": len(cases),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "clauses": sorted({clause for case in cases for clause in case["clauses"]}),
            }
        )
    spec = {"file": "SPEC.md", "sha256": hashlib.sha256(specification().encode("utf-8")).hexdigest()}
    index = head | {"spec": spec, "files": files, "cases": sum(file["cases"] for file in files)}
    (folder / "index.json").write_bytes(_bytes(index))
    return index


def vector_to_json(vector: Vector) -> dict[str, Any]:
    """Return a vector with its expected outputs, as a JSON value."""
    case = vector.case
    found: dict[str, Any] = {
        "id": vector.id,
        "why": vector.why,
        "profiles": [name for name in PROFILES if name in needs(case)],
        "config": _config(vector),
        "mode": case.mode,
        "update": case.update,
        "inputs": _inputs(case),
        "expect": "refused" if vector.refused else "outputs",
    }
    if vector.notes:
        found["notes"] = vector.notes
    if vector.refused:
        return found | {"clauses": [vector.refused], "flags": [], "refused": {"clause": vector.refused}}
    outputs = expected(vector)
    clauses = {clause for rank in outputs for one in rank.values() for clause in one.clauses}
    clauses |= {clause for relation in vector.relations for clause in relation.clauses}
    found |= {
        "clauses": sorted(clauses),
        "flags": sorted(set(_flags(case, outputs))),
        "outputs": [_rank(r) for r in outputs],
    }
    if vector.relations:
        found["relations"] = [_relation(relation) for relation in vector.relations]
    return found


def _bytes(value: Any) -> bytes:
    return ("".join(lines(value)) + "\n").encode("ascii")


def _config(vector: Vector) -> Any:
    """Return the configuration; what JSON cannot say of a number is a text."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return hexed(value) if isinstance(value, float) and not math.isfinite(value) else value

    return plain(json.loads(vector.case.config.to_json()) | dict(vector.spoil))


def _inputs(case: Case) -> dict[str, Any]:
    """Return only the keys that are present; absent values are left out, not written as null."""
    ranks = [
        {name: encoded(array) for name in ("x", "dy", "mask", "xdot") if (array := getattr(rank, name)) is not None}
        for rank in case.ranks
    ]
    found: dict[str, Any] = {"ranks": ranks}
    found |= {name: encoded(array) for name in _PER_CHANNEL if (array := getattr(case, name)) is not None}
    for name in ("dmean", "dvar"):
        each: tuple[Array, ...] | None = getattr(case, name)
        if each is not None:
            found[name] = [encoded(array) for array in each]
    if case.state is not None:
        found["state"] = {name: encoded(array) for name, array in case.state.items()}
    return found


def _rank(outputs: dict[str, Expected]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, one in outputs.items():
        value: dict[str, Any] = {
            "dtype": one.dtype,
            "shape": [int(n) for n in one.values.shape],
            "data": numbers(one.values),
            "bounds": numbers(one.bound),
            "clauses": list(one.clauses),
        }
        if one.bound32 is not None:
            value["bounds_float32"] = numbers(one.bound32)
        if name.startswith("state."):
            found.setdefault("state", {})[name.removeprefix("state.")] = value
        else:
            found[name] = value
    return found


def _relation(relation: Relation) -> dict[str, Any]:
    pairs = []
    for pair in relation.pairs:
        value: dict[str, Any] = {"output": pair.output, "with_output": pair.with_output}
        value |= {"rank": pair.rank, "with_rank": pair.with_rank}
        value |= {k: list(v) for k, v in (("take", pair.take), ("with_take", pair.with_take)) if v is not None}
        pairs.append(value)
    equal = "to the bit" if relation.to_the_bit else "within bounds"
    found = {"kind": relation.kind, "with": relation.other, "clauses": list(relation.clauses)}
    return found | {"equal": equal, "pairs": pairs}


def _flags(case: Case, outputs: list[dict[str, Expected]]) -> Iterator[str]:
    """Return the requirements of a case that a port has to know before it runs the case."""
    given = [array for rank in case.ranks for array in (rank.x, rank.dy, rank.xdot) if array is not None]
    if not all(np.isfinite(as_float64(array)).all() for array in given):
        yield "not finite"
    if any(_subnormal(as_float64(array), array.dtype.name) for array in given) or any(
        _subnormal(one.values, one.dtype) for rank in outputs for one in rank.values() if one.values.dtype.kind == "f"
    ):
        yield "subnormal"
    if case.ranks[0].x.size == 0 or any(bool(np.any(r["count"].values == 0)) for r in outputs if "count" in r):
        yield "empty"
    for rank in outputs:
        for one in rank.values():
            if one.bound32 is not None and np.any(np.isinf(one.bound32) & np.isfinite(one.bound)):
                yield "beyond float32"


def _subnormal(values: Array, dtype: str) -> bool:
    """Return whether a value is below the normal numbers; statistics below those of float32."""
    smallest = _NORMAL.get(dtype, 2.0**-126)
    return bool(np.any((np.abs(values) > 0) & (np.abs(values) < smallest)))
