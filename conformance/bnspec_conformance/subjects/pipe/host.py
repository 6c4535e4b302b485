"""The child's side of ``--isolate``: a Python subject behind the line protocol of docs/protocol.md.

``python -m bnspec_conformance.subjects.pipe.host NAME`` answers on its standard output as it was at first; its own
prints go to standard error instead. Its exceptions are told apart: where a refusal is due, an exception is one, and
a crash is not.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from bnspec_conformance.bounds.declared import checked_evaluation
from bnspec_conformance.cases.case import Array, Case, Outcome
from bnspec_conformance.cases.codecs.codec import DTYPES, BadData, case_from_json, outcome_to_json
from bnspec_conformance.cases.inputs.bad import refused_by
from bnspec_conformance.cases.wellformed import complaints
from bnspec_conformance.subjects.contract import NotSupported, ProgramError, Refused, Subject, SubjectError
from bnspec_conformance.subjects.find import find_subject, silenced, version_of
from bnspec_conformance.subjects.pipe.hello import OPTIONS

__all__ = ["answer", "hello", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer requests until there are no more."""
    given = sys.argv[1:] if arguments is None else arguments
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if len(given) != 1:
        print("usage: python -m bnspec_conformance.subjects.pipe.host NAME", file=sys.stderr)
        return 2
    requests, sys.stdin = sys.stdin, open(os.devnull, encoding="utf-8")
    subject: Subject | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["op"] == "hello":
                subject = find_subject(given[0])
                said = hello(subject)
            else:
                assert subject is not None, "the first request is hello"
                said = answer(subject, request["case"])
        except SubjectError as error:
            said = {"error": str(error)}
        _say(said, out)
    return 0


def hello(subject: Subject) -> dict[str, Any]:
    """Return the declaration of a subject, as the answer to ``hello``."""
    scope = subject.scope
    several = "sync" in scope and scope.world > 1
    options = {name: list(values) for name, values in scope.options.items() if name in OPTIONS}
    return {
        "protocol": 1,
        "name": subject.name,
        "version": version_of(subject),
        "profiles": sorted(scope.profiles - (set() if several else {"sync"})),
        "dtypes": list(scope.dtypes),
        "ndims": list(scope.ndims),
        "axes": scope.axes,
        "world": scope.world if several else 1,
        "ragged": scope.ragged,
        "same_bits": scope.same_bits,
        "declared": scope.declared,
        "min_count": scope.min_count,
        "inference_grad": scope.inference_grad,
        "parameter_dtypes": list(scope.parameter_dtypes),
        "affine": scope.affine,
        "nonempty": list(scope.nonempty),
        "refuses": scope.refuses if isinstance(scope.refuses, bool) else list(scope.refuses),
        "options": options,  # the others are for `supports` to tell
        "arithmetic": subject.arithmetic,
        "evaluation": checked_evaluation(subject.evaluation),
        "bound": subject.bound,
        "flushes": bool(subject.flushes),
        "examples": max(2, int(subject.examples)),
        **({} if subject.dialect is None else {"dialect": subject.dialect}),
    }


def answer(subject: Subject, value: Any) -> dict[str, Any]:
    """Run a case, and say what came of it."""
    try:
        case = _writable(case_from_json(value))
        given = [(array, array.copy()) for array in _arrays(case)]
        bad = refused_by(case) is not None
        with silenced():
            reason = None if bad else subject.supports(case)
            if reason is not None:
                return {"unsupported": str(reason)}
            outcome = subject.run(case)
        if bad:  # which numbers came does not matter: there should be none
            return {"outcome": {"ranks": [{} for _ in case.ranks]}}
        if any(array.tobytes() != before.tobytes() for array, before in given):
            return {"error": "it wrote to an array that it was given [BN-SHAPE-3]"}
        found = complaints(outcome, case, subject.scope, [array for array, _ in given])
        # The other side sees shapes that are off and results that are missing; it cannot see these through a pipe.
        lost = [c.problem for c in found if c.clause or not c.output or not _can_travel(outcome, c.rank, c.output)]
        return {"error": lost[0]} if lost else {"outcome": outcome_to_json(outcome)}
    except NotSupported as error:
        return {"unsupported": str(error)}
    except Refused as error:
        return {"refused": str(error)}
    except (ProgramError, NotImplementedError, BadData) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    except SystemExit as error:
        return {"error": f"SystemExit: {error}"}


def _writable(case: Case) -> Case:
    """Return the case in arrays that can be written to, as they are given without a pipe between."""

    def own(array: Array | None) -> Any:
        return None if array is None else np.array(array)

    def each(arrays: tuple[Array, ...] | None) -> Any:
        return None if arrays is None else tuple(map(own, arrays))

    ranks = tuple(
        dataclasses.replace(r, **{f.name: own(getattr(r, f.name)) for f in dataclasses.fields(r)}) for r in case.ranks
    )
    one = {name: own(getattr(case, name)) for name in ("gamma", "beta", "gamma_dot", "beta_dot")}
    many = {name: each(getattr(case, name)) for name in ("dmean", "dvar")}
    state = None if case.state is None else {key: own(array) for key, array in case.state.items()}
    return dataclasses.replace(case, ranks=ranks, state=state, **one, **many)


def _arrays(case: Case) -> list[Array]:
    """Return every array of a case."""
    found: list[Any] = [case.gamma, case.beta, case.gamma_dot, case.beta_dot, *(case.state or {}).values()]
    found += [*(case.dmean or ()), *(case.dvar or ())]
    found += [getattr(rank, field.name) for rank in case.ranks for field in dataclasses.fields(rank)]
    return [array for array in found if array is not None]


def _can_travel(outcome: Outcome, rank: int, field: str) -> bool:
    """Return whether a rank's result is an array, or arrays, of a dtype that the protocol has."""
    value = getattr(outcome.ranks[rank], field)
    held = value.values() if isinstance(value, dict) else [] if value is None else [value]
    return all(isinstance(v, np.ndarray) and v.dtype.name in DTYPES for v in held)


def _say(value: dict[str, Any], out: TextIO) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
